package etcd

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/peer"

	"github.com/seed-6593ebad/skywarden/naming"
)

// A lease is a naming.Lease on an etcd lease.
type lease struct {
	b   *Backend
	ttl time.Duration // as requested

	// exchanging is held for writing while the etcd lease is exchanged, for reading
	// by every write: see exchange.
	exchanging sync.RWMutex

	mu       sync.Mutex
	id       int64 // of the etcd lease
	deadline time.Time
	slots    map[naming.Name]*slot
	why      error // of done
	done     chan struct{}

	untidy  atomic.Bool // some slot is stray or leftover, or was
	tidying atomic.Bool

	revoking chan struct{} // a lock with one place
	revoked  bool          // under revoking
}

// A slot is what a lease knows of one name. Its lock lets one call after the
// other to the name, also after their callers have gone.
type slot struct {
	name  naming.Name
	lock  chan struct{} // has one place; who has it may change what is below
	users int           // who have or want the lock; under lease.mu

	revision int64  // of the entry that this lease holds, as far as we know; 0: none. Changed under lease.mu too
	value    []byte // of that entry
	// stray says that a claim was sent whose answer never came, and that may land
	// as long as the lease lives and the name is free.
	stray bool
	// leftover says that an entry that nobody wants any more may be there.
	leftover bool
}

// Lease implements naming.Backend. Every user may open leases. A ttl under 3 s
// is ErrInsecureConfig. The server counts in seconds: fractions are rounded up.
func (b *Backend) Lease(ctx context.Context, ttl time.Duration) (naming.Lease, error) {
	const op = "lease"
	if ttl == 0 {
		ttl = b.settings.DefaultTTL
	}
	if ttl < MinTTL {
		return nil, fail(op, naming.Name{}, fmt.Errorf("%w: a lease of %v: give %v at least, or 0 for %v", naming.ErrInsecureConfig, ttl, MinTTL, b.settings.DefaultTTL))
	}
	within, cancel := b.bound(ctx, grantTimeout)
	defer cancel()
	id, deadline, err := b.grant(within, ttl)
	if err != nil {
		return nil, fail(op, naming.Name{}, b.explain(ctx, err))
	}
	l := &lease{
		b: b, ttl: ttl, id: id, deadline: deadline,
		slots: map[naming.Name]*slot{}, done: make(chan struct{}), revoking: make(chan struct{}, 1),
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil, fail(op, naming.Name{}, naming.ErrClosed) // what was granted ends with its TTL
	}
	b.leases[l] = struct{}{}
	b.tasks.Go(l.renew)
	return l, nil
}

// grant makes an etcd lease. We choose its id, 63 random bits: the server would
// take the next number, and whoever knows the id of a lease that is still empty
// can take it hostage.
func (b *Backend) grant(ctx context.Context, ttl time.Duration) (id int64, deadline time.Time, err error) {
	err = b.again(ctx, grantTry, func(ctx context.Context) error {
		var random [8]byte
		_, _ = rand.Read(random[:]) // never fails, says its documentation
		try := int64(binary.BigEndian.Uint64(random[:]) >> 1)
		start := time.Now()
		resp, err := b.leasing.LeaseGrant(ctx, &pb.LeaseGrantRequest{ID: try, TTL: seconds(ttl)}, callOptions...)
		if err != nil {
			// It may be there all the same; it would end with its TTL.
			_ = b.start(func() { _ = b.revoke(b.life, try) })
			return err
		}
		id, deadline = resp.ID, start.Add(min(ttl, time.Duration(resp.TTL)*time.Second))
		return nil
	})
	return id, deadline, err
}

func seconds(d time.Duration) int64 { return int64((d + time.Second - 1) / time.Second) }

// revoke ends an etcd lease; that there is none is fine. It tries for
// closeTimeout.
func (b *Backend) revoke(ctx context.Context, id int64) error {
	ctx, cancel := context.WithTimeout(ctx, closeTimeout)
	defer cancel()
	err := b.again(ctx, grantTry, func(ctx context.Context) error {
		_, err := b.leasing.LeaseRevoke(ctx, &pb.LeaseRevokeRequest{ID: id}, callOptions...)
		return err
	})
	if errors.Is(err, naming.ErrLeaseLost) {
		return nil
	}
	return err
}

// Renewals: the bound for one try, and how many there are within a TTL at
// least. Not clientv3.KeepAlive: with one of three servers stopped it lost 8 of
// 8 leases, and this loop none (measured).
const (
	renewTry  = 800 * time.Millisecond
	renewals  = 5
	renewWait = 100 * time.Millisecond // after a try that failed at once
)

