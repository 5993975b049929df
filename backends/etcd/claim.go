package etcd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/peer"

	"github.com/seed-6593ebad/skywarden/naming"
)

// Deadlines of writes. A write that reached no server is given up after
// writeTimeout; one whose outcome is unclear is cleared up until clearTimeout.
const (
	writeTry     = 1500 * time.Millisecond
	writeTimeout = 3 * time.Second
	clearTimeout = 4500 * time.Millisecond
	callTimeout  = 4800 * time.Millisecond // with the wait for earlier calls for the name
)

// Claim implements naming.Lease.
func (l *lease) Claim(ctx context.Context, name naming.Name, value []byte, over naming.Revision) (naming.Revision, error) {
	if len(value) > naming.MaxValueLen {
		return 0, fail("claim", name, tooLarge(value))
	}
	value = bytes.Clone(value) // the write may go on after the caller has gone
	guard := func(key []byte, _ int64) []*pb.Compare {
		if over == 0 {
			return []*pb.Compare{leaseIs(key, 0)} // true for an absent key too
		}
		return []*pb.Compare{revisionIs(key, int64(over))}
	}
	var rev naming.Revision
	err := l.call(ctx, "claim", name, func(ctx context.Context, s *slot) error {
		id, err := l.put(ctx, s, value, guard, over == 0)
		if errors.Is(err, naming.ErrDenied) && l.isHostage(id) && l.exchange(id, true) {
			_, err = l.put(ctx, s, value, guard, over == 0)
		}
		rev = naming.Revision(s.revision)
		return err
	}, l.undoClaim)
	if err != nil {
		return 0, err
	}
	return rev, nil
}

func (l *lease) undoClaim(ctx context.Context, s *slot) {
	s.leftover = l.remove(ctx, s) != nil // then tidy goes on
}

// Update implements naming.Lease.
func (l *lease) Update(ctx context.Context, name naming.Name, value []byte, prev naming.Revision) (naming.Revision, error) {
	if len(value) > naming.MaxValueLen {
		return 0, fail("update", name, tooLarge(value))
	}
	value = bytes.Clone(value)
	var rev naming.Revision
	var before []byte
	err := l.call(ctx, "update", name, func(ctx context.Context, s *slot) error {
		before = s.value
		_, err := l.put(ctx, s, value, guardOwn(int64(prev)), false)
		rev = naming.Revision(s.revision)
		return err
	}, func(ctx context.Context, s *slot) {
		if _, err := l.put(ctx, s, before, guardOwn(s.revision), false); err != nil && !errors.Is(err, naming.ErrTaken) {
			l.lose(fmt.Errorf("%w: an update could not be undone: %w", naming.ErrLeaseLost, err))
		}
	})
	if err != nil {
		return 0, err
	}
	return rev, nil
}

// Release implements naming.Lease.
func (l *lease) Release(ctx context.Context, name naming.Name) error {
	return l.call(ctx, "release", name, func(ctx context.Context, s *slot) error {
		err := l.remove(ctx, s)
		s.leftover = err != nil && s.revision != 0
		return err
	}, func(context.Context, *slot) {}) // what was released stays so
}

// call runs work for one name, after all earlier calls for it. When the caller's
// context ends the call returns at once; work goes on, and is undone if it
// succeeds.
func (l *lease) call(ctx context.Context, op string, name naming.Name, work func(context.Context, *slot) error, undo func(context.Context, *slot)) error {
	switch {
	case name.IsZero():
		return fail(op, name, errZeroName)
	case ctx.Err() != nil:
		return fail(op, name, ctx.Err())
	}
	waiting, cancel := l.b.bound(ctx, callTimeout)
	defer cancel()
	overdue := fmt.Errorf("%w: no answer within %v", naming.ErrUnavailable, callTimeout)
	s, err := l.lock(waiting, name)
	if err != nil {
		return fail(op, name, l.b.explain(ctx, overdue))
	}
	result := make(chan error) // handed over, or not: see below
	err = l.b.start(func() {
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
				_ = l.within(clearTimeout, s, func(ctx context.Context, s *slot) error {
					undo(ctx, s)
					return nil
				})
			}
		}
	})
	if err != nil {
		l.unlock(s)
		return fail(op, name, err)
	}
	select {
	case err = <-result:
		if errors.Is(err, naming.ErrUnavailable) {
			err = l.b.explain(ctx, err)
		}
	case <-waiting.Done():
		err = l.b.explain(ctx, overdue)
	}
	return fail(op, name, err)
}

