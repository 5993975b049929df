package adapter_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-6593ebad/skywarden/adapter"
	"github.com/seed-6593ebad/skywarden/adapter/record"
	"github.com/seed-6593ebad/skywarden/naming"
	"github.com/seed-6593ebad/skywarden/runtime"
)

// A lease that was opened for a caller who has gone is not kept.
func TestL4AbandonedLeaseIsEnded(t *testing.T) {
	run(t, func(w *world) {
		h, use := w.hooked()
		h.before = func(op string, _ naming.Name) error {
			if op == "lease" {
				time.Sleep(time.Second)
			}
			return nil
		}
		a := w.node("a", "10.0.0.1:7000", use)
		ctx, cancel := context.WithTimeout(w.Context(), 100*time.Millisecond)
		defer cancel()
		_, err := a.Register(ctx, parse(t, "bank"), a.addr, runtime.RegisterOptions{})
		wantErr(t, err, context.DeadlineExceeded)
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := w.srv.Stats(); got.Leases != 0 {
			t.Errorf("on the server: %+v", got)
		}
	})
}

// Leases that just died, however many, are no reason to refuse a name.
func TestRegisterOutlivesDeadLeases(t *testing.T) {
	run(t, func(w *world) {
		c, use := w.choosy(naming.Description{InProcess: true, MirrorAll: true, NamesPerLease: 2})
		a := w.node("a", "10.0.0.1:7000", use)
		var claims []runtime.Claim
		for i := range 10 {
			claims = append(claims, a.mustRegister(fmt.Sprintf("svc-%d", i)))
		}
		for i := 0; i < 10; i += 2 { // now there is room under each of five leases
			if err := claims[i].Release(w.Context()); err != nil {
				t.Error(err)
			}
		}
		time.Sleep(time.Second)
		w.srv.Levers().ExpireLeases(c.Backend)
		a.mustRegister("bank")
	})
}

// A release that is refused is tried again with pauses, until the entry has gone
// with its lease.
func TestRefusedReleaseEndsWithItsLease(t *testing.T) {
	run(t, func(w *world) {
		h, use := w.hooked()
		a := w.node("a", "10.0.0.1:7000", use)
		c := a.mustRegister("bank")
		a.mustRegister("shop")
		var n atomic.Int32
		h.before = func(op string, _ naming.Name) error {
			if op == "release" {
				if n.Add(1) > 1000 {
					time.Sleep(time.Hour)
				}
				return naming.ErrDenied
			}
			return nil
		}
		_ = c.Release(w.Context())
		w.srv.Levers().ExpireLeases(h.Backend)
		time.Sleep(10 * time.Second)
		if n.Load() > 20 {
			t.Errorf("%d releases", n.Load())
		}
		a.mustRegister("bank")
	})
}

// A claim that lands while its name is given up is taken back, also where that
// fails at first.
func TestReleaseWhileReclaiming(t *testing.T) {
	run(t, func(w *world) {
		h, use := w.hooked()
		a := w.node("a", "10.0.0.1:7000", use)
		c := a.mustRegister("bank")
		a.mustRegister("shop")
		bank := parse(t, "bank")
		landed := make(chan struct{})
		var once sync.Once
		h.after = func(op string, name naming.Name) error {
			if op == "claim" && name == bank {
				once.Do(func() { close(landed); time.Sleep(100 * time.Millisecond) })
			}
			return nil
		}
		var fails atomic.Int32
		h.before = func(op string, name naming.Name) error {
			if op == "release" && name == bank && fails.Add(1) < 3 {
				return naming.ErrUnavailable
			}
			return nil
		}
		w.srv.Levers().ExpireLeases(h.Backend)
		<-landed
		_ = c.Release(w.Context())
		time.Sleep(time.Minute)
		w.node("b", "10.0.0.2:7000").want("bank", "not_found")
	})
}

// Cleaning up behind a name that was given up does not hit its next owner.
func TestRegisterAgainWhileReclaiming(t *testing.T) {
	run(t, func(w *world) {
		h, use := w.hooked()
		a := w.node("a", "10.0.0.1:7000", use)
		c := a.mustRegister("bank")
		bank := parse(t, "bank")
		landed := make(chan struct{})
		var once sync.Once
		h.after = func(op string, name naming.Name) error {
			if op == "claim" && name == bank {
				once.Do(func() { close(landed); time.Sleep(100 * time.Millisecond) })
			}
			return nil
		}
		w.srv.Levers().ExpireLeases(h.Backend)
		<-landed
		_ = c.Release(w.Context())
		a.mustRegister("bank")
		time.Sleep(time.Minute)
		for _, k := range a.told.kinds() {
			if k == "overwritten fenced" {
				t.Error("fought itself")
			}
		}
		w.node("b", "10.0.0.2:7000").want("bank", a.addr.String())
	})
}

