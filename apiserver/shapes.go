package apiserver

import (
	"strings"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/rutter-project/rutter/apiserver/internal/view"
	"github.com/rutter-project/rutter/schemas"
)

// shapes are the resources whose objects can be selected by fields besides name and
// namespace: upstream's selectable fields, and where the stored JSON has them. A test
// compares the selection with upstream's.
func shapes() map[schema.GroupResource]*view.Shape {
	core := func(resource string) schema.GroupResource { return schema.GroupResource{Resource: resource} }
	name := at("name", "metadata.name") // besides metadata.name, for old clients
	return map[schema.GroupResource]*view.Shape{
		core("pods"): view.NewShape(true,
			indexed(at("spec.nodeName")), at("spec.restartPolicy"), at("spec.schedulerName"), at("spec.serviceAccountName"), or("false", at("spec.hostNetwork")),
			at("status.phase"), at("status.podIP"), at("status.nominatedNodeName")),
		core("events"): view.NewShape(true,
			at("involvedObject.kind"), at("involvedObject.namespace"), indexed(at("involvedObject.name")), at("involvedObject.uid"), at("involvedObject.apiVersion"),
			at("involvedObject.resourceVersion"), at("involvedObject.fieldPath"), at("reason"), at("reportingComponent"),
			at("source", "source.component", "reportingComponent"), at("type")),
		core("nodes"):                            view.NewShape(false, or("false", at("spec.unschedulable"))),
		core("namespaces"):                       view.NewShape(false, at("status.phase"), name),
		core("persistentvolumes"):                view.NewShape(false, name),
		core("services"):                         view.NewShape(true, at("spec.clusterIP"), at("spec.type")),
		core("secrets"):                          view.NewShape(true, at("type")),
		core("replicationcontrollers"):           view.NewShape(true, or("0", at("status.replicas"))),
		{Group: "apps", Resource: "replicasets"}: view.NewShape(true, or("0", at("status.replicas"))),
		{Group: "batch", Resource: "jobs"}:       view.NewShape(true, or("0", at("status.successful", "status.succeeded"))),
		{Group: "certificates.k8s.io", Resource: "certificatesigningrequests"}: view.NewShape(false, at("spec.signerName")),
		{Group: "resource.k8s.io", Resource: "resourceslices"}: view.NewShape(false,
			indexed(at("spec.nodeName")), at("spec.driver"), at("spec.pool.name")),
	}
}

// at is a field that lies where it is called, or at the first of some places that is not
// empty.
func at(name string, places ...string) view.Field {
	if len(places) == 0 {
		places = []string{name}
	}
	f := view.Field{Name: name}
	for _, p := range places {
		f.Paths = append(f.Paths, schemas.Path(strings.Split(p, ".")))
	}
	return f
}

func or(missing string, f view.Field) view.Field { f.Default = missing; return f }

func indexed(f view.Field) view.Field { f.Indexed = true; return f }
