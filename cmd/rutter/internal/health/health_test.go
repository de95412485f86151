package health

import (
	"encoding/json"
	"io/fs"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rutter-project/rutter/schemas"
)

var now = time.Date(2026, 1, 2, 15, 0, 0, 0, time.UTC)

// goodHost is a machine that has everything.
func goodHost() Host {
	return Host{
		Node: true, Kernel: "6.18.1", BTF: true, BPF: true, Cgroup2: "/sys/fs/cgroup", Programs: map[string]string{"containerd": "/usr/bin/containerd", "runc": "/usr/bin/runc"},
		Ports: []Port{{Flag: "--api-port", Number: 6443}}, Disk: Disk{Path: "/var/lib/rutter", Free: 100 << 30, Total: 200 << 30, FreeInodes: 90, AllInodes: 100},
		Memory: 4 << 30, OpenFiles: 1 << 20, Inotify: 8192, ClockSynchronised: true, DataMode: 0o700,
		Addresses: []netip.Prefix{netip.MustParsePrefix("192.168.1.0/24"), netip.MustParsePrefix("fe80::/64")},
	}
}

func TestHost(t *testing.T) {
	for name, tc := range map[string]struct {
		is    func(h *Host)
		check string
		state State
		seen  string
	}{
		"good":                 {func(*Host) {}, "root", OK, "runs as root"},
		"not root":             {func(h *Host) { h.UID = 1000 }, "root", Failed, "runs as user 1000"},
		"capability":           {func(h *Host) { h.Missing = []string{"CAP_BPF"} }, "capabilities", Failed, "the process lacks: CAP_BPF"},
		"old kernel":           {func(h *Host) { h.KernelProblem = "kernel 5.10 is too old" }, "kernel", Failed, "kernel 5.10 is too old"},
		"no BTF":               {func(h *Host) { h.BTF = false }, "btf", Failed, "there is no /sys/kernel/btf/vmlinux"},
		"no bpffs":             {func(h *Host) { h.BPF = false }, "bpf", Failed, "no BPF file system is mounted on /sys/fs/bpf"},
		"no cgroup2":           {func(h *Host) { h.Cgroup2 = "" }, "cgroup2", Failed, "no cgroup2 hierarchy is mounted"},
		"no containerd":        {func(h *Host) { h.Programs = nil }, "containerd", Failed, "containerd is not installed"},
		"containerd answers":   {func(h *Host) { h.Containerd = "/run/c.sock" }, "containerd", OK, "answers on /run/c.sock"},
		"containerd is silent": {func(h *Host) { h.Containerd, h.ContainerdProblem = "/run/c.sock", "refused" }, "containerd", Failed, "/run/c.sock does not answer: refused"},
		"no runc":              {func(h *Host) { h.Programs = nil }, "runc", Failed, "runc is not installed"},
		"pods' network":        {func(h *Host) { h.Addresses = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")} }, "addresses", Failed, "this machine is in a network that the cluster uses for itself: 10.0.0.0/8 overlaps 10.96.0.0/16, 10.0.0.0/8 overlaps 10.244.0.0/16"},
		"neighbour":            {func(h *Host) { h.Addresses = []netip.Prefix{netip.MustParsePrefix("10.97.0.0/16")} }, "addresses", OK, "none of this machine's networks overlaps those of pods and services"},
		"port taken":           {func(h *Host) { h.Ports[0].Problem = "address already in use" }, "ports", Failed, "can't be used: 6443 (address already in use)"},
		"port is ours":         {func(h *Host) { h.Ports[0].Problem, h.Running = "address already in use", true }, "ports", OK, "6443 are the running cluster's"},
		"disk low":             {func(h *Host) { h.Disk.Free = 4 << 30 }, "disk", Warning, "4 GiB of 200 GiB are free in /var/lib/rutter"},
		"disk full":            {func(h *Host) { h.Disk.Free = 1 << 20 }, "disk", Failed, "1 MiB of 200 GiB are free in /var/lib/rutter"},
		"few inodes":           {func(h *Host) { h.Disk.FreeInodes = 5 }, "inodes", Warning, "5 % are free in /var/lib/rutter"},
		"no inodes":            {func(h *Host) { h.Disk.FreeInodes = 1 }, "inodes", Failed, "1 % are free in /var/lib/rutter"},
		"inodes not counted":   {func(h *Host) { h.Disk.AllInodes = 0 }, "inodes", OK, "/var/lib/rutter does not count them"},
		"little memory":        {func(h *Host) { h.Memory = 100 << 20 }, "memory", Warning, "100 MiB are available"},
		"memory in use by us":  {func(h *Host) { h.Memory, h.Running = 100<<20, true }, "memory", OK, "100 MiB are available"},
		"few files":            {func(h *Host) { h.OpenFiles = 1024 }, "open-files", Warning, "up to 1024"},
		"few inotify":          {func(h *Host) { h.Inotify = 128 }, "inotify", Warning, "up to 128 instances"},
		"free clock":           {func(h *Host) { h.ClockSynchronised = false }, "clock", Warning, "the kernel's clock is not synchronised"},
		"damaged streams":      {func(h *Host) { h.Damaged, h.Aside = []string{"b.blk", "a.blk"}, "/d/bus/damaged" }, "stream-files", Warning, "were damaged and are in /d/bus/damaged: a.blk, b.blk"},
		"sound streams":        {func(*Host) {}, "stream-files", OK, "none was damaged"},
		"no data yet":          {func(h *Host) { h.DataMode = 0 }, "data-directory", OK, "is not there yet"},
		"open directory":       {func(h *Host) { h.DataMode = 0o750 }, "data-directory", Failed, "others may look into it (mode 0750)"},
		"narrow directory":     {func(h *Host) { h.DataMode = fs.FileMode(0o500) }, "data-directory", OK, "is its owner's alone, and so are its keys"},
		"open keys":            {func(h *Host) { h.OpenKeys = []string{"d", "c", "b", "a"} }, "data-directory", Failed, "others may read keys: a, b, c and 1 more"},
		"unseen":               {func(h *Host) { h.Unseen = map[string]string{"clock": "EPERM"} }, "clock", Skipped, "could not be seen: EPERM"},
	} {
		t.Run(name, func(t *testing.T) {
			h := goodHost()
			tc.is(&h)
			got := CheckHost(h)
			f := pick(t, got, tc.check)
			require.Equal(t, tc.seen, f.Seen)
			require.Equal(t, tc.state, f.State)
			if f.State == Failed || f.State == Warning {
				require.NotEmpty(t, f.Fix)
			}
		})
	}
	for _, f := range CheckHost(goodHost()) {
		require.Equal(t, OK, f.State, f.Check)
	}
	without := goodHost()
	without.Node, without.UID, without.BTF = false, 1000, false
	require.Zero(t, Count(CheckHost(without), Failed), "a machine without pods needs none of it")
}

func pick(t *testing.T, all []Finding, check string) Finding {
	t.Helper()
	for _, f := range all {
		if f.Check == check {
			return f
		}
	}
	t.Fatalf("no %s among %v", check, all)
	return Finding{}
}

func TestCluster(t *testing.T) {
	for name, tc := range map[string]struct {
		got   Finding
		state State
		seen  string
	}{
		"ready":             {CheckReady("v1.37.2", nil), OK, "v1.37.2 is ready"},
		"not ready":         {CheckReady("v1.37.2", []string{"etcd failed"}), Failed, "not ready: etcd failed"},
		"relay there":       {CheckRelay(Relay{Committed: 7, Published: 7}), OK, "published up to revision 7 of 7"},
		"relay ahead":       {CheckRelay(Relay{Committed: 7, Published: 9}), OK, "published up to revision 9 of 7"},
		"relay behind":      {CheckRelay(Relay{Committed: 7, Published: 6, Waited: time.Second}), Failed, "published up to revision 6, 1 revision behind etcd for 1s"},
		"mirrors":           {CheckMirrors(Relay{MirrorLag: map[string]float64{"STATE": 29}}), OK, "have all that HISTORY has"},
		"mirror behind":     {CheckMirrors(Relay{MirrorLag: map[string]float64{"STATE": 31, "ARCHIVE": 99}}), Failed, "lag behind HISTORY: ARCHIVE (99 s), STATE (31 s)"},
		"nothing held":      {CheckHistory(nil, nil)[0], Failed, "no instant is held"},
		"held":              {CheckHistory(&Instant{Rev: 2, Time: now}, nil)[0], OK, "held from revision 2 (2026-01-02T15:00:00Z)"},
		"gaps":              {CheckHistory(nil, []string{"a", "b"})[1], Warning, "2 gaps in the past: a, b"},
		"marks":             {CheckMarks([]Mark{{"a", true}}), OK, "1 mark, all held"},
		"mark lost":         {CheckMarks([]Mark{{"a", true}, {"b", false}}), Warning, "no longer held: b"},
		"etcd":              {CheckEtcd(Etcd{Members: 1, Leader: "rutter", Revision: 5})[0], OK, "1 member, leader rutter, revision 5"},
		"no leader":         {CheckEtcd(Etcd{Members: 3})[0], Failed, "3 members without a leader"},
		"alarm":             {CheckEtcd(Etcd{Members: 3, Leader: "a", Alarms: []string{"NOSPACE"}})[0], Failed, "alarms: NOSPACE"},
		"etcd is small":     {CheckEtcd(Etcd{Size: 2048, InUse: 1024, Quota: 8 << 30})[1], OK, "1 KiB in use of 2 KiB, quota 8 GiB"},
		"etcd is big":       {CheckEtcd(Etcd{Size: 7 << 30, InUse: 1024, Quota: 8 << 30})[1], Warning, "1 KiB in use of 7 GiB, quota 8 GiB"},
		"no certificates":   {CheckCertificates(nil, now), Skipped, "none could be seen from here"},
		"certificates":      {CheckCertificates([]Certificate{{"ca", now.Add(400 * day), true}, {"admin", now.Add(31 * day), false}}, now), OK, "2 certificates, the first to end is admin, on 2026-02-02"},
		"certificate ends":  {CheckCertificates([]Certificate{{"admin", now.Add(29*day + time.Hour), false}}, now), Warning, "end soon: admin (29 days)"},
		"authority ends":    {CheckCertificates([]Certificate{{"ca", now.Add(300 * day), true}}, now), Warning, "end soon: ca (300 days)"},
		"certificate ended": {CheckCertificates([]Certificate{{"ca", now.Add(300 * day), true}, {"admin", now, false}}, now), Failed, "have ended: admin"},
		"sealed":            {CheckSealing(Sealing{Keys: 2, Secrets: 3, Made: now}, now), OK, "3 Secrets sealed by the present one of 2 keys"},
		"former key":        {CheckSealing(Sealing{Keys: 2, Secrets: 3, Outdated: 1, Made: now}, now), Warning, "1 Secret sealed by a former key"},
		"open secret":       {CheckSealing(Sealing{Keys: 2, Secrets: 3, Open: 1, Outdated: 1, Made: now}, now), Failed, "1 Secret in etcd are not sealed"},
		"old key":           {CheckSealing(Sealing{Keys: 1, Made: now.Add(-500 * day)}, now), Warning, "the key file has not changed for 500 days"},
		"clocks agree":      {CheckSkew(-time.Second), OK, "the API server's clock and this machine's agree"},
		"clocks differ":     {CheckSkew(-time.Minute), Warning, "the API server's clock differs from this machine's by -1m0s"},
		"no nodes":          {CheckNodes(nil, now), Warning, "there is none"},
		"nodes":             {CheckNodes([]Node{{Name: "a", Ready: true, Heard: now.Add(-time.Second)}, {Name: "b", Ready: true}}, now), OK, "2 of 2 ready"},
		"bad nodes":         {CheckNodes([]Node{{Name: "a", Ready: true, Heard: now.Add(-2 * time.Minute)}, {Name: "b", Why: "NodeStatusUnknown"}, {Name: "c"}}, now), Failed, "3 of 3 not ready: a (silent for 2m0s), b (NodeStatusUnknown), c"},
		"controllers":       {CheckControllers(nil), OK, "no object waits for them"},
		"controllers late":  {CheckControllers([]string{"a", "b"}), Failed, "2 objects changed more than 10s ago and not looked at: a, b"},
		"scheduler":         {CheckScheduler(nil, 2), OK, "no pod waits for it; 2 without a node that fits"},
		"scheduler late":    {CheckScheduler([]string{"a"}, 0), Failed, "1 pod made more than 10s ago and not looked at: a"},
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, tc.seen, tc.got.Seen)
			require.Equal(t, tc.state, tc.got.State)
		})
	}
}

