package apiserver

import (
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
)

// TestCertificatesAreRemembered: one connection's certificate is verified once a minute,
// and never trusted after its end.
func TestCertificatesAreRemembered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked, name, believed := 0, "ann", x509.NewCertPool()
		c := newCertificates(authenticator.RequestFunc(func(*http.Request) (*authenticator.Response, bool, error) {
			asked++
			return &authenticator.Response{User: &user.DefaultInfo{Name: name}}, true, nil
		}), func() *x509.CertPool { return believed })
		ask := func(leaf *x509.Certificate, header string) string {
			r := httptest.NewRequest(http.MethodGet, "/", nil)
			r.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{leaf}}
			if header != "" {
				r.Header.Set(header, "x")
			}
			resp, ok, err := c.AuthenticateRequest(r)
			require.NoError(t, err)
			require.True(t, ok)
			return resp.User.GetName()
		}
		long, short := &x509.Certificate{NotAfter: time.Now().Add(time.Hour)}, &x509.Certificate{NotAfter: time.Now().Add(10 * time.Second)}
		require.Equal(t, "ann", ask(long, ""))
		require.Equal(t, "ann", ask(short, ""))
		require.Equal(t, 2, asked)
		require.Equal(t, "ann", ask(long, ""))
		require.Equal(t, "ann", ask(short, ""))
		require.Equal(t, 2, asked, "known certificates are not verified again")

		name = "bob"
		require.Equal(t, "bob", ask(long, "Authorization"), "who shows a token too is looked at")
		require.Equal(t, "bob", ask(long, "Sec-WebSocket-Protocol"))
		require.Equal(t, "ann", ask(long, ""))

		time.Sleep(11 * time.Second)
		require.Equal(t, "bob", ask(short, ""), "it has ended")
		require.Equal(t, "ann", ask(long, ""))
		time.Sleep(certificateTrust)
		require.Equal(t, "bob", ask(long, ""))

		name = user.Anonymous
		other := &x509.Certificate{NotAfter: time.Now().Add(time.Hour)}
		ask(other, "")
		name = "cid"
		require.Equal(t, "cid", ask(other, ""), "that somebody was not known is not remembered")
	})
}
