package backendtest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/seed-6593ebad/skywarden/naming"
)

const (
	// downWithin is the longest until a watch says that its server fell silent.
	downWithin = 10 * time.Second
	// backWithin is the longest until everything works after the server is back.
	backWithin = 10 * time.Second
)

// paused: while the server is silent every call ends in time and says so, owners
// learn that they may have lost their names, and nothing that was given up
// half-way remains afterwards.
func paused(s *suite) {
	t := s.t
	a, reader := s.open(OwnerA), s.open(Reader)
	prefix, family := s.family()
	var names []naming.Name
	fresh := func(what string) naming.Name {
		n := name(fmt.Sprintf("%s%s-%d", prefix, what, len(names)))
		names = append(names, n)
		return n
	}
	var leases []naming.Lease
	lease := func() naming.Lease {
		l := s.lease(a)
		leases = append(leases, l)
		return l
	}
	owner := lease()
	kept := fresh("kept")
	claim(t, owner, kept, "x")

	// What happens while the server is paused is prepared before.
	every := func(what string) []call {
		l, closing := lease(), lease()
		have, want, give := fresh(what), fresh(what), fresh(what)
		rev := claim(t, l, have, "old")
		claim(t, l, give, "old")
		claim(t, closing, fresh(what), "old")
		absent := fresh(what)
		return []call{
			{"get", func(ctx context.Context) error { return errOfGet(ctx, reader, absent) }},
			{"claim", func(ctx context.Context) error { return errOf(l.Claim(ctx, want, []byte("new"), 0)) }},
			{"update", func(ctx context.Context) error { return errOf(l.Update(ctx, have, []byte("new"), rev)) }},
			{"release", func(ctx context.Context) error { return l.Release(ctx, give) }},
			{"close lease", closing.Close},
			{"lease", func(ctx context.Context) error {
				l, err := a.Lease(ctx, s.TTL)
				if err == nil {
					_ = l.Close(ctx)
				}
				return err
			}},
		}
	}
	waiting, cancelled := every("waiting"), every("cancelled")
	cancelled = append(cancelled, call{"watch", func(ctx context.Context) error { return firstError(ctx, reader, family) }})
	closing := s.open(OwnerA)
	closingLease := s.lease(closing)
	claim(t, closingLease, fresh("closed"), "x")

	o := s.observe(reader, family)
	o.untilSynced(soon)
	o.untilItAgrees(soon, reader, names)
	o.downIsOK.Store(true)

	s.Pause(t)
	resume := sync.OnceFunc(func() { s.Resume(t) })
	t.Cleanup(resume)
	began := s.observe(reader, family) // a watch may begin in an outage
	began.downIsOK.Store(true)

	var wg sync.WaitGroup
	for _, c := range waiting {
		wg.Go(func() {
			err := c.call(t.Context())
			if !errors.Is(err, naming.ErrUnavailable) && !errors.Is(err, naming.ErrOutcomeUnknown) && !(errors.Is(err, naming.ErrLeaseLost) && s.TTL < callBound) {
				t.Errorf("%s: got error %v, want ErrUnavailable or ErrOutcomeUnknown", c.op, err)
			}
		})
	}
	for _, c := range cancelled {
		wg.Go(func() {
			ctx, cancel := context.WithCancel(t.Context())
			var at time.Time
			timer := time.AfterFunc(100*time.Millisecond, func() {
				at = time.Now()
				cancel()
			})
			err := c.call(ctx)
			if timer.Stop() {
				t.Errorf("%s: ended with %v before its context did, while the server was paused", c.op, err)
				cancel()
				return
			}
			<-ctx.Done() // at is written
			if took := time.Since(at); took > cancelBound {
				t.Errorf("%s: ended %v after its context", c.op, took)
			}
			wantErr(t, c.op, err, context.Canceled)
		})
	}
	wg.Go(func() {
		closeInTime(t, closing)
		wantDone(t, closingLease, slack)
	})
	wg.Go(func() {
		wantDone(t, owner, s.TTL+slack)
		if late := time.Since(owner.Deadline()); late > slack {
			t.Errorf("Done was closed %v after the deadline", late)
		}
	})
	wg.Wait()
	if err := errOf(owner.Claim(t.Context(), kept, nil, 0)); !errors.Is(err, naming.ErrLeaseLost) && !errors.Is(err, naming.ErrUnavailable) {
		t.Errorf("claim on a lease past its deadline: got error %v, want ErrLeaseLost or ErrUnavailable", err)
	}
	o.until(downWithin+slack, "it said Down", func(o *observer) bool { return o.isDown })

	resume()
	back := time.Now()
	left := func() time.Duration { return time.Until(back.Add(s.FreeWithinRestart + slack)) }
	o.untilSynced(backWithin)
	began.untilSynced(backWithin)
	for _, l := range leases {
		eventually(t, backWithin, "the lost lease can be closed", func() error { return l.Close(t.Context()) })
	}
	for _, n := range names {
		eventually(t, left(), "the name of a lost owner is free", func() error { return isFree(t, reader, n) })
	}
	o.untilItAgrees(backWithin, reader, names)
	began.untilItAgrees(backWithin, reader, names)
	again := s.lease(s.open(OwnerB))
	for _, n := range names {
		claim(t, again, n, "next owner")
	}
	o.untilItAgrees(backWithin, reader, names)
}