func TestWaiting(t *testing.T) {
	object := func(spec, status string, age time.Duration, fields string) map[schemas.Key]json.RawMessage {
		text := `{"metadata":{"generation":2,"creationTimestamp":"` + now.Add(-age).Format(time.RFC3339) + `","managedFields":[` + fields + `]},"spec":{` + spec + `},"status":{` + status + `}}`
		return map[schemas.Key]json.RawMessage{{Resource: "pods", Namespace: "n", Name: "x"}: json.RawMessage(text)}
	}
	just := `{"time":"` + now.Add(-time.Second).Format(time.RFC3339) + `"}`
	justStatus := `{"subresource":"status","time":"` + now.Add(-time.Second).Format(time.RFC3339) + `"}`
	for name, tc := range map[string]struct {
		of     func(map[schemas.Key]json.RawMessage, time.Time) ([]string, error)
		object map[schemas.Key]json.RawMessage
		want   int
	}{
		"seen":             {Waiting, object("", `"observedGeneration":2`, time.Hour, ""), 0},
		"not seen":         {Waiting, object("", `"observedGeneration":1`, time.Hour, ""), 1},
		"changed just now": {Waiting, object("", `"observedGeneration":1`, time.Hour, just), 0},
		"status just now":  {Waiting, object("", `"observedGeneration":1`, time.Hour, justStatus), 1},
		"pod is new":       {Unscheduled, object("", "", time.Second, ""), 0},
		"pod waits":        {Unscheduled, object("", "", time.Minute, ""), 1},
		"pod has a node":   {Unscheduled, object(`"nodeName":"n"`, "", time.Minute, ""), 0},
		"pod is gated":     {Unscheduled, object(`"schedulingGates":[{"name":"x"}]`, "", time.Minute, ""), 0},
		"pod of another":   {Unscheduled, object(`"schedulerName":"mine"`, "", time.Minute, ""), 0},
		"pod was judged":   {Unscheduled, object("", `"conditions":[{"type":"PodScheduled","status":"False"}]`, time.Minute, ""), 0},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := tc.of(tc.object, now)
			require.NoError(t, err)
			require.Len(t, got, tc.want)
		})
	}
	_, err := Waiting(map[schemas.Key]json.RawMessage{{Name: "x"}: json.RawMessage(`[`)}, now)
	require.Error(t, err)
}

