package backendtest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/seed-6593ebad/skywarden/naming"
)

// storesWhatItIsGiven: values are opaque, also empty, binary and the longest.
func storesWhatItIsGiven(s *suite) {
	t := s.t
	a, reader := s.open(OwnerA), s.open(Reader)
	l := s.lease(a)
	bytes256 := make([]byte, 256)
	for i := range bytes256 {
		bytes256[i] = byte(i)
	}
	for what, value := range map[string]string{
		"empty":       "",
		"text":        "game-1@10.0.0.5:7000/42",
		"every byte":  string(bytes256),
		"broken text": "\xff\xfe\x00{\"",
		"the longest": strings.Repeat("x", naming.MaxValueLen),
	} {
		n := s.name("shared.")
		wantNothing(t, reader, n)
		given := []byte(value)
		rev, err := l.Claim(t.Context(), n, given, 0)
		if err != nil {
			t.Errorf("%s: claim: %v", what, err)
			continue
		}
		for i := range given {
			given[i]++ // the caller may use its buffer again
		}
		wantEntry(t, reader, held(n, value, rev))
		wantEntry(t, a, held(n, value, rev))

		other := claim(t, l, s.name("shared."), "something else")
		next, err := l.Update(t.Context(), n, []byte(value[:len(value)/2]), rev)
		if err != nil {
			t.Errorf("%s: update: %v", what, err)
			continue
		}
		if next <= rev {
			t.Errorf("%s: the update's revision %d is not above the claim's %d (another name has %d)", what, next, rev, other)
		}
		wantEntry(t, reader, held(n, value[:len(value)/2], next))
		for range 2 {
			if err := l.Release(t.Context(), n); err != nil {
				t.Errorf("%s: release: %v", what, err)
			}
			wantNothing(t, reader, n)
		}
		if again := claim(t, l, n, ""); again <= next {
			t.Errorf("%s: claimed again at revision %d, not above %d of before the release", what, again, next)
		}
	}
}

// isExclusive: of 32 who claim at once, each with a lease of its own, exactly
// one wins, and the others are told what it stored.
func isExclusive(s *suite) {
	t := s.t
	const claimants, backends, rounds = 32, 8, 5
	reader := s.open(Reader)
	var leases []naming.Lease
	for i := range backends {
		b := s.open([]Principal{OwnerA, OwnerB}[i%2])
		for range claimants / backends {
			leases = append(leases, s.lease(b))
		}
	}
	for range rounds {
		n := s.name("shared.")
		revs, errs := make([]naming.Revision, claimants), make([]error, claimants)
		start := make(chan struct{})
		var wg sync.WaitGroup
		for i := range claimants {
			wg.Go(func() {
				<-start
				revs[i], errs[i] = leases[i].Claim(t.Context(), n, fmt.Appendf(nil, "claimant %d", i), 0)
			})
		}
		close(start)
		wg.Wait()

		winner := slices.Index(errs, nil)
		if winner < 0 {
			t.Fatalf("nobody got %v: %v", n, errors.Join(errs...))
		}
		want := held(n, fmt.Sprintf("claimant %d", winner), revs[winner])
		wantEntry(t, reader, want)
		for i, err := range errs {
			switch {
			case i == winner:
			case err == nil:
				t.Errorf("claimants %d and %d both got %v", winner, i, n)
			default:
				wantTaken(t, fmt.Sprintf("claimant %d", i), err, want)
			}
		}
		// The lease that holds the name may not claim it again either.
		_, err := leases[winner].Claim(t.Context(), n, nil, 0)
		wantTaken(t, "the winner again", err, want)
	}

	// Nor do two claims on one lease both win.
	n := s.name("shared.")
	var wins atomic.Int64
	forAll(claimants, func(int) {
		switch _, err := leases[0].Claim(t.Context(), n, nil, 0); {
		case err == nil:
			wins.Add(1)
		case !errors.Is(err, naming.ErrTaken):
			t.Errorf("claim in a race on one lease: %v", err)
		}
	})
	if got := wins.Load(); got != 1 {
		t.Errorf("%d claims of one name on one lease succeeded, want 1", got)
	}
}

