package health

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Instant is a revision and when it was.
type Instant struct {
	Rev  int64     `json:"revision"`
	Time time.Time `json:"time"`
}

// Relay is how far the stream has come.
type Relay struct {
	// Committed is etcd's revision, Published the last one up to which the stream has all.
	Committed int64 `json:"committed"`
	Published int64 `json:"published"`
	// Waited is how long Published was waited for.
	Waited time.Duration `json:"-"`
	// Resyncs are gaps that this API server had to close, MirrorLag is for how long each
	// mirror has lacked something, in seconds.
	Resyncs   float64            `json:"gapsClosed"`
	MirrorLag map[string]float64 `json:"mirrorLagSeconds"`
}

// Certificate is one that somebody relies on.
type Certificate struct {
	Name  string
	Until time.Time
	// Authority certificates sign others.
	Authority bool
}

// Etcd is the state of the cluster's etcd.
type Etcd struct {
	Members  int    `json:"members"`
	Leader   string `json:"leader"`
	Revision int64  `json:"revision"`
	Version  string `json:"version"`
	// Size is that of the database, InUse what of it is not free, Quota what it may grow to.
	Size  int64 `json:"bytes"`
	InUse int64 `json:"bytesInUse"`
	Quota int64 `json:"maxBytes"`
	// Alarms stop writes.
	Alarms []string `json:"alarms,omitempty"`
}

// Sealing is how Secrets are sealed.
type Sealing struct {
	Keys     int
	Made     time.Time // of the key file
	Secrets  int
	Outdated int // sealed by a former key
	Open     int // not sealed at all
}

// Mark is a named instant.
type Mark struct {
	Name string
	Held bool
}

const (
	certificateSoon = 30 * day // the rest of a leaf's year in which nobody has restarted
	authoritySoon   = 365 * day
	keyOld          = 400 * day // a year, and a month to do it in
	mirrorPatience  = 30        // seconds
	fullQuota       = 80        // percent
)

// CheckReady judges what /readyz says.
func CheckReady(version string, failing []string) Finding {
	return found("api-server", Failed, failing, cmp.Or(version, "unknown version")+" is ready", "not ready", "look into rutter.log")
}

// CheckRelay judges how far the stream is behind etcd.
func CheckRelay(r Relay) Finding {
	const name = "relay"
	if behind := r.Committed - r.Published; behind > 0 {
		return Finding{name, Failed, fmt.Sprintf("published up to revision %d, %s behind etcd for %s", r.Published, plural(int(behind), "revision"), r.Waited.Round(time.Millisecond)),
			"look for the component relay in rutter.log, and at the disk under the streams"}
	}
	return fine(name, "published up to revision %d of %d", r.Published, r.Committed)
}

// CheckMirrors judges the streams that follow HISTORY.
func CheckMirrors(r Relay) Finding {
	var late []string
	for stream, seconds := range r.MirrorLag {
		if seconds > mirrorPatience {
			late = append(late, fmt.Sprintf("%s (%.0f s)", stream, seconds))
		}
	}
	slices.Sort(late)
	return found("mirrors", Failed, late, "have all that HISTORY has", "lag behind HISTORY", "look at the disk under the streams; `rutter up` again makes a mirror that stays behind follow anew")
}

// CheckHistory judges what is held of the past.
func CheckHistory(oldest *Instant, gaps []string) []Finding {
	held := Finding{"past", Failed, "no instant is held", "look for the component history in rutter.log"}
	if oldest != nil {
		held = fine("past", "held from revision %d (%s)", oldest.Rev, oldest.Time.UTC().Format("2006-01-02T15:04:05Z"))
	}
	return []Finding{held, found("gaps", Warning, gaps, "none", plural(len(gaps), "gap")+" in the past", "what is lost stays lost: gaps leave with retention; see `rutter history status`")}
}

// CheckMarks judges whether marks still stand for something.
func CheckMarks(marks []Mark) Finding {
	var lost []string
	for _, m := range marks {
		if !m.Held {
			lost = append(lost, m.Name)
		}
	}
	return found("marks", Warning, lost, plural(len(marks), "mark")+", all held", "no longer held", "rutter mark delete them")
}

