package adapter_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"github.com/seed-6593ebad/skywarden/adapter"
	"github.com/seed-6593ebad/skywarden/adapter/record"
	"github.com/seed-6593ebad/skywarden/backends/memory"
	"github.com/seed-6593ebad/skywarden/naming"
	"github.com/seed-6593ebad/skywarden/runtime"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const ttl = 5 * time.Second

// A world is a name server and nodes on it, inside one synctest bubble.
type world struct {
	*testing.T
	srv memory.Server
}

// A node is one adapter with its backend and what was told about it.
type node struct {
	*adapter.Adapter
	w       *world
	backend *memory.Backend
	addr    naming.Address
	told    recorder
}

// run gives f a world inside a bubble: time is the bubble's, so a test of an hour
// takes milliseconds.
func run(t *testing.T, f func(w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { f(&world{T: t}) })
}

// node starts a node with handle-1 services; change may alter its configuration.
func (w *world) node(id, endpoint string, change ...func(*adapter.Config)) *node {
	w.Helper()
	n := &node{w: w, backend: w.srv.Open(), addr: address(w, id+"@"+endpoint+"/1")}
	cfg := adapter.Config{Backend: n.backend, Node: n.addr.Node(), Endpoint: n.addr.Endpoint(), TTL: ttl, Observers: []adapter.Observer{&n.told}}
	for _, c := range change {
		c(&cfg)
	}
	var err error
	if n.Adapter, err = adapter.New(w.Context(), cfg); err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() { n.close() })
	return n
}

func (n *node) close() {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	_ = n.Close(ctx)
	_ = n.backend.Close()
}

// die stops the node as SIGKILL would: nobody says goodbye to the server.
func (n *node) die() {
	n.w.srv.Levers().Cut(n.backend)
	n.close()
}

func (n *node) register(name string, opts ...runtime.RegisterOptions) (runtime.Claim, error) {
	opts = append(opts, runtime.RegisterOptions{})
	return n.Register(n.w.Context(), parse(n.w, name), n.addr, opts[0])
}

func (n *node) mustRegister(name string, opts ...runtime.RegisterOptions) runtime.Claim {
	n.w.Helper()
	c, err := n.register(name, opts...)
	if err != nil {
		n.w.Fatal(err)
	}
	return c
}

// sees waits until everything is quiet and says where name is answered.
func (n *node) sees(name string) string {
	synctest.Wait()
	b, err := n.Lookup(n.w.Context(), parse(n.w, name))
	switch {
	case err != nil:
		return naming.Code(err)
	case b.Stale:
		return "stale " + b.Address.String()
	}
	return b.Address.String()
}

func (n *node) want(name, want string) {
	n.w.Helper()
	if got := n.sees(name); got != want {
		n.w.Errorf("%s sees %s as %q, want %q", n.addr.Node(), name, got, want)
	}
}

// A recorder keeps what observers, and owners of names, are told.
type recorder struct {
	mu     sync.Mutex
	events []adapter.Event
	names  []string
}

func (r *recorder) Observe(e adapter.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, e)
}

func (r *recorder) notify(e runtime.NameEvent) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.names = append(r.names, e.Kind.String()+" "+naming.Code(e.Err))
}

func (r *recorder) kinds() (kinds []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range r.events {
		kinds = append(kinds, string(e.Kind)+" "+naming.Code(e.Err))
	}
	return kinds
}

func (r *recorder) notified() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.names)
}

func parse(t testing.TB, s string) naming.Name {
	t.Helper()
	n, err := naming.ParseName(s)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func address(t testing.TB, s string) naming.Address {
	t.Helper()
	a, err := naming.ParseAddress(s)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func wantErr(t testing.TB, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("got error %v, want %v", err, want)
	}
}

func wantStrings(t testing.TB, what string, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s:\n got %q\nwant %q", what, got, want)
	}
}

