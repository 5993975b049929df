package driver

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/seed-6593ebad/skywarden/naming"
)

// A Session is the server's side of one lease. Its methods bound their requests
// themselves, by less than the deadlines below. Their errors wrap sentinels of
// package naming and are not *naming.Error yet.
type Session interface {
	// Renew renews the lease once and gives its new deadline. ErrLeaseLost means
	// that it cannot be renewed ever again; after other errors it is tried again
	// until the deadline. left is the time until then.
	Renew(ctx context.Context, left time.Duration) (deadline time.Time, err error)
	// Put writes value under the name of s, tied to this lease, if guard holds. It
	// tells s what the lease holds afterwards. *TakenError means that the guard did
	// not hold, ErrLeaseLost that the lease is gone. ErrOutcomeUnknown means that the
	// write may have happened or may happen later, unless the lease is ended.
	Put(ctx context.Context, s *Slot, value []byte, guard Guard) error
	// Remove deletes the entry under the name of s if this lease holds it. It must
	// name the state that it deletes, so that a deletion that lands late cannot hit a
	// later claim. It tells s.
	Remove(ctx context.Context, s *Slot) error
	// End ends the lease on the server. That it is gone already is no error.
	End(ctx context.Context) error
}

// A Guard is the condition of a write.
type Guard struct {
	// Free: no lease holds what is there, this one included. Otherwise exactly
	// Revision must be there.
	Free bool
	// Own: besides, this lease must hold it.
	Own      bool
	Revision naming.Revision
}

// A Lease is a naming.Lease on a Session.
type Lease struct {
	life    *Life
	session Session
	ttl     time.Duration // as requested

	mu       sync.Mutex
	deadline time.Time
	slots    map[naming.Name]*Slot
	why      error // of done
	done     chan struct{}

	untidy  atomic.Bool // some slot is stray or leftover, or was
	tidying atomic.Bool

	revoking chan struct{} // a lock with one place
	revoked  bool          // under revoking
}

// Renewals: how many there are within a TTL at least, and the pause after one
// that failed at once.
const (
	renewals  = 5
	renewWait = 100 * time.Millisecond
)

// closeTimeout bounds the end of one lease.
const closeTimeout = 2 * time.Second

// NewLease gives the lease of a session that was just opened, and keeps it
// alive. bind is told the lease before anybody uses it. The error is ErrClosed;
// what was opened then ends with its TTL.
func (l *Life) NewLease(ttl time.Duration, deadline time.Time, session Session, bind func(*Lease)) (*Lease, error) {
	lease := &Lease{
		life: l, session: session, ttl: ttl, deadline: deadline,
		slots: map[naming.Name]*Slot{}, done: make(chan struct{}), revoking: make(chan struct{}, 1),
	}
	bind(lease)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, naming.ErrClosed
	}
	l.leases[lease] = struct{}{}
	l.tasks.Go(lease.renew)
	return lease, nil
}

// renew keeps the lease alive until it is finished, gone or past its deadline.
func (l *Lease) renew() {
	due := time.NewTimer(l.ttl / renewals)
	defer due.Stop()
	for {
		select {
		case <-l.done:
			return
		case <-l.life.ctx.Done():
			l.finish(naming.ErrClosed)
			return
		case <-due.C:
		}
		start := time.Now()
		left := time.Until(l.Deadline())
		if left <= 0 {
			l.Lose(fmt.Errorf("%w: it could not be renewed for %v", naming.ErrLeaseLost, l.ttl))
			return
		}
		deadline, err := l.session.Renew(l.life.ctx, left)
		switch {
		case err == nil:
			l.Renewed(deadline)
			due.Reset(time.Until(start.Add(l.ttl / renewals)))
			l.tidy()
		case errors.Is(err, naming.ErrLeaseLost):
			l.Lose(err)
			return
		default:
			l.life.log.Debug().Err(err).Msg("lease not renewed yet")
			wait := renewWait
			if errors.Is(err, naming.ErrDenied) || errors.Is(err, naming.ErrUnauthenticated) {
				wait = max(wait, l.ttl/renewals/4) // somebody may be about to change that, not at once
			}
			due.Reset(min(wait, time.Until(l.Deadline())))
		}
	}
}

// Renewed moves the deadline forward, never back.
func (l *Lease) Renewed(deadline time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if deadline.After(l.deadline) {
		l.deadline = deadline
	}
}

// Deadline implements naming.Lease.
func (l *Lease) Deadline() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.deadline
}

// Done implements naming.Lease.
func (l *Lease) Done() <-chan struct{} { return l.done }

// finish closes done, once: the first reason stays.
func (l *Lease) finish(why error) (first bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.why != nil {
		return false
	}
	l.why = why
	close(l.done)
	return true
}

// Lose ends the lease for a reason other than Close. What is left of it on the
// server is ended in the background, so that nothing that was sent can last.
func (l *Lease) Lose(why error) {
	if !l.finish(why) {
		return
	}
	l.life.log.Warn().Err(why).Msg("a lease has ended early")
	_ = l.life.Start(func() { _ = l.revoke(l.life.ctx) }) // after Close there is nothing left to do
}

// reason gives why the lease cannot be used any more, or nil.
func (l *Lease) reason() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.why
}

// Close implements naming.Lease.
func (l *Lease) Close(ctx context.Context) error {
	l.finish(naming.ErrClosed)
	result := make(chan error, 1)
	err := l.life.Start(func() { result <- l.revoke(l.life.ctx) })
	if err == nil {
		select {
		case err = <-result:
		case <-ctx.Done():
			err = ctx.Err()
		}
	} else { // Life.Close is at it, or has done it
		select {
		case l.revoking <- struct{}{}:
			if l.revoked {
				err = nil
			}
			<-l.revoking
		case <-ctx.Done():
			err = ctx.Err()
		}
	}
	return l.life.Fail("close lease", naming.Name{}, err)
}

// revoke ends the lease on the server, once. It takes closeTimeout at most, also
// where others are at it.
func (l *Lease) revoke(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, closeTimeout)
	defer cancel()
	select {
	case l.revoking <- struct{}{}:
		defer func() { <-l.revoking }()
	case <-ctx.Done():
		return fmt.Errorf("%w: the server does not answer (its names are free when the server ends it by itself)", naming.ErrUnavailable)
	}
	if l.revoked {
		return nil
	}
	if err := l.session.End(ctx); err != nil {
		return fmt.Errorf("%w (its names are free when the server ends it by itself)", err)
	}
	l.revoked = true
	l.life.mu.Lock()
	delete(l.life.leases, l)
	l.life.mu.Unlock()
	return nil
}

// Empty says whether the lease holds nothing, as far as is known.
func (l *Lease) Empty() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range l.slots {
		if s.revision != 0 {
			return false
		}
	}
	return true
}