// However fast leases die, an owner is told suspended and resumed in turn.
func TestSuspendedAndResumedAlternate(t *testing.T) {
	run(t, func(w *world) {
		h, use := w.hooked()
		var mu sync.Mutex
		var got []string
		a := w.node("a", "10.0.0.1:7000", use)
		n := 0
		h.after = func(op string, _ naming.Name) error {
			if op == "claim" && n < 30 {
				n++
				go w.srv.Levers().ExpireLeases(h.Backend)
			}
			return nil
		}
		a.mustRegister("bank", runtime.RegisterOptions{Notify: func(e runtime.NameEvent) {
			mu.Lock()
			defer mu.Unlock()
			got = append(got, e.Kind.String())
			if e.Kind == runtime.NameResumed && e.Epoch == 0 {
				t.Error("resumed under no epoch")
			}
		}})
		time.Sleep(time.Minute)
		mu.Lock()
		defer mu.Unlock()
		if len(got) < 20 {
			t.Fatalf("told only %v", got)
		}
		for i, k := range got {
			want := "suspended"
			if i%2 == 1 {
				want = "resumed"
			}
			if k != want {
				t.Fatalf("%d: %v", i, got)
			}
		}
	})
}

// A process that was taken for dead does not fight the one that took its place.
func TestS8SuccessorAtTheSameEndpointIsNotFought(t *testing.T) {
	run(t, func(w *world) {
		old := w.node("a", "10.0.0.1:7000")
		c := old.mustRegister("bank", runtime.RegisterOptions{Notify: old.told.notify})
		fresh := w.node("b", "10.0.0.1:7000")
		time.Sleep(time.Second)
		c2 := fresh.mustRegister("bank", runtime.RegisterOptions{Notify: fresh.told.notify})
		time.Sleep(time.Minute)
		if _, ok := c.Serving(); ok {
			t.Error("the old process serves on")
		}
		if _, ok := c2.Serving(); !ok {
			t.Error("the new process does not serve")
		}
		wantStrings(t, "old", old.told.notified(), "lost taken")
		wantStrings(t, "new", fresh.told.notified())
	})
}

// Nor when it comes back from an outage.
func TestSuccessorDuringAnOutage(t *testing.T) {
	run(t, func(w *world) {
		old := w.node("a", "10.0.0.1:7000")
		old.mustRegister("bank", runtime.RegisterOptions{Notify: old.told.notify})
		w.srv.Levers().Cut(old.backend)
		time.Sleep(3 * time.Second)
		fresh := w.node("b", "10.0.0.1:7000")
		fresh.mustRegister("bank", runtime.RegisterOptions{Notify: fresh.told.notify})
		time.Sleep(time.Minute)
		w.srv.Levers().Heal(old.backend)
		time.Sleep(time.Minute)
		wantStrings(t, "old", old.told.notified(), "suspended lease_lost", "lost taken")
		wantStrings(t, "new", fresh.told.notified())
	})
}

// An entry copied under another lease looks right, and goes with that lease.
func TestS8CopiedEntryIsTakenBack(t *testing.T) {
	run(t, func(w *world) {
		a, b := w.node("a", "10.0.0.1:7000"), w.node("b", "10.0.0.2:7000")
		c := a.mustRegister("bank")
		synctest.Wait()
		e, err := b.backend.Get(w.Context(), c.Name())
		if err != nil {
			t.Fatal(err)
		}
		l, err := b.backend.Lease(w.Context(), ttl)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := l.Claim(w.Context(), c.Name(), e.Value, e.Revision); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		if !slices.Contains(a.told.kinds(), "overwritten fenced") {
			t.Errorf("%v", a.told.kinds())
		}
		_ = l.Close(w.Context())
		time.Sleep(time.Second)
		b.want("bank", a.addr.String())
	})
}