func TestRegisterLookupRelease(t *testing.T) {
	run(t, func(w *world) {
		a, b := w.node("a", "10.0.0.1:7000"), w.node("b", "10.0.0.2:7000")
		claim := a.mustRegister("bank")
		if epoch, ok := claim.Serving(); !ok || epoch == 0 {
			t.Errorf("Serving gave %d, %v", epoch, ok)
		}
		a.want("bank", "a@10.0.0.1:7000/1")
		b.want("bank", "a@10.0.0.1:7000/1")

		_, err := b.register("bank")
		wantErr(t, err, naming.ErrTaken)
		var taken *adapter.TakenError
		if !errors.As(err, &taken) || taken.Holder != a.addr {
			t.Errorf("the error does not name the holder: %v", err)
		}
		_, err = a.register("bank")
		wantErr(t, err, naming.ErrTaken)

		if err := claim.Release(w.Context()); err != nil {
			t.Error(err)
		}
		if err := claim.Release(w.Context()); err != nil {
			t.Errorf("second release: %v", err)
		}
		if _, ok := claim.Serving(); ok {
			t.Error("served after its release")
		}
		a.want("bank", "not_found")
		b.want("bank", "not_found")
		b.mustRegister("bank")
		a.want("bank", "b@10.0.0.2:7000/1")
		wantStrings(t, "a was told", a.told.kinds(), "register ok", "register taken", "release ok")
		wantStrings(t, "b was told", b.told.kinds(), "register taken", "register ok")
	})
}

// A node sees its own registration at once, without waiting for the mirror.
func TestOwnNameIsSeenAtOnce(t *testing.T) {
	run(t, func(w *world) {
		a := w.node("a", "10.0.0.1:7000")
		claim := a.mustRegister("bank")
		b, err := a.Lookup(w.Context(), claim.Name())
		if err != nil || b.Address != a.addr {
			t.Errorf("got %+v, %v", b, err)
		}
		_ = claim.Release(w.Context())
		synctest.Wait() // until the mirror has heard of it, a moment later
		if b, err := a.Lookup(w.Context(), claim.Name()); !errors.Is(err, naming.ErrNotFound) {
			t.Errorf("after release: %+v, %v", b, err)
		}
	})
}

func TestRegisterRefusesForeignAddress(t *testing.T) {
	run(t, func(w *world) {
		a := w.node("a", "10.0.0.1:7000")
		for _, addr := range []naming.Address{{}, address(t, "b@10.0.0.1:7000/1"), address(t, "a@10.0.0.1:7001/1")} {
			_, err := a.Register(w.Context(), parse(t, "bank"), addr, runtime.RegisterOptions{})
			wantErr(t, err, naming.ErrAddressNotAllowed)
		}
		_, err := a.Register(w.Context(), naming.Name{}, a.addr, runtime.RegisterOptions{})
		wantErr(t, err, naming.ErrNameInvalid)
		_, err = a.Lookup(w.Context(), naming.Name{})
		wantErr(t, err, naming.ErrNameInvalid)
	})
}

// TestS4SelfFencing: an owner that is cut off stops serving before the server
// gives its name away.
func TestS4SelfFencing(t *testing.T) {
	run(t, func(w *world) {
		a, b := w.node("a", "10.0.0.1:7000"), w.node("b", "10.0.0.2:7000")
		claim := a.mustRegister("bank", runtime.RegisterOptions{Notify: a.told.notify})
		w.srv.Levers().Cut(a.backend)
		cut := time.Now()
		for {
			_, serving := claim.Serving()
			_, err := b.register("bank")
			if err == nil {
				if serving {
					t.Error("a serves although b owns the name")
				}
				break
			}
			wantErr(t, err, naming.ErrTaken)
			time.Sleep(10 * time.Millisecond)
		}
		if d := time.Since(cut); d > ttl+time.Second {
			t.Errorf("free after %s, L1 says %s", d, ttl+time.Second)
		}
		wantStrings(t, "the owner was told", a.told.notified(), "suspended lease_lost")
		w.srv.Levers().Heal(a.backend)
		time.Sleep(5 * time.Second)
		wantStrings(t, "the owner was told", a.told.notified(), "suspended lease_lost", "lost taken")
		wantStrings(t, "observers were told", slices.DeleteFunc(a.told.kinds(), func(s string) bool { return strings.HasPrefix(s, "backend") }),
			"register ok", "suspended lease_lost", "lost taken")
		a.want("bank", "b@10.0.0.2:7000/1")
		_, ok := claim.Serving()
		if ok {
			t.Error("a serves a name that it has lost")
		}
	})
}