func (l *lease) within(d time.Duration, s *slot, work func(context.Context, *slot) error) error {
	ctx, cancel := context.WithTimeout(l.b.life, d)
	defer cancel()
	return work(ctx, s)
}

// unusable gives why the lease may not be used for op. To release a name of a
// lease that was lost is harmless, and of use where the server still has it.
func (l *lease) unusable(op string) error {
	why := l.reason()
	if op == "release" && !errors.Is(why, naming.ErrClosed) {
		return nil
	}
	return why
}

// lock waits until no other call for the name is under way.
func (l *lease) lock(ctx context.Context, name naming.Name) (*slot, error) {
	l.mu.Lock()
	s := l.slots[name]
	if s == nil {
		s = &slot{name: name, lock: make(chan struct{}, 1)}
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

func (l *lease) unlock(s *slot) {
	if s.stray || s.leftover {
		l.untidy.Store(true)
	}
	<-s.lock
	l.leave(s)
}

func (l *lease) leave(s *slot) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if s.users--; s.users == 0 && s.revision == 0 && !s.stray && !s.leftover {
		delete(l.slots, s.name)
	}
}

// hold remembers what the lease holds under the slot's name: revision 0 for
// nothing.
func (l *lease) hold(s *slot, revision int64, value []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s.revision, s.value = revision, value
}

// A guarder makes the condition of a write to key under the etcd lease id.
type guarder func(key []byte, id int64) []*pb.Compare

// guardOwn: exactly this revision, and our lease on it, because revisions recur
// after the restore of a snapshot, and a write without our lease would leave the
// key for ever.
func guardOwn(revision int64) guarder {
	return func(key []byte, id int64) []*pb.Compare {
		return []*pb.Compare{revisionIs(key, revision), leaseIs(key, id)}
	}
}

// put writes value in one transaction and says under which etcd lease. The slot
// knows the new revision afterwards.
//
// An answer that was lost is cleared up by sending the transaction again: if the
// first one took effect, the guard refuses the second, whose answer shows our
// own write. An earlier one that did not take effect cannot do so later where
// its guard names a revision, because that has passed. exclusive says that it
// does not: such a one may land once the name is free. Therefore slot.stray.
func (l *lease) put(ctx context.Context, s *slot, value []byte, guard guarder, exclusive bool) (id int64, err error) {
	l.exchanging.RLock()
	defer l.exchanging.RUnlock()
	id = l.etcdLease()
	key := []byte(l.b.settings.keys.of(s.name))
	resp, doubt, err := l.b.commit(ctx, &pb.TxnRequest{
		Compare: guard(key, id),
		Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: key, Value: value, Lease: id}}}},
		Failure: []*pb.RequestOp{{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: key}}}},
	})
	switch {
	case errors.Is(err, naming.ErrLeaseLost):
		l.lose(fmt.Errorf("%w: the server does not know it any more", naming.ErrLeaseLost))
		return id, err
	case err != nil && doubt:
		err = fmt.Errorf("%w: %v", naming.ErrOutcomeUnknown, err) //nolint:errorlint // it is not "unavailable": the lease is gone
		l.lose(fmt.Errorf("%w: it was ended, because a write of %s may still land: %w", naming.ErrLeaseLost, s.name, err))
		return id, err
	case err != nil:
		return id, err
	}
	s.stray = s.stray || doubt && exclusive
	if resp.Succeeded {
		l.hold(s, resp.Header.Revision, value)
		s.leftover = false
		return id, nil
	}
	there := found(resp)
	if there == nil || there.Lease != id {
		l.hold(s, 0, nil)
	} else if there.ModRevision != s.revision && bytes.Equal(there.Value, value) {
		l.hold(s, there.ModRevision, value) // our own earlier try
		s.leftover = false
		return id, nil
	}
	taken := &naming.TakenError{Entry: naming.Entry{Name: s.name}}
	if there != nil {
		taken.Entry = entry(s.name, there)
	}
	return id, taken
}