// What comes and goes between two looks of the mirror is never told to it.
func TestS8DeletedBeforeTheMirrorSawIt(t *testing.T) {
	run(t, func(w *world) {
		h, use := w.hooked()
		a, b := w.node("a", "10.0.0.1:7000", use), w.node("b", "10.0.0.2:7000")
		synctest.Wait()
		var once sync.Once
		h.after = func(op string, n naming.Name) error {
			if op == "claim" {
				once.Do(func() { w.srv.Levers().Delete(n) })
			}
			return nil
		}
		a.mustRegister("bank")
		time.Sleep(time.Minute)
		b.want("bank", a.addr.String())
	})
}

// Close keeps its time without a deadline of the caller, with leases that live.
func TestL5CloseRightAfterTheServerFell(t *testing.T) {
	run(t, func(w *world) {
		h, use := w.hooked()
		h.slow.Store(true)
		a := w.node("a", "10.0.0.1:7000", use)
		for i := range 10 {
			a.mustRegister(fmt.Sprintf("svc-%d", i))
		}
		w.srv.Levers().Pause()
		start := time.Now()
		if err := a.Close(w.Context()); err == nil {
			t.Error("closed without a server")
		}
		if d := time.Since(start); d > 3*time.Second {
			t.Errorf("took %s", d)
		}
		w.srv.Levers().Resume()
	})
}

// Owners within the same millisecond have different epochs.
func TestS1EpochsGoUpwards(t *testing.T) {
	run(t, func(w *world) {
		a, b := w.node("a", "10.0.0.1:7000"), w.node("b", "10.0.0.2:7000")
		var last uint64
		for i := range 10 {
			n := []*node{a, b}[i%3%2]
			c := n.mustRegister("bank")
			synctest.Wait()
			epoch, _ := c.Serving()
			if epoch <= last {
				t.Errorf("%d: %d after %d", i, epoch, last)
			}
			last = epoch
			_ = c.Release(w.Context())
			synctest.Wait()
		}
	})
}

func TestNewDoesNotWaitForTheBackend(t *testing.T) {
	run(t, func(w *world) {
		w.srv.Levers().Pause()
		ctx, cancel := context.WithTimeout(w.Context(), 1500*time.Millisecond)
		defer cancel()
		addr := address(t, "a@10.0.0.1:7000/1")
		backend := w.srv.Open()
		defer backend.Close()
		a, err := adapter.New(ctx, adapter.Config{Backend: backend, Node: addr.Node(), Endpoint: addr.Endpoint()})
		if err != nil {
			t.Fatal(err)
		}
		_ = a.Close(w.Context())
		w.srv.Levers().Resume()
	})
}

// A name lost and released at the same time gives its seat back once, so that no
// other name goes along, and its owner is told nothing any more.
func TestLostWhileReleased(t *testing.T) {
	run(t, func(w *world) {
		var claim runtime.Claim
		atTheWorstMoment := adapter.ObserverFunc(func(e adapter.Event) {
			if e.Kind == adapter.EventOverwritten { // the defence has just found the name lost
				_ = claim.Release(w.Context())
			}
		})
		a := w.node("a", "10.0.0.1:7000", func(c *adapter.Config) { c.Observers = append(c.Observers, atTheWorstMoment) })
		b := w.node("b", "10.0.0.2:7000")
		shop := a.mustRegister("shop", runtime.RegisterOptions{Notify: a.told.notify})
		claim = a.mustRegister("bank", runtime.RegisterOptions{Notify: a.told.notify})
		synctest.Wait()
		epoch, _ := claim.Serving()
		w.steal(b, claim.Name(), epoch+1)
		time.Sleep(time.Minute)
		if _, ok := shop.Serving(); !ok {
			t.Error("shop is gone")
		}
		wantStrings(t, "the owner was told", a.told.notified())
		wantStrings(t, "observers were told", a.told.kinds(), "register ok", "register ok", "overwritten fenced", "release ok")
		b.want("bank", b.addr.String())
	})
}

// Observers are told in order, also where one of them takes its time and the next
// thing happens meanwhile. (Not in a bubble: who waits for a mutex stops its time.)
func TestObserversAreToldInOrder(t *testing.T) {
	w := &world{T: t}
	var a *node
	var resumed sync.Once
	again := make(chan struct{})
	slow := adapter.ObserverFunc(func(e adapter.Event) {
		if e.Kind == adapter.EventResumed {
			resumed.Do(func() {
				w.srv.Levers().ExpireLeases(a.backend)
				select {
				case <-again: // by the wrong order alone
				case <-time.After(100 * time.Millisecond):
				}
			})
		}
	})
	suspended, done := 0, make(chan struct{}, 2)
	last := adapter.ObserverFunc(func(e adapter.Event) {
		switch e.Kind {
		case adapter.EventSuspended:
			if suspended++; suspended == 2 {
				close(again)
			}
		case adapter.EventResumed:
			done <- struct{}{}
		}
	})
	a = w.node("a", "10.0.0.1:7000", func(c *adapter.Config) { c.Observers = append([]adapter.Observer{slow}, append(c.Observers, last)...) })
	a.mustRegister("bank")
	w.srv.Levers().ExpireLeases(a.backend)
	<-done
	<-done
	wantStrings(t, "observers were told", a.told.kinds(), "register ok", "suspended lease_lost", "resumed ok", "suspended lease_lost", "resumed ok")
}

