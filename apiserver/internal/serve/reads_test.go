package serve

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/rutter-project/rutter/apiserver/internal/view"
)

func TestShapeOf(t *testing.T) {
	for path, want := range map[string]shape{
		"pods":                              {resource: "pods"},
		"namespaces/{namespace}/pods":       {resource: "pods", namespaced: true},
		"namespaces/a/pods/b":               {resource: "pods", namespaced: true, named: true},
		"namespaces/a/pods/b/log":           {resource: "pods", namespaced: true, named: true, subresource: "log"},
		"namespaces/a/services/b/proxy/x/y": {resource: "services", namespaced: true, named: true, subresource: "proxy", rest: true},
		"namespaces/a":                      {resource: "namespaces", named: true},
		"namespaces/a/finalize":             {resource: "namespaces", named: true, subresource: "finalize"},
		"nodes/n/status":                    {resource: "nodes", named: true, subresource: "status"},
		"watch/namespaces/a/pods":           {resource: "pods", namespaced: true, watch: true},
		"":                                  {},
	} {
		if got := shapeOf(split(path)); got != want {
			t.Errorf("shapeOf(%q) = %+v, want %+v", path, got, want)
		}
	}
}

func TestWantsPlainJSON(t *testing.T) {
	for name, test := range map[string]struct {
		accept, agent string
		want          bool
	}{
		"client-go JSON": {"application/json, */*", "kubectl/v1.37.2", true},
		"nothing":        {"", "x", true},
		"table":          {"application/json;as=Table;v=v1;g=meta.k8s.io,application/json", "kubectl", false},
		"protobuf first": {"application/vnd.kubernetes.protobuf,application/json", "kubelet", false},
		"yaml":           {"application/yaml", "x", false},
		"curl is pretty": {"*/*", "curl/8.0", false},
		"browser":        {"*/*", "Mozilla/5.0", false},
	} {
		t.Run(name, func(t *testing.T) {
			r := httptest.NewRequest(http.MethodGet, "/api/v1/pods", nil)
			r.Header.Set("User-Agent", test.agent)
			if test.accept != "" {
				r.Header.Set("Accept", test.accept)
			}
			if got := wantsPlainJSON(r); got != test.want {
				t.Errorf("got %v, want %v", got, test.want)
			}
		})
	}
}

func TestPlainParameters(t *testing.T) {
	for query, want := range map[string]bool{
		"list ":                  true,
		"list resourceVersion=0": true,
		"list resourceVersion=12&resourceVersionMatch=NotOlderThan": true,
		"list resourceVersion=12&resourceVersionMatch=Exact":        true,
		"list resourceVersion=0&resourceVersionMatch=Exact":         false,
		"list resourceVersion=12&resourceVersionMatch=Roughly":      false,
		"list resourceVersionMatch=NotOlderThan":                    false,
		"list resourceVersion=abc":                                  false,
		"list continue=x":                                           true,
		"list timeoutSeconds=x":                                     false,
		"list continue=x&resourceVersion=12":                        false,
		"watch watch=1":                                             true,
		"watch watch=1&resourceVersion=5&allowWatchBookmarks=true":  true,
		"watch watch=1&limit=x":                                     false,
		"watch watch=1&timeoutSeconds=x":                            false,
		"watch watch=1&sendInitialEvents=true":                      false,
		"watch watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true": true,
		"watch watch=1&sendInitialEvents=false":                                                           false,
		"watch watch=1&resourceVersionMatch=NotOlderThan":                                                 false,
	} {
		verb, raw, _ := strings.Cut(query, " ")
		values, err := url.ParseQuery(raw)
		if err != nil {
			t.Fatal(err)
		}
		plain := plainList
		if verb == "watch" {
			plain = plainWatch
		}
		if got := plain(values); got != want {
			t.Errorf("%q is plain: %v, want %v", query, got, want)
		}
	}
}

// whole is the form of pods in JSON.
func whole() jsonWhole {
	return jsonWhole{&plain{head: []byte(`{"kind":"Pod","apiVersion":"v1",`)}}
}

func appended(t testing.TB, dst []byte, object string) string {
	t.Helper()
	got, err := whole().appendItem(dst, &view.Item{Rev: 7, Object: []byte(object)})
	if err != nil {
		t.Fatal(err)
	}
	return string(got)
}