// closeInTime closes a Backend whose server does not answer.
func closeInTime(t *testing.T, b naming.Backend) {
	t.Helper()
	start := time.Now()
	if err := b.Close(); err != nil && !errors.Is(err, naming.ErrUnavailable) {
		t.Errorf("close: got error %v, want nil or ErrUnavailable", err)
	}
	if took := time.Since(start); took > maxClose+slack {
		t.Errorf("Close took %v while the server did not answer, more than %v", took, maxClose)
	}
}

// killedAndRestarted: what was there is there again; who was lost while the
// server was away is gone in time; nobody is told "not found" meanwhile.
func killedAndRestarted(s *suite) {
	t := s.t
	a, reader := s.open(OwnerA), s.open(Reader)
	prefix, family := s.family()
	stays, goes := name(prefix+"stays"), name(prefix+"goes")
	l := s.lease(a)
	rev := claim(t, l, stays, "x")
	lost := s.open(OwnerB)
	claim(t, s.lease(lost), goes, "x")
	o := s.observe(reader, family)
	o.untilSynced(soon)
	o.untilItAgrees(soon, reader, []naming.Name{stays, goes})
	o.downIsOK.Store(true)

	s.Kill(t)
	restart := sync.OnceFunc(func() { s.Restart(t) })
	t.Cleanup(restart)
	o.until(downWithin+slack, "it said Down", func(o *observer) bool { return o.isDown })
	var wg sync.WaitGroup
	for _, n := range []naming.Name{stays, s.name("shared.")} {
		wg.Go(func() {
			wantErr(t, "get from a server that is away", errOfGet(t.Context(), reader, n), naming.ErrUnavailable)
		})
	}
	wg.Go(func() { closeInTime(t, lost) })
	wg.Wait()
	restart()
	back := time.Now()
	left := func() time.Duration { return time.Until(back.Add(s.FreeWithinRestart + slack)) }

	eventually(t, backWithin, "the server answers", func() error {
		_, err := reader.Get(t.Context(), s.name("shared."))
		if errors.Is(err, naming.ErrNotFound) {
			return nil
		}
		return err
	})
	if !isDone(l) {
		wantEntry(t, reader, held(stays, "x", rev))
	}
	o.untilSynced(backWithin)
	eventually(t, left(), "the name of an owner lost meanwhile is free", func() error { return isFree(t, reader, goes) })
	o.untilGone(backWithin, goes)
	if isDone(l) {
		if err := l.Close(t.Context()); err != nil {
			t.Errorf("close of the lease that was lost in the outage: %v", err)
		}
		eventually(t, left(), "the name of the lost lease is free", func() error { return isFree(t, reader, stays) })
	} else if _, err := l.Update(t.Context(), stays, []byte("still here"), rev); err != nil {
		t.Errorf("update after the restart: %v", err)
	}
	o.untilItAgrees(backWithin, reader, []naming.Name{stays, goes})
}

