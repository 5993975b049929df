package backendtest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/seed-6593ebad/skywarden/naming"
)

// tellsChanges: first what is there, then Synced, then what happens.
func tellsChanges(s *suite) {
	t := s.t
	a, reader := s.open(OwnerA), s.open(Reader)
	l := s.lease(a)
	prefix, family := s.family()
	one, two, three := name(prefix+"one"), name(prefix+"two"), name(prefix+"deep.three")
	rev := claim(t, l, one, "1")
	claim(t, l, two, "")

	o, only, all := s.observe(reader, family), s.observe(reader, naming.Only(one)), s.observe(a, naming.All())
	want := map[naming.Name]string{one: "1", two: ""}
	o.until(soon, "it is synced", func(o *observer) bool {
		for n := range want {
			if e, told := o.initial[n]; inSync(o) && (!told || string(e.Value) != want[n]) {
				t.Errorf("at the first Synced the watch had not told of %v", n)
			}
		}
		return inSync(o)
	})
	o.untilThere(want)
	only.untilSynced(soon)
	only.untilThere(map[naming.Name]string{one: "1"})
	all.untilSynced(soon)
	all.untilItAgrees(soon, reader, []naming.Name{one, two})

	next, err := l.Update(t.Context(), one, []byte("1b"), rev)
	if err != nil {
		t.Fatalf("update: %v", err)
	}
	if _, err := l.Claim(t.Context(), one, []byte("1c"), next); err != nil {
		t.Fatalf("claim over: %v", err)
	}
	claim(t, l, three, "3")
	if err := l.Release(t.Context(), two); err != nil {
		t.Fatalf("release: %v", err)
	}
	o.untilThere(map[naming.Name]string{one: "1c", three: "3"})
	o.untilGone(soon, two)
	only.untilThere(map[naming.Name]string{one: "1c"})
	all.untilItAgrees(soon, reader, []naming.Name{one, two, three})

	claim(t, l, two, "2 again")
	o.untilThere(map[naming.Name]string{one: "1c", two: "2 again", three: "3"})
	if err := l.Close(t.Context()); err != nil {
		t.Fatalf("close lease: %v", err)
	}
	for _, n := range []naming.Name{one, two, three} {
		o.untilGone(soon, n)
		all.untilGone(soon, n)
	}
	only.untilGone(soon, one)

	// Deletions have revisions too: the next state of the name is above them.
	claim(t, s.lease(a), one, "new owner")
	o.untilThere(map[naming.Name]string{one: "new owner"})
	o.untilItAgrees(soon, reader, []naming.Name{one, two, three})
}

// neverForeign: no name outside the scope is shown, however alike; the observer
// checks each event.
func neverForeign(s *suite) {
	t := s.t
	a, reader := s.open(OwnerA), s.open(Reader)
	l := s.lease(a)
	prefix, family := s.family()
	alike := []naming.Name{
		name("bank"), name("bank2"), name("shared"), name("shared-x"), name("sharedx.y"), name("a"),
		name(prefix + "x"), name(prefix + "x-1"), name(prefix + "x.y"), name(prefix + "xy.z"),
	}
	inner := scopes(prefix + "x.")[0]
	watches := map[naming.Scope]*observer{}
	for _, sc := range append([]naming.Scope{naming.All(), family, inner}, scopes("shared.", "a.")...) {
		watches[sc] = s.observe(reader, sc)
	}
	for _, n := range alike {
		watches[naming.Only(n)] = s.observe(reader, naming.Only(n))
	}
	exact := func(value string) {
		t.Helper()
		watches[naming.All()].untilItAgrees(soon, reader, alike)
		for sc, o := range watches {
			if sc.IsAll() || sc.String() == "shared." || sc.String() == "a." { // others use it too
				o.untilSynced(soon)
				continue
			}
			want := map[naming.Name]string{}
			for _, n := range alike {
				if sc.Contains(n) && value != "" {
					want[n] = value + n.String()
				}
			}
			o.untilThere(want)
		}
	}
	exact("")
	revs := map[naming.Name]naming.Revision{}
	for i, n := range alike {
		for _, absent := range alike[i+1:] { // bank is not bank2
			wantNothing(t, reader, absent)
		}
		revs[n] = claim(t, l, n, "first "+n.String())
	}
	exact("first ")
	for _, n := range alike {
		if _, err := l.Update(t.Context(), n, []byte("second "+n.String()), revs[n]); err != nil {
			t.Errorf("update %v: %v", n, err)
		}
	}
	exact("second ")
	for i, n := range alike {
		if err := l.Release(t.Context(), n); err != nil {
			t.Errorf("release %v: %v", n, err)
		}
		for _, stays := range alike[i+1:] {
			if _, err := reader.Get(t.Context(), stays); err != nil {
				t.Errorf("after the release of %v, get %v: %v", n, stays, err)
			}
		}
	}
	exact("")
	// A watch that began when they were there does not show them either.
	for _, n := range alike {
		claim(t, l, n, "third "+n.String())
	}
	for sc := range watches {
		watches[sc] = s.observe(reader, sc)
	}
	exact("third ")
}

