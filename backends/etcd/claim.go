package etcd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/peer"

	"github.com/seed-6593ebad/skywarden/internal/driver"
	"github.com/seed-6593ebad/skywarden/naming"
)

// Deadlines of writes: of one try, and of one that reached no server.
const (
	writeTry     = 1500 * time.Millisecond
	writeTimeout = 3 * time.Second
)

// Put implements driver.Session, in one transaction. One that is denied although
// nothing of ours is on the lease is tried again with another lease: it was taken
// hostage.
func (s *session) Put(ctx context.Context, slot *driver.Slot, value []byte, guard driver.Guard) error {
	id, err := s.put(ctx, slot, value, guard)
	if errors.Is(err, naming.ErrDenied) && !guard.Own && s.isHostage(id) && s.exchange(id, true) {
		_, err = s.put(ctx, slot, value, guard)
	}
	return err
}

// compare makes the condition of a write to key under the etcd lease id.
func compare(guard driver.Guard, key []byte, id int64) []*pb.Compare {
	switch {
	case guard.Free:
		return []*pb.Compare{leaseIs(key, 0)} // true for an absent key too
	case guard.Own:
		// Our lease on it too, because revisions recur after the restore of a snapshot,
		// and a write without our lease would leave the key for ever.
		return []*pb.Compare{revisionIs(key, int64(guard.Revision)), leaseIs(key, id)}
	}
	return []*pb.Compare{revisionIs(key, int64(guard.Revision))}
}

// put writes value in one transaction and says under which etcd lease.
//
// An answer that was lost is cleared up by sending the transaction again: if the
// first one took effect, the guard refuses the second, whose answer shows our
// own write. An earlier one that did not take effect cannot do so later where
// its guard names a revision, because that has passed. One that claims what is
// free may land once the name is free.
func (s *session) put(ctx context.Context, slot *driver.Slot, value []byte, guard driver.Guard) (id int64, err error) {
	s.exchanging.RLock()
	defer s.exchanging.RUnlock()
	id = s.etcdLease()
	key := []byte(s.b.settings.keys.of(slot.Name))
	resp, doubt, err := s.b.commit(ctx, &pb.TxnRequest{
		Compare: compare(guard, key, id),
		Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: key, Value: value, Lease: id}}}},
		Failure: []*pb.RequestOp{{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: key}}}},
	})
	switch {
	case errors.Is(err, naming.ErrLeaseLost):
		return id, fmt.Errorf("%w: the server does not know it any more", naming.ErrLeaseLost)
	case err != nil && doubt:
		return id, fmt.Errorf("%w: %v", naming.ErrOutcomeUnknown, err) //nolint:errorlint // it is not "unavailable": the lease will go
	case err != nil:
		return id, err
	}
	if doubt && guard.Free {
		slot.Stray()
	}
	if resp.Succeeded {
		slot.Hold(naming.Revision(resp.Header.Revision), value)
		return id, nil
	}
	there := found(resp)
	if there == nil || there.Lease != id {
		slot.Hold(0, nil)
	} else if naming.Revision(there.ModRevision) != slot.Revision() && bytes.Equal(there.Value, value) {
		slot.Hold(naming.Revision(there.ModRevision), value) // our own earlier try
		return id, nil
	}
	taken := &naming.TakenError{Entry: naming.Entry{Name: slot.Name}}
	if there != nil {
		taken.Entry = entry(slot.Name, there)
	}
	return id, taken
}

// Remove implements driver.Session.
func (s *session) Remove(ctx context.Context, slot *driver.Slot) error {
	s.exchanging.RLock()
	defer s.exchanging.RUnlock()
	id, key, revision := s.etcdLease(), []byte(s.b.settings.keys.of(slot.Name)), slot.Revision()
	for {
		resp, _, err := s.b.commit(ctx, &pb.TxnRequest{
			Compare: compare(driver.Guard{Own: true, Revision: revision}, key, id),
			Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: &pb.DeleteRangeRequest{Key: key}}}},
			Failure: []*pb.RequestOp{{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: key}}}},
		})
		if err != nil {
			return err
		}
		there := found(resp)
		if resp.Succeeded || there == nil || there.Lease != id {
			slot.Hold(0, nil)
			return nil
		}
		revision = naming.Revision(there.ModRevision)
	}
}

// isHostage says whether the etcd lease was taken hostage: nothing of ours is on
// it, and still we may not renew it.
func (s *session) isHostage(id int64) bool {
	_, err := s.b.keepAlive(renewTry, id)
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
		if known == refused || !doubt && time.Since(start) > writeTimeout || driver.Pause(ctx, driver.RetryPause) != nil {
			return nil, doubt, err
		}
	}
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