// TestL2ReclaimAfterOutage: the server is away for longer than the TTL; every
// owner is registered again within 5 s of its return, under a higher epoch.
func TestL2ReclaimAfterOutage(t *testing.T) {
	for _, outage := range []string{"paused", "restarted"} {
		t.Run(outage, func(t *testing.T) {
			run(t, func(w *world) {
				a, b := w.node("a", "10.0.0.1:7000"), w.node("b", "10.0.0.2:7000")
				claims := make([]runtime.Claim, 20)
				for i := range claims {
					claims[i] = a.mustRegister(fmt.Sprintf("svc-%d", i), runtime.RegisterOptions{Notify: a.told.notify})
				}
				before, _ := claims[0].Serving()
				if outage == "paused" {
					w.srv.Levers().Pause()
				} else {
					w.srv.Levers().Kill()
				}
				time.Sleep(time.Minute)
				for i := range claims {
					if _, ok := claims[i].Serving(); ok {
						t.Fatalf("svc-%d serves a minute into an outage", i)
					}
				}
				if outage == "paused" {
					w.srv.Levers().Resume()
				} else {
					w.srv.Levers().Restart()
				}
				time.Sleep(5 * time.Second)
				for i := range claims {
					epoch, ok := claims[i].Serving()
					if !ok || epoch <= before {
						t.Errorf("svc-%d: serving %v at epoch %d, before %d", i, ok, epoch, before)
					}
					b.want(fmt.Sprintf("svc-%d", i), a.addr.String())
				}
				if got := w.srv.Stats(); got.Leases != 1 || got.Entries != 20 {
					t.Errorf("on the server: %+v", got)
				}
				if got := a.told.notified(); len(got) != 40 {
					t.Errorf("owners were told %d things, want 20 suspended and 20 resumed", len(got))
				}
			})
		})
	}
}

// TestL1LeftoverIsTakenOverAtOnce: a restarted process has its names back without
// waiting for the lease of its predecessor.
func TestL1LeftoverIsTakenOverAtOnce(t *testing.T) {
	run(t, func(w *world) {
		old := w.node("a", "10.0.0.1:7000")
		claim := old.mustRegister("bank")
		before, _ := claim.Serving()
		old.die()
		start := time.Now()
		claim = w.node("a2", "10.0.0.1:7000").mustRegister("bank")
		if d := time.Since(start); d != 0 {
			t.Errorf("took %s", d)
		}
		if epoch, _ := claim.Serving(); epoch <= before {
			t.Errorf("epoch %d is not above %d", epoch, before)
		}
	})
}

// On a loopback endpoint, which every machine has, only the same node's leftover
// is taken over.
func TestLoopbackLeftoverNeedsTheSameNode(t *testing.T) {
	run(t, func(w *world) {
		w.node("a", "127.0.0.1:7000").mustRegister("bank")
		_, err := w.node("b", "127.0.0.1:7000").register("bank")
		wantErr(t, err, naming.ErrTaken)
		w.node("a", "127.0.0.1:7000").mustRegister("bank")
	})
}