// losesNothing: under load, and however slow the reader, the latest state of
// each name arrives, and states come in order.
func losesNothing(s *suite) {
	t := s.t
	const workers, namesEach, changes = 4, 5, 100
	prefix, family := s.family()
	reader := s.open(Reader)
	loadOver := make(chan struct{})
	openGate := func() {
		select {
		case <-loadOver:
		default:
			close(loadOver)
		}
	}
	t.Cleanup(openGate)
	var names []naming.Name
	for i := range workers * namesEach {
		names = append(names, name(fmt.Sprintf("%sn%d", prefix, i)))
	}
	observers := []*observer{
		s.observe(reader, family), s.observe(reader, naming.All()), s.observe(s.open(OwnerB), family),
		s.observe(reader, naming.Only(names[0])),
		s.observeFrom(reader, family, loadOver), s.observeFrom(s.open(OwnerB), scopes("shared.")[0], loadOver),
	}
	var leases []naming.Lease
	for i := range workers {
		leases = append(leases, s.lease(s.open([]Principal{OwnerA, OwnerB}[i%2])))
	}
	forAll(workers, func(w int) {
		random := rand.New(rand.NewPCG(uint64(w), 2)) //nolint:gosec // repeatable on purpose
		revs := make(map[naming.Name]naming.Revision)
		for i := range changes {
			n := names[w*namesEach+random.IntN(namesEach)]
			var err error
			rev := revs[n]
			switch {
			case rev == 0:
				rev, err = leases[w].Claim(t.Context(), n, fmt.Append(nil, i), 0)
			case random.IntN(3) == 0:
				err = leases[w].Release(t.Context(), n)
				rev = 0
			default:
				rev, err = leases[w].Update(t.Context(), n, fmt.Append(nil, i), rev)
			}
			if err != nil {
				t.Errorf("change %d of worker %d, %v: %v", i, w, n, err)
				return
			}
			revs[n] = rev
		}
	})
	observers = append(observers, s.observe(reader, family)) // one that begins late
	openGate()
	for _, o := range observers {
		in := names
		if only, ok := o.scope.Name(); ok {
			in = []naming.Name{only}
		}
		o.untilSynced(soon)
		o.untilItAgrees(soon, reader, in)
	}
}

// isAlive: a healthy watch says so at least every 5 s; the observer checks it.
func isAlive(s *suite) {
	o := s.observe(s.open(Reader), naming.Only(s.name("shared.")))
	for i := range 2 {
		o.until(maxSilence+slack, "it said that it is alive", func(o *observer) bool { return o.alives > i })
	}
}

// endsWithReader: the last pair carries the context's error, and each range is a
// watch of its own.
func endsWithReader(s *suite) {
	t := s.t
	a, reader := s.open(OwnerA), s.open(Reader)
	l := s.lease(a)
	n := s.name("shared.")
	claim(t, l, n, "x")

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	seq := reader.Watch(ctx, naming.Only(n))
	for round := range 2 {
		var told []naming.EventKind
		for ev, err := range seq {
			if err != nil {
				t.Fatalf("watch: %v", err)
			}
			if ev.Kind == naming.Put || ev.Kind == naming.Synced {
				told = append(told, ev.Kind)
			}
			if ev.Kind == naming.Synced {
				break
			}
		}
		if told[0] != naming.Put {
			t.Errorf("range %d over one watch began with %v, want all that is there", round+1, told)
		}
	}

	var ended time.Time
	var last error
	for ev, err := range seq {
		if err != nil {
			last = err
			if took := time.Since(ended); took > cancelBound {
				t.Errorf("the watch ended %v after its context", took)
			}
			continue
		}
		if ev.Kind == naming.Synced && ended.IsZero() {
			time.AfterFunc(10*time.Millisecond, cancel)
			ended = time.Now().Add(10 * time.Millisecond)
		}
	}
	wantErr(t, "the end of a watch whose context was cancelled", last, context.Canceled)

	late, cancelLate := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancelLate()
	for _, err := range reader.Watch(late, naming.All()) {
		if last = err; err != nil && !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the end of a watch whose context expired: %v", err)
		}
	}
	if last == nil {
		t.Error("a watch whose context expired ended without an error")
	}
}