// replacesExactly: Claim over a revision replaces exactly that, whoever holds
// it, and nothing else.
func replacesExactly(s *suite) {
	t := s.t
	reader := s.open(Reader)
	la, lb := s.lease(s.open(OwnerA)), s.lease(s.open(OwnerB))
	n := s.name("shared.")

	_, err := lb.Claim(t.Context(), n, []byte("b"), 1)
	wantTaken(t, "claim over an absent entry", err, naming.Entry{Name: n})
	wantNothing(t, reader, n)

	first := claim(t, la, n, "a")
	there := held(n, "a", first)
	for _, wrong := range []naming.Revision{first + 1, first + 1000, max(first-1, 1)} {
		if wrong == first {
			continue
		}
		_, err = lb.Claim(t.Context(), n, []byte("b"), wrong)
		wantTaken(t, fmt.Sprintf("claim over %d where %d is", wrong, first), err, there)
		_, err = la.Claim(t.Context(), n, []byte("b"), wrong)
		wantTaken(t, fmt.Sprintf("the holder's claim over %d where %d is", wrong, first), err, there)
	}
	wantEntry(t, reader, there)

	second, err := lb.Claim(t.Context(), n, []byte("b"), first)
	if err != nil {
		t.Fatalf("claim over exactly what is there: %v", err)
	}
	if second <= first {
		t.Errorf("the new revision %d is not above %d", second, first)
	}
	there = held(n, "b", second)
	wantEntry(t, reader, there)

	// The entry belongs to the other lease now.
	_, err = la.Claim(t.Context(), n, []byte("a"), first)
	wantTaken(t, "claim over the revision that was replaced", err, there)
	_, err = la.Update(t.Context(), n, []byte("a"), second)
	wantTaken(t, "update by the lease that lost the entry", err, there)
	if err := la.Release(t.Context(), n); err != nil {
		t.Errorf("release by the lease that lost the entry: %v", err)
	}
	if err := la.Close(t.Context()); err != nil {
		t.Errorf("close of the lease that lost the entry: %v", err)
	}
	wantEntry(t, reader, there)

	// Its holder may claim over it too.
	third, err := lb.Claim(t.Context(), n, []byte("b2"), second)
	if err != nil {
		t.Fatalf("claim over one's own entry: %v", err)
	}
	wantEntry(t, reader, held(n, "b2", third))

	// Of many who claim over the same revision, one wins.
	var won sync.Map
	b := s.open(OwnerB)
	var leases []naming.Lease
	for range 8 {
		leases = append(leases, s.lease(b))
	}
	forAll(len(leases), func(i int) {
		switch rev, err := leases[i].Claim(t.Context(), n, []byte("race"), third); {
		case err == nil:
			won.Store(i, rev)
		case !errors.Is(err, naming.ErrTaken):
			t.Errorf("claim over %d in a race: %v", third, err)
		}
	})
	wins := 0
	won.Range(func(_, rev any) bool {
		wins++
		wantEntry(t, reader, held(n, "race", rev.(naming.Revision)))
		return true
	})
	if wins != 1 {
		t.Errorf("%d claims over one revision succeeded, want 1", wins)
	}
}

