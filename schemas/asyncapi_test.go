package schemas

import (
	"os"
	"testing"

	"github.com/stretchr/testify/require"
	"sigs.k8s.io/yaml"
)

// TestAsyncAPIMatchesMessages keeps the document and the code together.
func TestAsyncAPIMatchesMessages(t *testing.T) {
	text, err := os.ReadFile("asyncapi.yaml")
	require.NoError(t, err)
	var document struct {
		Channels map[string]struct {
			Address string `json:"address"`
		} `json:"channels"`
		Components struct {
			Schemas struct {
				Headers struct {
					Properties map[string]any `json:"properties"`
					Required   []string       `json:"required"`
				} `json:"headers"`
			} `json:"schemas"`
		} `json:"components"`
	}
	require.NoError(t, yaml.Unmarshal(text, &document))
	e := fullEvent()
	e.Resync = 7
	full, _ := e.Message()
	documented := document.Components.Schemas.Headers
	for name := range full {
		require.Contains(t, documented.Properties, name)
	}
	require.Len(t, documented.Properties, len(full), "the document knows headers that no message has")
	bare, _ := Event{Rev: 1, Cnt: 1, Type: Gap}.Message()
	for _, name := range documented.Required {
		require.Contains(t, bare, name, "required, but left out")
	}
	require.Equal(t, ResyncSubject, document.Channels["gap"].Address)
	require.Equal(t, RouteRoot+"{node}", document.Channels["route"].Address)
	require.Equal(t, SubjectRoot+"{group}.{resource}.{namespace}.{name}", document.Channels["object"].Address)
}
