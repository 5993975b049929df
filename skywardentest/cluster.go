package skywardentest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/seed-6593ebad/skywarden"
	"github.com/seed-6593ebad/skywarden/adapter"
	"github.com/seed-6593ebad/skywarden/backends/memory"
	"github.com/seed-6593ebad/skywarden/naming"
	"github.com/seed-6593ebad/skywarden/runtime"
)

// TTL is how long a name stays taken after its owner died, where no Option says
// otherwise. A node whose process gets no time to run for about half of it loses
// its names, so it is longer than memory.MinTTL.
const TTL = 2 * time.Second

// firstPort is that of node 0. Nothing is bound there; see listener.
const firstPort = 7000

// A Cluster is some nodes and their name server. Nodes are numbered from 0.
//
// Its methods may be called from any goroutine of the test, as far as testing.TB
// allows that: a method that cannot do its work, because there is no such node for
// example, ends the test with Fatalf.
type Cluster struct {
	tb        testing.TB
	options   []Option
	server    memory.Server
	transport runtime.InProcess

	mu      sync.Mutex
	members []*member
	news    chan struct{} // closed and replaced when an event is told
}

// An Option changes the configuration of node i before it is started. Backend,
// Listen, Listener and Transport are the cluster's own.
type Option func(i int, cfg *skywarden.Config)

// A member is a node of the cluster, as long as it lives.
type member struct {
	*skywarden.Node

	c         *Cluster
	backend   *backend
	observers []skywarden.Observer // the test's
	silent    atomic.Bool          // it was killed, or the test is over
	cut       bool                 // guarded by Cluster.mu
	ttl       time.Duration

	// What was told of each name and is still to be awaited. Guarded by Cluster.mu.
	events map[string][]skywarden.Event
}

// A backend is a node's, and knows what the node has seen.
type backend struct {
	*memory.Backend

	mu   sync.Mutex
	seen map[naming.Name]naming.Revision
}

// Watch notes what the node has taken in. Only then does it ask for more.
func (b *backend) Watch(ctx context.Context, scope naming.Scope) iter.Seq2[naming.Event, error] {
	return func(yield func(naming.Event, error) bool) {
		for event, err := range b.Backend.Watch(ctx, scope) {
			if !yield(event, err) {
				return
			}
			if event.Kind == naming.Put {
				b.mu.Lock()
				b.seen[event.Entry.Name] = event.Entry.Revision
				b.mu.Unlock()
			}
		}
	}
}

// upToDate says whether the node has seen the entry that is on the server now.
func (b *backend) upToDate(ctx context.Context, name naming.Name) bool {
	entry, err := b.Get(ctx, name)
	b.mu.Lock()
	defer b.mu.Unlock()
	return err == nil && entry.Revision == b.seen[name]
}

// New starts a cluster of n nodes, which are closed when the test ends. They are
// called node-0, node-1 and so on, and log to the test, unless an Option says
// otherwise. The test fails if a node cannot be closed because one of its handlers
// does not come to an end.
func New(tb testing.TB, n int, options ...Option) *Cluster {
	tb.Helper()
	c := &Cluster{tb: tb, options: options, news: make(chan struct{})}
	tb.Cleanup(c.close)
	for range n {
		c.Add()
	}
	return c
}

// Add starts one more node and gives its number.
func (c *Cluster) Add() int {
	c.tb.Helper()
	c.mu.Lock()
	i := len(c.members)
	c.members = append(c.members, nil)
	c.mu.Unlock()
	c.start(i)
	return i
}

// Node gives node i. After Restart that is another one than before. A node that
// was killed answers everything with naming.ErrClosed.
func (c *Cluster) Node(i int) *skywarden.Node {
	c.tb.Helper()
	return c.member(i).Node
}

// Server gives the name server, for what the levers of a Cluster do not do.
func (c *Cluster) Server() *memory.Server { return &c.server }

func (c *Cluster) member(i int) *member {
	c.tb.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	if i < 0 || i >= len(c.members) || c.members[i] == nil {
		c.tb.Fatalf("skywardentest: there is no node %d: the cluster has %d, from 0", i, len(c.members))
	}
	return c.members[i]
}

// start makes a node the cluster's member i.
func (c *Cluster) start(i int) {
	c.tb.Helper()
	m := &member{
		c: c, events: make(map[string][]skywarden.Event),
		backend: &backend{Backend: c.server.Open(), seen: make(map[naming.Name]naming.Revision)},
	}
	cfg := skywarden.Config{
		Node: fmt.Sprintf("node-%d", i), TTL: TTL,
		Logger: zerolog.New(m).With().Timestamp().Logger(),
	}
	for _, option := range c.options {
		option(i, &cfg)
	}
	if cfg.Backend != nil || cfg.Listen != "" || cfg.Listener != nil || cfg.Transport != nil {
		c.tb.Fatalf("skywardentest: an Option gives node %d a Backend, Listen, Listener or Transport: these are the cluster's", i)
	}
	m.ttl = cfg.TTL
	m.observers, cfg.Observers = cfg.Observers, []skywarden.Observer{adapter.ObserverFunc(m.observe)}
	cfg.Backend, cfg.Listener, cfg.Transport = m.backend, newListener(firstPort+i), &c.transport
	var err error
	if m.Node, err = skywarden.New(c.tb.Context(), cfg); err != nil {
		c.tb.Fatalf("skywardentest: node %d: %v", i, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.members[i] = m
}

// close ends what the levers did, so that it takes no time, and closes all
// nodes.
func (c *Cluster) close() {
	levers := c.server.Levers()
	levers.Restart()
	levers.Resume()
	for i, m := range c.members {
		if m != nil { // else start has said why
			levers.Heal(m.backend.Backend)
			c.end(i, m)
		}
	}
}

// end closes a member that was not killed.
func (c *Cluster) end(i int, m *member) {
	c.tb.Helper()
	err := m.Close(context.WithoutCancel(c.tb.Context()))
	// An outage is no mistake of the test's, nor what a killed node has to say.
	if killed := m.silent.Swap(true); !killed && err != nil && !errors.Is(err, naming.ErrUnavailable) {
		c.tb.Errorf("skywardentest: node %d: %v", i, err)
	}
}

// observe implements adapter.Observer: it notes what is to be awaited, and tells
// the test's own observers. Nobody hears of a process that died.
func (m *member) observe(e skywarden.Event) {
	if m.silent.Load() {
		return
	}
	for _, o := range m.observers {
		o.Observe(e)
	}
	m.c.mu.Lock()
	defer m.c.mu.Unlock()
	name := e.Name.String()
	m.events[name] = append(m.events[name], e)
	close(m.c.news)
	m.c.news = make(chan struct{})
}

// Write takes the log.
func (m *member) Write(line []byte) (int, error) {
	if !m.silent.Load() {
		m.c.tb.Logf("%s", bytes.TrimRight(line, "\n"))
	}
	return len(line), nil
}

// A listener is bound to nothing, and nobody ever connects: the cluster's nodes
// meet in its transport, where an endpoint can be bound once. A real one would
// keep the time of a synctest bubble from going on.
type listener struct {
	addr   net.TCPAddr
	closed chan struct{}
	close  func()
}

func newListener(port int) *listener {
	l := &listener{addr: net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port}, closed: make(chan struct{})}
	l.close = sync.OnceFunc(func() { close(l.closed) })
	return l
}

func (l *listener) Addr() net.Addr { return &l.addr }

func (l *listener) Accept() (net.Conn, error) {
	<-l.closed
	return nil, net.ErrClosed
}

func (l *listener) Close() error {
	l.close()
	return nil
}
