package schemas

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestReferring(t *testing.T) {
	for name, tc := range map[string]struct {
		event Event
		want  string
	}{
		"core": {Event{Rev: 9, Type: Added, Key: Key{Resource: "pods", Namespace: "shop", Name: "web"}, Object: []byte(`{"kind":"Pod","apiVersion":"v1"}`)},
			"/at/rev-9/api/v1/namespaces/shop/pods/web"},
		"a group, cluster scope": {Event{Rev: 9, Type: Modified, PrevRev: 4, Key: Key{Group: "example.com", Resource: "widgets", Name: "w"}, Object: []byte(`{"apiVersion":"example.com/v1"}`)},
			"/at/rev-9/apis/example.com/v1/widgets/w"},
		"deleted: the last state": {Event{Rev: 9, Type: Deleted, PrevRev: 4, Key: Key{Resource: "nodes", Name: "n"}, Object: []byte(`{"apiVersion":"v1"}`)},
			"/at/rev-4/api/v1/nodes/n"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := tc.event.Referring()
			require.NoError(t, err)
			require.Equal(t, tc.want, got.DataRef)
			headers, body := got.Message()
			require.Empty(t, body)
			again, err := ParseEvent(headers, body)
			require.NoError(t, err)
			require.Equal(t, tc.want, again.DataRef)
		})
	}
	_, err := Event{Rev: 9, Object: []byte(`{}`)}.Referring()
	require.ErrorIs(t, err, ErrNotObject)
}
