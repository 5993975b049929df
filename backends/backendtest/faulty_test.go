package backendtest_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-6593ebad/skywarden/backends/backendtest"
	"github.com/seed-6593ebad/skywarden/backends/memory"
	"github.com/seed-6593ebad/skywarden/naming"
)

// faulty gives a Backend with faults, and the server behind it.
func faulty(t *testing.T, f backendtest.Faults) (*backendtest.FaultyBackend, *memory.Server) {
	t.Helper()
	s := new(memory.Server)
	b := backendtest.Faulty(s.Open(), f)
	t.Cleanup(func() { _ = b.Close() })
	return b, s
}

func openLease(t *testing.T, b naming.Backend) naming.Lease {
	t.Helper()
	l, err := b.Lease(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func parse(t *testing.T, s string) naming.Name {
	t.Helper()
	n, err := naming.ParseName(s)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func wantInjected(t *testing.T, what string, err, want error) {
	t.Helper()
	var typed *naming.Error
	if !errors.Is(err, want) || !errors.Is(err, backendtest.ErrInjected) || !errors.As(err, &typed) {
		t.Errorf("%s: got error %v, want an injected %q", what, err, want)
	}
}

func TestFaultyWithoutFaultsChangesNothing(t *testing.T) {
	b, s := faulty(t, backendtest.Faults{})
	n := parse(t, "bank")
	l := openLease(t, b)
	rev, err := l.Claim(t.Context(), n, []byte("x"), 0)
	if err != nil {
		t.Fatal(err)
	}
	if rev, err = l.Update(t.Context(), n, []byte("y"), rev); err != nil {
		t.Fatal(err)
	}
	if e, err := b.Get(t.Context(), n); err != nil || string(e.Value) != "y" || e.Revision != rev {
		t.Errorf("got %+v, %v", e, err)
	}
	if who, err := b.WhoAmI(t.Context()); who != memory.LocalPrincipal || err != nil {
		t.Errorf("WhoAmI gives %q, %v", who, err)
	}
	if d := b.Describe(); d.Driver != "memory" {
		t.Errorf("Describe gives %+v", d)
	}
	if err := errors.Join(l.Release(t.Context(), n), l.Close(t.Context()), b.Close()); err != nil {
		t.Error(err)
	}
	if got := s.Stats(); got != (memory.Stats{}) {
		t.Errorf("left behind: %+v", got)
	}
}

func TestFaultySwitches(t *testing.T) {
	b, s := faulty(t, backendtest.Faults{})
	n := parse(t, "bank")
	l := openLease(t, b)

	b.FailNext(backendtest.OpClaim, naming.ErrUnavailable)
	b.FailNext(backendtest.OpClaim, naming.ErrDenied)
	_, err := l.Claim(t.Context(), n, nil, 0)
	wantInjected(t, "first claim", err, naming.ErrUnavailable)
	_, err = l.Claim(t.Context(), n, nil, 0)
	wantInjected(t, "second claim", err, naming.ErrDenied)
	if got := s.Stats(); got.Entries != 0 {
		t.Errorf("a claim that failed before it was sent left %+v", got)
	}
	if _, err = l.Claim(t.Context(), n, nil, 0); err != nil {
		t.Errorf("third claim: %v", err)
	}
	for op, call := range map[backendtest.Op]func() error{
		backendtest.OpGet:        func() error { _, err := b.Get(t.Context(), n); return err },
		backendtest.OpLease:      func() error { _, err := b.Lease(t.Context(), 0); return err },
		backendtest.OpUpdate:     func() error { _, err := l.Update(t.Context(), n, nil, 1); return err },
		backendtest.OpRelease:    func() error { return l.Release(t.Context(), n) },
		backendtest.OpCloseLease: func() error { return openLease(t, b).Close(t.Context()) },
	} {
		b.FailNext(op, naming.ErrUnauthenticated)
		wantInjected(t, string(op), call(), naming.ErrUnauthenticated)
	}

	for op, call := range map[backendtest.Op]func(naming.Lease) error{
		backendtest.OpClaim: func(l naming.Lease) error { _, err := l.Claim(t.Context(), parse(t, "other"), nil, 0); return err },
		backendtest.OpRelease: func(l naming.Lease) error {
			return l.Release(t.Context(), n)
		},
	} {
		l := openLease(t, b)
		b.LoseNext(op)
		wantInjected(t, string(op)+" with a lost answer", call(l), naming.ErrOutcomeUnknown)
		select {
		case <-l.Done():
		default:
			t.Errorf("%s: the outcome is unknown, and the lease lives", op)
		}
		_, err := l.Claim(t.Context(), n, nil, 0)
		if !errors.Is(err, naming.ErrLeaseLost) {
			t.Errorf("claim on the lease that was ended: got error %v, want ErrLeaseLost", err)
		}
		if err := errors.Join(l.Release(t.Context(), n), l.Close(t.Context())); err != nil {
			t.Errorf("release and close of the lease that was ended: %v", err)
		}
		if err := call(openLease(t, b)); err != nil {
			t.Errorf("%s after that: %v", op, err)
		}
	}
}

func TestFaultyLosesAnswersAndReadsBack(t *testing.T) {
	b, s := faulty(t, backendtest.Faults{LostAnswer: 1})
	n := parse(t, "bank")
	l := openLease(t, b)
	rev, err := l.Claim(t.Context(), n, []byte("x"), 0)
	if err != nil {
		t.Fatal(err)
	}
	if e, err := b.Get(t.Context(), n); err != nil || e.Revision != rev {
		t.Errorf("the claim gave revision %d, and there is %+v, %v", rev, e, err)
	}
	if err := l.Release(t.Context(), n); err != nil {
		t.Errorf("release: %v", err)
	}

	b.Set(backendtest.Faults{LostAnswer: 1, Unclear: 1})
	_, err = l.Claim(t.Context(), n, nil, 0)
	wantInjected(t, "claim that cannot be read back", err, naming.ErrOutcomeUnknown)
	if got := s.Stats(); got.Entries != 0 || got.Leases != 0 {
		t.Errorf("after an unknown outcome there is %+v", got)
	}
}

func TestFaultyIsRepeatable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		run := func(seed uint64) (codes []string) {
			b, _ := faulty(t, backendtest.Faults{Seed: seed, Unavailable: 0.3, LostAnswer: 0.3, Unclear: 0.3, Latency: time.Second})
			start := time.Now()
			for range 100 {
				l, err := b.Lease(t.Context(), 0)
				codes = append(codes, naming.Code(err))
				if err == nil {
					_, err = l.Claim(t.Context(), parse(t, "x"), nil, 0)
					codes = append(codes, naming.Code(err), naming.Code(l.Close(t.Context())))
				}
			}
			return append(codes, time.Since(start).String())
		}
		first := run(1)
		if again := run(1); !slices.Equal(first, again) {
			t.Errorf("one seed gave\n%v and\n%v", first, again)
		}
		if other := run(2); slices.Equal(first, other) {
			t.Error("two seeds gave the same faults")
		}
		for _, code := range []string{"ok", "unavailable", "outcome_unknown"} {
			if !slices.Contains(first, code) {
				t.Errorf("%q never happened: %v", code, first)
			}
		}
	})
}

func TestFaultyUndoesCancelledWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, s := faulty(t, backendtest.Faults{Seed: 1, Latency: time.Second})
		n := parse(t, "bank")
		l := openLease(t, b)
		undone := 0
		for range 50 {
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			_, err := l.Claim(ctx, n, []byte("x"), 0)
			cancel()
			if err == nil {
				err = l.Release(t.Context(), n)
			} else if undone++; !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("claim: %v", err)
			} else {
				err = nil
			}
			synctest.Wait()
			if got := s.Stats(); got.Entries != 0 || err != nil {
				t.Fatalf("after a claim and its undoing there is %+v, %v", got, err)
			}
		}
		if undone == 0 || undone == 50 {
			t.Errorf("%d of 50 claims were cancelled in time, want some", undone)
		}
		for range 50 {
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			if extra, err := b.Lease(ctx, 0); err == nil {
				_ = extra.Close(t.Context())
			}
			cancel()
		}
		synctest.Wait()
		if got := s.Stats(); got.Leases != 1 {
			t.Errorf("leases whose opening was cancelled are there: %+v", got)
		}
	})
}

// The watch of a Backend with hiccups keeps the contract: see also the suite,
// which package memory runs on one.
func TestFaultyWatchTellsTheDifference(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, s := faulty(t, backendtest.Faults{Seed: 3, Hiccup: 0.4})
		downs, deletes := 0, 0
		there := map[naming.Name]string{}
		isDown := false
		step := 0
		for ev, err := range b.Watch(t.Context(), naming.All()) {
			if err != nil {
				t.Fatal(err)
			}
			switch ev.Kind {
			case naming.Put:
				there[ev.Entry.Name] = string(ev.Entry.Value)
			case naming.Delete:
				deletes++
				if _, known := there[ev.Entry.Name]; !known {
					t.Errorf("%v was deleted and never there", ev.Entry.Name)
				}
				delete(there, ev.Entry.Name)
			case naming.Down:
				if isDown {
					t.Error("down twice")
				}
				if isDown = true; !errors.Is(ev.Err, backendtest.ErrInjected) {
					t.Errorf("down by %v", ev.Err)
				}
				downs++
			case naming.Synced:
				isDown = false
			}
			if step++; step < 300 {
				n := parse(t, fmt.Sprintf("n%d", step/3%7)) // put, put again, deleted
				if step%3 == 2 {
					s.Levers().Delete(n)
				} else {
					s.Levers().Put(n, fmt.Append(nil, step))
				}
				continue
			}
			if step == 300 {
				b.Set(backendtest.Faults{})
			}
			if ev.Kind == naming.Alive && !isDown {
				break
			}
		}
		if downs < 20 || deletes < 20 {
			t.Errorf("there were %d hiccups and %d deletions, want many", downs, deletes)
		}
		if got := s.Stats(); got.Entries != len(there) {
			t.Errorf("the server has %d entries, the watch told of %d", got.Entries, len(there))
		}
		for n, value := range there {
			if e, err := b.Get(t.Context(), n); err != nil || string(e.Value) != value {
				t.Errorf("the watch told of %v=%q, and there is %q, %v", n, value, e.Value, err)
			}
		}
	})
}

func ExampleFaulty() {
	ctx := context.Background()
	var server memory.Server
	backend := backendtest.Faulty(server.Open(), backendtest.Faults{Seed: 1})
	defer backend.Close()

	lease, err := backend.Lease(ctx, 0)
	if err != nil {
		fmt.Println(err)
		return
	}
	bank, _ := naming.ParseName("bank")
	backend.LoseNext(backendtest.OpClaim)
	_, err = lease.Claim(ctx, bank, []byte("here"), 0)
	fmt.Println(err)
	<-lease.Done() // and with the lease goes whatever the claim did
	_, err = backend.Get(ctx, bank)
	fmt.Println(err)
	// Output:
	// memory: claim bank: outcome unknown: injected fault
	// memory: get bank: not found
}
