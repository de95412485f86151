package schemas

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"sigs.k8s.io/yaml"
)

var update = flag.Bool("update", false, "write the generated documents")

// node is one object of a JSON document.
type node = map[string]any

const (
	schemaDialect = "https://json-schema.org/draft/2020-12/schema"
	schemaBase    = "https://rutter.dev/schemas/v1/"
)

// TestDocumentsAreGenerated: the documents are what the types make them.
func TestDocumentsAreGenerated(t *testing.T) {
	for path, text := range documents(t) {
		if *update {
			require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
			require.NoError(t, os.WriteFile(path, text, 0o644))
		}
		have, err := os.ReadFile(path)
		require.NoError(t, err)
		require.Equal(t, string(text), string(have), "%s is not what the types make it; run `./task gen`", path)
	}
}

// documents are all generated files.
func documents(t testing.TB) map[string][]byte {
	t.Helper()
	g := generator{t: t, docs: fieldComments(t)}
	out := map[string][]byte{
		"header.schema.json": g.schemaFile("Header", "header.schema.json", "Who wrote an object and why. The first line of a stored value; the value's second part is the object.", reflect.TypeFor[Header]()),
		"event.schema.json":  g.schemaFile("Event", "event.schema.json", "One committed change of one object, as tools print it. On the bus the same facts are message headers and the object is the body.", reflect.TypeFor[eventJSON]()),
	}
	for _, kind := range EventTypes() {
		name := "cloudevents/" + kind.Name + ".schema.json"
		out[name] = g.json(cloudEventSchema(kind, name))
	}
	text, err := yaml.Marshal(asyncAPI())
	require.NoError(t, err)
	out["asyncapi.yaml"] = append([]byte("# Generated from the Go types of this folder; `./task gen` makes it.\n"), text...)
	return out
}

// fieldComments are the comments on fields, by type and field.
func fieldComments(t testing.TB) map[string]string {
	t.Helper()
	out := map[string]string{}
	files, err := fs.Glob(os.DirFS("."), "*.go")
	require.NoError(t, err)
	for _, name := range files {
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ParseComments)
		require.NoError(t, err)
		ast.Inspect(file, func(n ast.Node) bool {
			spec, ok := n.(*ast.TypeSpec)
			if !ok {
				return true
			}
			if s, ok := spec.Type.(*ast.StructType); ok {
				for _, field := range s.Fields.List {
					for _, id := range field.Names {
						out[spec.Name.Name+"."+id.Name] = strings.Join(strings.Fields(field.Doc.Text()), " ")
					}
				}
			}
			return false
		})
	}
	return out
}

type generator struct {
	t    testing.TB
	docs map[string]string
}

func (g generator) json(v any) []byte {
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	require.NoError(g.t, encoder.Encode(v))
	return b.Bytes()
}

func (g generator) schemaFile(title, name, description string, typ reflect.Type) []byte {
	schema := g.schema(typ)
	schema["$schema"], schema["$id"], schema["title"], schema["description"] = schemaDialect, schemaBase+name, title, description
	return g.json(schema)
}

// schema is the JSON Schema of a type.
func (g generator) schema(typ reflect.Type) node {
	switch typ {
	case reflect.TypeFor[time.Time]():
		return node{"type": "string", "format": "date-time"}
	case reflect.TypeFor[json.RawMessage]():
		return node{"type": "object"}
	case reflect.TypeFor[EventType]():
		var types []string
		for _, kind := range EventTypes() {
			types = append(types, string(kind.Type))
		}
		return node{"type": "string", "enum": types}
	}
	switch typ.Kind() {
	case reflect.Pointer:
		if typ.Elem() == reflect.TypeFor[Header]() {
			return node{"$ref": "header.schema.json"}
		}
		return g.schema(typ.Elem())
	case reflect.String:
		return node{"type": "string"}
	case reflect.Bool:
		return node{"type": "boolean"}
	case reflect.Int, reflect.Int64, reflect.Uint64:
		return node{"type": "integer"}
	case reflect.Slice:
		return node{"type": "array", "items": g.schema(typ.Elem())}
	case reflect.Struct:
		return g.structSchema(typ)
	default:
		g.t.Fatalf("no schema for %s", typ)
		return nil
	}
}

