package etcd

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/peer"

	"github.com/seed-6593ebad/skywarden/internal/driver"
	"github.com/seed-6593ebad/skywarden/naming"
)

// A session is the etcd lease behind a lease.
type session struct {
	b     *Backend
	ttl   time.Duration // as requested
	lease *driver.Lease

	// exchanging is held for writing while the etcd lease is exchanged, for reading
	// by every write: see exchange.
	exchanging sync.RWMutex

	mu sync.Mutex
	id int64 // of the etcd lease
}

// Lease implements naming.Backend. Every user may open leases. A ttl under 3 s
// is ErrInsecureConfig. The server counts in seconds: fractions are rounded up.
func (b *Backend) Lease(ctx context.Context, ttl time.Duration) (naming.Lease, error) {
	const op = "lease"
	if ttl == 0 {
		ttl = b.settings.DefaultTTL
	}
	if ttl < MinTTL {
		return nil, b.life.Fail(op, naming.Name{}, fmt.Errorf("%w: a lease of %v: give %v at least, or 0 for %v", naming.ErrInsecureConfig, ttl, MinTTL, b.settings.DefaultTTL))
	}
	within, cancel := b.life.Bound(ctx, grantTimeout)
	defer cancel()
	id, deadline, err := b.grant(within, ttl)
	if err != nil {
		return nil, b.life.Fail(op, naming.Name{}, b.life.Explain(ctx, err))
	}
	on := &session{b: b, ttl: ttl, id: id}
	l, err := b.life.NewLease(ttl, deadline, on, func(l *driver.Lease) { on.lease = l })
	if err != nil {
		return nil, b.life.Fail(op, naming.Name{}, err) // what was granted ends with its TTL
	}
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
			_ = b.life.Start(func() { _ = b.revoke(b.life.Context(), try) })
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

// renewTry bounds one renewal. Not clientv3.KeepAlive: with one of three servers
// stopped it lost 8 of 8 leases, and a loop of single ones none (measured).
const renewTry = 800 * time.Millisecond

// Renew implements driver.Session.
func (s *session) Renew(_ context.Context, left time.Duration) (time.Time, error) {
	start, id := time.Now(), s.etcdLease()
	ttl, err := s.b.keepAlive(min(renewTry, left), id)
	switch {
	case err == nil:
		return start.Add(min(s.ttl, ttl)), nil
	case errors.Is(err, naming.ErrLeaseLost):
		return time.Time{}, fmt.Errorf("%w: the server does not know it any more", naming.ErrLeaseLost)
	case errors.Is(err, naming.ErrDenied) && !s.exchange(id, false):
		// Either a key on it is not ours to write any more, or it is empty, and
		// somebody took it hostage.
		return time.Time{}, fmt.Errorf("%w: it may not be renewed: %w", naming.ErrLeaseLost, err)
	}
	return time.Time{}, err
}

// End implements driver.Session.
func (s *session) End(ctx context.Context) error { return s.b.revoke(ctx, s.etcdLease()) }

// keepAlive renews an etcd lease once and gives its TTL.
func (b *Backend) keepAlive(try time.Duration, id int64) (ttl time.Duration, err error) {
	err = b.once(b.life.Context(), try, func(ctx context.Context) error {
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

func (s *session) etcdLease() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.id
}

// exchange replaces an etcd lease that is empty and was taken hostage: whoever
// knows the id of an empty lease can attach a key of his own, and then its owner
// may neither renew it nor claim with it nor revoke it. It says whether the
// lease has a usable etcd lease now. It waits for the writes that are under way
// if wait is true.
func (s *session) exchange(hostage int64, wait bool) bool {
	if wait {
		s.exchanging.Lock()
	} else if !s.exchanging.TryLock() {
		return true // the write that is under way is denied as well, and will exchange it
	}
	defer s.exchanging.Unlock()
	switch {
	case s.etcdLease() != hostage:
		return true
	case !s.lease.Empty():
		return false
	}
	ctx, cancel := context.WithTimeout(s.b.life.Context(), grantTry)
	defer cancel()
	id, deadline, err := s.b.grant(ctx, s.ttl)
	if err != nil {
		return false
	}
	s.mu.Lock()
	s.id = id
	s.mu.Unlock()
	s.lease.Renewed(deadline)
	s.b.log.Warn().Bool("alarm", true).Msg("an empty lease was taken hostage: it was replaced")
	return true
}
