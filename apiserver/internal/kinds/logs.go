package kinds

import (
	"context"
	"io"
	"net/http"
	"strings"

	"k8s.io/apimachinery/pkg/types"
	kubeletclient "k8s.io/kubernetes/pkg/kubelet/client"
)

// separateEnds are connections to kubelets that tell the end of a log apart from its last
// bytes. Upstream's copy to a WebSocket throws away what comes together with the end, which
// of a short log is everything.
type separateEnds struct {
	kubeletclient.ConnectionInfoGetter
}

// GetConnectionInfo implements kubeletclient.ConnectionInfoGetter.
func (s separateEnds) GetConnectionInfo(ctx context.Context, node types.NodeName) (*kubeletclient.ConnectionInfo, error) {
	info, err := s.ConnectionInfoGetter.GetConnectionInfo(ctx, node)
	if err != nil {
		return nil, err
	}
	separated := *info
	separated.Transport = logTransport{info.Transport}
	separated.InsecureSkipTLSVerifyTransport = logTransport{info.InsecureSkipTLSVerifyTransport}
	return &separated, nil
}

type logTransport struct{ http.RoundTripper }

// WrappedRoundTripper lets upgrades (exec, attach, port-forward) find the dialer.
func (t logTransport) WrappedRoundTripper() http.RoundTripper { return t.RoundTripper }

func (t logTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := t.RoundTripper.RoundTrip(r)
	if err == nil && strings.HasPrefix(r.URL.Path, "/containerLogs/") {
		resp.Body = &separateEnd{ReadCloser: resp.Body}
	}
	return resp, err
}

// separateEnd never returns bytes and an error from one Read.
type separateEnd struct {
	io.ReadCloser
	err error
}

func (s *separateEnd) Read(p []byte) (int, error) {
	if s.err != nil {
		return 0, s.err
	}
	n, err := s.ReadCloser.Read(p)
	if n > 0 {
		s.err, err = err, nil
	}
	return n, err
}