// remove deletes the entry that this lease holds under the slot's name, if any.
// It names the exact revision, so that a deletion that lands late cannot hit a
// later claim.
func (l *lease) remove(ctx context.Context, s *slot) error {
	l.exchanging.RLock()
	defer l.exchanging.RUnlock()
	id, key, revision := l.etcdLease(), []byte(l.b.settings.keys.of(s.name)), s.revision
	for {
		resp, _, err := l.b.commit(ctx, &pb.TxnRequest{
			Compare: guardOwn(revision)(key, id),
			Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: &pb.DeleteRangeRequest{Key: key}}}},
			Failure: []*pb.RequestOp{{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: key}}}},
		})
		if err != nil {
			return err
		}
		there := found(resp)
		if resp.Succeeded || there == nil || there.Lease != id {
			l.hold(s, 0, nil)
			return nil
		}
		revision = there.ModRevision
	}
}

// tidy looks, after a renewal, whether something lies under a name that should
// not: what could not be deleted, or a claim that landed late. It does nothing
// in a lease that saw no trouble.
func (l *lease) tidy() {
	if !l.untidy.Load() || !l.tidying.CompareAndSwap(false, true) {
		return
	}
	l.mu.Lock()
	slots := slices.Collect(maps.Values(l.slots))
	for _, s := range slots {
		s.users++
	}
	l.mu.Unlock()
	err := l.b.start(func() {
		defer l.tidying.Store(false)
		for _, s := range slots {
			select {
			case s.lock <- struct{}{}:
			default: // a call is under way: next time
				l.leave(s)
				continue
			}
			if s.leftover || s.stray && s.revision == 0 {
				s.leftover = l.within(clearTimeout, s, l.remove) != nil
			}
			l.unlock(s)
		}
	})
	if err != nil { // closed: everything goes with the lease
		l.tidying.Store(false)
	}
}

// isHostage says whether the etcd lease was taken hostage: nothing of ours is on
// it, and still we may not renew it.
func (l *lease) isHostage(id int64) bool {
	_, err := l.b.keepAlive(renewTry, id)
	return errors.Is(err, naming.ErrDenied)
}

// commit sends a guarded transaction until it is answered. doubt says that
// beside the try that was answered there is one that was not, and that may have
// taken effect or may still. The error is translated.
func (b *Backend) commit(ctx context.Context, txn *pb.TxnRequest) (resp *pb.TxnResponse, doubt bool, err error) {
	start := time.Now()
	for {
		var server peer.Peer
		try, cancel := context.WithTimeout(clientv3.WithRequireLeader(ctx), writeTry)
		resp, err = b.kv.Txn(try, txn, slices.Concat(callOptions, []grpc.CallOption{grpc.Peer(&server)})...)
		cancel()
		if err == nil {
			return resp, doubt, nil
		}
		known := repeat
		if server.Addr != nil { // else it was not sent
			known = judge(err)
		}
		err = b.translate(err)
		doubt = doubt || known == ambiguous
		if known == refused || !doubt && time.Since(start) > writeTimeout || pause(ctx, retryPause) != nil {
			return nil, doubt, err
		}
	}
}

func tooLarge(value []byte) error {
	return fmt.Errorf("%w: a value of %d bytes: %d at most", naming.ErrTooLarge, len(value), naming.MaxValueLen)
}

// found gives the key that the transaction's else branch has read, or nil.
func found(resp *pb.TxnResponse) *mvccpb.KeyValue {
	for _, r := range resp.Responses {
		if kvs := r.GetResponseRange().GetKvs(); len(kvs) > 0 {
			return kvs[0]
		}
	}
	return nil
}

func leaseIs(key []byte, id int64) *pb.Compare {
	return &pb.Compare{Key: key, Target: pb.Compare_LEASE, Result: pb.Compare_EQUAL, TargetUnion: &pb.Compare_Lease{Lease: id}}
}

func revisionIs(key []byte, revision int64) *pb.Compare {
	return &pb.Compare{Key: key, Target: pb.Compare_MOD, Result: pb.Compare_EQUAL, TargetUnion: &pb.Compare_ModRevision{ModRevision: revision}}
}
