package driver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/seed-6593ebad/skywarden/naming"
)

// Deadlines of writes. One whose outcome is unclear is cleared up until
// clearTimeout; its caller waits no longer than callTimeout, earlier calls for
// the name included.
const (
	clearTimeout = 4500 * time.Millisecond
	callTimeout  = 4800 * time.Millisecond
)

// A Slot is what a lease knows of one name. Its lock lets one call after the
// other to the name, also after their callers have gone. A Session gets it
// locked.
type Slot struct {
	Name  naming.Name
	lease *Lease
	lock  chan struct{} // has one place; who has it may change what is below
	users int           // who have or want the lock; under Lease.mu

	revision naming.Revision // of the entry that this lease holds, as far as we know; 0: none. Changed under Lease.mu too
	value    []byte          // of that entry
	stray    bool
	leftover bool // an entry that nobody wants any more may be there
}

// Revision is that of the entry that the lease holds under the name, as far as is
// known; 0 for none.
func (s *Slot) Revision() naming.Revision { return s.revision }

// Hold remembers what the lease holds under the slot's name: revision 0 for
// nothing.
func (s *Slot) Hold(revision naming.Revision, value []byte) {
	s.lease.mu.Lock()
	defer s.lease.mu.Unlock()
	s.revision, s.value = revision, value
	if revision != 0 {
		s.leftover = false
	}
}

// Stray remembers that a claim was sent whose answer never came, and that may
// land as long as the lease lives and the name is free.
func (s *Slot) Stray() { s.stray = true }

// Claim implements naming.Lease.
func (l *Lease) Claim(ctx context.Context, name naming.Name, value []byte, over naming.Revision) (naming.Revision, error) {
	if len(value) > naming.MaxValueLen {
		return 0, l.life.Fail("claim", name, tooLarge(value))
	}
	value = bytes.Clone(value) // the write may go on after the caller has gone
	var rev naming.Revision
	err := l.call(ctx, "claim", name, func(ctx context.Context, s *Slot) error {
		err := l.put(ctx, s, value, Guard{Free: over == 0, Revision: over})
		rev = s.revision
		return err
	}, l.undoClaim)
	if err != nil {
		return 0, err
	}
	return rev, nil
}

func (l *Lease) undoClaim(ctx context.Context, s *Slot) {
	s.leftover = l.session.Remove(ctx, s) != nil // then tidy goes on
}

// Update implements naming.Lease.
func (l *Lease) Update(ctx context.Context, name naming.Name, value []byte, prev naming.Revision) (naming.Revision, error) {
	if len(value) > naming.MaxValueLen {
		return 0, l.life.Fail("update", name, tooLarge(value))
	}
	value = bytes.Clone(value)
	var rev naming.Revision
	var before []byte
	err := l.call(ctx, "update", name, func(ctx context.Context, s *Slot) error {
		before = s.value
		err := l.put(ctx, s, value, Guard{Own: true, Revision: prev})
		rev = s.revision
		return err
	}, func(ctx context.Context, s *Slot) {
		if err := l.put(ctx, s, before, Guard{Own: true, Revision: s.revision}); err != nil && !errors.Is(err, naming.ErrTaken) {
			l.Lose(fmt.Errorf("%w: an update could not be undone: %w", naming.ErrLeaseLost, err))
		}
	})
	if err != nil {
		return 0, err
	}
	return rev, nil
}

// Release implements naming.Lease.
func (l *Lease) Release(ctx context.Context, name naming.Name) error {
	return l.call(ctx, "release", name, func(ctx context.Context, s *Slot) error {
		err := l.session.Remove(ctx, s)
		s.leftover = err != nil && s.revision != 0
		return err
	}, func(context.Context, *Slot) {}) // what was released stays so
}

// put is Session.Put. A lease that is gone, or that must go because a write may
// still land, is lost here.
func (l *Lease) put(ctx context.Context, s *Slot, value []byte, guard Guard) error {
	err := l.session.Put(ctx, s, value, guard)
	switch {
	case errors.Is(err, naming.ErrLeaseLost):
		l.Lose(err)
	case errors.Is(err, naming.ErrOutcomeUnknown):
		l.Lose(fmt.Errorf("%w: it was ended, because a write of %s may still land: %w", naming.ErrLeaseLost, s.Name, err))
	}
	return err
}

