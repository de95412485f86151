package apiserver_test

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/tools/cache"
)

// widgets is a definition with all that a version can have. %[1]s is the group.
const widgets = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: "widgets.%[1]s"}
spec:
  group: "%[1]s"
  scope: Namespaced
  names: {plural: widgets, singular: widget, kind: Widget, listKind: WidgetList, shortNames: [wdg], categories: [all]}
  versions:
  - name: v1
    served: true
    storage: true
    subresources:
      status: {}
      scale: {specReplicasPath: .spec.replicas, statusReplicasPath: .status.replicas}
    selectableFields: [{jsonPath: .spec.color}]
    additionalPrinterColumns:
    - {name: Color, type: string, jsonPath: .spec.color}
    schema:
      openAPIV3Schema:
        type: object
        description: A widget.
        properties:
          spec:
            type: object
            x-kubernetes-validations:
            - {rule: "!has(self.color) || self.color != 'forbidden'", message: "this color is forbidden"}
            properties:
              color: {type: string, maxLength: 20}
              size: {type: integer, default: 7}
              replicas: {type: integer}
              note: {type: string, nullable: true}
              tags: {type: array, x-kubernetes-list-type: set, items: {type: string}}
              template: {type: object, x-kubernetes-embedded-resource: true, x-kubernetes-preserve-unknown-fields: true}
          status:
            type: object
            properties:
              replicas: {type: integer}
  - name: v1beta1
    served: true
    storage: false
    deprecated: true
    schema:
      openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}
`

// plainThings is a definition whose objects can be read as the bytes they are stored in.
const plainThings = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: "things.%[1]s"}
spec:
  group: "%[1]s"
  scope: Cluster
  names: {plural: things, singular: thing, kind: Thing}
  versions:
  - {name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, properties: {Above: {type: string}, spec: {type: object, properties: {x: {type: integer}}}}}}}
`

const (
	yamlBody   = "Content-Type: application/yaml"
	jsonBody   = "Content-Type: application/json"
	mergePatch = "Content-Type: application/merge-patch+json"
	applyPatch = "Content-Type: application/apply-patch+yaml"
)

const definitionsPath = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"

// define creates a definition in a group of the test's own, waits until it is
// established, and deletes it at the end. It returns the path of the group.
func (c *cluster) define(t *testing.T, definition string) string {
	t.Helper()
	group := strings.ToLower(strings.ReplaceAll(t.Name(), "/", "-")) + ".example.com"
	created := c.send(t, "POST", definitionsPath, fmt.Sprintf(definition, group), yamlBody)
	require.Equal(t, 201, created.status, "%s", created.body)
	name := created.object(t)["metadata"].(map[string]any)["name"].(string)
	c.await(t, name, "Established", "True")
	t.Cleanup(func() { c.undefine(t, name) })
	return "/apis/" + group
}

func (c *cluster) undefine(t *testing.T, name string) {
	t.Helper()
	c.send(t, "DELETE", definitionsPath+"/"+name, "")
	eventually(t, func() error {
		if a := c.send(t, "GET", definitionsPath+"/"+name, ""); a.status != 404 {
			return fmt.Errorf("%s is still there: %s", name, a.body)
		}
		return nil
	})
}

// await waits for a condition of a definition by watching it.
func (c *cluster) await(t *testing.T, name, condition, status string) {
	t.Helper()
	next := c.stream(t, definitionsPath+"?watch=true&fieldSelector=metadata.name="+name)
	for {
		object := next()["object"].(map[string]any)
		conditions, _ := object["status"].(map[string]any)["conditions"].([]any)
		for _, each := range conditions {
			if m := each.(map[string]any); m["type"] == condition && m["status"] == status {
				return
			}
		}
	}
}

// at digs into decoded JSON.
func at(object any, path ...string) any {
	for _, name := range path {
		m, ok := object.(map[string]any)
		if !ok {
			return nil
		}
		object = m[name]
	}
	return object
}