func (g generator) structSchema(typ reflect.Type) node {
	properties, required := node{}, []string{}
	for i := range typ.NumField() {
		field := typ.Field(i)
		name, options, _ := strings.Cut(field.Tag.Get("json"), ",")
		property := g.schema(field.Type)
		if doc := g.docs[typ.Name()+"."+field.Name]; doc != "" {
			property["description"] = doc
		}
		g.constrain(property, field.Tag.Get("schema"))
		properties[name] = property
		if !strings.Contains(options, "omitempty") {
			required = append(required, name)
		}
	}
	return node{"type": "object", "properties": properties, "required": required}
}

// constrain adds what the tag "schema" says. What is about numbers is, in a list, about
// its items.
func (g generator) constrain(property node, tag string) {
	if tag == "" {
		return
	}
	for part := range strings.SplitSeq(tag, ",") {
		key, text, _ := strings.Cut(part, "=")
		n, err := strconv.Atoi(text)
		require.NoError(g.t, err)
		if items, ok := property["items"].(node); ok && key == "minimum" {
			items[key] = n
			continue
		}
		property[key] = n
	}
}

// cloudEventSchema describes one type of event in the JSON format of CloudEvents.
func cloudEventSchema(kind EventTypeSpec, name string) node {
	properties, required := node{
		"recordedtime": node{"type": "string", "format": "date-time", "description": "When the stream took the event."},
		"data":         dataSchema(kind.Type),
	}, []string{}
	for _, h := range HeaderSpecs() {
		attribute, ok := strings.CutPrefix(h.Name, cePrefix)
		if !ok {
			attribute, ok = ceExtensions[h.Name]
		}
		if !ok {
			continue
		}
		property := headerSchema(h)
		switch attribute {
		case "type":
			property = node{"type": "string", "const": kind.Name, "description": kind.Description}
		case "time":
			property["format"] = "date-time"
		case "source":
			property["format"] = "uri-reference"
		}
		properties[attribute] = property
		if h.Required {
			required = append(required, attribute)
		}
	}
	return node{
		"$schema": schemaDialect, "$id": schemaBase + name, "title": kind.Name, "description": kind.Description,
		"type": "object", "properties": properties, "required": required,
	}
}

func dataSchema(kind EventType) node {
	switch kind {
	case Gap:
		return node{"type": "object", "properties": node{"reason": node{"type": "string", "description": "Why changes are lost."}}, "required": []string{"reason"}}
	case Bookmark:
		return node{"type": "object", "description": "Nothing."}
	default:
		return node{
			"type": "object", "description": "The object as stored, without resourceVersion; what kind and apiVersion it has says which.",
			"properties": node{"kind": node{"type": "string"}, "apiVersion": node{"type": "string"}, "metadata": node{"type": "object"}},
			"required":   []string{"metadata"},
		}
	}
}

func headerSchema(h HeaderSpec) node {
	property := node{"type": "string", "description": h.Description}
	switch {
	case len(h.Enum) == 1:
		property["const"] = h.Enum[0]
	case len(h.Enum) > 1:
		property["enum"] = h.Enum
	case h.Pattern != "":
		property["pattern"] = h.Pattern
	}
	return property
}

// asyncAPI is the document.
func asyncAPI() node {
	properties, required := node{}, []string{}
	for _, h := range HeaderSpecs() {
		properties[h.Name] = headerSchema(h)
		if h.Required {
			required = append(required, h.Name)
		}
	}
	messages := node{}
	for _, kind := range EventTypes() {
		messages[messageName(kind.Type)] = node{
			"name": kind.Name, "title": kind.Name, "summary": kind.Description, "contentType": "application/json",
			"headers": node{"$ref": "#/components/schemas/headers"}, "payload": dataSchema(kind.Type),
			"correlationId": node{"location": "$message.header#/" + ceCorrelation},
		}
	}
	objects := []EventType{Added, Modified, Deleted}
	return node{
		"asyncapi":           "3.0.0",
		"info":               node{"title": "Rutter's event bus", "version": "1", "description": "Every committed change of every Kubernetes object, once and in order, with who made it and why. docs/events.md explains how to read it."},
		"defaultContentType": "application/json",
		"channels": node{
			"object": channel(SubjectRoot+"{group}.{resource}.{namespace}.{name}", "Changes of one object. The live form has the prefix \"live.\".", objects,
				objectStreams, node{
					"group":     node{"description": "API group, escaped; \"_\" for the core group."},
					"resource":  node{"description": "Resource, lower case and plural."},
					"namespace": node{"description": "Namespace; \"_\" for objects of cluster scope."},
					"name":      node{"description": "Name, escaped."},
				}),
			"route": channel(RouteRoot+"{node}", "Changes of the pods bound to one node. The live form has the prefix \"live.\".", append(objects, Left),
				[]string{"HISTORY", "LASTN"}, node{"node": node{"description": "Name of the node, escaped."}}),
			"gap": channel(ResyncSubject, "Names changes that are lost to the stream.", []EventType{Gap}, objectStreams, nil),
		},
		"operations": node{"readObject": operation("object"), "readRoute": operation("route"), "readGap": operation("gap")},
		"components": node{"messages": messages, "schemas": node{"headers": node{"type": "object", "properties": properties, "required": required}}},
	}
}