// CheckEtcd judges etcd.
func CheckEtcd(e Etcd) []Finding {
	leader := fine("etcd", "%s, leader %s, revision %d", plural(e.Members, "member"), e.Leader, e.Revision)
	switch {
	case len(e.Alarms) > 0:
		leader = Finding{"etcd", Failed, "alarms: " + listed(e.Alarms), "make room, then disarm them with etcdctl alarm disarm"}
	case e.Leader == "":
		leader = Finding{"etcd", Failed, plural(e.Members, "member") + " without a leader", "see that most members run and reach each other"}
	}
	size := fine("etcd-size", "%s in use of %s, quota %s", Bytes(uint64(e.InUse)), Bytes(uint64(e.Size)), Bytes(uint64(e.Quota)))
	if e.Quota > 0 && e.Size >= e.Quota/100*fullQuota {
		size.State, size.Fix = Warning, "etcd refuses writes at its quota: delete what is not needed, then defragment"
	}
	return []Finding{leader, size}
}

// CheckCertificates judges how long certificates are good for.
func CheckCertificates(all []Certificate, now time.Time) Finding {
	const name = "certificates"
	var past, soon []string
	first := Certificate{}
	for _, c := range all {
		patience := certificateSoon
		if c.Authority {
			patience = authoritySoon
		}
		switch left := c.Until.Sub(now); {
		case left <= 0:
			past = append(past, c.Name)
		case left < patience:
			soon = append(soon, fmt.Sprintf("%s (%.0f days)", c.Name, left.Hours()/day.Hours()))
		}
		if first.Name == "" || c.Until.Before(first.Until) {
			first = c
		}
	}
	const fix = "`rutter up` makes those anew that have less than a third of their time left: restart it. An authority has to be replaced by hand"
	switch {
	case len(all) == 0:
		return Finding{Check: name, State: Skipped, Seen: "none could be seen from here"}
	case len(past) > 0:
		return Finding{name, Failed, "have ended: " + listed(past), fix}
	case len(soon) > 0:
		return Finding{name, Warning, "end soon: " + listed(soon), fix}
	}
	return fine(name, "%s, the first to end is %s, on %s", plural(len(all), "certificate"), first.Name, first.Until.UTC().Format("2006-01-02"))
}

// CheckSealing judges the keys of Secrets.
func CheckSealing(s Sealing, now time.Time) Finding {
	const name = "sealing"
	switch age := now.Sub(s.Made); {
	case s.Open > 0:
		return Finding{name, Failed, plural(s.Open, "Secret") + " in etcd are not sealed", "rutter seal rotate"}
	case s.Outdated > 0:
		return Finding{name, Warning, plural(s.Outdated, "Secret") + " sealed by a former key", "rutter seal rotate"}
	case age > keyOld:
		return Finding{name, Warning, fmt.Sprintf("the key file has not changed for %.0f days", age.Hours()/day.Hours()), "rutter seal rotate, once a year"}
	}
	return fine(name, "%s sealed by the present one of %s", plural(s.Secrets, "Secret"), plural(s.Keys, "key"))
}

// Node is what is seen of one.
type Node struct {
	Name  string `json:"name"`
	Ready bool   `json:"ready"`
	// Why it is not ready.
	Why string `json:"reason,omitempty"`
	// Heard is when its Lease was renewed last, zero if there is none.
	Heard time.Time `json:"heard,omitzero"`
}

// nodePatience is after how long a silent node is told, even if nobody has marked it yet.
const nodePatience = time.Minute

// Silent tells whether nothing was heard of a node for too long.
func (n Node) Silent(now time.Time) bool { return !n.Heard.IsZero() && now.Sub(n.Heard) > nodePatience }

// CheckNodes judges nodes.
func CheckNodes(nodes []Node, now time.Time) Finding {
	var bad []string
	for _, n := range nodes {
		switch {
		case !n.Ready:
			bad = append(bad, strings.TrimSuffix(fmt.Sprintf("%s (%s)", n.Name, n.Why), " ()"))
		case n.Silent(now):
			bad = append(bad, fmt.Sprintf("%s (silent for %s)", n.Name, now.Sub(n.Heard).Round(time.Second)))
		}
	}
	if len(nodes) == 0 {
		return Finding{"nodes", Warning, "there is none", "no pod runs without a node"}
	}
	return found("nodes", Failed, bad, fmt.Sprintf("%d of %d ready", len(nodes), len(nodes)), fmt.Sprintf("%d of %d not ready", len(bad), len(nodes)), "look into the node's log")
}
