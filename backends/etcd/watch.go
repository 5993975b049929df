package etcd

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"iter"
	"math/rand/v2"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/seed-6593ebad/skywarden/naming"
)

// Watch implements naming.Backend. All watches of a Backend share one stream to
// the server.
func (b *Backend) Watch(ctx context.Context, scope naming.Scope) iter.Seq2[naming.Event, error] {
	return func(yield func(naming.Event, error) bool) {
		w := &watcher{b: b, yield: yield, told: map[naming.Name]state{}}
		w.key, w.end = b.settings.keys.scope(scope)
		var err error
		if scope.IsZero() {
			err = fmt.Errorf("%w: the zero Scope holds no name", naming.ErrNameInvalid)
		} else {
			err = w.run(ctx)
		}
		if !w.stopped {
			only, _ := scope.Name()
			yield(naming.Event{}, fail("watch", only, err))
		}
	}
}

// A watcher is one range over Watch.
type watcher struct {
	b        *Backend
	key, end string
	yield    func(naming.Event, error) bool
	stopped  bool // by the reader

	told   map[naming.Name]state // what the reader believes to be there
	synced bool                  // the reader was told so, and of no Down since
	down   bool                  // the reader was told so, and of no Synced since
	last   time.Time             // of the last event
}

// A state is what makes one state of an entry differ from another. The revision
// is not enough: after the restore of a snapshot revisions recur.
type state struct {
	revision int64
	held     bool
	value    uint64
}

var seed = maphash.MakeSeed()

func stateOf(kv *mvccpb.KeyValue) state {
	return state{kv.ModRevision, kv.Lease != 0, maphash.Bytes(seed, kv.Value)}
}

// aliveEvery is how often a reader hears of a quiet watch.
const aliveEvery = 2500 * time.Millisecond

// run follows the scope until there is no more use in it, and gives the reason;
// nil if the reader has stopped.
func (w *watcher) run(ctx context.Context) error {
	for {
		err := w.follow(ctx)
		switch {
		case w.stopped:
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case w.b.isClosed():
			return naming.ErrClosed
		case errors.Is(err, naming.ErrDenied), errors.Is(err, naming.ErrUnauthenticated):
			return err
		case errors.Is(err, errCompacted):
			continue // not an outage: the difference follows
		}
		// A new token is no outage either, but must not be asked for in a tight loop.
		newToken := errors.Is(err, errNewToken)
		w.synced = w.synced && newToken
		if !w.down && !newToken {
			w.b.log.Warn().Err(err).Str("key", w.key).Msg("watch lost its server")
			w.down = true
			if !w.tell(naming.Event{Kind: naming.Down, Err: fail("watch", naming.Name{}, err)}) {
				return nil
			}
		}
		within, cancel := w.b.bound(ctx, time.Minute)
		_ = pause(within, retryPause+rand.N(2*retryPause)) //nolint:gosec // spreads load: many watches lose their server at once
		cancel()
	}
}

// follow lists, tells the difference, and then the changes until something
// breaks. It lists after every break: only so a restored snapshot is seen, which
// may have reached the old revision again.
func (w *watcher) follow(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(w.b.life, cancel)()

	// The stream first: if the server is replaced after the listing, it breaks.
	stream, err := w.b.hub.join(ctx)
	if err != nil {
		return err
	}
	defer w.b.hub.leave(stream)
	kvs, revision, err := w.b.list(ctx, w.key, w.end)
	if err != nil {
		return err
	}
	sub := stream.subscribe(w.key, w.end, revision)
	defer stream.unsubscribe(sub)
	alive := time.NewTicker(aliveEvery / 5)
	defer alive.Stop()

	listed := false
	for {
		events, accepted, err := sub.take()
		switch {
		case err != nil:
			return err
		case accepted && !listed:
			if !w.tellListing(kvs) {
				return nil
			}
			kvs, listed = nil, true
		}
		for _, event := range events {
			if !w.tellEvent(event) {
				return nil
			}
		}
		select {
		case <-sub.notify:
		case <-stream.over:
			return stream.err
		case <-ctx.Done():
			return ctx.Err()
		case <-alive.C:
			if listed && time.Since(w.last) >= aliveEvery && stream.lastHeard().After(w.last) && !w.tell(naming.Event{Kind: naming.Alive}) {
				return nil
			}
		}
	}
}

