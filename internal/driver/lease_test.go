package driver

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"github.com/seed-6593ebad/skywarden/naming"
)

// A table is a session on a map. Its writes take a second each, or fail with what
// the test says.
type table struct {
	mu       sync.Mutex
	entries  map[naming.Name]string
	revision naming.Revision
	fail     error // of the next Put or Remove
	renew    error // of every Renew
	renewals []time.Time
	ended    int
	hangs    bool // End does
}

func (s *table) Renew(context.Context, time.Duration) (time.Time, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.renewals = append(s.renewals, time.Now())
	return time.Now().Add(10 * time.Second), s.renew
}

func (s *table) Put(_ context.Context, slot *Slot, value []byte, guard Guard) error {
	time.Sleep(time.Second) // in a bubble
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.fail; err != nil {
		s.fail = nil
		return err
	}
	if guard.Own && guard.Revision != slot.Revision() {
		return &naming.TakenError{Entry: naming.Entry{Name: slot.Name, Revision: slot.Revision()}}
	}
	s.revision++
	s.entries[slot.Name] = string(value)
	slot.Hold(s.revision, value)
	return nil
}

func (s *table) Remove(_ context.Context, slot *Slot) error {
	time.Sleep(time.Second)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.fail; err != nil {
		s.fail = nil
		return err
	}
	delete(s.entries, slot.Name)
	slot.Hold(0, nil)
	return nil
}

func (s *table) End(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended++
	if s.hangs {
		<-ctx.Done()
		return naming.ErrUnavailable
	}
	return nil
}

func (s *table) get(n naming.Name) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.entries[n]
}

func (s *table) failNext(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fail = err
}

// inBubble runs a test with a lease of 10 s on a table, where time takes none.
func inBubble(t *testing.T, test func(t *testing.T, life *Life, l *Lease, s *table, n naming.Name)) {
	t.Helper()
	n, err := naming.ParseName("game.lobby")
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		life := NewLife(t.Context(), "table", zerolog.Nop())
		s := &table{entries: map[naming.Name]string{}}
		l, err := life.NewLease(10*time.Second, time.Now().Add(10*time.Second), s, func(*Lease) {})
		if err != nil {
			t.Fatal(err)
		}
		test(t, life, l, s, n)
		if err := life.Close(time.Second); err != nil {
			t.Errorf("close: %v", err)
		}
		if s.ended == 0 {
			t.Error("the lease was not ended")
		}
	})
}

// What a caller gave up is undone, and the next call for the name waits for that.
func TestGivenUpWritesAreUndone(t *testing.T) {
	inBubble(t, func(t *testing.T, _ *Life, l *Lease, s *table, n naming.Name) {
		brief, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		if _, err := l.Claim(brief, n, []byte("first"), 0); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the call that was given up: %v", err)
		}
		start := time.Now()
		rev, err := l.Claim(t.Context(), n, []byte("second"), 0)
		if err != nil || time.Since(start).Round(time.Second) != 3*time.Second {
			t.Errorf("the next claim: %v after %v, want 3s: the first, its undoing, and itself", err, time.Since(start))
		}
		brief, cancel = context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		if _, err := l.Update(brief, n, []byte("third"), rev); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the update that was given up: %v", err)
		}
		time.Sleep(3 * time.Second)
		if got := s.get(n); got != "second" {
			t.Errorf("after an update that was given up there is %q", got)
		}
	})
}

// After a write whose outcome is not known the lease ends.
func TestUnknownOutcomeEndsTheLease(t *testing.T) {
	inBubble(t, func(t *testing.T, _ *Life, l *Lease, s *table, n naming.Name) {
		s.failNext(fmt.Errorf("%w: lost", naming.ErrOutcomeUnknown))
		if _, err := l.Claim(t.Context(), n, nil, 0); !errors.Is(err, naming.ErrOutcomeUnknown) {
			t.Errorf("claim: %v", err)
		}
		synctest.Wait()
		select {
		case <-l.Done():
		default:
			t.Error("the lease goes on")
		}
		if s.ended != 1 {
			t.Errorf("the lease was ended %d times on the server, want once", s.ended)
		}
		if _, err := l.Claim(t.Context(), n, nil, 0); !errors.Is(err, naming.ErrLeaseLost) {
			t.Errorf("the next claim: %v", err)
		}
	})
}

// What could not be deleted is deleted after the next renewal.
func TestLeftoversAreTidied(t *testing.T) {
	inBubble(t, func(t *testing.T, _ *Life, l *Lease, s *table, n naming.Name) {
		if _, err := l.Claim(t.Context(), n, []byte("x"), 0); err != nil {
			t.Fatal(err)
		}
		s.failNext(naming.ErrUnavailable)
		if err := l.Release(t.Context(), n); !errors.Is(err, naming.ErrUnavailable) {
			t.Errorf("release: %v", err)
		}
		time.Sleep(2*time.Second + 2*time.Second) // a renewal, and its work
		if got := s.get(n); got != "" {
			t.Errorf("%q is still there", got)
		}
	})
}

