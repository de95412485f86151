package differential

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	"sigs.k8s.io/yaml"

	"github.com/rutter-project/rutter/integration/servers"
)

// answer is what one server said, made comparable.
type answer struct {
	Status int               `json:"status"`
	Header map[string]string `json:"header"`
	Body   any               `json:"body,omitempty"`
}

// asked is one server with what its answers have shown so far.
type asked struct {
	host             string
	admin, anonymous *http.Client
	known            variables
}

func newAsked(s *servers.Server) (*asked, error) {
	config := rest.CopyConfig(s.Config)
	admin, err := plainClient(config)
	if err != nil {
		return nil, err
	}
	anonymous, err := plainClient(rest.AnonymousClientConfig(config))
	if err != nil {
		return nil, err
	}
	return &asked{host: s.Config.Host, admin: admin, anonymous: anonymous, known: variables{}}, nil
}

// plainClient neither asks for compression nor follows redirections.
func plainClient(config *rest.Config) (*http.Client, error) {
	tls, err := rest.TLSConfigFor(config)
	if err != nil {
		return nil, err
	}
	return &http.Client{
		Transport:     &http.Transport{TLSClientConfig: tls, DisableCompression: true, ForceAttemptHTTP2: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}, nil
}

const requestTimeout = 70 * time.Second

// ask sends a request, again if it says so, and returns the answer made comparable.
func (a *asked) ask(ctx context.Context, r request) (answer, error) {
	deadline := time.Now().Add(patience)
	for {
		got, err := a.once(ctx, r)
		if err != nil {
			return answer{}, fmt.Errorf("%s: %w", r.name, err)
		}
		if r.until == 0 || got.Status == r.until || time.Now().After(deadline) {
			return got, nil
		}
		select {
		case <-ctx.Done():
			return answer{}, ctx.Err()
		case <-time.After(50 * time.Millisecond): // between two questions; nothing depends on it
		}
	}
}

func (a *asked) once(ctx context.Context, r request) (answer, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, r.method, a.host+a.known.fill(r.path), strings.NewReader(a.known.fill(r.body)))
	if err != nil {
		return answer{}, err
	}
	req.Header.Set("User-Agent", "differential")
	for name, value := range r.header {
		req.Header.Set(name, a.known.fill(value))
	}
	client := a.admin
	switch r.as {
	case "":
	case "anonymous":
		client = a.anonymous
	default:
		req.Header.Set("Impersonate-User", r.as)
	}
	resp, err := client.Do(req)
	if errors.As(err, new(streamError)) {
		return answer{Body: "the connection was cut"}, nil // a handler that panicked
	}
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil && r.read != frames {
		return answer{}, fmt.Errorf("read the answer: %w", err)
	}
	body, err := decode(r.read, resp.Header, data)
	if err != nil {
		return answer{}, fmt.Errorf("understand the answer %s %.300q: %w", resp.Status, data, err)
	}
	for name, path := range r.keep {
		if header, ok := strings.CutPrefix(path, "header."); ok {
			a.known[name] = resp.Header.Get(header)
		} else if value, ok := at(body, path); ok {
			a.known[name] = value
		}
	}
	if r.read == frames {
		body = withoutHints(body)
	}
	m := mask{host: a.host, known: a.known, now: time.Now()}
	out := answer{Status: resp.StatusCode, Header: m.headers(resp.Header), Body: m.value("", body)}
	if r.read == outline {
		out.Body = outlineOf(out.Body)
	}
	return out, nil
}

// streamError has the fields by which net/http hands out its own: a stream was reset.
type streamError struct {
	StreamID, Code uint32
	Cause          error
}

func (e streamError) Error() string { return fmt.Sprintf("stream reset with code %d", e.Code) }

// decode makes a body into values of JSON.
func decode(how reading, header http.Header, data []byte) (any, error) {
	if how == nothing {
		return nil, nil
	}
	if header.Get("Content-Encoding") == "gzip" {
		unpacked, err := gzip.NewReader(bytes.NewReader(data))
		if err != nil {
			return nil, err
		}
		if data, err = io.ReadAll(unpacked); err != nil {
			return nil, err
		}
	}
	kind, _, _ := strings.Cut(header.Get("Content-Type"), ";")
	switch {
	case len(data) == 0:
		return nil, nil
	case kind == "application/json" && how == frames:
		return jsonFrames(data)
	case kind == asProtobuf && how == frames:
		return protobufFrames(data)
	case kind == "application/json":
		all, err := jsonFrames(data)
		if err != nil || len(all) != 1 {
			return all, err
		}
		return all[0], nil
	case kind == asYAML:
		text, err := yaml.YAMLToJSON(data)
		if err != nil {
			return nil, err
		}
		return decode(whole, http.Header{"Content-Type": {"application/json"}}, text)
	case kind == asProtobuf:
		return protobuf(data)
	case data[0] == '{': // JSON that does not say so
		return decode(how, http.Header{"Content-Type": {"application/json"}}, data)
	default:
		return string(data), nil
	}
}

// withoutHints leaves out bookmarks but the one that ends the initial events: servers
// send them when they see fit.
func withoutHints(events any) any {
	all, ok := events.([]any)
	if !ok {
		return events
	}
	return slices.DeleteFunc(all, func(e any) bool {
		kind, _ := at(e, "type")
		_, ends := at(e, "object.metadata.annotations.k8s_io/initial-events-end")
		return kind == "BOOKMARK" && !ends
	})
}

func jsonFrames(data []byte) ([]any, error) {
	all := []any{}
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.UseNumber()
	for {
		var v any
		if err := decoder.Decode(&v); errors.Is(err, io.EOF) {
			return all, nil
		} else if err != nil {
			return nil, err
		}
		all = append(all, v)
	}
}

// known decodes everything that is served in protobuf.
var known = func() serializer.CodecFactory {
	s := runtime.NewScheme()
	err := errors.Join(scheme.AddToScheme(s), metav1.AddMetaToScheme(s), apiextensionsv1.AddToScheme(s), apiregistrationv1.AddToScheme(s))
	if err != nil {
		panic(err) // two kinds of one name
	}
	return serializer.NewCodecFactory(s)
}()

// protobuf decodes what is known, and tells the bytes of what it does not.
func protobuf(data []byte) (any, error) {
	obj, gvk, err := known.UniversalDeserializer().Decode(data, nil, nil)
	if err != nil {
		sum := sha256.Sum256(data)
		return "protobuf " + hex.EncodeToString(sum[:8]), nil //nolint:nilerr // compared as bytes
	}
	obj.GetObjectKind().SetGroupVersionKind(*gvk)
	text, err := json.Marshal(obj)
	if err != nil {
		return nil, err
	}
	all, err := jsonFrames(text)
	if err != nil {
		return nil, err
	}
	return all[0], nil
}

// protobufFrames decodes a watch: each frame's length, then the event.
func protobufFrames(data []byte) (any, error) {
	all := []any{}
	for len(data) >= 4 {
		n := int(data[0])<<24 | int(data[1])<<16 | int(data[2])<<8 | int(data[3])
		if len(data) < 4+n {
			return nil, io.ErrUnexpectedEOF
		}
		event, err := protobufEvent(data[4 : 4+n])
		if err != nil {
			return nil, err
		}
		all, data = append(all, event), data[4+n:]
	}
	return all, nil
}

func protobufEvent(data []byte) (any, error) {
	var event metav1.WatchEvent
	if err := event.Unmarshal(data); err != nil {
		return nil, err
	}
	object, err := protobuf(event.Object.Raw)
	return map[string]any{"type": event.Type, "object": object}, err
}