// replacesUnheld: what no lease holds is free to be claimed.
func replacesUnheld(s *suite) {
	t := s.t
	a, reader := s.open(OwnerA), s.open(Reader)
	la, lb := s.lease(a), s.lease(s.open(OwnerB))
	put := func() naming.Entry {
		n := s.name("shared.")
		s.PutUnheld(t, n, []byte("left"))
		e, err := reader.Get(t.Context(), n)
		if err != nil || e.Held || string(e.Value) != "left" {
			t.Fatalf("get of an entry that nobody holds: %q, held %v, error %v", e.Value, e.Held, err)
		}
		return e
	}
	clean := func(l naming.Lease, n naming.Name) {
		if err := l.Release(t.Context(), n); err != nil {
			t.Errorf("release: %v", err)
		}
		wantNothing(t, reader, n)
	}

	e := put()
	if err := la.Release(t.Context(), e.Name); err != nil {
		t.Errorf("release of what nobody holds: %v", err)
	}
	_, err := la.Update(t.Context(), e.Name, []byte("new"), e.Revision)
	wantTaken(t, "update of what nobody holds", err, e)
	_, err = la.Claim(t.Context(), e.Name, []byte("new"), e.Revision+1)
	wantTaken(t, "claim over another revision than that of what nobody holds", err, e)
	wantEntry(t, reader, e)
	rev := claim(t, la, e.Name, "new")
	wantEntry(t, reader, held(e.Name, "new", rev))
	clean(la, e.Name)

	e = put()
	rev, err = lb.Claim(t.Context(), e.Name, []byte("new"), e.Revision)
	if err != nil {
		t.Fatalf("claim over exactly what nobody holds: %v", err)
	}
	wantEntry(t, reader, held(e.Name, "new", rev))
	clean(lb, e.Name)

	e = put()
	var mu sync.Mutex
	var winner naming.Lease
	var leases []naming.Lease
	for range 16 {
		leases = append(leases, s.lease(a))
	}
	forAll(len(leases), func(i int) {
		l := leases[i]
		_, err := l.Claim(t.Context(), e.Name, fmt.Append(nil, i), 0)
		mu.Lock()
		defer mu.Unlock()
		switch {
		case err == nil && winner != nil:
			t.Errorf("two claims of an entry that nobody holds succeeded")
		case err == nil:
			winner = l
		case !errors.Is(err, naming.ErrTaken):
			t.Errorf("claim of an entry that nobody holds: %v", err)
		}
	})
	if winner == nil {
		t.Fatal("nobody could claim an entry that nobody holds")
	}
	clean(winner, e.Name)
}

// refusesBadInput: before anything is sent.
func refusesBadInput(s *suite) {
	t := s.t
	a := s.open(OwnerA)
	l := s.lease(a)
	var zero naming.Name
	for _, c := range append(writes(l, zero, 1), reads(a, zero, naming.Scope{})...) {
		wantErr(t, c.op+" of the zero value", c.call(t.Context()), naming.ErrNameInvalid)
	}
	wantErr(t, "watch only the zero name", firstError(t.Context(), a, naming.Only(zero)), naming.ErrNameInvalid)

	n, free := s.name("a."), s.name("a.")
	rev := claim(t, l, n, "small")
	large := make([]byte, naming.MaxValueLen+1)
	_, err := l.Claim(t.Context(), free, large, 0)
	wantErr(t, "claim with a large value", err, naming.ErrTooLarge)
	_, err = l.Claim(t.Context(), n, large, rev)
	wantErr(t, "claim over with a large value", err, naming.ErrTooLarge)
	_, err = l.Update(t.Context(), n, large, rev)
	wantErr(t, "update with a large value", err, naming.ErrTooLarge)
	wantNothing(t, a, free)
	wantEntry(t, a, held(n, "small", rev))
}