// TestS5OutageIsNotAbsence walks through an outage as a resolver sees it.
func TestS5OutageIsNotAbsence(t *testing.T) {
	run(t, func(w *world) {
		a := w.node("a", "10.0.0.1:7000")
		b := w.node("b", "10.0.0.2:7000", func(c *adapter.Config) { c.MaxStale = 2 * time.Minute })
		a.mustRegister("bank")
		b.want("bank", a.addr.String())
		b.want("shop", "not_found")

		w.srv.Levers().Pause()
		time.Sleep(15 * time.Second)
		b.want("bank", "stale "+a.addr.String())
		b.want("shop", "unavailable")
		time.Sleep(time.Minute)
		b.want("bank", "stale "+a.addr.String())
		time.Sleep(time.Minute)
		b.want("bank", "unavailable")
		b.want("shop", "unavailable")

		// A process that starts during the outage knows nothing, and says so.
		c := w.node("c", "10.0.0.3:7000")
		c.want("bank", "unavailable")

		w.srv.Levers().Resume()
		time.Sleep(5 * time.Second)
		for _, n := range []*node{b, c} {
			n.want("bank", a.addr.String())
			n.want("shop", "not_found")
		}
		if got := b.told.kinds(); !slices.Contains(got, "backend_down unavailable") || got[len(got)-1] != "backend_up ok" {
			t.Errorf("observers were told %q", got)
		}
	})
}

// TestS8OwnNamesAreDefended: whoever overwrites or deletes a held entry, the owner
// notices within a second, alarms and restores it.
func TestS8OwnNamesAreDefended(t *testing.T) {
	forged := func(epoch uint64) []byte {
		v, _ := record.Encode(record.Record{Address: address(t, "evil@10.6.6.6:6666/1"), Epoch: epoch})
		return v
	}
	for attack, do := range map[string]func(memory.Levers, naming.Name){
		"deleted":           func(l memory.Levers, n naming.Name) { l.Delete(n) },
		"garbage":           func(l memory.Levers, n naming.Name) { l.Put(n, []byte("garbage")) },
		"forged, low epoch": func(l memory.Levers, n naming.Name) { l.Put(n, forged(1)) },
	} {
		t.Run(attack, func(t *testing.T) {
			run(t, func(w *world) {
				a, b := w.node("a", "10.0.0.1:7000"), w.node("b", "10.0.0.2:7000")
				claim := a.mustRegister("bank", runtime.RegisterOptions{Notify: a.told.notify})
				for range 3 {
					synctest.Wait()
					do(w.srv.Levers(), claim.Name())
					time.Sleep(time.Second)
					b.want("bank", a.addr.String())
				}
				want := []string{"register ok"}
				for range 3 {
					want = append(want, "overwritten fenced", "restored ok")
				}
				wantStrings(t, "observers were told", a.told.kinds(), want...)
				if got := w.srv.Stats(); got.Leases != 1 || got.Entries != 1 {
					t.Errorf("on the server: %+v", got)
				}
				if err := claim.Release(w.Context()); err != nil {
					t.Error(err)
				}
				b.want("bank", "not_found")
			})
		})
	}
}

// TestS8HigherEpochIsNotFought: an entry with a higher epoch means that the owner
// has lost, and says so.
func TestS8HigherEpochIsNotFought(t *testing.T) {
	run(t, func(w *world) {
		a, b := w.node("a", "10.0.0.1:7000"), w.node("b", "10.0.0.2:7000")
		claim := a.mustRegister("bank", runtime.RegisterOptions{Notify: a.told.notify})
		epoch, _ := claim.Serving()
		e, err := b.backend.Get(w.Context(), claim.Name())
		if err != nil {
			t.Fatal(err)
		}
		other, _ := record.Encode(record.Record{Address: b.addr, Epoch: epoch + 1})
		lease, err := b.backend.Lease(w.Context(), ttl)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := lease.Claim(w.Context(), claim.Name(), other, e.Revision); err != nil {
			t.Fatal(err)
		}
		a.want("bank", b.addr.String())
		if _, ok := claim.Serving(); ok {
			t.Error("a serves on")
		}
		wantStrings(t, "the owner was told", a.told.notified(), "lost taken")
		time.Sleep(time.Minute)
		b.want("bank", b.addr.String())
	})
}

