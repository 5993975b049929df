package adapter_test

import (
	"context"
	"iter"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-6593ebad/skywarden/adapter"
	"github.com/seed-6593ebad/skywarden/adapter/record"
	"github.com/seed-6593ebad/skywarden/backends/memory"
	"github.com/seed-6593ebad/skywarden/naming"
)

// Who may read single names only still has them mirrored, waited for and defended.
func TestNamesAreWatchedOneByOneWhereAllMayNotBe(t *testing.T) {
	run(t, func(w *world) {
		bank, shop := naming.Only(parse(t, "bank")), naming.Only(parse(t, "shop"))
		as := func(p string, g memory.Grant) func(*adapter.Config) {
			cred, err := w.srv.Grant(p, g)
			if err != nil {
				t.Fatal(err)
			}
			b := w.srv.OpenAs(cred)
			w.Cleanup(func() { _ = b.Close() })
			return func(c *adapter.Config) { c.Backend = b }
		}
		useA := as("a", memory.Grant{Claim: []naming.Scope{naming.All()}})
		useB := as("b", memory.Grant{Claim: []naming.Scope{shop}, Read: []naming.Scope{bank}})
		a, b := w.node("a", "10.0.0.1:7000", useA), w.node("b", "10.0.0.2:7000", useB)
		own := b.mustRegister("shop")
		time.Sleep(time.Second)
		found := make(chan struct{})
		go func() {
			_, err := b.Query(w.Context(), parse(t, "bank"))
			if err != nil {
				t.Error(err)
			}
			close(found)
		}()
		time.Sleep(time.Minute)
		a.mustRegister("bank")
		select {
		case <-found:
		case <-time.After(time.Second):
			t.Error("Query was not woken")
		}
		w.srv.Levers().Delete(own.Name())
		time.Sleep(time.Second)
		a.want("shop", b.addr.String())
		b.want("other", "denied")
	})
}

// A watch that was silent for too long is live again with its next event, of
// whatever kind: a busy one is never Alive.
func TestL3BusyWatchRecoversFromSilence(t *testing.T) {
	run(t, func(w *world) {
		h, use := w.hooked()
		var pause atomic.Bool
		h.events = func(in iter.Seq2[naming.Event, error]) iter.Seq2[naming.Event, error] {
			return func(yield func(naming.Event, error) bool) {
				for e, err := range in {
					if pause.Load() {
						time.Sleep(20 * time.Second)
						pause.Store(false)
					}
					if !yield(e, err) {
						return
					}
				}
			}
		}
		a, b := w.node("a", "10.0.0.1:7000"), w.node("b", "10.0.0.2:7000", use)
		a.mustRegister("bank")
		b.want("bank", a.addr.String())
		pause.Store(true)
		for range 30 * 10 {
			c := a.mustRegister("busy")
			time.Sleep(50 * time.Millisecond)
			_ = c.Release(w.Context())
			time.Sleep(50 * time.Millisecond)
		}
		b.want("bank", a.addr.String())
	})
}

// Until a watch is synced, what it has not told may still be there.
func TestS5NothingIsAbsentBeforeSynced(t *testing.T) {
	run(t, func(w *world) {
		h, use := w.hooked()
		h.events = func(in iter.Seq2[naming.Event, error]) iter.Seq2[naming.Event, error] {
			return func(yield func(naming.Event, error) bool) {
				if !yield(naming.Event{Kind: naming.Down, Err: naming.ErrUnavailable}, nil) || !yield(naming.Event{Kind: naming.Alive}, nil) {
					return
				}
				time.Sleep(3 * time.Second) // a long listing
				for e, err := range in {
					if !yield(e, err) {
						return
					}
				}
			}
		}
		a, b := w.node("a", "10.0.0.1:7000"), w.node("b", "10.0.0.2:7000", use)
		a.mustRegister("bank")
		b.want("bank", a.addr.String())
	})
}

// That nobody asks for a name any more does not bring the server back.
func TestBackendIsUpOnlyWhenHeard(t *testing.T) {
	run(t, func(w *world) {
		_, use := w.choosy(naming.Description{InProcess: true})
		b := w.node("b", "10.0.0.2:7000", use)
		b.want("bank", "not_found")
		w.srv.Levers().Pause()
		time.Sleep(time.Hour)
		wantStrings(t, "told", b.told.kinds(), "backend_down unavailable")
		w.srv.Levers().Resume()
	})
}

// What is not in the mirror is Unavailable soon, however patient the driver is.
func TestS5UnavailableWithinASecond(t *testing.T) {
	run(t, func(w *world) {
		a := w.node("a", "10.0.0.1:7000")
		synctest.Wait()
		w.srv.Levers().Pause()
		c := w.node("c", "10.0.0.3:7000")
		time.Sleep(10 * time.Second)
		for _, n := range []*node{a, c} {
			start := time.Now()
			n.want("bank", "unavailable")
			if d := time.Since(start); d > time.Second {
				t.Errorf("took %s", d)
			}
		}
		w.srv.Levers().Resume()
	})
}

