package imports

// room is a top folder: which other folders it may import, and why no others.
type room struct {
	may []string
	why string
}

// rooms is the graph. A folder that is not here fails the test, so that a new one is
// given its place on purpose.
var rooms = map[string]room{
	"schemas":     {nil, "schemas is the ground everybody stands on: what it imported would be imported by all"},
	"bpf":         {nil, "bpf is generated from C and its object's type information, and knows nothing of Kubernetes"},
	"bus":         {[]string{"schemas"}, "the bus carries changes and must not know who makes or reads them"},
	"apiserver":   {[]string{"schemas", "bus"}, "the API server runs alone against external etcd and NATS; what acts on objects is a client of it"},
	"reconcilers": {[]string{"schemas", "bus"}, "controllers write through the API and read from the bus, so that they run in a process of their own"},
	"scheduler":   {[]string{"schemas", "bus"}, "the scheduler writes through the API and reads from the bus, so that it runs in a process of its own"},
	"nodeagent":   {[]string{"schemas", "bus", "netproxy"}, "the agent runs on machines without a control plane, and meets it only over API and bus"},
	"netproxy":    {[]string{"schemas", "bus", "bpf"}, "the datapath serves any agent; it is told of pods through Attach and Detach and of the rest by events"},
	"cmd":         {[]string{"schemas", "bus", "apiserver", "reconcilers", "scheduler", "nodeagent", "netproxy"}, "the command wires the parts; tables of the datapath and test programs are none of its business"},
	"integration": {[]string{"schemas"}, "a black-box test that imports the product tests what the product believes, not what it does"},
}

// testRooms are what tests may import on top.
var testRooms = map[string]map[string]string{
	"nodeagent": {"integration/images": "its tests run real containers, whose images are made where all test images are made"},
}

// owner says which folders may import an outside dependency directly.
type owner struct {
	prefix string // import path, or what it begins with up to a slash
	may    []string
	why    string
}

var owners = []owner{
	{"k8s.io/kubernetes", []string{"apiserver/internal/kinds"}, "upstream says the module is no library: one door holds what we rely on, so that an upgrade is one commit"},
	{"k8s.io/apiserver", []string{"apiserver"}, "clients of the API see it through client-go; server machinery in them would tie them to the API server's process"},
	{"k8s.io/apiextensions-apiserver", []string{"apiserver"}, "clients see custom resources through the dynamic client"},
	{"k8s.io/kube-aggregator", []string{"apiserver"}, "only the API server has other API servers behind it"},
	{"github.com/gin-gonic/gin", []string{"apiserver/internal/serve"}, "only one HTTP front exists; the node agent serves with net/http"},
	{"go.etcd.io/etcd", []string{"apiserver"}, "etcd is the API server's alone: whoever else reads or writes it passes by admission, RBAC and the event stream"},
	{"github.com/nats-io", []string{"bus"}, "subjects, accounts and sequence rules are held in one place; others would get the fencing wrong"},
	{"github.com/klauspost/compress", []string{"apiserver/internal/history", "apiserver/internal/serve", "bus", "schemas/bundle"}, "keyframes, packs, bundles and long lists are all that we compress ourselves"},
	{"gopkg.in/natefinch/lumberjack.v2", []string{"apiserver/internal/audit"}, "the audit log is the only file that we rotate ourselves and others read"},
	{"github.com/containerd", []string{"nodeagent"}, "containers are the agent's alone"},
	{"github.com/opencontainers", []string{"nodeagent"}, "run specifications are the agent's alone"},
	{"github.com/cilium/ebpf", []string{"bpf", "netproxy/datapath"}, "bindings are generated in bpf, live objects belong to the datapath: two holders would fight over pins"},
	{"github.com/vishvananda", []string{"netproxy"}, "devices, routes and namespaces of pods have one owner"},
	{"github.com/google/nftables", []string{"netproxy"}, "masquerade is the one rule, and the datapath's"},
	{"github.com/coredns", []string{"netproxy/dns"}, "CoreDNS has global state and links a great deal; it is kept behind one handler"},
	{"github.com/miekg/dns", []string{"netproxy"}, "only the cluster's DNS speaks DNS"},
	{"github.com/spf13", []string{"cmd"}, "flags are read at the edge; parts take a Config"},
	{"go.opentelemetry.io/proto", []string{"cmd/rutter/internal/otlp"}, "the bridge is the only one that speaks OTLP; others read the log"},
	{"google.golang.org/protobuf", []string{"cmd/rutter/internal/otlp"}, "OTLP's encoding; the API speaks protobuf through upstream's codecs"},
	{"github.com/google/go-containerregistry", []string{"integration/images"}, "registries are test tools; the agent pulls with containerd's own client"},
	{"k8s.io/client-go/util/workqueue", []string{"reconcilers/internal/engine"}, "the engine is the only loop; the scheduler's queue is woken by events, not by rates"},
	{"k8s.io/client-go/informers", []string{"apiserver"}, "they watch the API over HTTP, while components read from the bus; inside the API server upstream's authorizers and admission plugins want them, over its loopback"},
	{"github.com/stretchr/testify", nil, "a test library in the product would be linked into the binary"},
}

