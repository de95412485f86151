package lab

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"net/rpc"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/miekg/dns"
)

const (
	agentEnv = "RUTTER_LAB_AGENT"
	patience = 2 * time.Second
)

// Main turns the process into an agent if a test started it as one; it does not return then.
func Main() {
	if os.Getenv(agentEnv) == "" {
		return
	}
	s := rpc.NewServer()
	if err := s.RegisterName("Agent", &Agent{conns: map[int]net.Conn{}, packets: map[int]net.PacketConn{}}); err != nil {
		panic(err)
	}
	s.ServeConn(stdio{})
	os.Exit(0)
}

type stdio struct{}

func (stdio) Read(p []byte) (int, error)  { return os.Stdin.Read(p) }
func (stdio) Write(p []byte) (int, error) { return os.Stdout.Write(p) }
func (stdio) Close() error                { return errors.Join(os.Stdin.Close(), os.Stdout.Close()) }

// Agent is what a process in the lab can do. Its methods are called by RPC.
type Agent struct {
	mu      sync.Mutex
	conns   map[int]net.Conn
	packets map[int]net.PacketConn
	next    int
}

// ServeArgs asks for a server that answers with a name.
type ServeArgs struct{ Network, Addr, Name string }

// Target is where to connect to, or which connection to use.
type Target struct {
	Network, Addr string
	From          string // local address; empty for any
	Conn          int
	Count         int
}

// Answer is what came back.
type Answer struct {
	Text   string // what the server said
	Peer   string // whom the client believes to talk to
	Client string // whom the server saw
	Conn   int
	Errno  int // 0, or the error of the system call
	Err    string
	Took   time.Duration
}

// Serve starts a server that answers each line or datagram with its name and the client's address.
func (a *Agent) Serve(args ServeArgs, _ *struct{}) error {
	if args.Network[:3] == "udp" {
		pc, err := net.ListenPacket(args.Network, args.Addr)
		if err != nil {
			return err
		}
		go servePackets(pc, args.Name)
		return nil
	}
	l, err := net.Listen(args.Network, args.Addr)
	if err != nil {
		return err
	}
	go serveConns(l, args.Name)
	return nil
}

func servePackets(pc net.PacketConn, name string) {
	buf := make([]byte, 65536)
	for {
		_, from, err := pc.ReadFrom(buf)
		if err != nil {
			return
		}
		if _, err := pc.WriteTo(fmt.Appendf(nil, "%s %s\n", name, from), from); err != nil {
			return
		}
	}
}

func serveConns(l net.Listener, name string) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer func() { _ = c.Close() }()
			buf := make([]byte, 65536)
			for {
				if _, err := c.Read(buf); err != nil {
					return
				}
				if _, err := fmt.Fprintf(c, "%s %s\n", name, c.RemoteAddr()); err != nil {
					return
				}
			}
		}()
	}
}

// Open connects and makes one round trip; the connection stays open.
func (a *Agent) Open(t Target, out *Answer) error {
	start := time.Now()
	d := net.Dialer{Timeout: patience}
	if t.From != "" {
		from, err := net.ResolveUDPAddr(t.Network, t.From)
		if err != nil {
			return err
		}
		d.LocalAddr = from
	}
	c, err := d.Dial(t.Network, t.Addr)
	out.Took = time.Since(start)
	if err != nil {
		out.fail(err)
		return nil
	}
	a.mu.Lock()
	a.next++
	out.Conn = a.next
	a.conns[a.next] = c
	a.mu.Unlock()
	out.Peer = c.RemoteAddr().String()
	roundTrip(c, out)
	return nil
}

// RoundTrip sends and receives once on an open connection.
func (a *Agent) RoundTrip(t Target, out *Answer) error {
	a.mu.Lock()
	c := a.conns[t.Conn]
	a.mu.Unlock()
	roundTrip(c, out)
	return nil
}

// Close closes a connection.
func (a *Agent) Close(t Target, _ *struct{}) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	c := a.conns[t.Conn]
	delete(a.conns, t.Conn)
	return c.Close()
}

// Many opens Count connections one after the other and returns the answers.
func (a *Agent) Many(t Target, out *[]Answer) error {
	for range t.Count {
		var one Answer
		if err := a.Open(t, &one); err != nil {
			return err
		}
		if one.Conn != 0 {
			if err := a.Close(Target{Conn: one.Conn}, nil); err != nil {
				return err
			}
		}
		*out = append(*out, one)
	}
	return nil
}