// objectStreams hold messages of objects.
var objectStreams = []string{"HISTORY", "STATE", "ARCHIVE"}

func messageName(t EventType) string { return strings.ToLower(string(t)) }

func channel(address, description string, types []EventType, streams []string, parameters node) node {
	messages := node{}
	for _, t := range types {
		messages[messageName(t)] = node{"$ref": "#/components/messages/" + messageName(t)}
	}
	c := node{"address": address, "description": description, "messages": messages, "bindings": node{"nats": node{}}, "x-jetstream": node{"streams": streams}}
	if parameters != nil {
		c["parameters"] = parameters
	}
	return c
}

func operation(channel string) node {
	return node{"action": "receive", "channel": node{"$ref": "#/channels/" + channel}}
}

// TestHeaderSpecsMatchMessages: what is described is what is sent.
func TestHeaderSpecsMatchMessages(t *testing.T) {
	e := fullEvent()
	e.Resync = 7
	full, _ := e.Message()
	large := fullEvent()
	large.Object = []byte(`{"apiVersion":"apps/v1"}`)
	large, err := large.Referring()
	require.NoError(t, err)
	referring, body := large.Message()
	require.Empty(t, body)
	full[ceDataRef] = referring[ceDataRef]
	bare, _ := Event{Rev: 1, Cnt: 1, Type: Gap}.Message()
	described := map[string]bool{}
	for _, h := range HeaderSpecs() {
		described[h.Name] = true
		require.Contains(t, full, h.Name, "described, never sent")
		value := full[h.Name][0]
		if h.Pattern != "" {
			require.Regexp(t, h.Pattern, value, h.Name)
		}
		if len(h.Enum) > 0 {
			require.Contains(t, h.Enum, value, h.Name)
		}
		if h.Required {
			require.Contains(t, bare, h.Name, "required, but left out")
		}
	}
	for name := range full {
		require.True(t, described[name], "%s is sent, not described", name)
	}
	for _, kind := range EventTypes() {
		require.NotContains(t, kind.Name, "unknown")
	}
}

// TestAttributeNames: CloudEvents allows lower-case letters and digits, 20 of them.
func TestAttributeNames(t *testing.T) {
	legal := regexp.MustCompile(`^[a-z0-9]{1,20}$`)
	names := []string{"recordedtime"}
	for _, h := range HeaderSpecs() {
		if attribute, ok := strings.CutPrefix(h.Name, cePrefix); ok {
			names = append(names, attribute)
		} else if attribute, ok := ceExtensions[h.Name]; ok {
			names = append(names, attribute)
		}
	}
	seen := map[string]bool{}
	for _, name := range names {
		require.Regexp(t, legal, name)
		require.False(t, seen[name], "%s twice", name)
		seen[name] = true
	}
}

// TestCloudEventMatchesItsSchema checks names, required attributes and patterns of the
// structured form against the generated schema.
func TestCloudEventMatchesItsSchema(t *testing.T) {
	for _, kind := range EventTypes() {
		t.Run(string(kind.Type), func(t *testing.T) {
			e := fullEvent()
			e.Type, e.Recorded = kind.Type, time.Unix(1, 0)
			if kind.Type == Gap {
				e.Key, e.Header, e.Object = Key{}, Header{}, []byte(`{"reason":"x"}`)
			}
			text, err := e.CloudEvent()
			require.NoError(t, err)
			var got node
			require.NoError(t, json.Unmarshal(text, &got))
			var schema struct {
				Properties map[string]struct{ Const, Pattern string }
				Required   []string
			}
			raw, err := os.ReadFile("cloudevents/" + kind.Name + ".schema.json")
			require.NoError(t, err)
			require.NoError(t, json.Unmarshal(raw, &schema))
			for name, value := range got {
				property, ok := schema.Properties[name]
				require.True(t, ok, "%s is not in the schema", name)
				if property.Const != "" {
					require.Equal(t, property.Const, value, name)
				}
				if property.Pattern != "" {
					require.Regexp(t, property.Pattern, value, name)
				}
			}
			for _, name := range schema.Required {
				require.Contains(t, got, name)
			}
		})
	}
}