func TestInventory(t *testing.T) {
	for name, tc := range map[string]struct {
		objects map[string]string // by key
		check   string
		state   State
		seen    string
	}{
		"whole":             {nil, "owners", OK, "every owner is there, where it may be"},
		"dangling owner":    {map[string]string{"core/pods/shop/p": `{"metadata":{"uid":"p","ownerReferences":[{"kind":"ReplicaSet","name":"r","uid":"gone"}]}}`}, "owners", Warning, "owners are gone: core/pods/shop/p (ReplicaSet r)"},
		"foreign owner":     {map[string]string{"core/pods/shop/p": `{"metadata":{"uid":"p","ownerReferences":[{"uid":"c"}]}}`, "core/configmaps/other/c": `{"metadata":{"uid":"c"}}`}, "owners", Failed, "owned from another namespace: core/pods/shop/p (core/configmaps/other/c)"},
		"owner of all":      {map[string]string{"core/pods/shop/p": `{"metadata":{"uid":"p","ownerReferences":[{"uid":"n"}]}}`}, "owners", OK, "every owner is there, where it may be"},
		"homeless":          {map[string]string{"core/pods/lost/p": `{"metadata":{"uid":"p"}}`}, "namespaces", Failed, "their namespace is gone: core/pods/lost/p"},
		"stuck":             {map[string]string{"core/pods/shop/p": `{"metadata":{"uid":"p","deletionTimestamp":"2026-01-02T13:00:00Z","finalizers":["a/b"]}}`}, "deletions", Warning, "being deleted for more than 1h0m0s: core/pods/shop/p [a/b]"},
		"just deleted":      {map[string]string{"core/pods/shop/p": `{"metadata":{"uid":"p","deletionTimestamp":"2026-01-02T14:30:00Z"}}`}, "deletions", OK, "none waits for long"},
		"established":       {map[string]string{crd: `{"metadata":{"uid":"d"},"status":{"conditions":[{"type":"NamesAccepted","status":"True"},{"type":"Established","status":"True"}]}}`}, "definitions", OK, "all are established"},
		"names taken":       {map[string]string{crd: `{"metadata":{"uid":"d"},"status":{"conditions":[{"type":"NamesAccepted","status":"False","message":"taken"},{"type":"Established","status":"True"}]}}`}, "definitions", Failed, "custom resources can't be served: widgets.example.com (taken)"},
		"not established":   {map[string]string{crd: `{"metadata":{"uid":"d"},"status":{"conditions":[{"type":"NamesAccepted","status":"True"}]}}`}, "definitions", Failed, "custom resources can't be served: widgets.example.com (not Established yet)"},
		"lost version":      {map[string]string{crd: `{"metadata":{"uid":"d"},"spec":{"versions":[{"name":"v2"}]},"status":{"storedVersions":["v1","v2"]}}`}, "stored-versions", Failed, "kept in versions that are not defined any more: widgets.example.com (v1)"},
		"unavailable":       {map[string]string{"apiregistration.k8s.io/apiservices/v1.x": `{"metadata":{"uid":"a"},"status":{"conditions":[{"type":"Available","status":"False","message":"no endpoints"}]}}`}, "api-services", Failed, "not available: v1.x (no endpoints)"},
		"webhook":           {map[string]string{hook: `{"metadata":{"uid":"h"},"webhooks":[{"name":"x","failurePolicy":"Fail","clientConfig":{"service":{"namespace":"shop","name":"none"}}}]}`}, "webhooks", Failed, "refuse what they are asked about, since their Service is gone: w (x: shop/none)"},
		"webhook may fail":  {map[string]string{hook: `{"metadata":{"uid":"h"},"webhooks":[{"name":"x","failurePolicy":"Ignore","clientConfig":{"service":{"namespace":"shop","name":"none"}}}]}`}, "webhooks", OK, "none can fail for want of its Service"},
		"webhook's service": {map[string]string{hook: `{"metadata":{"uid":"h"},"webhooks":[{"name":"x","clientConfig":{"service":{"namespace":"shop","name":"s"}}},{"clientConfig":{}}]}`, "core/services/shop/s": `{"metadata":{"uid":"s"},"spec":{"clusterIPs":["None"]}}`}, "webhooks", OK, "none can fail for want of its Service"},
		"pod without node":  {map[string]string{"core/pods/shop/p": `{"metadata":{"uid":"p"},"spec":{"nodeName":"n9"}}`}, "pod-nodes", Warning, "bound to nodes that are gone: shop/p (n9)"},
		"address twice":     {map[string]string{"core/services/shop/a": `{"metadata":{"uid":"a"},"spec":{"clusterIPs":["10.96.0.9"]}}`, "core/services/shop/b": `{"metadata":{"uid":"b"},"spec":{"clusterIPs":["10.96.0.9"]}}`}, "cluster-ips", Failed, "used twice: 10.96.0.9 by [shop/a shop/b]"},
	} {
		t.Run(name, func(t *testing.T) {
			i := NewInventory()
			for _, object := range []struct{ key, text string }{{"core/namespaces/shop", `{"metadata":{"uid":"n"}}`}, {"core/namespaces/other", `{"metadata":{"uid":"o"}}`}, {"core/nodes/n1", `{"metadata":{"uid":"n1"}}`}} {
				add(t, i, object.key, object.text)
			}
			for key, text := range tc.objects {
				add(t, i, key, text)
			}
			f := pick(t, i.Check(now), tc.check)
			require.Equal(t, tc.seen, f.Seen)
			require.Equal(t, tc.state, f.State)
		})
	}
	require.Error(t, NewInventory().Add(schemas.Key{}, []byte("{")))
	require.Error(t, NewInventory().Add(schemas.Key{Resource: "pods"}, []byte(`{"spec":1}`)))
}

