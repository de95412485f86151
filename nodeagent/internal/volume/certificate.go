package volume

import (
	"fmt"
	"path"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/rutter-project/rutter/nodeagent/internal/objects"
)

// Certificate is a private key and its certificates.
type Certificate = objects.Certificate

// certificate writes a pod's key and certificates into the files that the source names
// (KEP-4317). Only the pod may read them where it has a group of its own.
func (b *builder) certificate(volume string, source int, p *corev1.PodCertificateProjection) error {
	c, err := b.src.Certificate(b.ctx, b.pod, volume, source, p)
	if err != nil {
		return err
	}
	if c.Stale != nil {
		b.c.stale = append(b.c.stale, fmt.Errorf("certificate of %s is not renewed: %w", p.SignerName, c.Stale))
	}
	b.c.refreshBy(c.Refresh)
	mode := b.mode
	if sc := b.pod.Spec.SecurityContext; sc != nil && sc.FSGroup != nil {
		mode = 0o600 // the group is given read access when it is written
	}
	for at, data := range map[string][]byte{p.CredentialBundlePath: slices.Concat(c.Key, c.Chain), p.KeyPath: c.Key, p.CertificateChainPath: c.Chain} {
		if at == "" {
			continue
		}
		if err := b.c.add(path.Clean(at), File{Data: data, Mode: mode}); err != nil {
			return err
		}
	}
	return nil
}