// TestL3SilentWatchIsNoticed: a watch that hangs without an error counts as down
// after 10 s.
func TestL3SilentWatchIsNoticed(t *testing.T) {
	run(t, func(w *world) {
		h, use := w.hooked()
		hang := make(chan struct{})
		h.events = func(in iter.Seq2[naming.Event, error]) iter.Seq2[naming.Event, error] {
			return func(yield func(naming.Event, error) bool) {
				for e, err := range in {
					if !yield(e, err) {
						return
					}
					if e.Kind == naming.Synced {
						<-hang
					}
				}
			}
		}
		a := w.node("a", "10.0.0.1:7000")
		a.mustRegister("bank")
		b := w.node("b", "10.0.0.2:7000", use)
		b.want("bank", a.addr.String())
		time.Sleep(11 * time.Second)
		b.want("bank", "stale "+a.addr.String())
		close(hang)
		time.Sleep(2 * time.Second)
		b.want("bank", a.addr.String())
	})
}

// A watch that ends is begun again, and what it does not show any more is gone.
func TestEndedWatchIsBegunAgain(t *testing.T) {
	run(t, func(w *world) {
		h, use := w.hooked()
		h.events = func(in iter.Seq2[naming.Event, error]) iter.Seq2[naming.Event, error] {
			return func(yield func(naming.Event, error) bool) {
				for e, err := range in {
					if !yield(e, err) || e.Kind == naming.Synced {
						return // without a word: less than the contract asks for
					}
				}
			}
		}
		a := w.node("a", "10.0.0.1:7000")
		claim := a.mustRegister("bank")
		b := w.node("b", "10.0.0.2:7000", use)
		b.want("bank", a.addr.String())
		_ = claim.Release(w.Context())
		time.Sleep(time.Second)
		b.want("bank", "not_found")
	})
}

// Who waits for a name of the own node need not wait for the mirror.
func TestOwnNameWakesQuery(t *testing.T) {
	run(t, func(w *world) {
		h, use := w.hooked()
		h.events = func(in iter.Seq2[naming.Event, error]) iter.Seq2[naming.Event, error] {
			return func(yield func(naming.Event, error) bool) {
				for e, err := range in {
					if e.Kind != naming.Put && !yield(e, err) {
						return
					}
				}
			}
		}
		a := w.node("a", "10.0.0.1:7000", use)
		ctx, cancel := context.WithTimeout(w.Context(), time.Second)
		defer cancel()
		found := make(chan error)
		go func() { _, err := a.Query(ctx, parse(t, "bank")); found <- err }()
		synctest.Wait()
		a.mustRegister("bank")
		if err := <-found; err != nil {
			t.Error(err)
		}
	})
}

// An entry that no lease holds is nobody's, also where the backend is asked.
func TestUnheldEntryIsNotFound(t *testing.T) {
	run(t, func(w *world) {
		_, use := w.choosy(naming.Description{InProcess: true})
		b := w.node("b", "10.0.0.2:7000", use)
		value, err := record.Encode(record.Record{Address: b.addr, Epoch: 1})
		if err != nil {
			t.Fatal(err)
		}
		w.srv.Levers().Put(parse(t, "left"), value)
		if _, err := b.Lookup(w.Context(), parse(t, "left")); naming.Code(err) != "not_found" {
			t.Errorf("got %v", err)
		}
		b.want("left", "not_found")
	})
}

// TestS8WatchForbiddenLater: when the right to watch all names is taken away, own
// names are defended on, and who waits for a name is woken all the same.
func TestS8WatchForbiddenLater(t *testing.T) {
	run(t, func(w *world) {
		bank, shop := naming.Only(parse(t, "bank")), naming.Only(parse(t, "shop"))
		open := func(principal string, g memory.Grant) func(*adapter.Config) {
			cred, err := w.srv.Grant(principal, g)
			if err != nil {
				t.Fatal(err)
			}
			backend := w.srv.OpenAs(cred)
			w.Cleanup(func() { _ = backend.Close() })
			return func(c *adapter.Config) { c.Backend = backend }
		}
		a := w.node("a", "10.0.0.1:7000", open("a", memory.Grant{Claim: []naming.Scope{naming.All()}}))
		b := w.node("b", "10.0.0.2:7000", open("b", memory.Grant{Claim: []naming.Scope{shop}, Read: []naming.Scope{naming.All()}}))
		own := b.mustRegister("shop")
		found := make(chan error, 1)
		go func() { _, err := b.Query(w.Context(), parse(t, "bank")); found <- err }()
		time.Sleep(5 * time.Second)
		if _, err := w.srv.Grant("b", memory.Grant{Claim: []naming.Scope{shop}, Read: []naming.Scope{bank}}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Second)
		w.srv.Levers().Delete(own.Name())
		a.mustRegister("bank")
		time.Sleep(time.Second)
		a.want("shop", b.addr.String())
		select {
		case err := <-found:
			if err != nil {
				t.Error(err)
			}
		default:
			t.Error("Query was not woken")
		}
	})
}
