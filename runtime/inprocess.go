package runtime

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"sync"
	"sync/atomic"

	"github.com/seed-6593ebad/skywarden/naming"
)

// InProcess is the Transport between nodes of one process: a message is handed
// to the receiving node in the sender's goroutine, and its body is not copied.
// The zero value is ready for use.
type InProcess struct {
	mu    sync.Mutex // of writers
	nodes atomic.Pointer[map[netip.AddrPort]Receiver]
}

// shared is where nodes meet that were not given a Transport. One for the
// process is right, because an endpoint can be bound once in a process.
var shared InProcess

// Bind implements Transport. It refuses an endpoint that is bound with
// naming.ErrTaken.
func (t *InProcess) Bind(endpoint netip.AddrPort, r Receiver) (func(), error) {
	taken := false
	t.change(func(nodes map[netip.AddrPort]Receiver) {
		if _, taken = nodes[endpoint]; !taken {
			nodes[endpoint] = r
		}
	})
	if taken {
		return nil, fmt.Errorf("%w: endpoint %s is bound by another node of this process", naming.ErrTaken, endpoint)
	}
	return sync.OnceFunc(func() {
		t.change(func(nodes map[netip.AddrPort]Receiver) { delete(nodes, endpoint) })
	}), nil
}

// change replaces the map by a changed copy, so that Send reads it without a
// lock.
func (t *InProcess) change(do func(map[netip.AddrPort]Receiver)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	nodes := make(map[netip.AddrPort]Receiver)
	if old := t.nodes.Load(); old != nil {
		maps.Copy(nodes, *old)
	}
	do(nodes)
	t.nodes.Store(&nodes)
}

// Send implements Transport.
func (t *InProcess) Send(ctx context.Context, to naming.Address, m Message) error {
	if nodes := t.nodes.Load(); nodes != nil {
		if r, ok := (*nodes)[to.Endpoint()]; ok {
			return r.Receive(ctx, to, m)
		}
	}
	return fmt.Errorf("%w: no node of this process is at %s", naming.ErrUnavailable, to.Endpoint())
}
