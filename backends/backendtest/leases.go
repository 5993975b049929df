package backendtest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/seed-6593ebad/skywarden/naming"
)

// maxClose is the longest that Backend.Close may take.
const maxClose = 2 * time.Second

// closeFreesAll: what was claimed under a lease is free together, and nothing
// else is.
func closeFreesAll(s *suite) {
	t := s.t
	a, reader := s.open(OwnerA), s.open(Reader)
	l, other := s.lease(a), s.lease(a)
	var names []naming.Name
	for range 20 {
		names = append(names, s.name("shared."))
		claim(t, l, names[len(names)-1], "x")
	}
	keeps := s.name("shared.")
	rev := claim(t, other, keeps, "stays")
	for range 2 {
		if err := l.Close(t.Context()); err != nil {
			t.Errorf("close lease: %v", err)
		}
	}
	wantDone(t, l, slack)
	for _, n := range names {
		wantNothing(t, reader, n)
	}
	wantEntry(t, reader, held(keeps, "stays", rev))

	for _, c := range writes(l, names[0], 1)[:3] {
		if err := c.call(t.Context()); !errors.Is(err, naming.ErrClosed) && !errors.Is(err, naming.ErrLeaseLost) {
			t.Errorf("%s on a closed lease: got error %v, want ErrClosed or ErrLeaseLost", c.op, err)
		}
	}
	wantNothing(t, reader, names[0])
	claim(t, other, names[0], "free at once")
}

// deadlineMoves: while a lease lives its deadline is ahead, and never further
// than what the server granted.
func deadlineMoves(s *suite) {
	t := s.t
	a := s.open(OwnerA)
	opening, cancel := context.WithCancel(t.Context())
	l, err := a.Lease(opening, s.TTL)
	cancel() // which bounds the opening, and not the lease's life
	if err != nil {
		t.Fatalf("lease of %v: %v", s.TTL, err)
	}
	t.Cleanup(func() { _ = l.Close(context.WithoutCancel(t.Context())) })
	n := s.name("a.")
	rev := claim(t, l, n, "x")
	first := l.Deadline()
	if !strings.Contains(first.String(), " m=") {
		t.Errorf("the deadline %v has no monotonic reading", first)
	}
	end := time.NewTimer(s.TTL + s.TTL/2)
	defer end.Stop()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	last := first
	for running := true; running; {
		select {
		case <-end.C:
			running = false
		case <-l.Done():
			t.Fatalf("a lease ended after %v, while the server was healthy", time.Since(first.Add(-s.TTL)))
		case <-tick.C:
		}
		d := l.Deadline()
		now := time.Now()
		if d.Before(last) {
			t.Errorf("the deadline went back by %v", last.Sub(d))
		}
		if ahead := d.Sub(now); ahead > s.TTL || ahead <= 0 {
			t.Errorf("the deadline is %v ahead, with a TTL of %v", ahead, s.TTL)
		}
		last = d
	}
	if !last.After(first) {
		t.Errorf("after %v the deadline is still the first", s.TTL+s.TTL/2)
	}
	wantEntry(t, a, held(n, "x", rev))
}

func refusesBadTTLs(s *suite) {
	t := s.t
	b := s.open(OwnerA)
	d := naming.Describe(b.Backend)
	bad := []time.Duration{-time.Second}
	good := []time.Duration{s.TTL}
	if d.DefaultTTL > 0 {
		good = append(good, 0)
	}
	if d.MinTTL > 0 {
		bad, good = append(bad, d.MinTTL-1), append(good, d.MinTTL)
	}
	if d.MaxTTL > 0 {
		bad, good = append(bad, d.MaxTTL+1), append(good, d.MaxTTL)
	}
	for _, ttl := range bad {
		l, err := b.Lease(t.Context(), ttl)
		wantErr(t, fmt.Sprintf("lease of %v", ttl), err, naming.ErrInsecureConfig)
		if err == nil {
			_ = l.Close(t.Context())
		}
	}
	for _, ttl := range good {
		l, err := b.Lease(t.Context(), ttl)
		if err != nil {
			t.Errorf("lease of %v: %v", ttl, err)
			continue
		}
		if ttl == 0 {
			ttl = d.DefaultTTL
		}
		if ahead := time.Until(l.Deadline()); ahead > ttl || ahead <= 0 {
			t.Errorf("the deadline of a new lease of %v is %v ahead", ttl, ahead)
		}
		if err := l.Close(t.Context()); err != nil {
			t.Errorf("close of a lease of %v: %v", ttl, err)
		}
	}
}

// endedByAdministrator: the owner notices, the names are free, and the lease is
// of no use any more.
func endedByAdministrator(s *suite) {
	t := s.t
	a, reader := s.open(OwnerA), s.open(Reader)
	l, lb := s.lease(a), s.lease(s.open(OwnerB))
	one, two := s.name("shared."), s.name("shared.")
	claim(t, l, one, "1")
	revTwo := claim(t, l, two, "2")
	w1, w2 := s.observe(reader, naming.Only(one)), s.observe(a, naming.Only(two))
	w1.untilThere(map[naming.Name]string{one: "1"})
	w2.untilThere(map[naming.Name]string{two: "2"})

	s.ExpireLease(t, one)
	w1.untilGone(s.FreeWithin, one)
	w2.untilGone(s.FreeWithin, two)
	wantNothing(t, reader, two)
	rev := claim(t, lb, one, "next owner")
	wantDone(t, l, s.TTL+slack)
	wantErr(t, "claim on a lost lease", errOf(l.Claim(t.Context(), two, nil, 0)), naming.ErrLeaseLost)
	wantErr(t, "update on a lost lease", errOf(l.Update(t.Context(), two, nil, revTwo)), naming.ErrLeaseLost)
	for _, n := range []naming.Name{one, two} {
		if err := l.Release(t.Context(), n); err != nil {
			t.Errorf("release on a lost lease: %v", err)
		}
	}
	if err := l.Close(t.Context()); err != nil {
		t.Errorf("close of a lost lease: %v", err)
	}
	wantNothing(t, reader, two)
	wantEntry(t, reader, held(one, "next owner", rev))
	claim(t, s.lease(a), two, "again")
}