// isUndoneWhenCancelled: a claim whose caller went away leaves nothing, and does
// not disturb the next claim of the same name.
func isUndoneWhenCancelled(s *suite) {
	t := s.t
	const names, workers = 160, 8
	a, reader := s.open(OwnerA), s.open(Reader)
	l, later := s.lease(a), s.lease(a)
	var mu sync.Mutex
	wanted := make(map[naming.Name]string) // value; "" for free
	forAll(workers, func(w int) {
		random := rand.New(rand.NewPCG(uint64(w), 0)) //nolint:gosec // repeatable on purpose
		for i := range names / workers {
			n := s.name("shared.")
			value := "first"
			if err := claimBriefly(t, l, n, value, time.Duration(random.Int64N(int64(3*time.Millisecond)))); err != nil {
				value = ""
				if i%2 == 0 { // the next call of the same lease waits until the first is decided
					value = "second"
					if _, err := l.Claim(t.Context(), n, []byte(value), 0); err != nil && !isDone(l) {
						t.Errorf("claim of %v after one that was cancelled: %v", n, err)
					}
				}
			}
			mu.Lock()
			wanted[n] = value
			mu.Unlock()
		}
	})
	for n, value := range wanted {
		eventually(t, soon, "the cancelled claim is undone", func() error {
			if value == "" || isDone(l) {
				return isFree(t, reader, n)
			}
			e, err := reader.Get(t.Context(), n)
			if err == nil && (string(e.Value) != value || !e.Held) {
				err = fmt.Errorf("%v has %q, held %v; want %q", n, e.Value, e.Held, value)
			}
			return err
		})
		if value == "" {
			claim(t, later, n, "free for others")
		}
	}
	if err := l.Close(t.Context()); err != nil {
		t.Errorf("close lease: %v", err)
	}
	for n, value := range wanted {
		if value != "" {
			wantNothing(t, reader, n)
		}
	}
}

// claimBriefly claims with a context that ends after d.
func claimBriefly(t *testing.T, l naming.Lease, n naming.Name, value string, d time.Duration) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	deadline, _ := ctx.Deadline()
	_, err := l.Claim(ctx, n, []byte(value), 0)
	return brief(t, l, err, deadline)
}

// brief checks the error of a write whose context ended at deadline. The driver
// may have ended the lease instead of undoing the write.
func brief(t *testing.T, l naming.Lease, err error, deadline time.Time) error {
	t.Helper()
	if late := time.Since(deadline); late > cancelBound {
		t.Errorf("the call ended %v after its context", late)
	}
	lost := isDone(l) && (errors.Is(err, naming.ErrOutcomeUnknown) || errors.Is(err, naming.ErrLeaseLost))
	if err != nil && !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, ErrInjected) && !lost {
		t.Errorf("the error of a call whose context ended: %v, want one that wraps %q", err, context.DeadlineExceeded)
	}
	return err
}

func isDone(l naming.Lease) bool {
	select {
	case <-l.Done():
		return true
	default:
		return false
	}
}

// updateIsGuarded: only the holder, and only from the state it knows.
func updateIsGuarded(s *suite) {
	t := s.t
	a, reader := s.open(OwnerA), s.open(Reader)
	l, second, lb := s.lease(a), s.lease(a), s.lease(s.open(OwnerB))
	n := s.name("shared.")

	_, err := l.Update(t.Context(), n, []byte("x"), 1)
	wantTaken(t, "update of an absent entry", err, naming.Entry{Name: n})
	wantNothing(t, reader, n)

	rev := claim(t, l, n, "0")
	for what, c := range map[string]struct {
		l    naming.Lease
		prev naming.Revision
	}{
		"from revision 0":               {l, 0},
		"from a later revision":         {l, rev + 1},
		"by another lease":              {second, rev},
		"by another principal":          {lb, rev},
		"by another lease from nothing": {second, 0},
	} {
		_, err := c.l.Update(t.Context(), n, []byte("x"), c.prev)
		wantTaken(t, "update "+what, err, held(n, "0", rev))
	}
	wantEntry(t, reader, held(n, "0", rev))

	for i := range 20 {
		next, err := l.Update(t.Context(), n, fmt.Append(nil, i), rev)
		if err != nil {
			t.Fatalf("update: %v", err)
		}
		if next <= rev {
			t.Errorf("the update's revision %d is not above %d", next, rev)
		}
		_, err = l.Update(t.Context(), n, []byte("x"), rev)
		wantTaken(t, "update from the revision before", err, held(n, fmt.Sprint(i), next))
		rev = next
	}

	var mu sync.Mutex
	wins := 0
	forAll(16, func(i int) {
		switch _, err := l.Update(t.Context(), n, fmt.Appendf(nil, "race %d", i), rev); {
		case err == nil:
			mu.Lock()
			wins++
			mu.Unlock()
		case !errors.Is(err, naming.ErrTaken):
			t.Errorf("update in a race: %v", err)
		}
	})
	if wins != 1 {
		t.Errorf("%d updates from one revision succeeded, want 1", wins)
	}
}

