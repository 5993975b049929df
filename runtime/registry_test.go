package runtime_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/seed-6593ebad/skywarden/naming"
	"github.com/seed-6593ebad/skywarden/runtime"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A registry is a small runtime.Registry in memory, with levers.
type registry struct {
	mu      sync.Mutex
	claims  map[naming.Name]*claim
	epoch   uint64
	refused []string                        // what Refused was told
	changed chan struct{}                   // closed at the next change
	lagging map[naming.Name]runtime.Binding // what Lookup says instead of the truth
	hold    chan struct{}                   // not nil: Release waits for it, or its context
	late    chan struct{}                   // not nil: Register waits for it after the claim took effect
}

type claim struct {
	r       *registry
	name    naming.Name
	addr    naming.Address
	notify  func(runtime.NameEvent)
	epoch   uint64
	serving bool
}

func newRegistry() *registry {
	return &registry{
		claims: map[naming.Name]*claim{}, changed: make(chan struct{}),
		lagging: map[naming.Name]runtime.Binding{},
	}
}

// change changes the state and wakes everybody who waits for it.
func (r *registry) change(do func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	do()
	close(r.changed)
	r.changed = make(chan struct{})
}

func (r *registry) Register(ctx context.Context, name naming.Name, addr naming.Address, opts runtime.RegisterOptions) (runtime.Claim, error) {
	for {
		var c *claim
		var changed, late chan struct{}
		r.change(func() {
			if r.claims[name] == nil {
				r.epoch++
				c = &claim{r: r, name: name, addr: addr, notify: opts.Notify, epoch: r.epoch, serving: true}
				r.claims[name] = c
			}
			late = r.late
		})
		if c != nil {
			if late != nil {
				<-late
			}
			return c, nil
		}
		if !opts.Standby {
			return nil, naming.ErrTaken
		}
		r.mu.Lock()
		changed = r.changed
		free := r.claims[name] == nil
		r.mu.Unlock()
		if free {
			continue
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (r *registry) Refused(name string, _ naming.Address, err error) {
	r.change(func() { r.refused = append(r.refused, name+": "+naming.Code(err)) })
}

func (r *registry) Lookup(_ context.Context, name naming.Name) (runtime.Binding, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if b, ok := r.lagging[name]; ok {
		return b, nil
	}
	if c := r.claims[name]; c != nil {
		return runtime.Binding{Address: c.addr, Epoch: c.epoch}, nil
	}
	return runtime.Binding{}, naming.ErrNotFound
}

func (r *registry) Query(ctx context.Context, name naming.Name) (runtime.Binding, error) {
	for {
		r.mu.Lock()
		changed := r.changed
		r.mu.Unlock()
		if b, err := r.Lookup(ctx, name); err == nil {
			return b, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return runtime.Binding{}, ctx.Err()
		}
	}
}

// get gives the claim on name.
func (r *registry) get(name string) *claim {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.claims[parse(name)]
}

// lag has look-ups of name stay as they are.
func (r *registry) lag(t *testing.T, name string) {
	t.Helper()
	b, err := r.Lookup(t.Context(), parse(name))
	if err != nil {
		t.Fatal(err)
	}
	r.change(func() { r.lagging[parse(name)] = b })
}

func (c *claim) Name() naming.Name { return c.name }

func (c *claim) Serving() (uint64, bool) {
	c.r.mu.Lock()
	defer c.r.mu.Unlock()
	return c.epoch, c.serving
}

func (c *claim) Release(ctx context.Context) error {
	c.r.mu.Lock()
	hold := c.r.hold
	c.serving = false
	c.r.mu.Unlock()
	if hold != nil {
		select {
		case <-hold:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	c.r.change(func() {
		if c.r.claims[c.name] == c {
			delete(c.r.claims, c.name)
		}
	})
	return nil
}

// expire is what a clock does: the claim is not served any more, and nobody has
// been told yet.
func (c *claim) expire() { c.r.change(func() { c.serving = false }) }

func (c *claim) suspend() {
	c.expire()
	c.notify(runtime.NameEvent{Name: c.name, Kind: runtime.NameSuspended, Err: naming.ErrLeaseLost})
}

func (c *claim) resume() {
	c.r.change(func() {
		c.r.epoch++
		c.epoch, c.serving = c.r.epoch, true
	})
	c.notify(runtime.NameEvent{Name: c.name, Kind: runtime.NameResumed, Epoch: c.epoch})
}

// lose gives the name away for good.
func (c *claim) lose(err error) {
	c.r.change(func() {
		c.serving = false
		delete(c.r.claims, c.name)
	})
	c.notify(runtime.NameEvent{Name: c.name, Kind: runtime.NameLost, Err: err})
}

// A cluster is nodes that share a registry and a transport.
type cluster struct {
	*testing.T
	*registry
	wire  runtime.InProcess
	nodes int
}

func newCluster(t *testing.T) *cluster { return &cluster{T: t, registry: newRegistry()} }

// node starts a node that is closed at the end of the test.
func (c *cluster) node(change ...func(*runtime.Config)) *runtime.Node {
	c.Helper()
	c.nodes++
	id, err := naming.ParseNodeID(fmt.Sprintf("node-%d", c.nodes))
	if err != nil {
		c.Fatal(err)
	}
	cfg := runtime.Config{
		Node: id, Endpoint: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(c.nodes)}), 7000),
		Registry: c.registry, Transport: &c.wire,
	}
	for _, f := range change {
		f(&cfg)
	}
	n, err := runtime.New(cfg)
	if err != nil {
		c.Fatal(err)
	}
	c.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_ = n.Close(ctx)
	})
	return n
}