// renew keeps the lease alive until it is finished, gone or past its deadline.
func (l *lease) renew() {
	due := time.NewTimer(l.ttl / renewals)
	defer due.Stop()
	for {
		select {
		case <-l.done:
			return
		case <-l.b.life.Done():
			l.finish(naming.ErrClosed)
			return
		case <-due.C:
		}
		start, id := time.Now(), l.etcdLease()
		left := time.Until(l.Deadline())
		if left <= 0 {
			l.lose(fmt.Errorf("%w: it could not be renewed for %v", naming.ErrLeaseLost, l.ttl))
			return
		}
		ttl, err := l.b.keepAlive(min(renewTry, left), id)
		switch {
		case err == nil:
			l.renewed(id, start.Add(min(l.ttl, ttl)))
			due.Reset(time.Until(start.Add(l.ttl / renewals)))
			l.tidy()
			continue
		case errors.Is(err, naming.ErrLeaseLost):
			l.lose(fmt.Errorf("%w: the server does not know it any more", naming.ErrLeaseLost))
			return
		case errors.Is(err, naming.ErrDenied):
			// Either a key on it is not ours to write any more, or it is empty, and
			// somebody took it hostage.
			if !l.exchange(id, false) {
				l.lose(fmt.Errorf("%w: it may not be renewed: %w", naming.ErrLeaseLost, err))
				return
			}
		}
		l.b.log.Debug().Err(err).Msg("lease not renewed yet")
		due.Reset(min(renewWait, time.Until(l.Deadline())))
	}
}

// keepAlive renews an etcd lease once and gives its TTL.
func (b *Backend) keepAlive(try time.Duration, id int64) (ttl time.Duration, err error) {
	err = b.once(b.life, try, func(ctx context.Context) error {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel() // ends the stream
		var server peer.Peer
		begin := time.Now()
		stream, err := b.leasing.LeaseKeepAlive(ctx, slices.Concat(callOptions, []grpc.CallOption{grpc.Peer(&server)})...)
		if err != nil {
			return err
		}
		_ = stream.Send(&pb.LeaseKeepAliveRequest{ID: id}) // Recv has the reason
		resp, err := stream.Recv()
		if err != nil {
			if b.guard != nil && server.Addr != nil && ctx.Err() != nil {
				b.guard.links.unanswered(server.Addr, begin)
			}
			return err
		}
		ttl = time.Duration(resp.TTL) * time.Second
		return nil
	})
	if err == nil && ttl <= 0 {
		err = naming.ErrLeaseLost
	}
	return ttl, err
}

func (l *lease) renewed(id int64, deadline time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.id == id && deadline.After(l.deadline) {
		l.deadline = deadline
	}
}

func (l *lease) etcdLease() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.id
}

// Deadline implements naming.Lease.
func (l *lease) Deadline() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.deadline
}

// Done implements naming.Lease.
func (l *lease) Done() <-chan struct{} { return l.done }

// finish closes done, once: the first reason stays.
func (l *lease) finish(why error) (first bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.why != nil {
		return false
	}
	l.why = why
	close(l.done)
	return true
}

// lose ends the lease for a reason other than Close. What is left of it on the
// server is ended in the background, so that nothing that was sent can last.
func (l *lease) lose(why error) {
	if !l.finish(why) {
		return
	}
	l.b.log.Warn().Err(why).Msg("a lease has ended early")
	_ = l.b.start(func() { _ = l.revoke(l.b.life) }) // after Close there is nothing left to do
}

// reason gives why the lease cannot be used any more, or nil.
func (l *lease) reason() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.why
}

// Close implements naming.Lease.
func (l *lease) Close(ctx context.Context) error {
	l.finish(naming.ErrClosed)
	result := make(chan error, 1)
	err := l.b.start(func() { result <- l.revoke(l.b.life) })
	if err == nil {
		select {
		case err = <-result:
		case <-ctx.Done():
			err = ctx.Err()
		}
	} else if l.isRevoked() { // Backend.Close has done it
		err = nil
	}
	return fail("close lease", naming.Name{}, err)
}

func (l *lease) isRevoked() bool {
	l.revoking <- struct{}{}
	defer func() { <-l.revoking }()
	return l.revoked
}

// revoke ends the etcd lease, once.
func (l *lease) revoke(ctx context.Context) error {
	l.revoking <- struct{}{} // not for long: each who has it tries for closeTimeout
	defer func() { <-l.revoking }()
	if l.revoked {
		return nil
	}
	if err := l.b.revoke(ctx, l.etcdLease()); err != nil {
		return fmt.Errorf("%w (its names are free within %v)", err, l.ttl)
	}
	l.revoked = true
	l.b.mu.Lock()
	delete(l.b.leases, l)
	l.b.mu.Unlock()
	return nil
}

// exchange replaces an etcd lease that is empty and was taken hostage: whoever
// knows the id of an empty lease can attach a key of his own, and then its owner
// may neither renew it nor claim with it nor revoke it. It says whether the
// lease has a usable etcd lease now. It waits for the writes that are under way
// if wait is true.
func (l *lease) exchange(hostage int64, wait bool) bool {
	if wait {
		l.exchanging.Lock()
	} else if !l.exchanging.TryLock() {
		return true // the write that is under way is denied as well, and will exchange it
	}
	defer l.exchanging.Unlock()
	l.mu.Lock()
	current, empty := l.id, true
	for _, s := range l.slots {
		empty = empty && s.revision == 0
	}
	l.mu.Unlock()
	if current != hostage {
		return true
	}
	if !empty {
		return false
	}
	ctx, cancel := context.WithTimeout(l.b.life, grantTry)
	defer cancel()
	id, deadline, err := l.b.grant(ctx, l.ttl)
	if err != nil {
		return false
	}
	l.mu.Lock()
	l.id, l.deadline = id, deadline
	l.mu.Unlock()
	l.b.log.Warn().Bool("alarm", true).Msg("an empty lease was taken hostage: it was replaced")
	return true
}
