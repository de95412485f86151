package dns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"strings"

	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/plugin"
	"github.com/coredns/coredns/plugin/cache"
	"github.com/coredns/coredns/plugin/forward"
	"github.com/coredns/coredns/plugin/pkg/proxy"
	"github.com/coredns/coredns/plugin/pkg/transport"
	"github.com/miekg/dns"
	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"
)

// Config says what a server answers and where.
type Config struct {
	Domain     string           // the cluster's, such as cluster.local
	Listen     []netip.AddrPort // UDP and TCP
	Addrs      []netip.Addr     // by which clients know the server: the cluster's DNS addresses
	ResolvConf string           // names upstream servers; empty for none

	// Inside runs fn where the sockets are to be made, if not here. It is called while listening only.
	Inside func(fn func() error) error

	upstreamPort uint16 // tests only: instead of 53
}

// Server answers DNS. Listen, then Run.
type Server struct {
	cfg     Config
	log     zerolog.Logger
	handler handler
	others  []string // upstream servers
	forward *forward.Forward
	proxies []*proxy.Proxy // of forward; run from Listen to the end of Run, or Close
	bound   []bound
}

// bound is a CoreDNS server with its sockets.
type bound struct {
	server *dnsserver.Server
	tcp    net.Listener
	udp    net.PacketConn
}

// New prepares a server. Without upstream servers, names outside the cluster are refused.
func New(cfg Config, records Records, log zerolog.Logger) (*Server, error) {
	s := &Server{cfg: cfg, log: log.With().Str("component", "dns").Logger()}
	s.handler = handler{cluster: cluster{
		zone: strings.ToLower(dns.Fqdn(cfg.Domain)), records: records, server: cfg.Addrs,
	}}
	var err error
	if s.others, err = upstreams(cfg); err != nil {
		return nil, err
	}
	if len(s.others) == 0 {
		s.log.Warn().Msg("no upstream DNS server: only cluster names are answered")
	}
	return s, nil
}

// upstreams reads the node's name servers, leaving out ourselves.
func upstreams(cfg Config) ([]string, error) {
	if cfg.ResolvConf == "" {
		return nil, nil
	}
	conf, err := dns.ClientConfigFromFile(cfg.ResolvConf)
	if err != nil {
		return nil, fmt.Errorf("read upstream DNS servers: %w", err)
	}
	var out []string
	for _, text := range conf.Servers {
		ip, err := netip.ParseAddr(text)
		if err != nil || slices.Contains(cfg.Addrs, ip.WithZone("")) || isListening(cfg.Listen, ip) {
			continue
		}
		port := conf.Port
		if cfg.upstreamPort != 0 {
			port = fmt.Sprint(cfg.upstreamPort)
		}
		out = append(out, net.JoinHostPort(text, port))
	}
	return out, nil
}

func isListening(at []netip.AddrPort, ip netip.Addr) bool {
	return slices.ContainsFunc(at, func(a netip.AddrPort) bool { return a.Addr() == ip })
}

// Listen opens the sockets, so that a taken port fails here. Close or Run must follow.
func (s *Server) Listen() error {
	inside := s.cfg.Inside
	if inside == nil {
		inside = func(fn func() error) error { return fn() }
	}
	if len(s.others) > 0 {
		s.forward = forward.New()
		for _, addr := range s.others {
			p := proxy.NewProxy("forward", addr, transport.DNS)
			s.proxies = append(s.proxies, p)
			s.forward.SetProxy(p) // starts it, too
		}
	}
	for _, at := range s.cfg.Listen {
		b := bound{}
		var err error
		if b.server, err = s.newServer(at); err != nil {
			return errors.Join(err, s.Close())
		}
		err = inside(func() error {
			var err error
			if b.udp, err = b.server.ListenPacket(); err != nil {
				return err
			}
			b.tcp, err = b.server.Listen()
			return err
		})
		if b.udp != nil || b.tcp != nil {
			s.bound = append(s.bound, b)
		}
		if err != nil {
			return errors.Join(fmt.Errorf("listen for DNS on %s: %w", at, err), s.Close())
		}
	}
	return nil
}

func (s *Server) newServer(at netip.AddrPort) (*dnsserver.Server, error) {
	cfg := &dnsserver.Config{
		Zone: ".", Transport: transport.DNS, Port: fmt.Sprint(at.Port()), ListenHosts: []string{at.Addr().String()},
	}
	cfg.AddPlugin(func(next plugin.Handler) plugin.Handler {
		h := s.handler
		h.next = next
		return h
	})
	if s.forward != nil {
		c := cache.New()
		cfg.AddPlugin(func(next plugin.Handler) plugin.Handler {
			c.Next = next
			return c
		})
		cfg.AddPlugin(func(plugin.Handler) plugin.Handler { return s.forward })
	}
	server, err := dnsserver.NewServer(transport.DNS+"://"+at.String(), []*dnsserver.Config{cfg})
	if err != nil {
		return nil, fmt.Errorf("DNS server: %w", err)
	}
	return server, nil
}

// Close lets go of sockets that Run has not taken.
func (s *Server) Close() error {
	for _, b := range s.bound {
		if b.udp != nil {
			_ = b.udp.Close()
		}
		if b.tcp != nil {
			_ = b.tcp.Close()
		}
	}
	s.bound = nil
	s.stopProxies()
	return nil
}

// stopProxies ends the goroutines of the proxies. Theirs of kept connections would wait for a finalizer.
func (s *Server) stopProxies() {
	for _, p := range s.proxies {
		p.Stop()
		runtime.SetFinalizer(p, nil)
		p.GetTransport().Stop()
	}
	s.proxies = nil
}

// Run answers until the context ends.
func (s *Server) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, b := range s.bound {
		g.Go(func() error { return served(ctx, b.server.ServePacket(b.udp)) })
		g.Go(func() error { return served(ctx, b.server.Serve(b.tcp)) })
		g.Go(func() error {
			<-ctx.Done()
			_ = b.server.Stop() // closes both sockets
			_ = b.udp.Close()
			_ = b.tcp.Close()
			return nil
		})
	}
	defer s.stopProxies()
	return g.Wait()
}

func served(ctx context.Context, err error) error {
	if ctx.Err() != nil || err == nil {
		return nil
	}
	return fmt.Errorf("serve DNS: %w", err)
}