func parse(name string) naming.Name {
	n, err := naming.ParseName(name)
	if err != nil {
		panic(err)
	}
	return n
}

func spawn[M any](t testing.TB, n *runtime.Node, h func(*runtime.Context, M) error, opts ...runtime.SpawnOption) runtime.Ref {
	t.Helper()
	ref, err := runtime.Spawn(n, h, opts...)
	if err != nil {
		t.Fatal(err)
	}
	return ref
}

// echo starts a service that answers with what it got.
func echo(t testing.TB, n *runtime.Node, opts ...runtime.SpawnOption) runtime.Ref {
	t.Helper()
	return spawn(t, n, func(c *runtime.Context, m string) error { return c.Reply(m) }, opts...)
}

func register(t testing.TB, n *runtime.Node, name string, ref runtime.Ref, opts ...runtime.RegisterOption) {
	t.Helper()
	if err := n.Register(t.Context(), name, ref, opts...); err != nil {
		t.Fatal(err)
	}
}

func query(t testing.TB, n *runtime.Node, name string) runtime.Ref {
	t.Helper()
	ref, err := n.Query(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	return ref
}

// wantErr demands that err is each of kinds.
func wantErr(t testing.TB, what string, err error, kinds ...error) {
	t.Helper()
	for _, kind := range kinds {
		if !errors.Is(err, kind) {
			t.Errorf("%s: got %v, want %v", what, err, kind)
		}
	}
}

func wantCall(t testing.TB, ref runtime.Ref, msg, want any) {
	t.Helper()
	got, err := ref.Call(t.Context(), msg)
	if err != nil || got != want {
		t.Errorf("call %s with %v: got %v, %v, want %v", ref, msg, got, err, want)
	}
}

// A gate is a service that keeps its handler until it is opened.
type gate struct {
	runtime.Ref
	entered chan any      // each message, when its handling begins
	open    chan struct{} // a value, or closing, lets a handler end
}

func newGate(t testing.TB, n *runtime.Node, opts ...runtime.SpawnOption) gate {
	t.Helper()
	g := gate{entered: make(chan any, 1000), open: make(chan struct{})}
	g.Ref = spawn(t, n, func(c *runtime.Context, m any) error {
		g.entered <- m
		<-g.open
		return c.Reply(m)
	}, opts...)
	return g
}
