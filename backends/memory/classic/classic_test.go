package classic_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/seed-6593ebad/skywarden/backends/memory/classic"
	"github.com/seed-6593ebad/skywarden/naming"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var bank = must("bank")

func must(s string) naming.Name {
	name, err := naming.ParseName(s)
	if err != nil {
		panic(err)
	}
	return name
}

func register(t testing.TB, b naming.Backend, value string) naming.Lease {
	t.Helper()
	l, err := b.Lease(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.Claim(t.Context(), bank, []byte(value), 0); err != nil {
		t.Fatal(err)
	}
	return l
}

func wantView(t testing.TB, who string, b naming.Backend, want string) {
	t.Helper()
	e, err := b.Get(t.Context(), bank)
	if err != nil || string(e.Value) != want || !e.Held {
		t.Errorf("%s sees %q (held %v, %v), want %q", who, e.Value, e.Held, err, want)
	}
}

func TestNodesThatAreUpFollowTheAttackerAndLaterOnesDoNot(t *testing.T) {
	s := classic.NewInsecureDemonstrationServer()
	owner, resolver, attacker := s.Open(), s.Open(), s.Open()
	lease := register(t, owner, "owner")
	wantView(t, "the resolver before the attack", resolver, "owner")

	register(t, attacker, "attacker")
	wantView(t, "the resolver", resolver, "attacker")
	wantView(t, "the owner itself", owner, "attacker")
	late := s.Open()
	wantView(t, "a node that joined later", late, "owner")

	// A name is never freed: neither the owner's end nor the attacker's changes a view.
	if err := errors.Join(lease.Release(t.Context(), bank), lease.Close(t.Context()), owner.Close(), attacker.Close()); err != nil {
		t.Fatal(err)
	}
	wantView(t, "the resolver after everybody's end", resolver, "attacker")
	wantView(t, "the late node after everybody's end", late, "owner")
	wantView(t, "the latest node", s.Open(), "owner")

	// The next registration is heard by all who are open.
	register(t, s.Open(), "third")
	wantView(t, "the resolver", resolver, "third")
	wantView(t, "the late node", late, "third")
}

func TestWatchShowsTheSplitView(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := classic.NewInsecureDemonstrationServer()
		up, attacker := s.Open(), s.Open()
		next, stop := iter.Pull2(up.Watch(t.Context(), naming.All()))
		defer stop()
		want := func(next func() (naming.Event, error, bool), want string) {
			t.Helper()
			ev, err, _ := next()
			if got := fmt.Sprintf("%v %s %v", ev.Kind, ev.Entry.Value, err); got != want {
				t.Errorf("got event %q, want %q", got, want)
			}
		}
		want(next, "synced  <nil>")
		register(t, up, "owner")
		want(next, "put owner <nil>")
		register(t, attacker, "attacker")
		want(next, "put attacker <nil>")
		want(next, "alive  <nil>")

		nextLate, stopLate := iter.Pull2(s.Open().Watch(t.Context(), naming.Only(bank)))
		defer stopLate()
		want(nextLate, "put owner <nil>")
		want(nextLate, "synced  <nil>")

		time.AfterFunc(time.Second, func() { _ = up.Close() })
		if _, err, _ := next(); !errors.Is(err, naming.ErrClosed) {
			t.Errorf("after Close the watch gave %v, want ErrClosed", err)
		}
	})
}

func TestLeaseEndsOnlyByClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := classic.NewInsecureDemonstrationServer().Open()
		first, second := register(t, b, "1"), register(t, b, "2")
		time.Sleep(48 * time.Hour)
		if left := time.Until(first.Deadline()); left < time.Hour {
			t.Errorf("the deadline is %v ahead", left)
		}
		if err := first.Close(t.Context()); err != nil {
			t.Error(err)
		}
		<-first.Done()
		select {
		case <-second.Done():
			t.Error("another lease ended too")
		default:
		}
		_ = b.Close()
		<-second.Done()
	})
}

func TestCommonErrors(t *testing.T) {
	s := classic.NewInsecureDemonstrationServer()
	b := s.Open()
	l := register(t, b, "x")
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	check := func(what string, err, want error) {
		t.Helper()
		var typed *naming.Error
		if !errors.Is(err, want) || !errors.As(err, &typed) {
			t.Errorf("%s: got %v, want %v", what, err, want)
		}
	}
	_, err := b.Get(t.Context(), naming.Name{})
	check("get of the zero name", err, naming.ErrNameInvalid)
	_, err = b.Get(t.Context(), must("nobody"))
	check("get of an unknown name", err, naming.ErrNotFound)
	_, err = b.Get(canceled, bank)
	check("cancelled get", err, context.Canceled)
	_, err = l.Claim(t.Context(), bank, make([]byte, naming.MaxValueLen+1), 0)
	check("large claim", err, naming.ErrTooLarge)
	_, err = l.Update(t.Context(), naming.Name{}, nil, 0)
	check("update of the zero name", err, naming.ErrNameInvalid)
	check("release of the zero name", l.Release(t.Context(), naming.Name{}), naming.ErrNameInvalid)
	for _, err := range b.Watch(t.Context(), naming.Scope{}) {
		check("watch of the zero scope", err, naming.ErrNameInvalid)
	}
	_ = b.Close()
	_, err = b.Lease(t.Context(), 0)
	check("lease after close", err, naming.ErrClosed)
	_, err = l.Claim(t.Context(), bank, nil, 0)
	check("claim after close", err, naming.ErrClosed)
	if d := naming.Describe(b).Driver; d != "classic-INSECURE" {
		t.Errorf("the driver is called %q", d)
	}
}