func TestCustomResourceIsServedOnceEstablished(t *testing.T) {
	c := server(t)
	group := c.define(t, widgets)
	a := c.send(t, "POST", group+"/v1/namespaces/default/widgets", `{"kind":"Widget","apiVersion":"`+group[len("/apis/"):]+`/v1","metadata":{"name":"a"},"spec":{"color":"red"}}`, jsonBody)
	require.Equal(t, 201, a.status, "%s", a.body)
	require.EqualValues(t, 1, at(a.object(t), "metadata", "generation"))
	require.EqualValues(t, 7, at(a.object(t), "spec", "size"), "the default is filled in")

	name := "widgets." + group[len("/apis/"):]
	c.undefine(t, name)
	require.Equal(t, 404, c.send(t, "GET", group+"/v1/namespaces/default/widgets/a", "").status)
	resp, err := c.etcd.Get(t.Context(), "/rutter/registry/"+group[len("/apis/"):]+"/widgets/default/a")
	require.NoError(t, err)
	require.Empty(t, resp.Kvs, "objects go with their definition")
}

func TestCustomResourceDiscovery(t *testing.T) {
	c := server(t)
	group := c.define(t, widgets)
	name := group[len("/apis/"):]
	aggregated := "Accept: application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
	for _, path := range []string{"/apis", group, group + "/v1"} {
		require.Contains(t, string(c.send(t, "GET", path, "").body), name, path)
	}
	with := c.send(t, "GET", "/apis", "", aggregated)
	require.Contains(t, string(with.body), name)
	require.Equal(t, "v1", at(c.send(t, "GET", group, "").object(t), "preferredVersion", "version"))
	for _, part := range []string{`"name":"widgets/status"`, `"name":"widgets/scale"`, `"shortNames":["wdg"]`, `"categories":["all"]`} {
		require.Contains(t, string(c.send(t, "GET", group+"/v1", "").body), part)
	}
	same := c.send(t, "GET", "/apis", "", aggregated, "If-None-Match: "+with.header.Get("ETag"))
	require.Equal(t, 304, same.status)
	c.undefine(t, "widgets."+name)
	without := c.send(t, "GET", "/apis", "", aggregated)
	require.NotContains(t, string(without.body), name)
	require.NotEqual(t, with.header.Get("ETag"), without.header.Get("ETag"))
	require.Equal(t, 404, c.send(t, "GET", group, "").status)
	require.Equal(t, 404, c.send(t, "GET", group+"/v1", "").status)
}

func TestCustomResourceOpenAPI(t *testing.T) {
	c := server(t)
	group := c.define(t, widgets)
	name := group[len("/apis/"):]
	require.Contains(t, string(c.send(t, "GET", "/openapi/v2", "").body), "A widget.")
	var root struct {
		Paths map[string]struct{ ServerRelativeURL string }
	}
	require.NoError(t, json.Unmarshal(c.send(t, "GET", "/openapi/v3", "").body, &root))
	document, ok := root.Paths["apis/"+name+"/v1"]
	require.True(t, ok)
	got := c.send(t, "GET", document.ServerRelativeURL, "")
	require.Equal(t, 200, got.status)
	require.Contains(t, string(got.body), "A widget.")
	changed := c.send(t, "PATCH", definitionsPath+"/widgets."+name,
		`[{"op":"replace","path":"/spec/versions/0/schema/openAPIV3Schema/description","value":"A better widget."}]`, "Content-Type: application/json-patch+json")
	require.Equal(t, 200, changed.status, "%s", changed.body)
	eventually(t, func() error {
		if b := c.send(t, "GET", "/openapi/v2", "").body; !strings.Contains(string(b), "A better widget.") {
			return fmt.Errorf("the v2 document has not changed")
		}
		return nil
	})
	require.NoError(t, json.Unmarshal(c.send(t, "GET", "/openapi/v3", "").body, &root))
	require.NotEqual(t, document.ServerRelativeURL, root.Paths["apis/"+name+"/v1"].ServerRelativeURL)
	c.undefine(t, "widgets."+name)
	eventually(t, func() error {
		if b := c.send(t, "GET", "/openapi/v2", "").body; strings.Contains(string(b), "A better widget.") {
			return fmt.Errorf("the v2 document still has it")
		}
		if b := c.send(t, "GET", "/openapi/v3", "").body; strings.Contains(string(b), name) {
			return fmt.Errorf("the v3 documents still have it")
		}
		return nil
	})
}