func errOf(_ naming.Revision, err error) error { return err }

func saysWhatItIs(s *suite) {
	t := s.t
	a, b := s.open(OwnerA), s.open(OwnerB)
	d := naming.Describe(a.Backend)
	switch {
	case d.Driver == "":
		t.Error("Describe gives no Driver, which logs and errors need")
	case d.MinTTL > d.DefaultTTL || d.MaxTTL > 0 && d.DefaultTTL > d.MaxTTL:
		t.Errorf("the default TTL %v is not between %v and %v", d.DefaultTTL, d.MinTTL, d.MaxTTL)
	case s.TTL < d.MinTTL || d.MaxTTL > 0 && s.TTL > d.MaxTTL:
		t.Errorf("the harness's TTL %v is not between %v and %v", s.TTL, d.MinTTL, d.MaxTTL)
	case d.NamesPerLease < 0:
		t.Errorf("NamesPerLease is %d", d.NamesPerLease)
	}
	ida, ok := a.Backend.(naming.Identifier)
	if !ok {
		return
	}
	whoA, err := ida.WhoAmI(t.Context())
	if err != nil {
		t.Errorf("WhoAmI: %v", err)
	}
	whoB, err := b.Backend.(naming.Identifier).WhoAmI(t.Context())
	if err != nil {
		t.Errorf("WhoAmI: %v", err)
	}
	if whoA == "" || whoA == whoB {
		t.Errorf("WhoAmI gives %q and %q for two principals", whoA, whoB)
	}
}

// backendClose: everything that was opened ends, and nothing goes on after it.
func backendClose(s *suite) {
	t := s.t
	reader, other := s.open(Reader), s.open(OwnerA)
	b := s.open(OwnerA)
	l, second := s.lease(b), s.lease(b)
	one, two, stays := s.name("a."), s.name("a."), s.name("a.")
	rev := claim(t, l, one, "1")
	claim(t, second, two, "2")
	revStays := claim(t, s.lease(other), stays, "of another Backend")
	o := s.observe(b, naming.All())
	o.until(soon, "it is synced", inSync)

	start := time.Now()
	if err := b.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
	if took := time.Since(start); took > maxClose+slack {
		t.Errorf("Close took %v, more than %v", took, maxClose)
	}
	wantNothing(t, reader, one)
	wantNothing(t, reader, two)
	wantEntry(t, reader, held(stays, "of another Backend", revStays))
	wantDone(t, l, slack)
	wantDone(t, second, slack)
	select {
	case <-o.ended:
		wantErr(t, "the watch that was running", o.err, naming.ErrClosed)
	case <-time.After(slack):
		t.Error("the watch goes on after Close")
	}

	calls := append(reads(b, stays, naming.All()), writes(l, one, rev)[:3]...)
	calls = append(calls, call{"lease", func(ctx context.Context) error { _, err := b.Lease(ctx, s.TTL); return err }})
	for _, c := range calls {
		wantErr(t, c.op+" after Close", c.call(t.Context()), naming.ErrClosed)
	}
	for what, err := range map[string]error{"release": l.Release(t.Context(), one), "close lease": l.Close(t.Context())} {
		if err != nil && !errors.Is(err, naming.ErrClosed) {
			t.Errorf("%s after Close: got error %v, want nil or ErrClosed", what, err)
		}
	}
	if err := b.Close(); err != nil {
		t.Errorf("close again: %v", err)
	}
	wantNothing(t, reader, one)
}

// cancelledContext: a context that has ended already ends each call at once,
// and nothing is done.
func cancelledContext(s *suite) {
	t := s.t
	b, reader := s.open(OwnerA), s.open(Reader)
	l, closing := s.lease(b), s.lease(b)
	n, free, frees := s.name("a."), s.name("a."), s.name("a.")
	rev := claim(t, l, n, "x")
	claim(t, closing, frees, "x")

	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	late, cancel := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
	defer cancel()
	for _, ctx := range []context.Context{canceled, late} {
		calls := append(reads(b, n, naming.Only(n)), writes(l, n, rev)...)
		calls = append(calls, writes(l, free, 0)[0],
			call{"lease", func(ctx context.Context) error { _, err := b.Lease(ctx, s.TTL); return err }})
		for _, c := range calls {
			start := time.Now()
			wantErr(t, c.op, c.call(ctx), ctx.Err())
			if took := time.Since(start); took > cancelBound {
				t.Errorf("%s: took %v with a context that had ended", c.op, took)
			}
		}
		wantEntry(t, reader, held(n, "x", rev))
		wantNothing(t, reader, free)
	}

	wantErr(t, "close lease", closing.Close(canceled), context.Canceled)
	wantDone(t, closing, slack) // it is not renewed any more
	if err := closing.Close(t.Context()); err != nil {
		t.Errorf("close lease again: %v", err)
	}
	wantNothing(t, reader, frees)
}
