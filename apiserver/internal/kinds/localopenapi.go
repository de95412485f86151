package kinds

import (
	"encoding/json"
	"fmt"
	"net/url"
	"sync/atomic"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/openapi"
	"k8s.io/kube-openapi/pkg/spec3"
)

// LocalOpenAPI gives admission plugins the OpenAPI documents without asking the server
// over HTTP: the mutating policy plugin looks every five seconds whether one changed,
// which through the server would mean building all of them at start. Documents are
// built when a policy needs one.
type LocalOpenAPI struct {
	served atomic.Pointer[servedDocuments]
}

// servedDocuments are the built-in kinds' documents and those that come and go.
type servedDocuments struct {
	api  *API
	more func() []Document
}

// Document is an OpenAPI v3 document that may come and go.
type Document struct {
	Path  string // "apis/example.com/v1"
	Mark  string // changes with the document
	Build func() (*spec3.OpenAPI, error)
}

var _ openapi.Client = (*LocalOpenAPI)(nil)

// Serve makes the documents of the installed API known, and those that more lists.
func (l *LocalOpenAPI) Serve(api *API, more func() []Document) {
	l.served.Store(&servedDocuments{api, more})
}

// Paths implements openapi.Client. Before Serve there are none.
func (l *LocalOpenAPI) Paths() (map[string]openapi.GroupVersion, error) {
	paths := map[string]openapi.GroupVersion{}
	served := l.served.Load()
	if served == nil {
		return paths, nil
	}
	for _, d := range served.more() {
		paths[d.Path] = localDocument{d}
	}
	for _, v := range served.api.Versions {
		paths[v.Path()] = localDocument{Document{Path: v.Path(), Mark: Upstream, Build: v.OpenAPIV3}}
	}
	return paths, nil
}

// localDocument is one version's document.
type localDocument struct{ Document }

// Schema implements openapi.GroupVersion, in JSON only.
func (d localDocument) Schema(contentType string) ([]byte, error) {
	if contentType != runtime.ContentTypeJSON {
		return nil, fmt.Errorf("OpenAPI document of %s: only %s, not %s", d.Path, runtime.ContentTypeJSON, contentType)
	}
	doc, err := d.Build()
	if err != nil {
		return nil, err
	}
	return json.Marshal(doc)
}

// ServerRelativeURL implements openapi.GroupVersion: it changes when the document does.
func (d localDocument) ServerRelativeURL() string {
	return "/openapi/v3/" + d.Path + "?hash=" + url.QueryEscape(d.Mark)
}

// withLocalOpenAPI is a client that asks the server for everything but OpenAPI.
type withLocalOpenAPI struct {
	kubernetes.Interface
	local *LocalOpenAPI
}

func (c withLocalOpenAPI) Discovery() discovery.DiscoveryInterfaces {
	return c.local.Discovery(c.Interface.Discovery())
}

type localDiscovery struct {
	discovery.DiscoveryInterfaces
	local *LocalOpenAPI
}

// Discovery is a discovery client that does not ask the server for OpenAPI.
func (l *LocalOpenAPI) Discovery(d discovery.DiscoveryInterfaces) discovery.DiscoveryInterfaces {
	return localDiscovery{d, l}
}

func (d localDiscovery) OpenAPIV3() openapi.Client { return d.local }