// steal has n overwrite the entry under name with one of its own.
func (w *world) steal(n *node, name naming.Name, epoch uint64) {
	w.Helper()
	e, err := n.backend.Get(w.Context(), name)
	if err != nil {
		w.Fatal(err)
	}
	value, err := record.Encode(record.Record{Address: n.addr, Epoch: epoch})
	if err != nil {
		w.Fatal(err)
	}
	lease, err := n.backend.Lease(w.Context(), ttl)
	if err != nil {
		w.Fatal(err)
	}
	if _, err := lease.Claim(w.Context(), name, value, e.Revision); err != nil {
		w.Fatal(err)
	}
}

// TestS4EndedLeaseServesNothing: from the moment a lease is known to be gone
// nothing is served under it: not even the names whose owners are told last.
func TestS4EndedLeaseServesNothing(t *testing.T) {
	run(t, func(w *world) {
		a := w.node("a", "10.0.0.1:7000")
		var claims []runtime.Claim
		look := runtime.RegisterOptions{Notify: func(e runtime.NameEvent) {
			for _, c := range claims {
				if _, ok := c.Serving(); ok && e.Kind == runtime.NameSuspended {
					t.Errorf("%s is served while the owner of %s is told", c.Name(), e.Name)
				}
			}
		}}
		for _, name := range []string{"bank", "shop", "vault"} {
			claims = append(claims, a.mustRegister(name, look))
		}
		w.srv.Levers().ExpireLeases(a.backend)
		time.Sleep(time.Minute)
	})
}

// TestL2OwnWriteIsNotSomebodyElse: a claim whose answer was lost, and which could
// not be undone, is in the way of the next one. It must be known as our own.
func TestL2OwnWriteIsNotSomebodyElse(t *testing.T) {
	run(t, func(w *world) {
		h, use := w.hooked()
		a := w.node("a", "10.0.0.1:7000", use)
		claim := a.mustRegister("bank", runtime.RegisterOptions{Notify: a.told.notify})
		time.Sleep(time.Second)
		var once sync.Once
		h.after = func(op string, _ naming.Name) (lost error) {
			if op == "claim" {
				once.Do(func() { w.srv.Levers().Cut(h.Backend); lost = naming.ErrOutcomeUnknown })
			}
			return lost
		}
		w.srv.Levers().ExpireLeases(h.Backend)
		time.Sleep(2 * time.Second)
		w.srv.Levers().Heal(h.Backend)
		time.Sleep(2 * time.Second)
		if _, ok := claim.Serving(); !ok {
			t.Error("not held again")
		}
		wantStrings(t, "the owner was told", a.told.notified(), "suspended lease_lost", "resumed ok")
	})
}

// A lease that dies while a name under it is defended leads to two repairs. The
// second finds nothing to do, and takes no seat.
func TestNameIsClaimedAgainOnce(t *testing.T) {
	run(t, func(w *world) {
		h, use := w.hooked()
		a := w.node("a", "10.0.0.1:7000", use)
		claim := a.mustRegister("bank")
		synctest.Wait()
		h.slow.Store(true) // so the minder of the lease comes late
		var once sync.Once
		h.before = func(op string, _ naming.Name) error {
			if op == "claim" {
				once.Do(func() {
					w.srv.Levers().ExpireLeases(h.Backend)
					time.Sleep(100 * time.Millisecond)
				})
			}
			return nil
		}
		w.srv.Levers().Delete(claim.Name())
		time.Sleep(10 * time.Second)
		h.slow.Store(false)
		wantStrings(t, "a was told", a.told.kinds(), "register ok", "suspended lease_lost", "resumed ok")
		if err := claim.Release(w.Context()); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Second)
		if got := w.srv.Stats(); got.Leases != 0 {
			t.Errorf("on the server: %+v", got)
		}
	})
}
