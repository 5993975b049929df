package etcd

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/etcd/api/v3/mvccpb"
)

// A reader that is slow gets the latest state of each key, in the order of the
// revisions, and nothing that it has had.
func TestSubMerges(t *testing.T) {
	w := &sub{seen: 10, notify: make(chan struct{}, 1)}
	event := func(key string, revision int64, deleted bool) *mvccpb.Event {
		e := &mvccpb.Event{Type: mvccpb.Event_PUT, Kv: &mvccpb.KeyValue{Key: []byte(key), ModRevision: revision}}
		if deleted {
			e.Type = mvccpb.Event_DELETE
		}
		return e
	}
	type told struct {
		Key      string
		Revision int64
		Deleted  bool
	}
	take := func() (all []told) {
		events, _, err := w.take()
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range events {
			all = append(all, told{string(e.Kv.Key), e.Kv.ModRevision, e.Type == mvccpb.Event_DELETE})
		}
		return all
	}
	w.add([]*mvccpb.Event{event("old", 10, false)}) // what the watch begins with
	w.add([]*mvccpb.Event{event("a", 11, false), event("b", 11, false)})
	w.add([]*mvccpb.Event{event("a", 12, false), event("c", 13, false)})
	w.add([]*mvccpb.Event{event("a", 14, true)})
	if diff := cmp.Diff([]told{{"b", 11, false}, {"c", 13, false}, {"a", 14, true}}, take()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if got := w.seenUpTo(); got != 14 {
		t.Errorf("seen up to %d, want 14", got)
	}
	w.progress(20)
	w.progress(15) // never backwards
	if got := w.seenUpTo(); got != 20 {
		t.Errorf("seen up to %d, want 20", got)
	}
	w.add([]*mvccpb.Event{event("b", 14, true)}) // again, after the watch was made anew
	if got := take(); got != nil {
		t.Errorf("told again: %v", got)
	}
}
