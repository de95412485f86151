package otlp

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	collector "go.opentelemetry.io/proto/otlp/collector/logs/v1"
	common "go.opentelemetry.io/proto/otlp/common/v1"
	logs "go.opentelemetry.io/proto/otlp/logs/v1"
	resource "go.opentelemetry.io/proto/otlp/resource/v1"

	"github.com/rutter-project/rutter/schemas"
)

// request is a batch as the protocol wants it. All events of a batch are of one cluster.
func request(events []schemas.Event) *collector.ExportLogsServiceRequest {
	records := make([]*logs.LogRecord, len(events))
	for i, e := range events {
		records[i] = record(e)
	}
	return &collector.ExportLogsServiceRequest{ResourceLogs: []*logs.ResourceLogs{{
		Resource: &resource.Resource{Attributes: attributes{
			"service.name": "rutter", "rutter.cluster.id": clusterOf(events[0].Epoch),
		}.list()},
		ScopeLogs: []*logs.ScopeLogs{{Scope: &common.InstrumentationScope{Name: "rutter.dev/events", Version: "1"}, LogRecords: records}},
	}}}
}

// record is one event. The mapping is part of the contract; docs/events.md has it.
func record(e schemas.Event) *logs.LogRecord {
	headers, _ := e.Message()
	ce := func(name string) string {
		if values := headers["ce-"+name]; len(values) > 0 {
			return values[0]
		}
		return ""
	}
	r := &logs.LogRecord{
		TimeUnixNano: nanos(e.Header.Time), ObservedTimeUnixNano: nanos(e.Recorded), EventName: ce("type"),
		SeverityNumber: logs.SeverityNumber_SEVERITY_NUMBER_INFO, SeverityText: "INFO", Body: body(e.Object),
	}
	if e.Type == schemas.Gap {
		r.SeverityNumber, r.SeverityText = logs.SeverityNumber_SEVERITY_NUMBER_WARN, "WARN"
	}
	if r.TimeUnixNano == 0 {
		r.TimeUnixNano = r.ObservedTimeUnixNano
	}
	r.TraceId, r.SpanId, r.Flags = trace(e.Header.Trace)
	a := attributes{
		"cloudevents.event_id": e.ID(), "cloudevents.event_source": ce("source"), "cloudevents.event_type": ce("type"),
		"cloudevents.event_subject": e.Key.String(), "cloudevents.event_spec_version": ce("specversion"),
		"enduser.id": e.Header.User, "user_agent.original": e.Header.Agent,
		"rutter.type": string(e.Type), "rutter.revision": e.Rev, "rutter.ordinal": int64(e.Ord), "rutter.sequence": int64(e.Seq),
		"rutter.previous_revision": e.PrevRev, "rutter.epoch": e.Epoch, "rutter.verb": e.Header.Verb, "rutter.field_manager": e.Header.Manager,
		"rutter.audit_id": e.Header.Request, "rutter.causes": e.Header.Cause, "rutter.data_ref": e.DataRef,
	}
	if e.Key == (schemas.Key{}) {
		delete(a, "cloudevents.event_subject")
	}
	a.object(e)
	r.Attributes = a.list()
	return r
}

func nanos(t time.Time) uint64 {
	if t.IsZero() {
		return 0
	}
	return uint64(t.UnixNano())
}

// trace reads a W3C traceparent: version, trace, parent and flags, in hexadecimal.
func trace(parent string) (traceID, spanID []byte, flags uint32) {
	parts := strings.Split(parent, "-")
	if len(parts) < 4 || len(parts[1]) != 32 || len(parts[2]) != 16 || len(parts[3]) != 2 {
		return nil, nil, 0
	}
	traceID, err := hex.DecodeString(parts[1])
	if err != nil {
		return nil, nil, 0
	}
	spanID, err = hex.DecodeString(parts[2])
	if err != nil {
		return nil, nil, 0
	}
	if f, err := hex.DecodeString(parts[3]); err == nil {
		flags = uint32(f[0])
	}
	return traceID, spanID, flags
}

// attributes of a record; empty ones are left out.
type attributes map[string]any