func TestStandbyTakesOver(t *testing.T) {
	for end, do := range map[string]func(*node, runtime.Claim){
		"released": func(n *node, c runtime.Claim) { _ = c.Release(n.w.Context()) },
		"closed":   func(n *node, _ runtime.Claim) { n.close() },
		"died":     func(n *node, _ runtime.Claim) { n.die() },
	} {
		t.Run(end, func(t *testing.T) {
			run(t, func(w *world) {
				a, b := w.node("a", "10.0.0.1:7000"), w.node("b", "10.0.0.2:7000")
				claim := a.mustRegister("bank")
				won := make(chan runtime.Claim, 1)
				go func() { won <- b.mustRegister("bank", runtime.RegisterOptions{Standby: true}) }()
				synctest.Wait()
				do(a, claim)
				start := time.Now()
				<-won
				if d := time.Since(start); end != "died" && d != 0 || d > ttl+time.Second {
					t.Errorf("took %s", d)
				}
				b.want("bank", b.addr.String())
			})
		})
	}
}

func TestStandbyEndsWithItsContext(t *testing.T) {
	run(t, func(w *world) {
		a, b := w.node("a", "10.0.0.1:7000"), w.node("b", "10.0.0.2:7000")
		a.mustRegister("bank")
		ctx, cancel := context.WithTimeout(w.Context(), time.Minute)
		defer cancel()
		_, err := b.Register(ctx, parse(t, "bank"), b.addr, runtime.RegisterOptions{Standby: true})
		wantErr(t, err, context.DeadlineExceeded)
		wantErr(t, err, naming.ErrTaken)

		go func() { time.Sleep(time.Minute); b.close() }()
		_, err = b.register("bank", runtime.RegisterOptions{Standby: true})
		wantErr(t, err, naming.ErrClosed)
	})
}

// A standby survives an outage of the server.
func TestStandbyOutlivesAnOutage(t *testing.T) {
	run(t, func(w *world) {
		a, b := w.node("a", "10.0.0.1:7000"), w.node("b", "10.0.0.2:7000")
		a.mustRegister("bank")
		won := make(chan struct{})
		go func() { b.mustRegister("bank", runtime.RegisterOptions{Standby: true}); close(won) }()
		synctest.Wait()
		w.srv.Levers().Pause()
		time.Sleep(time.Minute)
		a.die()
		w.srv.Levers().Resume()
		<-won
	})
}

func TestQueryWaits(t *testing.T) {
	run(t, func(w *world) {
		a, b := w.node("a", "10.0.0.1:7000"), w.node("b", "10.0.0.2:7000")
		ctx, cancel := context.WithTimeout(w.Context(), time.Second)
		defer cancel()
		_, err := b.Query(ctx, parse(t, "bank"))
		wantErr(t, err, context.DeadlineExceeded)
		wantErr(t, err, naming.ErrNotFound)

		found := make(chan naming.Address)
		for range 10 {
			go func() {
				got, err := b.Query(w.Context(), parse(t, "bank"))
				if err != nil {
					t.Error(err)
				}
				found <- got.Address
			}()
		}
		synctest.Wait()
		w.srv.Levers().Pause() // waiting goes on through an outage
		time.Sleep(time.Minute)
		w.srv.Levers().Resume()
		time.Sleep(5 * time.Second)
		a.mustRegister("bank")
		for range 10 {
			if got := <-found; got != a.addr {
				t.Errorf("found %s", got)
			}
		}
		go func() { time.Sleep(time.Second); b.close() }()
		_, err = b.Query(w.Context(), parse(t, "shop"))
		wantErr(t, err, naming.ErrClosed)
	})
}

