package apiserver_test

import (
	"encoding/json"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// Documents of different versions were built and sent at the same time, from definitions
// that they share: the runtime ended the process for a concurrent map access.
func TestOpenAPIDocumentsAreBuiltSideBySide(t *testing.T) {
	c := server(t)
	var root struct {
		Paths map[string]struct{ ServerRelativeURL string }
	}
	require.NoError(t, json.Unmarshal(c.send(t, "GET", "/openapi/v3", "").body, &root))
	require.NotEmpty(t, root.Paths)
	var wg sync.WaitGroup
	for path, document := range root.Paths {
		wg.Go(func() {
			if got := c.send(t, "GET", document.ServerRelativeURL, ""); got.status != 200 || !json.Valid(got.body) {
				t.Errorf("%s: status %d", path, got.status)
			}
		})
	}
	wg.Wait()
}
