package differential

// Reasons that several differences share.
const (
	ownName    = "managed fields tell which program wrote them, and ours is another"
	anonymous  = "without credentials only health and version are reachable: who asks for the rest is told to log in, as by kube-apiserver with an AuthenticationConfiguration that says the same"
	noVersion  = "it is another build"
	opaque     = "a continue token is opaque; upstream's keys begin with a slash"
	notYet     = "a warning that nothing acts on the kind yet"
	clientsBad = "a revision that is no number is the client's mistake, and not the server's"
	emptyList  = "objects are stored as JSON, in which an empty list stays one; upstream's protobuf forgets it"
	bookmark   = "a bookmark tells a revision and nothing else; upstream encodes an empty object"
	ownKeys    = "keys in etcd differ"
	panics     = "upstream's handler panics and cuts the connection"
	newest     = "new versions are stored at once; upstream waits for a release, so that one can go back to the one before"
)

// differences are all that is meant to differ from upstream, and why.
var differences = []justified{
	{"version", "body.*", noVersion},
	{"anonymous version", "body.*", noVersion},
	{"cluster role*", "body.*metadata.managedFields.*.manager", ownName},
	{"role*of the system", "body.*metadata.managedFields.*.manager", ownName},
	{"flow schemas", "body.*metadata.managedFields.*.manager", ownName},
	{"priority *", "body.*metadata.managedFields.*.manager", ownName},
	{"crd *", "body.*metadata.managedFields.*.manager", ownName},
	{"anonymous *", "status", anonymous},
	{"anonymous *", "header.*", anonymous},
	{"anonymous *", "body.*", anonymous},
	{"basic password", "status", anonymous},
	{"basic password", "header.*", anonymous},
	{"basic password", "body.*", anonymous},
	{"*", "body.*metadata.continue.start", opaque},
	{"watch initial*", "body.*.object.spec*", bookmark},
	{"watch initial*", "body.*.object.status", bookmark},
	{"* at word", "status", clientsBad},
	{"* at word", "body.*", clientsBad},
	{"* at negative", "status", clientsBad},
	{"* at negative", "body.*", clientsBad},
	{"kind * CSINode", "body.*drivers", emptyList},
	{"kind * CSINode", "body.*managedFields*", emptyList},
	{"kind * Role", "body.*rules", emptyList},
	{"kind * Role", "body.*managedFields*", emptyList},
	{"kind * *", "header.Warning", notYet},
	{"evict make budget", "header.Warning", notYet},
	{"version apiextensions.k8s.io", "body.resources.*.storageVersionHash", newest},
	{"version certificates.k8s.io", "body.resources.*.storageVersionHash", newest},
	{"version resource.k8s.io", "body.resources.*.storageVersionHash", newest},
	{"openapi v3", "header.*", "upstream leaves out what the answer is and whether it has changed"},
	{"page at 0", "body.*", "the limit is kept; upstream ignores it at revision 0, and leaves that open"},
	{"update other uid", "body.message", ownKeys},
	{"delete readable unread*", "body.message", ownKeys},
	{"cr create protobuf", "status", panics},
	{"cr create protobuf", "header.*", panics},
	{"cr create protobuf", "body*", panics},
	{"kind table apps|v1 DaemonSet", "body.rows.*.object.metadata.annotations*", "a Table has the stored metadata; upstream's comes from a type in which this annotation is a field"},
}