func TestCustomResourceRules(t *testing.T) {
	c := server(t)
	group := c.define(t, widgets)
	path := group + "/v1/namespaces/default/widgets"
	for name, tc := range map[string]struct {
		body, query string
		status      int
		want        string // in the answer
	}{
		"CEL rule":              {`spec: {color: forbidden}`, "", 422, "this color is forbidden"},
		"type":                  {`spec: {size: big}`, "", 422, "spec.size"},
		"length":                {`spec: {color: a-very-long-color-indeed}`, "", 422, "Too long"},
		"set with twins":        {`spec: {tags: [a, a]}`, "", 422, "Duplicate value"},
		"unknown is pruned":     {`spec: {unknown: 1}`, "", 201, `"spec":{"size":7}`},
		"unknown is refused":    {`spec: {unknown: 1}`, "&fieldValidation=Strict", 400, `unknown field \"spec.unknown\"`},
		"unknown metadata":      {`spec: {template: {apiVersion: v1, kind: Pod, metadata: {name: x, odd: 1}}}`, "&fieldValidation=Strict", 400, `unknown field \"spec.template.metadata.odd\"`},
		"null where it may be":  {`spec: {note: null}`, "", 201, `"note":null`},
		"null is dropped":       {`spec: {color: null}`, "", 201, `"spec":{"size":7}`},
		"embedded without kind": {`spec: {template: {metadata: {name: x}}}`, "", 422, "spec.template.kind"},
		"status is not set":     {`status: {replicas: 3}`, "", 201, `"kind":"Widget"`},
	} {
		t.Run(name, func(t *testing.T) {
			head := "apiVersion: " + group[len("/apis/"):] + "/v1\nkind: Widget\nmetadata: {generateName: w-}\n"
			a := c.send(t, "POST", path+"?dryRun=All"+tc.query, head+tc.body, yamlBody)
			require.Equal(t, tc.status, a.status, "%s", a.body)
			require.Contains(t, string(a.body), tc.want)
			if a.status == 201 {
				require.Nil(t, at(a.object(t), "status"))
				require.Nil(t, at(a.object(t), "spec", "unknown"))
			}
		})
	}
}

// widget creates a widget and returns its path.
func (c *cluster) widget(t *testing.T, group, name, spec string) string {
	t.Helper()
	path := group + "/v1/namespaces/default/widgets"
	a := c.send(t, "POST", path, fmt.Sprintf("{apiVersion: %s/v1, kind: Widget, metadata: {name: %s}, spec: %s}", group[len("/apis/"):], name, spec), yamlBody)
	require.Equal(t, 201, a.status, "%s", a.body)
	return path + "/" + name
}

func TestCustomResourceSubresources(t *testing.T) {
	c := server(t)
	group := c.define(t, widgets)
	w := c.widget(t, group, "a", "{color: red, replicas: 2}")
	a := c.send(t, "PATCH", w+"/status", `{"spec":{"color":"blue"},"status":{"replicas":1}}`, mergePatch)
	require.Equal(t, 200, a.status, "%s", a.body)
	require.Equal(t, "red", at(a.object(t), "spec", "color"))
	require.EqualValues(t, 1, at(a.object(t), "status", "replicas"))
	require.EqualValues(t, 1, at(a.object(t), "metadata", "generation"))
	a = c.send(t, "PATCH", w, `{"spec":{"color":"blue"},"status":{"replicas":9}}`, mergePatch)
	require.EqualValues(t, 2, at(a.object(t), "metadata", "generation"))
	require.EqualValues(t, 1, at(a.object(t), "status", "replicas"))
	a = c.send(t, "PATCH", w+"/scale", `{"spec":{"replicas":5}}`, mergePatch)
	require.Equal(t, 200, a.status, "%s", a.body)
	require.Equal(t, "Scale", a.object(t)["kind"])
	require.EqualValues(t, 5, at(c.send(t, "GET", w, "").object(t), "spec", "replicas"))
	require.Equal(t, 404, c.send(t, "GET", w+"/other", "").status)
	require.Equal(t, 405, c.send(t, "DELETE", w+"/status", "").status)
	require.Equal(t, 405, c.send(t, "POST", w, "{}", jsonBody).status)
}