// kinds that OpenTelemetry has attributes for, k8s.<kind>.name and k8s.<kind>.uid.
var kinds = map[schemas.Key]string{
	{Resource: "pods"}: "pod", {Resource: "nodes"}: "node", {Resource: "namespaces"}: "namespace",
	{Resource: "replicationcontrollers"}: "replicationcontroller", {Resource: "resourcequotas"}: "resourcequota",
	{Group: "apps", Resource: "deployments"}: "deployment", {Group: "apps", Resource: "replicasets"}: "replicaset",
	{Group: "apps", Resource: "statefulsets"}: "statefulset", {Group: "apps", Resource: "daemonsets"}: "daemonset",
	{Group: "batch", Resource: "jobs"}: "job", {Group: "batch", Resource: "cronjobs"}: "cronjob",
	{Group: "autoscaling", Resource: "horizontalpodautoscalers"}: "hpa",
}

// object names the object: by OpenTelemetry's names if it has some for the kind, and by
// our own in any case.
func (a attributes) object(e schemas.Event) {
	if e.Key.Resource == "" {
		return
	}
	a["rutter.object.group"], a["rutter.object.resource"], a["rutter.object.name"] = e.Key.Group, e.Key.Resource, e.Key.Name
	a["k8s.namespace.name"] = e.Key.Namespace
	var o struct {
		Metadata struct{ UID string }
		Spec     struct{ NodeName string }
	}
	_ = json.Unmarshal(e.Object, &o) // what can't be read has no uid to tell
	a["rutter.object.uid"] = o.Metadata.UID
	kind, ok := kinds[schemas.Key{Group: e.Key.Group, Resource: e.Key.Resource}]
	if !ok {
		return
	}
	a["k8s."+kind+".name"], a["k8s."+kind+".uid"] = e.Key.Name, o.Metadata.UID
	if kind == "pod" {
		a["k8s.node.name"] = o.Spec.NodeName
	}
}

func (a attributes) list() []*common.KeyValue {
	var out []*common.KeyValue
	for _, key := range slices.Sorted(maps.Keys(a)) {
		if v := value(a[key]); v != nil {
			out = append(out, &common.KeyValue{Key: key, Value: v})
		}
	}
	return out
}

// value is an attribute's value, nil if it is empty. Numbers always count.
func value(v any) *common.AnyValue {
	switch v := v.(type) {
	case string:
		if v == "" {
			return nil
		}
		return text(v)
	case int64:
		return &common.AnyValue{Value: &common.AnyValue_IntValue{IntValue: v}}
	case []int64:
		if len(v) == 0 {
			return nil
		}
		list := &common.ArrayValue{}
		for _, n := range v {
			list.Values = append(list.Values, value(n))
		}
		return &common.AnyValue{Value: &common.AnyValue_ArrayValue{ArrayValue: list}}
	default:
		panic(fmt.Sprintf("attribute of type %T", v))
	}
}

func text(s string) *common.AnyValue {
	return &common.AnyValue{Value: &common.AnyValue_StringValue{StringValue: strings.ToValidUTF8(s, "\uFFFD")}}
}

// body is the object as a structure, as text if it is none, nil if there is none.
func body(object []byte) *common.AnyValue {
	if len(object) == 0 {
		return nil
	}
	decoder := json.NewDecoder(bytes.NewReader(object))
	decoder.UseNumber()
	var v any
	if err := decoder.Decode(&v); err != nil {
		return text(string(object))
	}
	return structure(v)
}

func structure(v any) *common.AnyValue {
	switch v := v.(type) {
	case map[string]any:
		list := &common.KeyValueList{}
		for _, key := range slices.Sorted(maps.Keys(v)) {
			list.Values = append(list.Values, &common.KeyValue{Key: strings.ToValidUTF8(key, "\uFFFD"), Value: structure(v[key])})
		}
		return &common.AnyValue{Value: &common.AnyValue_KvlistValue{KvlistValue: list}}
	case []any:
		list := &common.ArrayValue{}
		for _, element := range v {
			list.Values = append(list.Values, structure(element))
		}
		return &common.AnyValue{Value: &common.AnyValue_ArrayValue{ArrayValue: list}}
	case bool:
		return &common.AnyValue{Value: &common.AnyValue_BoolValue{BoolValue: v}}
	case json.Number:
		if n, err := v.Int64(); err == nil {
			return value(n)
		}
		f, err := v.Float64()
		if err != nil {
			return text(v.String())
		}
		return &common.AnyValue{Value: &common.AnyValue_DoubleValue{DoubleValue: f}}
	case string:
		return text(v)
	default:
		return &common.AnyValue{} // null
	}
}