// TestMalformedEntryHidesNothing: an entry that cannot be read spoils its own
// name alone, and is told once.
func TestMalformedEntryHidesNothing(t *testing.T) {
	run(t, func(w *world) {
		a, b := w.node("a", "10.0.0.1:7000"), w.node("b", "10.0.0.2:7000")
		a.mustRegister("bank")
		lease, err := w.srv.Open().Lease(w.Context(), ttl)
		if err != nil {
			t.Fatal(err)
		}
		defer lease.Close(w.Context())
		if _, err := lease.Claim(w.Context(), parse(t, "poison"), []byte{0xff}, 0); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			b.want("poison", "malformed")
			b.want("bank", a.addr.String())
		}
		wantStrings(t, "b was told", b.told.kinds(), "malformed malformed")
		_, err = b.register("poison")
		wantErr(t, err, naming.ErrTaken)
		// One that no lease holds is nobody's.
		w.srv.Levers().Put(parse(t, "left"), []byte("rubbish"))
		b.want("left", "not_found")
		b.mustRegister("left")
	})
}

// TestReleaseDuringOutage: the name is given up at once here, and on the server
// as soon as that is back, although other names keep the lease alive.
func TestReleaseDuringOutage(t *testing.T) {
	run(t, func(w *world) {
		a, b := w.node("a", "10.0.0.1:7000"), w.node("b", "10.0.0.2:7000")
		claim := a.mustRegister("bank")
		a.mustRegister("shop")
		w.srv.Levers().Cut(a.backend)
		ctx, cancel := context.WithTimeout(w.Context(), time.Second)
		defer cancel()
		err := claim.Release(ctx)
		if err == nil {
			t.Error("released without a server")
		}
		if _, ok := claim.Serving(); ok {
			t.Error("serves a released name")
		}
		w.srv.Levers().Heal(a.backend)
		time.Sleep(3 * time.Second)
		b.want("bank", "not_found")
		b.want("shop", a.addr.String())
		a.mustRegister("bank")
		if got := w.srv.Stats().Leases; got != 1 {
			t.Errorf("%d leases", got)
		}
	})
}