func TestItemsInListsHaveRevisionAndNoKind(t *testing.T) {
	for stored, want := range map[string]string{
		`{"kind":"Pod","apiVersion":"v1","metadata":{"name":"a"},"spec":{}}`: `{"metadata":{"resourceVersion":"7","name":"a"},"spec":{}}`,
		`{"kind":"Pod","apiVersion":"v1","metadata":{},"spec":{}}`:           `{"metadata":{"resourceVersion":"7"},"spec":{}}`,
		`{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a"}}`:           `{"apiVersion":"v1","kind":"Pod","metadata":{"resourceVersion":"7","name":"a"}}`,
	} {
		got := appended(t, nil, stored)
		if got != want || !json.Valid([]byte(got)) {
			t.Errorf("appendItem(%s)\n got %s\nwant %s", stored, got, want)
		}
	}
}

func TestFramesAreLinesOfJSON(t *testing.T) {
	item := &view.Item{Rev: 9, Object: []byte(`{"kind":"Pod","apiVersion":"v1","metadata":{"name":"a"}}`)}
	before := &view.Item{Rev: 8, Object: item.Object}
	for want, e := range map[string]view.Event{
		"ADDED":    {Rev: 9, Type: view.Created, Item: item},
		"MODIFIED": {Rev: 9, Type: view.Modified, Item: item, Prev: before},
		"DELETED":  {Rev: 9, Type: view.Deleted, Item: item, Prev: before},
	} {
		s := &stream{ask: &ask{form: inJSON{whole()}}}
		line, err := s.tell(&e)
		if err != nil {
			t.Fatal(err)
		}
		var got struct {
			Type   string
			Object struct {
				Metadata struct{ Name, ResourceVersion string }
			}
		}
		if err := json.Unmarshal(line, &got); err != nil || got.Type != want || got.Object.Metadata.ResourceVersion != "9" || line[len(line)-1] != '\n' {
			t.Errorf("%s: %s: %v", want, line, err)
		}
	}
	mark, err := inJSON{whole()}.bookmark(5, true, true)
	if err != nil || !json.Valid(mark) || !strings.Contains(string(mark), `"k8s.io/initial-events-end":"true"`) {
		t.Errorf("bookmark: %s, %v", mark, err)
	}
}

func TestWatchTimeout(t *testing.T) {
	half := func() float64 { return 0.5 }
	if got := watchTimeout(url.Values{"timeoutSeconds": {"30"}}, half); got != 30*time.Second {
		t.Errorf("asked for 30 s: %s", got)
	}
	if got := watchTimeout(url.Values{}, half); got != 45*time.Minute {
		t.Errorf("not asked: %s, want 45m", got)
	}
}

func TestParseCauses(t *testing.T) {
	for header, want := range map[string]int{"": 0, "5": 1, "5, 6,7": 3, "x,5,-1": 1, strings.Repeat("1,", 200): maxCauses} {
		if got := len(parseCauses(header)); got != want {
			t.Errorf("parseCauses(%.20q) has %d causes, want %d", header, got, want)
		}
	}
}

func FuzzAppendItem(f *testing.F) {
	f.Add(`{"kind":"Pod","apiVersion":"v1","metadata":{"name":"a"}}`)
	f.Add(`{"kind":"Pod","apiVersion":"v1",`)
	f.Fuzz(func(t *testing.T, object string) {
		appended(t, nil, object)
		appendPartial(nil, &view.Item{Rev: 1, Object: []byte(object)})
		timesIn([]byte(object))
	})
}

func BenchmarkAppendItem(b *testing.B) {
	item := &view.Item{Rev: 123456, Object: []byte(`{"kind":"Pod","apiVersion":"v1","metadata":{"name":"a"},"spec":{"x":"` + strings.Repeat("y", 3000) + `"}}`)}
	buf := make([]byte, 0, 8192)
	b.SetBytes(int64(len(item.Object)))
	for b.Loop() {
		buf, _ = whole().appendItem(buf[:0], item)
	}
}

func TestFirstField(t *testing.T) {
	for message, want := range map[string]string{"\x0a\x02ab\x12\x01c": "\x0a\x02ab", "\x0a\x00": "\x0a\x00", "": "", "\x0a": "", "\x0a\x05ab": ""} {
		if got := string(firstField([]byte(message))); got != want {
			t.Errorf("firstField(%q) = %q, want %q", message, got, want)
		}
	}
}