// ownerExceptions: importer, dependency, and the reason why the rule gives way.
var ownerExceptions = map[[2]string]string{
	{"cmd/rutter/internal/standalone", "go.etcd.io/etcd/client/v3"}:  "verify compares the stream with etcd from outside the server's process, over the local socket; it only reads",
	{"netproxy/internal/lab", "github.com/stretchr/testify/require"}: "lab is a test bench, imported by tests only",
}

// banned are upstream packages whose job is what Rutter exists for. Nobody imports them
// directly; those marked absent must not be linked by any way either.
var banned = []struct {
	prefix string
	exact  bool
	absent bool
	except map[string]string
	why    string
}{
	{prefix: "k8s.io/apiserver/pkg/server", exact: true, absent: true, why: "the generic server brings its own handler chain, storage and global flags; serve takes its place"},
	{prefix: "k8s.io/apiextensions-apiserver/pkg/apiserver", exact: true, absent: true, why: "its handler brings the generic server; customresources takes its place"},
	{prefix: "k8s.io/kube-aggregator/pkg/apiserver", exact: true, absent: true, why: "it is the generic server with another handler"},
	{prefix: "k8s.io/apiserver/pkg/storage/etcd3", why: "the store is ours: it writes who and why into every value and reads from the view", except: map[string]string{
		"k8s.io/apiserver/pkg/storage/etcd3/metrics": "not the store: names and buckets of the metrics that dashboards know",
	}},
	{prefix: "k8s.io/apiserver/pkg/storage/cacher", why: "the view is ours: one watch for everything instead of one per resource", except: map[string]string{
		"k8s.io/apiserver/pkg/storage/cacher/metrics": "not the cache: names and buckets of the metrics that dashboards know",
	}},
	{prefix: "k8s.io/kubernetes/cmd", absent: true, why: "upstream's programs are not linked"},
	{prefix: "k8s.io/kubernetes/pkg/controlplane", exact: true, absent: true, why: "upstream's wiring of an API server; kinds has its own"},
	{prefix: "k8s.io/kubernetes/pkg/controller", why: "controllers are what reconcilers exists for", except: map[string]string{
		"k8s.io/kubernetes/pkg/controller/serviceaccount": "not the controller: how the token authenticator looks up what a token is bound to",
	}},
	{prefix: "k8s.io/kubernetes/pkg/scheduler", why: "placement is what scheduler exists for", absent: true, except: map[string]string{
		"k8s.io/kubernetes/pkg/scheduler/util": "linked by upstream's pod storage; a few pure functions",
	}},
	{prefix: "k8s.io/kubernetes/pkg/kubelet", why: "running pods is what nodeagent exists for", absent: true, except: map[string]string{
		"k8s.io/kubernetes/pkg/kubelet/client":         "not the kubelet: how the API server reaches one, for logs, exec and port-forward",
		"k8s.io/kubernetes/pkg/kubelet/events":         "linked by an admission plugin; constants",
		"k8s.io/kubernetes/pkg/kubelet/server/metrics": "linked by upstream's node client; counters",
		"k8s.io/kubernetes/pkg/kubelet/util/format":    "linked by upstream's helpers; formats names",
	}},
	{prefix: "k8s.io/kubernetes/pkg/proxy", absent: true, why: "services are what netproxy exists for"},
	{prefix: "sigs.k8s.io/controller-runtime", absent: true, why: "its caches watch over HTTP; the engine reads from the bus"},
}

// pure packages decide and do nothing else: no clock to read, no file, no socket, no
// logger of ours, no dice.
var pure = []string{"scheduler/internal/placement", "netproxy/resolve", "nodeagent/internal/podstate", "nodeagent/internal/podstatus", "cmd/rutter/internal/delta", "cmd/rutter/internal/health", "cmd/rutter/internal/incident", "cmd/rutter/internal/past", "cmd/rutter/internal/tally"}

var impure = map[string]string{
	"net/http": "I/O", "os/exec": "I/O", "net": "I/O", "github.com/rs/zerolog": "what is decided is logged by who asked",
	"math/rand": "a decision must be replayable", "math/rand/v2": "a decision must be replayable", "crypto/rand": "a decision must be replayable",
	"golang.org/x/sys/unix": "I/O", "k8s.io/client-go/kubernetes": "writes belong to who asked",
}
