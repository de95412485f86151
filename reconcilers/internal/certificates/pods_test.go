package certificates

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"
	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/rutter-project/rutter/reconcilers/internal/fakeapi"
)

func TestPodRequestsAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := fakeapi.New()
		made := func(name string, age time.Duration) {
			fakeapi.Put(s, &certificatesv1.PodCertificateRequest{ObjectMeta: metav1.ObjectMeta{
				Namespace: "a", Name: name, CreationTimestamp: metav1.NewTime(time.Now().Add(-age)),
			}})
		}
		made("old", time.Hour) // from before a restart
		made("new", 5*time.Minute)
		c, err := NewForPods(s.Client(), s, zerolog.Nop())
		require.NoError(t, err)
		fakeapi.Start(t, s, c)
		left := func() int { return len(fakeapi.All[*certificatesv1.PodCertificateRequest](s)) }
		require.Equal(t, 1, left())
		time.Sleep(9 * time.Minute) // the bubble's clock
		fakeapi.Settle()
		require.Equal(t, 1, left())
		time.Sleep(time.Minute + time.Second)
		fakeapi.Settle()
		require.Zero(t, left())
	})
}