func (w *watcher) tell(event naming.Event) bool {
	w.last = time.Now()
	w.stopped = !w.yield(event, nil)
	return !w.stopped
}

// tellListing tells how a listing differs from what was told, then Synced if the
// reader waits for it.
func (w *watcher) tellListing(kvs []*mvccpb.KeyValue) bool {
	there := make(map[naming.Name]bool, len(kvs))
	for _, kv := range kvs {
		name, ok := w.name(kv)
		if !ok {
			continue
		}
		there[name] = true
		if !w.tellPut(name, kv) {
			return false
		}
	}
	for name, told := range w.told {
		if !there[name] && !w.tellDelete(name, told.revision) {
			return false
		}
	}
	if w.synced {
		return true
	}
	w.synced, w.down = true, false
	return w.tell(naming.Event{Kind: naming.Synced})
}

func (w *watcher) tellEvent(event *mvccpb.Event) bool {
	name, ok := w.name(event.Kv)
	switch {
	case !ok:
		return true
	case event.Type == mvccpb.Event_DELETE:
		if _, told := w.told[name]; !told {
			return true
		}
		return w.tellDelete(name, event.Kv.ModRevision)
	}
	return w.tellPut(name, event.Kv)
}

func (w *watcher) tellPut(name naming.Name, kv *mvccpb.KeyValue) bool {
	now := stateOf(kv)
	if told, known := w.told[name]; known && told == now {
		return true
	}
	w.told[name] = now
	return w.tell(naming.Event{Kind: naming.Put, Entry: entry(name, kv)})
}

func (w *watcher) tellDelete(name naming.Name, revision int64) bool {
	delete(w.told, name)
	return w.tell(naming.Event{Kind: naming.Delete, Entry: naming.Entry{Name: name, Revision: naming.Revision(revision)}})
}

// name gives the name of a key. Somebody else's keys below our root are no
// reason to hide good ones.
func (w *watcher) name(kv *mvccpb.KeyValue) (naming.Name, bool) {
	name, err := w.b.settings.keys.name(string(kv.Key))
	if err != nil {
		w.b.log.Debug().Err(err).Str("key", string(kv.Key)).Msg("ignored")
	}
	return name, err == nil
}

// pageSize bounds one answer of a listing. Measured: 100 000 keys in pages of
// 10 000 take 0.34 s.
const pageSize = 5000

// list reads a range as it was at one revision, linearizably.
func (b *Backend) list(ctx context.Context, key, end string) (kvs []*mvccpb.KeyValue, revision int64, err error) {
	page := &pb.RangeRequest{Key: []byte(key), RangeEnd: []byte(end), Limit: pageSize}
	for {
		var resp *pb.RangeResponse
		var compacted bool
		err := b.ask(ctx, listTimeout, listTry, func(ctx context.Context) (err error) {
			resp, err = b.kv.Range(ctx, page, callOptions...)
			if compacted = isEtcd(err, rpctypes.ErrCompacted); compacted {
				return nil
			}
			return err
		})
		switch {
		case err != nil:
			return nil, 0, err
		case compacted:
			return nil, 0, errCompacted
		}
		kvs = append(kvs, resp.Kvs...)
		if page.Revision == 0 {
			page.Revision = resp.Header.Revision // all pages are of this one
		}
		if !resp.More || len(resp.Kvs) == 0 {
			return kvs, page.Revision, nil
		}
		page.Key = []byte(string(resp.Kvs[len(resp.Kvs)-1].Key) + "\x00")
	}
}