// updateIsUndone: after an update that was cancelled the old value is there, or
// soon again.
func updateIsUndone(s *suite) {
	t := s.t
	const names, workers = 48, 8
	a, reader := s.open(OwnerA), s.open(Reader)
	var leases []naming.Lease
	for range workers {
		leases = append(leases, s.lease(a))
	}
	forAll(workers, func(w int) {
		l := leases[w]
		random := rand.New(rand.NewPCG(uint64(w), 1)) //nolint:gosec // repeatable on purpose
		for range names / workers {
			n := s.name("shared.")
			rev, err := l.Claim(t.Context(), n, []byte("old"), 0)
			if err != nil {
				t.Errorf("claim: %v", err)
				return
			}
			want := "new"
			ctx, cancel := context.WithTimeout(t.Context(), time.Duration(random.Int64N(int64(3*time.Millisecond))))
			deadline, _ := ctx.Deadline()
			_, err = l.Update(ctx, n, []byte("new"), rev)
			cancel()
			if brief(t, l, err, deadline) != nil {
				want = "old"
			}
			err = poll(t, soon, func() error {
				if isDone(l) {
					return isFree(t, reader, n)
				}
				e, err := reader.Get(t.Context(), n)
				if err == nil && string(e.Value) != want {
					err = fmt.Errorf("%v has %q, want %q", n, e.Value, want)
				}
				return err
			})
			if err != nil {
				t.Errorf("after an update that gave %v: %v", want, err)
			}
			if isDone(l) { // the contract allows it
				return
			}
		}
	})
}

// releaseLeavesForeign: Release deletes what its own lease holds, and nothing
// else.
func releaseLeavesForeign(s *suite) {
	t := s.t
	a, reader := s.open(OwnerA), s.open(Reader)
	l, second, lb := s.lease(a), s.lease(a), s.lease(s.open(OwnerB))
	n := s.name("shared.")
	rev := claim(t, l, n, "mine")
	for what, other := range map[string]naming.Lease{"another lease": second, "another principal": lb} {
		if err := other.Release(t.Context(), n); err != nil {
			t.Errorf("release by %s: %v", what, err)
		}
		wantEntry(t, reader, held(n, "mine", rev))
	}
	if err := l.Release(t.Context(), s.name("shared.")); err != nil {
		t.Errorf("release of a name that is not there: %v", err)
	}
	wantEntry(t, reader, held(n, "mine", rev))
	if err := l.Release(t.Context(), n); err != nil {
		t.Errorf("release: %v", err)
	}
	wantNothing(t, reader, n)
}

// handsOver: what one released the next may have at once, and back.
func handsOver(s *suite) {
	t := s.t
	reader := s.open(Reader)
	leases := []naming.Lease{s.lease(s.open(OwnerA)), s.lease(s.open(OwnerB))}
	n := s.name("shared.")
	o := s.observe(reader, naming.Only(n))
	var last naming.Revision
	for i := range 20 {
		l, other := leases[i%2], leases[1-i%2]
		rev := claim(t, l, n, fmt.Sprint(i))
		if rev <= last {
			t.Errorf("hand-over %d has revision %d, not above %d", i, rev, last)
		}
		last = rev
		_, err := other.Claim(t.Context(), n, nil, 0)
		wantTaken(t, "claim before the hand-over", err, held(n, fmt.Sprint(i), rev))
		if i == 19 {
			o.untilThere(map[naming.Name]string{n: "19"})
			break
		}
		if err := l.Release(t.Context(), n); err != nil {
			t.Fatalf("release: %v", err)
		}
	}
}