// gapUnderLoad: the server dies in the middle of changes, and comes back; when
// all is quiet, watches and reads agree.
func gapUnderLoad(s *suite) {
	t := s.t
	const workers, namesEach = 4, 5
	prefix, family := s.family()
	reader := s.open(Reader)
	var names []naming.Name
	for i := range workers * namesEach {
		names = append(names, name(fmt.Sprintf("%sn%d", prefix, i)))
	}
	observers := []*observer{s.observe(reader, family), s.observe(reader, naming.All()), s.observe(s.open(OwnerB), family)}
	for _, o := range observers {
		o.untilSynced(soon)
		o.downIsOK.Store(true)
	}

	stop := make(chan struct{})
	var load sync.WaitGroup
	for w := range workers {
		b := s.open([]Principal{OwnerA, OwnerB}[w%2])
		load.Go(func() { changeUntil(s, b, stop, names[w*namesEach:(w+1)*namesEach], uint64(w)) })
	}
	stopLoad := sync.OnceFunc(func() { close(stop); load.Wait() })
	t.Cleanup(stopLoad)

	observers[0].until(soon, "there are changes", func(o *observer) bool { return o.events > 30 })
	s.Kill(t)
	restart := sync.OnceFunc(func() { s.Restart(t) })
	t.Cleanup(restart)
	observers[0].until(downWithin+slack, "it said Down", func(o *observer) bool { return o.isDown })
	restart()
	back := time.Now()
	observers[0].untilSynced(backWithin)
	seen := 0
	observers[0].until(backWithin, "changes go on after the restart", func(o *observer) bool {
		if seen == 0 {
			seen = o.events
		}
		return o.events > seen+30
	})
	stopLoad()
	// Leases that ended in the outage go on deleting for a while.
	for _, o := range observers {
		o.untilSynced(backWithin)
		o.untilItAgrees(time.Until(back.Add(s.FreeWithinRestart+backWithin)), reader, names)
	}
}

// changeUntil claims, updates and releases names until stop, whatever the
// server does.
func changeUntil(s *suite, b naming.Backend, stop <-chan struct{}, names []naming.Name, seed uint64) {
	t := s.t
	random := rand.New(rand.NewPCG(seed, 3)) //nolint:gosec // repeatable on purpose
	var l naming.Lease
	defer func() {
		if l != nil {
			_ = l.Close(t.Context())
		}
	}()
	for i := 0; ; i++ {
		select {
		case <-stop:
			return
		default:
		}
		if l == nil || isDone(l) {
			if l != nil {
				_ = l.Close(t.Context())
			}
			next, err := b.Lease(t.Context(), s.TTL)
			if l = next; err != nil {
				l = nil
				if !errors.Is(err, naming.ErrUnavailable) {
					t.Errorf("lease in an outage: %v", err)
					return
				}
				continue
			}
		}
		n := names[random.IntN(len(names))]
		_, err := l.Claim(t.Context(), n, fmt.Append(nil, i), 0)
		if taken, ok := errors.AsType[*naming.TakenError](err); ok {
			if random.IntN(2) == 0 {
				_, err = l.Update(t.Context(), n, fmt.Append(nil, i), taken.Entry.Revision)
			} else {
				err = l.Release(t.Context(), n)
			}
		}
		switch naming.Code(err) {
		case "ok", "taken", "unavailable", "outcome_unknown", "lease_lost":
		default:
			t.Errorf("change in an outage: %v", err)
			return
		}
	}
}
