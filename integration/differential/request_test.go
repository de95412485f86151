package differential

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"sigs.k8s.io/yaml"
)

// request is one named case. Requests are sent in order, since later ones ask for what
// earlier ones have made. Path, body and headers may hold ${variables}.
type request struct {
	name         string
	method, path string
	header       map[string]string
	body         string
	as           string            // who asks: "" the administrator, anonymous, or a user to impersonate
	keep         map[string]string // variables, and where in the answer their values are
	until        int               // ask again until this is the status: what decides is told by a watch
	read         reading
}

// reading is how a body is read.
type reading int

const (
	whole   reading = iota // by its content type
	frames                 // one object after another
	outline                // a large document: hashes of its parts
	nothing                // not compared
)

// onlyReads tells that neither other cases nor the server notice the request.
func (r request) onlyReads() bool { return r.method == "GET" && len(r.keep) == 0 && r.until == 0 }

type option func(*request)

// variables are what one server's answers have shown.
type variables map[string]string

// fill replaces ${variables}, and "#{variables}" by what is no string in JSON.
func (v variables) fill(s string) string {
	for name, value := range v {
		s = strings.ReplaceAll(s, "${"+name+"}", value)
		s = strings.ReplaceAll(s, `"#{`+name+`}"`, value)
	}
	return s
}

func send(method, name, path string, options ...option) request {
	r := request{name: name, method: method, path: path, header: map[string]string{}, keep: map[string]string{}}
	for _, o := range options {
		o(&r)
	}
	return r
}

func get(name, path string, options ...option) request { return send("GET", name, path, options...) }
func del(name, path string, options ...option) request { return send("DELETE", name, path, options...) }

func post(name, path, body string, options ...option) request {
	return send("POST", name, path, append([]option{object(body)}, options...)...)
}

func put(name, path, body string, options ...option) request {
	return send("PUT", name, path, append([]option{object(body)}, options...)...)
}

// Types of patches.
const (
	jsonPatch      = "application/json-patch+json"
	mergePatch     = "application/merge-patch+json"
	strategicPatch = "application/strategic-merge-patch+json"
	applyPatch     = "application/apply-patch+yaml"
)

func patch(name, kind, path, body string, options ...option) request {
	return send("PATCH", name, path, append([]option{object(body), header("Content-Type", kind)}, options...)...)
}

// watch reads a watch until the server ends it.
func watch(name, path string, options ...option) request {
	return get(name, path, append([]option{func(r *request) { r.read = frames }}, options...)...)
}

// object is a body written as YAML and sent as JSON.
func object(text string) option {
	return func(r *request) {
		body, err := yaml.YAMLToJSON([]byte(text))
		if err != nil {
			panic(fmt.Sprintf("body of %q: %v", r.name, err)) // a mistake in a case
		}
		r.body = string(body)
		r.header["Content-Type"] = "application/json"
	}
}

// raw is a body sent as it is.
func raw(contentType, body string) option {
	return func(r *request) { r.body, r.header["Content-Type"] = body, contentType }
}

func header(name, value string) option { return func(r *request) { r.header[name] = value } }
func accept(types string) option       { return header("Accept", types) }
func as(user string) option            { return func(r *request) { r.as = user } }
func keep(name, path string) option    { return func(r *request) { r.keep[name] = path } }
func until(status int) option          { return func(r *request) { r.until = status } }
func outlined(r *request)              { r.read = outline }
func unread(r *request)                { r.read = nothing }

// Encodings of answers.
const (
	asTable      = "application/json;as=Table;v=v1;g=meta.k8s.io"
	asMetadata   = "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io"
	asMetadatas  = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"
	asProtobuf   = "application/vnd.kubernetes.protobuf"
	asYAML       = "application/yaml"
	asCBOR       = "application/cbor"
	asAggregated = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
)

// patience is for how long a request with until is repeated.
const patience = 20 * time.Second

// at finds a value in a decoded answer by a dotted path, in which _ is a dot of a name.
func at(v any, path string) (string, bool) {
	for _, part := range strings.Split(path, ".") {
		switch x := v.(type) {
		case map[string]any:
			v = x[strings.ReplaceAll(part, "_", ".")]
		case []any:
			var i int
			if _, err := fmt.Sscan(part, &i); err != nil || i >= len(x) {
				return "", false
			}
			v = x[i]
		default:
			return "", false
		}
	}
	switch x := v.(type) {
	case string:
		return x, x != ""
	case json.Number:
		return x.String(), true
	default:
		return "", false
	}
}