// Renewals come every fifth of the TTL, sooner after a failure, slower after a
// refusal, and end with the deadline.
func TestRenewals(t *testing.T) {
	for what, c := range map[string]struct {
		err  error
		want time.Duration // between the first two
		lost time.Duration // since the start; 0: not
	}{
		"in good health":       {nil, 2 * time.Second, 0},
		"without an answer":    {naming.ErrUnavailable, 100 * time.Millisecond, 10 * time.Second},
		"refused":              {naming.ErrUnauthenticated, 500 * time.Millisecond, 10 * time.Second},
		"of what is not there": {naming.ErrLeaseLost, 0, 2 * time.Second},
	} {
		t.Run(what, func(t *testing.T) {
			inBubble(t, func(t *testing.T, _ *Life, l *Lease, s *table, _ naming.Name) {
				s.mu.Lock()
				s.renew = c.err
				s.mu.Unlock()
				start := time.Now()
				lost := time.Duration(0)
				select {
				case <-l.Done():
					lost = time.Since(start)
				case <-time.After(30 * time.Second):
				}
				if lost != c.lost {
					t.Errorf("lost after %v, want %v", lost, c.lost)
				}
				s.mu.Lock()
				defer s.mu.Unlock()
				if c.want > 0 && s.renewals[1].Sub(s.renewals[0]) != c.want {
					t.Errorf("renewed after %v, want %v", s.renewals[1].Sub(s.renewals[0]), c.want)
				}
			})
		})
	}
}

// A life that has ended starts nothing, and calls say so.
func TestEndOfALife(t *testing.T) {
	inBubble(t, func(t *testing.T, life *Life, l *Lease, _ *table, n naming.Name) {
		within, cancel := life.Bound(t.Context(), time.Hour)
		defer cancel()
		if err := life.Close(time.Second); err != nil {
			t.Errorf("close: %v", err)
		}
		<-within.Done()
		if err := life.Start(func() { t.Error("started after the end") }); !errors.Is(err, naming.ErrClosed) {
			t.Errorf("start: %v", err)
		}
		if _, err := l.Claim(t.Context(), n, nil, 0); !errors.Is(err, naming.ErrClosed) {
			t.Errorf("claim: %v", err)
		}
		if _, err := life.NewLease(time.Second, time.Now(), &table{}, func(*Lease) {}); !errors.Is(err, naming.ErrClosed) {
			t.Errorf("new lease: %v", err)
		}
		if err := life.Explain(t.Context(), naming.ErrUnavailable); !errors.Is(err, naming.ErrClosed) {
			t.Errorf("explained: %v", err)
		}
	})
}

// However many are ending a lease at a server that hangs, a Close takes no longer
// than one of them, and no longer than its context.
func TestEndsDoNotQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		life := NewLife(t.Context(), "table", zerolog.Nop())
		l, err := life.NewLease(time.Minute, time.Now().Add(time.Minute), &table{hangs: true}, func(*Lease) {})
		if err != nil {
			t.Fatal(err)
		}
		l.Lose(naming.ErrLeaseLost)
		var closing sync.WaitGroup
		for range 2 {
			closing.Go(func() {
				if err := l.Close(t.Context()); !errors.Is(err, naming.ErrUnavailable) {
					t.Errorf("close: %v", err)
				}
			})
		}
		synctest.Wait()
		start := time.Now()
		closing.Go(func() {
			if err := life.Close(closeTimeout); !errors.Is(err, naming.ErrUnavailable) {
				t.Errorf("close of all: %v", err)
			}
			if took := time.Since(start); took > closeTimeout {
				t.Errorf("close of all took %v, want %v at most", took, closeTimeout)
			}
		})
		synctest.Wait()
		brief, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		if err := l.Close(brief); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) > time.Millisecond {
			t.Errorf("a close of one millisecond took %v: %v", time.Since(start), err)
		}
		closing.Wait()
	})
}

// A watch tells each change once, also over an outage and a restored snapshot,
// where revisions recur.
func TestWatchTellsDifferences(t *testing.T) {
	entry := func(s string, rev naming.Revision, value string) naming.Entry {
		n, err := naming.ParseName(s)
		if err != nil {
			t.Fatal(err)
		}
		return naming.Entry{Name: n, Value: []byte(value), Revision: rev, Held: true}
	}
	steps := []func(tell *Teller) error{
		func(tell *Teller) error {
			tell.Listing([]naming.Entry{entry("a", 1, "1"), entry("b", 2, "2")})
			tell.Put(entry("a", 1, "1")) // known
			tell.Put(entry("a", 3, "3"))
			tell.Delete(entry("c", 0, "").Name, 9) // not known
			return naming.ErrUnavailable
		},
		func(*Teller) error { return naming.ErrUnavailable }, // still down: told once
		func(tell *Teller) error { // restored: the same revision, another value
			tell.Listing([]naming.Entry{entry("a", 3, "other")})
			return nil // again, no outage
		},
		func(tell *Teller) error {
			tell.Listing([]naming.Entry{entry("a", 3, "other")})
			return naming.ErrDenied
		},
	}
	synctest.Test(t, func(t *testing.T) {
		life := NewLife(t.Context(), "table", zerolog.Nop())
		defer life.Close(time.Second)
		var told []string
		for event, err := range life.Watch(t.Context(), naming.All(), func(_ context.Context, tell *Teller) error {
			step := steps[0]
			steps = steps[1:]
			return step(tell)
		}) {
			if err != nil {
				told = append(told, naming.Code(err))
				continue
			}
			text := event.Kind.String()
			if !event.Entry.Name.IsZero() {
				text += fmt.Sprintf(" %s@%d", event.Entry.Name, event.Entry.Revision)
			}
			told = append(told, text)
		}
		want := []string{"put a@1", "put b@2", "synced", "put a@3", "down", "put a@3", "delete b@2", "synced", "denied"}
		if !slices.Equal(told, want) {
			t.Errorf("got  %q\nwant %q", told, want)
		}
	})
}