func TestCustomResourceVersionsAndTables(t *testing.T) {
	c := server(t)
	group := c.define(t, widgets)
	c.widget(t, group, "a", "{color: red}")
	c.widget(t, group, "b", "{color: blue}")
	old := c.send(t, "GET", group+"/v1beta1/namespaces/default/widgets/a", "")
	require.Equal(t, group[len("/apis/"):]+"/v1beta1", old.object(t)["apiVersion"])
	require.Contains(t, old.header.Get("Warning"), "v1beta1 Widget is deprecated; use "+group[len("/apis/"):]+"/v1 Widget")
	table := c.send(t, "GET", group+"/v1/namespaces/default/widgets", "", "Accept: application/json;as=Table;v=v1;g=meta.k8s.io")
	require.Contains(t, string(table.body), `"name":"Color"`)
	require.Contains(t, string(table.body), `"cells":["a","red"]`)
	selected := c.send(t, "GET", group+"/v1/widgets?fieldSelector=spec.color%3Dblue", "")
	require.Len(t, selected.object(t)["items"], 1)
	require.Equal(t, 400, c.send(t, "GET", group+"/v1/widgets?fieldSelector=spec.size%3D7", "").status)
	binary := c.send(t, "GET", group+"/v1/widgets", "", "Accept: application/vnd.kubernetes.protobuf")
	require.Equal(t, 406, binary.status)
}

func TestCustomResourceServerSideApply(t *testing.T) {
	c := server(t)
	group := c.define(t, widgets)
	path := group + "/v1/namespaces/default/widgets/applied"
	body := "{apiVersion: " + group[len("/apis/"):] + "/v1, kind: Widget, metadata: {name: applied}, spec: {color: %s, tags: [%s]}}"
	require.Equal(t, 201, c.send(t, "PATCH", path+"?fieldManager=one", fmt.Sprintf(body, "red", "a"), applyPatch).status)
	conflict := c.send(t, "PATCH", path+"?fieldManager=two", fmt.Sprintf(body, "blue", "b"), applyPatch)
	require.Equal(t, 409, conflict.status)
	require.Contains(t, string(conflict.body), ".spec.color")
	forced := c.send(t, "PATCH", path+"?fieldManager=two&force=true", fmt.Sprintf(body, "blue", "b"), applyPatch)
	require.Equal(t, 200, forced.status, "%s", forced.body)
	require.ElementsMatch(t, []any{"a", "b"}, at(forced.object(t), "spec", "tags"), "a set is merged")
}

func TestDefinitionRules(t *testing.T) {
	c := server(t)
	group := c.define(t, widgets)
	name := group[len("/apis/"):]
	for what, tc := range map[string]struct {
		method, path, body, kind string
		want                     string
	}{
		"scope is immutable":       {"PATCH", "/widgets." + name, `{"spec":{"scope":"Cluster"}}`, mergePatch, "field is immutable"},
		"built-in resource":        {"POST", "", builtInDefinition, yamlBody, "this resource is built in"},
		"schema is not structural": {"POST", "", strings.Replace(fmt.Sprintf(plainThings, "broken.example.com"), "x: {type: integer}", "x: {}", 1), yamlBody, "must not be empty for specified object fields"},
		"protected group":          {"POST", "", fmt.Sprintf(plainThings, "foo.k8s.io"), yamlBody, "protected groups must have approval annotation"},
	} {
		t.Run(what, func(t *testing.T) {
			a := c.send(t, tc.method, definitionsPath+tc.path, tc.body, tc.kind)
			require.Equal(t, 422, a.status, "%s", a.body)
			require.Contains(t, a.apiStatus(t).Message, tc.want)
		})
	}
	t.Run("names in use", func(t *testing.T) {
		rival := strings.NewReplacer("widgets."+name, "rivals."+name, "plural: widgets", "plural: rivals").Replace(fmt.Sprintf(widgets, name))
		require.Equal(t, 201, c.send(t, "POST", definitionsPath, rival, yamlBody).status)
		defer c.undefine(t, "rivals."+name)
		c.await(t, "rivals."+name, "NamesAccepted", "False")
		require.Equal(t, 404, c.send(t, "GET", group+"/v1/rivals", "").status)
	})
}

