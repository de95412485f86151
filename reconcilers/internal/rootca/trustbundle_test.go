package rootca

import (
	"testing"
	"testing/synctest"

	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"
	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/rutter-project/rutter/reconcilers/internal/fakeapi"
)

func bundle(name, signer, ca string) *certificatesv1.ClusterTrustBundle {
	return &certificatesv1.ClusterTrustBundle{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: certificatesv1.ClusterTrustBundleSpec{SignerName: signer, TrustBundle: ca}}
}

func TestOneTrustBundleOfTheServingSigner(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := fakeapi.New()
		fakeapi.Put(s, bundle("kubernetes.io:kube-apiserver-serving:former", servingSigner, "former CA"))
		fakeapi.Put(s, bundle("example.com:mine:1", "example.com/mine", "another CA"))
		fakeapi.Put(s, bundle("unsigned", "", "another CA"))
		c, err := NewTrustBundle(s.Client(), []byte("CA"), s, zerolog.Nop())
		require.NoError(t, err)
		fakeapi.Start(t, s, c)
		names := func() (names []string) {
			for _, b := range fakeapi.All[*certificatesv1.ClusterTrustBundle](s) {
				names = append(names, b.Name)
			}
			return names
		}
		want := []string{"example.com:mine:1", bundleName([]byte("CA")), "unsigned"}
		require.ElementsMatch(t, want, names())

		published := fakeapi.Get[*certificatesv1.ClusterTrustBundle](s, "", bundleName([]byte("CA")))
		published.Spec.TrustBundle = "forged"
		fakeapi.Put(s, published)
		fakeapi.Settle()
		require.Equal(t, "CA", fakeapi.Get[*certificatesv1.ClusterTrustBundle](s, "", bundleName([]byte("CA"))).Spec.TrustBundle)

		fakeapi.Drop(s, published)
		fakeapi.Settle()
		require.ElementsMatch(t, want, names())
	})
}
