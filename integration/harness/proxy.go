package harness

import (
	"context"
	"net"
	"sync"
	"testing"
	"time"
)

// A Proxy stands between clients and a server and breaks the network between
// them. It forwards until it is told otherwise. All methods are safe for
// concurrent use.
type Proxy struct {
	target   string
	listener net.Listener
	ctx      context.Context // ends with the proxy
	wg       sync.WaitGroup

	mu    sync.Mutex
	conns map[net.Conn]struct{}
	state proxyState
	heal  chan struct{} // closed when a black hole ends
	delay time.Duration
}

type proxyState int

const (
	forwarding proxyState = iota
	cut
	blackHole
)

// NewProxy listens on 127.0.0.1 and forwards to target (IP:port) until the
// test ends.
func NewProxy(tb testing.TB, target string) *Proxy {
	tb.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	listener, err := net.Listen("tcp", net.JoinHostPort(loopback, "0"))
	if err != nil {
		cancel()
		tb.Fatalf("harness: %v", err)
	}
	p := &Proxy{target: target, listener: listener, ctx: ctx, conns: map[net.Conn]struct{}{}, heal: make(chan struct{})}
	p.wg.Go(p.accept)
	tb.Cleanup(func() {
		cancel()
		_ = listener.Close()
		p.Cut()
		p.wg.Wait()
	})
	return p
}

// Address is where clients dial (IP:port).
func (p *Proxy) Address() string { return p.listener.Addr().String() }

// Cut resets every connection, and every new one at once, until Heal.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.set(cut)
	for conn := range p.conns {
		reset(conn)
	}
}

// BlackHole forwards nothing more until Heal: connections stay open, new ones
// are accepted, and no byte arrives. What was sent meanwhile arrives after
// Heal, as after a real partition.
func (p *Proxy) BlackHole() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.set(blackHole)
}

// Slow delays each piece of data, in both directions, by d until Heal.
func (p *Proxy) Slow(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.set(forwarding)
	p.delay = d
}

// Heal forwards again, without delay.
func (p *Proxy) Heal() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.set(forwarding)
	p.delay = 0
}

func (p *Proxy) set(state proxyState) {
	if p.state == blackHole && state != blackHole {
		close(p.heal)
		p.heal = make(chan struct{})
	}
	p.state = state
}

func (p *Proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.wg.Go(func() { p.serve(client) })
	}
}

func (p *Proxy) serve(client net.Conn) {
	defer reset(client)
	if !p.admit(client) {
		return
	}
	defer p.forget(client)
	if !p.pass() {
		return
	}
	dialer := net.Dialer{Timeout: 5 * time.Second}
	server, err := dialer.DialContext(p.ctx, "tcp", p.target)
	if err != nil {
		return
	}
	defer reset(server)
	if !p.admit(server) {
		return
	}
	defer p.forget(server)

	var pumps sync.WaitGroup
	pumps.Go(func() { p.pump(server, client) })
	pumps.Go(func() { p.pump(client, server) })
	pumps.Wait()
}

// pump forwards one direction until either side is gone.
func (p *Proxy) pump(to, from net.Conn) {
	// The other direction has nothing left to do: an RPC connection is never
	// half closed.
	defer to.Close()
	defer from.Close()
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		if n > 0 {
			if !p.pass() {
				return
			}
			if _, err := to.Write(buffer[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// pass waits until data may go on; false: never.
func (p *Proxy) pass() bool {
	for {
		p.mu.Lock()
		state, heal, delay := p.state, p.heal, p.delay
		p.mu.Unlock()
		switch {
		case state == cut:
			return false
		case state == blackHole:
			select {
			case <-heal:
				continue
			case <-p.ctx.Done():
				return false
			}
		case delay > 0:
			timer := time.NewTimer(delay)
			defer timer.Stop()
			select {
			case <-timer.C:
				return true
			case <-p.ctx.Done():
				return false
			}
		}
		return true
	}
}

func (p *Proxy) admit(conn net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.state == cut {
		return false
	}
	p.conns[conn] = struct{}{}
	return true
}

func (p *Proxy) forget(conn net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, conn)
}

// reset closes with RST: the peer learns at once and nothing lingers.
func reset(conn net.Conn) {
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // fails only if it is closed already
	}
	_ = conn.Close()
}