const builtInDefinition = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: ingresses.networking.k8s.io, annotations: {api-approved.kubernetes.io: "https://github.com/kubernetes/kubernetes/pull/1"}}
spec:
  group: networking.k8s.io
  scope: Namespaced
  names: {plural: ingresses, singular: ingress, kind: Ingress}
  versions: [{name: v9, served: true, storage: true, schema: {openAPIV3Schema: {type: object}}}]
`

func TestCustomResourceFromStoredBytes(t *testing.T) {
	c := server(t)
	group := c.define(t, plainThings)
	path := group + "/v1/things"
	a := c.send(t, "POST", path, "{apiVersion: "+group[len("/apis/"):]+"/v1, kind: Thing, metadata: {name: a, labels: {x: z}}, Above: all, spec: {x: 1, pruned: 2}}", yamlBody)
	require.Equal(t, 201, a.status, "%s", a.body)
	decoding := "Accept: application/json, application/yaml" // is not answered from stored bytes
	for _, p := range []string{path, path + "/a"} {
		decoded, stored := c.send(t, "GET", p, "", decoding).object(t), c.send(t, "GET", p, "").object(t)
		if _, list := decoded["items"]; list { // its revision is the cluster's, which others move
			for _, l := range []map[string]any{decoded, stored} {
				require.NotEmpty(t, at(l, "metadata", "resourceVersion"))
				delete(l["metadata"].(map[string]any), "resourceVersion")
			}
		}
		require.Equal(t, decoded, stored, p)
	}
	resp, err := c.etcd.Get(t.Context(), "/rutter/registry/"+group[len("/apis/"):]+"/things/a")
	require.NoError(t, err)
	require.Contains(t, string(resp.Kvs[0].Value), `{"kind":"Thing","apiVersion":"`+group[len("/apis/"):]+`/v1","metadata":{`)

	next := c.stream(t, path+"?watch=true")
	require.Equal(t, "ADDED", next()["type"])
	// A changed schema ends the watch, and what is read is pruned by the new one.
	changed := c.send(t, "PATCH", definitionsPath+"/things."+group[len("/apis/"):],
		`[{"op":"remove","path":"/spec/versions/0/schema/openAPIV3Schema/properties/Above"}]`, "Content-Type: application/json-patch+json")
	require.Equal(t, 200, changed.status, "%s", changed.body)
	require.Nil(t, next(), "the watch has ended")
	require.Nil(t, c.send(t, "GET", path+"/a", "").object(t)["Above"])
}

func TestCustomResourceSpeaksOnTheServersStore(t *testing.T) {
	c := server(t)
	group := c.define(t, widgets)
	c.widget(t, group, "a", "{color: red}")
	next := c.stream(t, group+"/v1/widgets?watch=true&allowWatchBookmarks=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan")
	require.Equal(t, "ADDED", next()["type"])
	require.Equal(t, "BOOKMARK", next()["type"])
	c.send(t, "DELETE", group+"/v1/namespaces/default/widgets/a", "")
	gone := next()
	require.Equal(t, "DELETED", gone["type"])
	require.Equal(t, "red", at(gone, "object", "spec", "color"))
	list := c.send(t, "GET", group+"/v1/widgets?limit=1", "").object(t)
	require.Equal(t, "WidgetList", list["kind"])
	require.GreaterOrEqual(t, fmt.Sprint(at(list, "metadata", "resourceVersion")), fmt.Sprint(at(gone, "object", "metadata", "resourceVersion")))
}

// TestRatchetingLetsOldValuesBe: a rule that comes later holds for what changes.
func TestRatchetingLetsOldValuesBe(t *testing.T) {
	c := server(t)
	group := c.define(t, widgets)
	w := c.widget(t, group, "a", "{color: magenta}")
	changed := c.send(t, "PATCH", definitionsPath+"/widgets."+group[len("/apis/"):],
		`[{"op":"replace","path":"/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/color/maxLength","value":3}]`, "Content-Type: application/json-patch+json")
	require.Equal(t, 200, changed.status, "%s", changed.body)
	eventually(t, func() error {
		a := c.send(t, "PATCH", w+"?dryRun=All", `{"spec":{"color":"fuchsia"}}`, mergePatch)
		if a.status != 422 {
			return fmt.Errorf("the new rule does not hold yet: %s", a.body)
		}
		return nil
	})
	require.Equal(t, 200, c.send(t, "PATCH", w, `{"spec":{"size":8}}`, mergePatch).status)
}

func TestMissingCustomResources(t *testing.T) {
	c := server(t)
	for _, path := range []string{"/apis/nothing.example.com/v1/widgets", "/apis/nothing.example.com/v1", "/apis/apps/v1/widgets"} {
		require.Equal(t, 404, c.send(t, "GET", path, "").status, path)
	}
	group := c.define(t, widgets)
	for _, path := range []string{"/v2/widgets", "/v1/other", "/v1/widgets/a"} {
		require.Equal(t, 404, c.send(t, "GET", group+path, "").status, path)
	}
	unnamed := c.send(t, "PUT", group+"/v1/namespaces/default/widgets", "{}", jsonBody)
	require.Equal(t, 400, unnamed.status)
	require.Equal(t, "name must be provided", unnamed.apiStatus(t).Message)
}

// TestDefinitionIsKnownToAllServers: who has seen a definition established on one
// server can use it on another at once.
func TestDefinitionIsKnownToAllServers(t *testing.T) {
	c := server(t)
	second := &cluster{etcd: c.etcd, sealFile: c.sealFile}
	stop, err := second.start(filepath.Dir(c.ca.CAFile()), "second")
	defer func() { require.NoError(t, stop()) }()
	require.NoError(t, err)
	group := c.define(t, widgets)
	w := second.widget(t, group, "a", "{color: red}")
	require.Equal(t, 200, c.send(t, "GET", w, "").status)
	require.Equal(t, 200, second.send(t, "DELETE", w, "").status)
}

// TestDynamicInformer: the caches of operators follow custom resources.
func TestDynamicInformer(t *testing.T) {
	c := server(t)
	group := c.define(t, widgets)
	client, err := dynamic.NewForConfig(c.config)
	require.NoError(t, err)
	factory := dynamicinformer.NewDynamicSharedInformerFactory(client, 0)
	informer := factory.ForResource(schema.GroupVersionResource{Group: group[len("/apis/"):], Version: "v1", Resource: "widgets"}).Informer()
	seen := make(chan string, 10)
	note := func(what string, obj any) {
		if u, ok := obj.(*unstructured.Unstructured); ok {
			color, _, _ := unstructured.NestedString(u.Object, "spec", "color")
			seen <- what + " " + u.GetName() + " " + color
		}
	}
	_, err = informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(obj any) { note("added", obj) },
		UpdateFunc: func(_, obj any) { note("changed", obj) },
		DeleteFunc: func(obj any) { note("deleted", obj) },
	})
	require.NoError(t, err)
	c.widget(t, group, "a", "{color: red}")
	ctx, cancel := context.WithCancel(t.Context())
	factory.Start(ctx.Done())
	defer factory.Shutdown()
	defer cancel()
	expect := func(want string) {
		t.Helper()
		select {
		case got := <-seen:
			require.Equal(t, want, got)
		case <-time.After(patience):
			t.Fatalf("not seen: %s", want)
		}
	}
	expect("added a red")
	c.send(t, "PATCH", group+"/v1/namespaces/default/widgets/a", `{"spec":{"color":"blue"}}`, mergePatch)
	expect("changed a blue")
	// The informer goes on after the definition, and with it the watch, has changed.
	a := c.send(t, "PATCH", definitionsPath+"/widgets."+group[len("/apis/"):],
		`[{"op":"replace","path":"/spec/versions/0/additionalPrinterColumns/0/name","value":"Paint"}]`, "Content-Type: application/json-patch+json")
	require.Equal(t, 200, a.status, "%s", a.body)
	c.send(t, "DELETE", group+"/v1/namespaces/default/widgets/a", "")
	expect("deleted a blue")
}