// TestL4NothingIsLeftBehind: cycles of registering and releasing leave nothing
// on the server.
func TestL4NothingIsLeftBehind(t *testing.T) {
	run(t, func(w *world) {
		a := w.node("a", "10.0.0.1:7000")
		for i := range 1000 {
			c := a.mustRegister(fmt.Sprintf("svc-%d", i%7))
			if err := c.Release(w.Context()); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		if got := w.srv.Stats(); got.Leases != 0 || got.Entries != 0 {
			t.Errorf("on the server: %+v", got)
		}
	})
}

// TestL5CloseWithoutServer ends in time when the server does not answer.
func TestL5CloseWithoutServer(t *testing.T) {
	run(t, func(w *world) {
		a := w.node("a", "10.0.0.1:7000")
		for i := range 10 {
			a.mustRegister(fmt.Sprintf("svc-%d", i))
		}
		w.srv.Levers().Pause()
		time.Sleep(time.Minute)
		start := time.Now()
		a.close()
		if d := time.Since(start); d > 3*time.Second {
			t.Errorf("took %s", d)
		}
		_, err := a.register("bank")
		wantErr(t, err, naming.ErrClosed)
		_, err = a.Lookup(w.Context(), parse(t, "bank"))
		wantErr(t, err, naming.ErrClosed)
		w.srv.Levers().Resume()
	})
}

func TestCloseReleasesAtOnce(t *testing.T) {
	run(t, func(w *world) {
		a, b := w.node("a", "10.0.0.1:7000"), w.node("b", "10.0.0.2:7000")
		for i := range 10 {
			a.mustRegister(fmt.Sprintf("svc-%d", i))
		}
		if err := a.Close(w.Context()); err != nil {
			t.Error(err)
		}
		if err := a.Close(w.Context()); err != nil {
			t.Errorf("second time: %v", err)
		}
		for i := range 10 {
			b.mustRegister(fmt.Sprintf("svc-%d", i))
		}
	})
}

// TestCancelledRegistrationLeavesNothing: whenever the caller gives up, the name
// is either not taken or free again.
func TestCancelledRegistrationLeavesNothing(t *testing.T) {
	run(t, func(w *world) {
		a := w.node("a", "10.0.0.1:7000")
		w.srv.Levers().Pause()
		ctx, cancel := context.WithTimeout(w.Context(), 100*time.Millisecond)
		defer cancel()
		start := time.Now()
		_, err := a.Register(ctx, parse(t, "bank"), a.addr, runtime.RegisterOptions{})
		wantErr(t, err, context.DeadlineExceeded)
		if d := time.Since(start); d != 100*time.Millisecond {
			t.Errorf("returned after %s", d)
		}
		w.srv.Levers().Resume()
		time.Sleep(2 * ttl)
		if got := w.srv.Stats(); got.Entries != 0 {
			t.Errorf("on the server: %+v", got)
		}
		w.node("b", "10.0.0.2:7000").mustRegister("bank")
	})
}

func TestLogLine(t *testing.T) {
	run(t, func(w *world) {
		var out bytes.Buffer
		a := w.node("a", "10.0.0.1:7000", func(c *adapter.Config) { c.Logger = zerolog.New(&out) })
		w.node("b", "10.0.0.2:7000").mustRegister("bank")
		_, err := a.register("bank")
		wantErr(t, err, naming.ErrTaken)
		var got map[string]any
		if err := json.Unmarshal(out.Bytes(), &got); err != nil {
			t.Fatalf("%v in %s", err, out.String())
		}
		for k, want := range map[string]any{
			"level": "warn", "event": "register", "result": "taken", "name": "bank", "node": "a", "handle": 1.0, "principal": "local",
			"address": "10.0.0.1:7000", "holder": "b@10.0.0.2:7000/1", "reason": "name taken by b@10.0.0.2:7000/1", "message": "naming",
		} {
			if got[k] != want {
				t.Errorf("%s: got %v, want %v", k, got[k], want)
			}
		}
	})
}

func TestAllowListStandsBeforeTheBackend(t *testing.T) {
	run(t, func(w *world) {
		list, err := adapter.NewAllowList([]adapter.Rule{
			{Scope: naming.Only(parse(t, "bank")), Owners: []string{"local"}, Addresses: prefixes("10.0.0.0/24"), Ports: []adapter.PortRange{{7000, 7001}}},
			{Scope: naming.Only(parse(t, "vault")), Owners: []string{"vault"}, Addresses: prefixes("0.0.0.0/0"), Readers: []string{"auditor"}},
		})
		if err != nil {
			t.Fatal(err)
		}
		a := w.node("a", "10.0.0.1:7000", func(c *adapter.Config) { c.AllowList = list })
		b := w.node("b", "10.0.1.1:7000", func(c *adapter.Config) { c.AllowList = list })
		a.mustRegister("bank")
		a.want("bank", a.addr.String())
		w.node("c", "10.0.0.3:7000").mustRegister("vault") // it is there, and in the mirror of a
		synctest.Wait()
		w.srv.Levers().Pause() // whatever is refused now, was refused without the server
		_, err = a.register("vault")
		wantErr(t, err, naming.ErrNameNotAllowed)
		_, err = a.register("unknown")
		wantErr(t, err, naming.ErrNameNotAllowed)
		a.want("vault", "name_not_allowed")
		a.want("unknown", "name_not_allowed")
		_, err = a.Query(w.Context(), parse(t, "unknown"))
		wantErr(t, err, naming.ErrNameNotAllowed)
		_, err = b.register("bank")
		wantErr(t, err, naming.ErrAddressNotAllowed)
		w.srv.Levers().Resume()
	})
}

func prefixes(s ...string) (out []netip.Prefix) {
	for _, p := range s {
		out = append(out, netip.MustParsePrefix(p))
	}
	return out
}
