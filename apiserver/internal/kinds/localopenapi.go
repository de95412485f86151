package kinds

import (
	"encoding/json"
	"fmt"
	"sync/atomic"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/openapi"
)

// LocalOpenAPI gives admission plugins the OpenAPI documents without asking the server
// over HTTP: the mutating policy plugin looks every five seconds whether one changed,
// which through the server would mean building all of them at start. Documents are
// built when a policy needs one.
type LocalOpenAPI struct{ api atomic.Pointer[API] }

var _ openapi.Client = (*LocalOpenAPI)(nil)

// Serve makes the documents of the installed API known.
func (l *LocalOpenAPI) Serve(api *API) { l.api.Store(api) }

// Paths implements openapi.Client. Before Serve there are none.
func (l *LocalOpenAPI) Paths() (map[string]openapi.GroupVersion, error) {
	paths := map[string]openapi.GroupVersion{}
	api := l.api.Load()
	if api == nil {
		return paths, nil
	}
	for _, v := range api.Versions {
		paths[v.Path()] = localDocument{v}
	}
	return paths, nil
}

// localDocument is one version's document.
type localDocument struct{ version GroupVersion }

// Schema implements openapi.GroupVersion, in JSON only.
func (d localDocument) Schema(contentType string) ([]byte, error) {
	if contentType != runtime.ContentTypeJSON {
		return nil, fmt.Errorf("OpenAPI document of %s: only %s, not %s", d.version.GroupVersion, runtime.ContentTypeJSON, contentType)
	}
	doc, err := d.version.OpenAPIV3()
	if err != nil {
		return nil, err
	}
	return json.Marshal(doc)
}

// ServerRelativeURL implements openapi.GroupVersion: it changes when the document
// does, which built-in kinds never do.
func (d localDocument) ServerRelativeURL() string {
	return "/openapi/v3/" + d.version.Path() + "?hash=" + Upstream
}

// withLocalOpenAPI is a client that asks the server for everything but OpenAPI.
type withLocalOpenAPI struct {
	kubernetes.Interface
	local *LocalOpenAPI
}

func (c withLocalOpenAPI) Discovery() discovery.DiscoveryInterfaces {
	return localDiscovery{c.Interface.Discovery(), c.local}
}

type localDiscovery struct {
	discovery.DiscoveryInterfaces
	local *LocalOpenAPI
}

func (d localDiscovery) OpenAPIV3() openapi.Client { return d.local }