// call runs work for one name, after all earlier calls for it. When the caller's
// context ends the call returns at once; work goes on, and is undone if it
// succeeds.
func (l *Lease) call(ctx context.Context, op string, name naming.Name, work func(context.Context, *Slot) error, undo func(context.Context, *Slot)) error {
	switch {
	case name.IsZero():
		return l.life.Fail(op, name, ErrZeroName)
	case ctx.Err() != nil:
		return l.life.Fail(op, name, ctx.Err())
	}
	waiting, cancel := l.life.Bound(ctx, callTimeout)
	defer cancel()
	overdue := fmt.Errorf("%w: no answer within %v", naming.ErrUnavailable, callTimeout)
	s, err := l.lock(waiting, name)
	if err != nil {
		return l.life.Fail(op, name, l.life.Explain(ctx, overdue))
	}
	result := make(chan error) // handed over, or not: see below
	err = l.life.Start(func() {
		defer l.unlock(s)
		err := l.unusable(op)
		if err == nil {
			err = l.within(clearTimeout, s, work)
		}
		if lost := l.unusable(op); err == nil && lost != nil {
			err = lost // the entry goes with the lease
		}
		select {
		case result <- err:
		case <-waiting.Done(): // the caller has gone, and knows of no success
			if err == nil {
				_ = l.within(clearTimeout, s, func(ctx context.Context, s *Slot) error {
					undo(ctx, s)
					return nil
				})
			}
		}
	})
	if err != nil {
		l.unlock(s)
		return l.life.Fail(op, name, err)
	}
	select {
	case err = <-result:
		if errors.Is(err, naming.ErrUnavailable) {
			err = l.life.Explain(ctx, err)
		}
	case <-waiting.Done():
		err = l.life.Explain(ctx, overdue)
	}
	return l.life.Fail(op, name, err)
}

func (l *Lease) within(d time.Duration, s *Slot, work func(context.Context, *Slot) error) error {
	ctx, cancel := context.WithTimeout(l.life.ctx, d)
	defer cancel()
	return work(ctx, s)
}

// unusable gives why the lease may not be used for op. To release a name of a
// lease that was lost is harmless, and of use where the server still has it.
func (l *Lease) unusable(op string) error {
	why := l.reason()
	if op == "release" && !errors.Is(why, naming.ErrClosed) {
		return nil
	}
	return why
}

// lock waits until no other call for the name is under way.
func (l *Lease) lock(ctx context.Context, name naming.Name) (*Slot, error) {
	l.mu.Lock()
	s := l.slots[name]
	if s == nil {
		s = &Slot{Name: name, lease: l, lock: make(chan struct{}, 1)}
		l.slots[name] = s
	}
	s.users++
	l.mu.Unlock()
	select {
	case s.lock <- struct{}{}:
		return s, nil
	case <-ctx.Done():
		l.leave(s)
		return nil, ctx.Err()
	}
}

func (l *Lease) unlock(s *Slot) {
	if s.stray || s.leftover {
		l.untidy.Store(true)
	}
	<-s.lock
	l.leave(s)
}

func (l *Lease) leave(s *Slot) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if s.users--; s.users == 0 && s.revision == 0 && !s.stray && !s.leftover {
		delete(l.slots, s.Name)
	}
}

// tidy looks, after a renewal, whether something lies under a name that should
// not: what could not be deleted, or a claim that landed late. It does nothing
// in a lease that saw no trouble.
func (l *Lease) tidy() {
	if !l.untidy.Load() || !l.tidying.CompareAndSwap(false, true) {
		return
	}
	l.mu.Lock()
	slots := slices.Collect(maps.Values(l.slots))
	for _, s := range slots {
		s.users++
	}
	l.mu.Unlock()
	err := l.life.Start(func() {
		defer l.tidying.Store(false)
		for _, s := range slots {
			select {
			case s.lock <- struct{}{}:
			default: // a call is under way: next time
				l.leave(s)
				continue
			}
			if s.leftover || s.stray && s.revision == 0 {
				s.leftover = l.within(clearTimeout, s, l.session.Remove) != nil
			}
			l.unlock(s)
		}
	})
	if err != nil { // closed: everything goes with the lease
		l.tidying.Store(false)
	}
}

func tooLarge(value []byte) error {
	return fmt.Errorf("%w: a value of %d bytes: %d at most", naming.ErrTooLarge, len(value), naming.MaxValueLen)
}