const (
	crd  = "apiextensions.k8s.io/customresourcedefinitions/widgets.example.com"
	hook = "admissionregistration.k8s.io/validatingwebhookconfigurations/w"
)

func add(t *testing.T, i *Inventory, key, text string) {
	t.Helper()
	k, err := schemas.ParseKey(key)
	require.NoError(t, err)
	require.NoError(t, i.Add(k, []byte(text)))
}

func TestSamples(t *testing.T) {
	const text = "# HELP a x\na 1\na_total 9\nb{s=\"X\"} 2.5\nb{s=\"Y\",t=\"} 7\"} 3 1700000000\nc nonsense\nd{x} 1\ne{\n"
	value, ok := Gauge(text, "a")
	require.True(t, ok)
	require.Equal(t, 1.0, value)
	require.Equal(t, []Sample{{"X", 2.5}}, Samples(text, "b")[:1])
	for _, none := range []string{"b", "c", "d", "e", "f"} {
		_, ok := Gauge(strings.ReplaceAll(text, "b{s=\"X\"} 2.5\nb", "b{s=\"X\"} 2.5\nb{s=\"Z\"} 1\nb"), none)
		require.False(t, ok, none)
	}
}

func FuzzSamples(f *testing.F) {
	f.Add("a 1\n", "a")
	f.Add("b{s=\"X\"} 2.5\n", "b")
	f.Fuzz(func(t *testing.T, text, metric string) {
		if got := Samples(text, metric); len(got) > strings.Count(text, "\n")+1 {
			t.Fatalf("%d samples of %q", len(got), text)
		}
	})
}
