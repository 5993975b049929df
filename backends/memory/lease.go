package memory

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/seed-6593ebad/skywarden/naming"
)

// renewals is how often a lease is renewed within its TTL.
const renewals = 5

// A Lease is the driver's side of a lease: see naming.Lease.
type Lease struct {
	backend *Backend
	held    *heldLease // the server's side
	stop    func()     // ends the renewal
	stopped chan struct{}
	done    chan struct{}

	mu       sync.Mutex
	deadline time.Time
}

var _ naming.Lease = (*Lease)(nil)

// newLease is called under the server's lock.
func newLease(b *Backend, ttl time.Duration) *Lease {
	l := &Lease{backend: b, deadline: time.Now().Add(ttl), stopped: make(chan struct{}), done: make(chan struct{})}
	l.stop = sync.OnceFunc(func() { close(l.stopped) })
	l.held = b.server.openLease(b, ttl)
	b.leases[l] = struct{}{}
	b.renewing.Go(l.keepAlive)
	return l
}

// keepAlive renews the lease until it is closed, gone or past its deadline.
func (l *Lease) keepAlive() {
	defer close(l.done)
	ttl := l.held.ttl
	due := time.NewTimer(ttl / renewals)
	defer due.Stop()
	expiry := time.NewTimer(time.Until(l.Deadline()))
	defer expiry.Stop()
	var wake <-chan struct{} = l.held.ended
	for {
		select {
		case <-l.stopped:
			return
		case <-l.backend.closing:
			return
		case <-expiry.C:
			return
		case <-due.C:
		case <-wake:
		}
		start := time.Now()
		answered, changed, err := l.backend.server.ask(l.backend, l.renew)
		switch {
		case answered && err == nil:
			l.mu.Lock()
			l.deadline = start.Add(ttl)
			l.mu.Unlock()
			due.Reset(ttl / renewals)
			expiry.Reset(time.Until(start.Add(ttl)))
			wake = l.held.ended
		case errors.Is(err, naming.ErrLeaseLost):
			return
		default: // not reached, or refused: there is no use in asking before something changes
			wake = changed
		}
	}
}

// renew is run by the server. Like etcd, it refuses a lease whose principal
// may not claim all that the lease holds.
func (l *Lease) renew(p *principal) error {
	select {
	case <-l.held.ended:
		return naming.ErrLeaseLost
	default:
	}
	for name := range l.held.names {
		if err := p.mayClaim(name); err != nil {
			return err
		}
	}
	l.backend.server.renewLease(l.held)
	return nil
}

// Claim implements naming.Lease.
func (l *Lease) Claim(ctx context.Context, name naming.Name, value []byte, over naming.Revision) (naming.Revision, error) {
	return l.write(ctx, "claim", name, value, func(there naming.Entry) bool {
		if over == 0 {
			return !there.Held
		}
		return there.Revision == over
	})
}

// Update implements naming.Lease.
func (l *Lease) Update(ctx context.Context, name naming.Name, value []byte, prev naming.Revision) (naming.Revision, error) {
	return l.write(ctx, "update", name, value, func(there naming.Entry) bool {
		_, mine := l.held.names[name]
		return mine && there.Revision == prev
	})
}

// write puts value under name if what is there is as expected.
func (l *Lease) write(ctx context.Context, op string, name naming.Name, value []byte, expected func(naming.Entry) bool) (naming.Revision, error) {
	if name.IsZero() {
		return 0, fail(op, name, errZeroName)
	}
	if len(value) > naming.MaxValueLen {
		return 0, fail(op, name, fmt.Errorf("%w: a value of %d bytes: %d at most", naming.ErrTooLarge, len(value), naming.MaxValueLen))
	}
	var rev naming.Revision
	err := l.call(ctx, op, name, func(p *principal) error {
		if err := p.mayClaim(name); err != nil {
			return err
		}
		if l.gone() {
			return naming.ErrLeaseLost
		}
		if there := l.backend.server.look(name); !expected(there) {
			return &naming.TakenError{Entry: there}
		}
		rev = l.backend.server.put(name, value, l.held)
		return nil
	})
	return rev, err
}

// Release implements naming.Lease.
func (l *Lease) Release(ctx context.Context, name naming.Name) error {
	const op = "release"
	if name.IsZero() {
		return fail(op, name, errZeroName)
	}
	return l.call(ctx, op, name, func(p *principal) error {
		if err := p.mayClaim(name); err != nil {
			return err
		}
		if _, mine := l.held.names[name]; mine {
			l.backend.server.remove(name)
		}
		return nil
	})
}

// call is Backend.call, which a closed lease refuses.
func (l *Lease) call(ctx context.Context, op string, name naming.Name, f func(*principal) error) error {
	return l.backend.call(ctx, op, name, func(p *principal) error {
		select {
		case <-l.stopped:
			return naming.ErrClosed
		default:
			return f(p)
		}
	})
}

// gone says whether the lease may not be used for claims any more: the server
// ended it, or its deadline has passed. The server may keep a lease longer than
// its driver does, after a restart for example.
func (l *Lease) gone() bool {
	select {
	case <-l.held.ended:
		return true
	case <-l.done:
		return true
	default:
		return !time.Now().Before(l.Deadline())
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

// Close implements naming.Lease.
func (l *Lease) Close(ctx context.Context) error {
	l.stop()
	<-l.done // soon: the loop waits for nothing but this
	b := l.backend
	err := b.call(ctx, "close lease", naming.Name{}, func(*principal) error {
		b.server.endLease(l.held)
		delete(b.leases, l)
		return nil
	})
	if errors.Is(err, naming.ErrClosed) {
		select {
		case <-l.held.ended:
			return nil
		default:
		}
	}
	return err
}