const baseline = "testdata/asyncapi.baseline.yaml"

// TestNoBreakingChange compares the document with the last one that was released. A new
// baseline is a decision: copy asyncapi.yaml over it by hand.
func TestNoBreakingChange(t *testing.T) {
	var old, now any
	for path, into := range map[string]*any{baseline: &old, "asyncapi.yaml": &now} {
		text, err := os.ReadFile(path)
		require.NoError(t, err)
		require.NoError(t, yaml.Unmarshal(text, into))
	}
	require.Empty(t, breaking("", old, now))
}

// prose may change freely.
var prose = map[string]bool{"description": true, "title": true, "summary": true, "info": true}

// breaking lists what readers of the old document would miss in the new one.
func breaking(path string, old, now any) []string {
	switch old := old.(type) {
	case map[string]any:
		now, ok := now.(map[string]any)
		if !ok {
			return []string{path + " is no object any more"}
		}
		var found []string
		for key, was := range old {
			is, ok := now[key]
			switch {
			case prose[key]:
			case !ok:
				found = append(found, path+"/"+key+" is gone")
			default:
				found = append(found, breaking(path+"/"+key, was, is)...)
			}
		}
		return found
	case []any:
		now, ok := now.([]any)
		if !ok {
			return []string{path + " is no list any more"}
		}
		var found []string
		for _, was := range old {
			if !containsEqual(now, was) {
				found = append(found, fmt.Sprintf("%s has %v no more", path, was))
			}
		}
		return found
	default:
		if !reflect.DeepEqual(old, now) {
			return []string{fmt.Sprintf("%s was %v, is %v", path, old, now)}
		}
		return nil
	}
}

func containsEqual(list []any, want any) bool {
	for _, v := range list {
		if reflect.DeepEqual(v, want) {
			return true
		}
	}
	return false
}

func TestBreakingTellsEachChange(t *testing.T) {
	load := func(change func(doc node)) any {
		text, err := yaml.Marshal(asyncAPI())
		require.NoError(t, err)
		var doc node
		require.NoError(t, yaml.Unmarshal(text, &doc))
		change(doc)
		return doc
	}
	at := func(doc node, path ...string) node {
		for _, key := range path {
			doc = doc[key].(node)
		}
		return doc
	}
	headers := []string{"components", "schemas", "headers"}
	properties := append(headers, "properties")
	for name, tc := range map[string]struct {
		change func(doc node)
		breaks bool
	}{
		"nothing":      {func(node) {}, false},
		"another text": {func(d node) { at(d, append(properties, HeaderRev)...)["description"] = "x" }, false},
		"a new header": {func(d node) { at(d, properties...)["Rutter-New"] = node{"type": "string"} }, false},
		"a new type": {func(d node) {
			h := at(d, append(properties, HeaderType)...)
			h["enum"] = append(h["enum"].([]any), "X")
		}, false},
		"a header removed":  {func(d node) { delete(at(d, properties...), HeaderVerb) }, true},
		"a header renamed":  {func(d node) { p := at(d, properties...); p["Rutter-V"] = p[HeaderVerb]; delete(p, HeaderVerb) }, true},
		"a header retyped":  {func(d node) { at(d, append(properties, HeaderRev)...)["type"] = "integer" }, true},
		"not required now":  {func(d node) { h := at(d, headers...); h["required"] = h["required"].([]any)[1:] }, true},
		"a type removed":    {func(d node) { h := at(d, append(properties, HeaderType)...); h["enum"] = h["enum"].([]any)[1:] }, true},
		"a message removed": {func(d node) { delete(at(d, "components", "messages"), "deleted") }, true},
		"a channel removed": {func(d node) { delete(at(d, "channels"), "route") }, true},
		"a channel moved":   {func(d node) { at(d, "channels", "route")["address"] = "r.{node}" }, true},
		"a payload field":   {func(d node) { delete(at(d, "components", "messages", "gap", "payload", "properties"), "reason") }, true},
	} {
		t.Run(name, func(t *testing.T) {
			found := breaking("", load(func(node) {}), load(tc.change))
			require.Equal(t, tc.breaks, len(found) > 0, "%v", found)
		})
	}
}
