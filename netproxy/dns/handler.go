package dns

import (
	"context"
	"math/rand/v2"

	"github.com/coredns/coredns/plugin"
	"github.com/coredns/coredns/plugin/pkg/upstream"
	"github.com/coredns/coredns/request"
	"github.com/miekg/dns"
)

// handler is a CoreDNS plugin that answers from a cluster and passes on what is not its own.
type handler struct {
	cluster
	next plugin.Handler
}

// Name is what CoreDNS calls the plugin.
func (h handler) Name() string { return "rutter" }

// ServeDNS answers one question.
func (h handler) ServeDNS(ctx context.Context, w dns.ResponseWriter, r *dns.Msg) (int, error) {
	state := request.Request{W: w, Req: r}
	out := h.ask(state.Name(), state.QType())
	if out.foreign {
		return plugin.NextOrFailure(h.Name(), h.next, ctx, w, r)
	}
	m := new(dns.Msg)
	m.SetReply(r)
	m.Authoritative = true
	m.Answer, m.Extra = out.answer, out.extra
	rand.Shuffle(len(m.Answer), func(i, j int) { m.Answer[i], m.Answer[j] = m.Answer[j], m.Answer[i] })
	for _, rr := range m.Answer {
		if rr.Header().Name == state.Name() {
			rr.Header().Name = state.QName() // as it was asked
		}
	}
	switch {
	case out.alias != "" && state.QType() != dns.TypeCNAME:
		h.follow(ctx, state, out.alias, m)
	case !out.exists:
		m.Rcode = dns.RcodeNameError
	}
	if len(m.Answer) == 0 {
		m.Ns = []dns.RR{h.soa()}
	}
	return dns.RcodeSuccess, w.WriteMsg(m) // of the handler: the server must not answer once more
}

// follow appends what the alias's target is. A target that cannot be resolved leaves the alias alone, as other
// servers do: the client may know more.
func (h handler) follow(ctx context.Context, state request.Request, target string, m *dns.Msg) {
	got, err := upstream.New().Lookup(ctx, state, target, state.QType())
	if err != nil || got == nil {
		m.Rcode = dns.RcodeServerFailure
		return
	}
	m.Answer = append(m.Answer, got.Answer...)
	m.Rcode = got.Rcode
}
