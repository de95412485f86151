package volume

import (
	"bytes"
	"encoding/pem"
	"fmt"
	"path"
	"slices"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/rutter-project/rutter/nodeagent/internal/env"
)

// trustBundle writes the trust anchors of one bundle, or of all bundles of a signer
// that a selector chooses (KEP-3257). With optional, none is an empty file.
func (b *builder) trustBundle(p *corev1.ClusterTrustBundleProjection) error {
	all, err := b.src.TrustBundles(b.ctx)
	if err != nil {
		return err
	}
	chosen, what, err := chooseBundles(p, all)
	if err != nil {
		return err
	}
	if len(chosen) == 0 && !isTrue(p.Optional) {
		return fmt.Errorf("%s %w", what, env.ErrMissing)
	}
	return b.c.add(path.Clean(p.Path), File{Data: anchors(chosen), Mode: b.mode})
}

// chooseBundles finds the bundles of a projection and says in words which it wants.
func chooseBundles(p *corev1.ClusterTrustBundleProjection, all []certificatesv1.ClusterTrustBundle) (chosen []string, what string, err error) {
	var wanted func(*certificatesv1.ClusterTrustBundle) bool
	switch {
	case p.Name != nil:
		what = fmt.Sprintf("cluster trust bundle %q", *p.Name)
		wanted = func(c *certificatesv1.ClusterTrustBundle) bool { return c.Name == *p.Name }
	case p.SignerName != nil:
		selector, err := metav1.LabelSelectorAsSelector(p.LabelSelector) // nil selects nothing, empty everything
		if err != nil {
			return nil, "", fmt.Errorf("labelSelector of a cluster trust bundle: %w", err)
		}
		what = fmt.Sprintf("cluster trust bundle of signer %q with labels %q", *p.SignerName, selector)
		wanted = func(c *certificatesv1.ClusterTrustBundle) bool {
			return c.Spec.SignerName == *p.SignerName && selector.Matches(labels.Set(c.Labels))
		}
	default:
		return nil, "", fmt.Errorf("a cluster trust bundle is named neither by name nor by signerName")
	}
	for i := range all {
		if wanted(&all[i]) {
			chosen = append(chosen, all[i].Spec.TrustBundle)
		}
	}
	return chosen, what, nil
}

// anchors joins bundles: every certificate once, without headers and comments, in an
// order that depends on nothing else, so that a file changes only if its anchors do.
func anchors(bundles []string) []byte {
	var found [][]byte
	for _, bundle := range bundles {
		for rest := []byte(bundle); ; {
			var block *pem.Block
			if block, rest = pem.Decode(rest); block == nil {
				break
			}
			if block.Type == "CERTIFICATE" {
				found = append(found, block.Bytes)
			}
		}
	}
	slices.SortFunc(found, bytes.Compare)
	found = slices.CompactFunc(found, bytes.Equal)
	var out bytes.Buffer
	for _, der := range found {
		_ = pem.Encode(&out, &pem.Block{Type: "CERTIFICATE", Bytes: der}) // a buffer takes all
	}
	return out.Bytes()
}