// Connects makes Count connections with plain system calls and returns how long connect took in the median.
func (a *Agent) Connects(t Target, out *time.Duration) error {
	at, err := netip.ParseAddrPort(t.Addr)
	if err != nil {
		return err
	}
	kind := syscall.SOCK_STREAM
	if t.Network == "udp" {
		kind = syscall.SOCK_DGRAM
	}
	to := &syscall.SockaddrInet4{Port: int(at.Port()), Addr: at.Addr().As4()}
	took := make([]time.Duration, t.Count)
	for i := range took {
		fd, err := syscall.Socket(syscall.AF_INET, kind|syscall.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		// Closed by a reset: ports that rest would make the search for a free one what is measured.
		linger := syscall.Linger{Onoff: 1}
		if err := syscall.SetsockoptLinger(fd, syscall.SOL_SOCKET, syscall.SO_LINGER, &linger); err != nil {
			return err
		}
		start := time.Now()
		err = syscall.Connect(fd, to)
		took[i] = time.Since(start)
		if err := errors.Join(err, syscall.Close(fd)); err != nil {
			return err
		}
	}
	slices.Sort(took)
	*out = took[len(took)/2]
	return nil
}

// Choices connects Count UDP sockets, which sends nothing, and counts what came of it: the local address, which the
// kernel chooses for the endpoint's sake, or the error.
func (a *Agent) Choices(t Target, out *map[string]int) error {
	at, err := netip.ParseAddrPort(t.Addr)
	if err != nil {
		return err
	}
	to := &syscall.SockaddrInet4{Port: int(at.Port()), Addr: at.Addr().As4()}
	*out = map[string]int{}
	for range t.Count {
		what, err := choice(to)
		if err != nil {
			return err
		}
		(*out)[what]++
	}
	return nil
}

func choice(to syscall.Sockaddr) (string, error) {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_DGRAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	defer func() { _ = syscall.Close(fd) }()
	if err := syscall.Connect(fd, to); err != nil {
		return err.Error(), nil
	}
	local, err := syscall.Getsockname(fd)
	if err != nil {
		return "", err
	}
	return netip.AddrFrom4(local.(*syscall.SockaddrInet4).Addr).String(), nil
}

// Send sends one datagram from an unconnected socket (a new one if Conn is 0) and waits for the answer.
func (a *Agent) Send(t Target, out *Answer) error {
	a.mu.Lock()
	pc := a.packets[t.Conn]
	a.mu.Unlock()
	if pc == nil {
		var err error
		if pc, err = net.ListenPacket(t.Network, ":0"); err != nil {
			return err
		}
		a.mu.Lock()
		a.next++
		t.Conn = a.next
		a.packets[t.Conn] = pc
		a.mu.Unlock()
	}
	out.Conn = t.Conn
	to, err := net.ResolveUDPAddr(t.Network, t.Addr)
	if err != nil {
		return err
	}
	start := time.Now()
	if _, err := pc.WriteTo([]byte("hello\n"), to); err != nil {
		out.fail(err)
		return nil
	}
	if err := pc.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	buf := make([]byte, 65536)
	n, from, err := pc.ReadFrom(buf)
	out.Took = time.Since(start)
	if err != nil {
		out.fail(err)
		return nil
	}
	out.Peer = from.String()
	out.read(string(buf[:n]))
	return nil
}

// Question is one to a DNS server.
type Question struct {
	Network, Server, Name string
	Type                  uint16
}

// Ask asks a DNS server and returns the answer's records as text, or its error as the error's name.
func (a *Agent) Ask(q Question, out *[]string) error {
	m := new(dns.Msg)
	m.SetQuestion(dns.Fqdn(q.Name), q.Type)
	r, _, err := (&dns.Client{Net: q.Network, Timeout: patience}).Exchange(m, q.Server)
	if err != nil {
		return err
	}
	if r.Rcode != dns.RcodeSuccess {
		*out = append(*out, dns.RcodeToString[r.Rcode])
	}
	for _, rr := range r.Answer {
		*out = append(*out, rr.String())
	}
	return nil
}

func roundTrip(c net.Conn, out *Answer) {
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		out.fail(err)
		return
	}
	start := time.Now()
	defer func() { out.Took += time.Since(start) }()
	if _, err := io.WriteString(c, "hello\n"); err != nil {
		out.fail(err)
		return
	}
	buf := make([]byte, 65536)
	n, err := c.Read(buf)
	if err != nil {
		out.fail(err)
		return
	}
	out.read(string(buf[:n]))
}

func (a *Answer) read(line string) {
	if _, err := fmt.Sscanf(line, "%s %s", &a.Text, &a.Client); err != nil {
		a.Err = fmt.Sprintf("odd answer %q: %v", line, err)
	}
}

func (a *Answer) fail(err error) {
	a.Err = err.Error()
	var errno syscall.Errno
	if errors.As(err, &errno) {
		a.Errno = int(errno)
	}
}
