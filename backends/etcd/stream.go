package etcd

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/peer"

	"github.com/seed-6593ebad/skywarden/naming"
)

// A hub keeps the one gRPC stream on which all watches of a Backend run: a
// thousand watches of one name each cost the server one stream.
//
// clientv3's watcher shares streams too, but it hides what a naming.Backend has
// to tell: it reconnects silently, goes on at the old revision even if the
// server was restored from a snapshot, gives the refusal of one watch as the
// reason of others on its stream, and cannot be moved off a server that hangs.
type hub struct {
	backend *Backend

	mu      sync.Mutex
	current *stream
}

// join gives the stream, opened, and makes it if there is none. Everyone who
// joined must leave.
func (h *hub) join(ctx context.Context) (*stream, error) {
	h.mu.Lock()
	s := h.current
	if s == nil || s.isOver() {
		s = newStream(h.backend)
		if err := h.backend.life.Start(s.run); err != nil {
			h.mu.Unlock()
			return nil, err
		}
		h.current = s
	}
	s.users++
	h.mu.Unlock()
	select {
	case <-s.opened:
		return s, nil
	case <-s.over:
		h.leave(s)
		return nil, s.err
	case <-ctx.Done():
		h.leave(s)
		return nil, ctx.Err()
	}
}

// leave ends a stream that nobody uses, and waits for it.
func (h *hub) leave(s *stream) {
	h.mu.Lock()
	s.users--
	last := s.users == 0
	if last && h.current == s {
		h.current = nil
	}
	h.mu.Unlock()
	if last {
		s.end(errUnused)
		<-s.over
	}
}

// Times of a stream. A server that hangs is noticed after probeEvery +
// silentFor + a tick at the latest; gRPC's own keepalive needs 13 s. Where
// there are several servers, links is faster if there are calls beside.
const (
	openTimeout = 3 * time.Second
	firstAnswer = 2 * time.Second         // from a server that was not heard yet
	silentFor   = 6 * time.Second         // how long a server may be silent
	probeEvery  = 1500 * time.Millisecond // how often it is asked to say something
	tick        = 250 * time.Millisecond
)

var (
	errUnused    = errors.New("nobody watches any more")
	errSilent    = fmt.Errorf("%w: the watch hears nothing from the server", naming.ErrUnavailable)
	errConfused  = fmt.Errorf("%w: the server answered to a watch that was not asked for", naming.ErrUnavailable)
	errCompacted = errors.New("the history was compacted")
)

// A stream is one gRPC watch stream. Its life is that of run.
type stream struct {
	backend *Backend
	ctx     context.Context
	end     context.CancelCauseFunc
	users   int // under hub.mu

	opened chan struct{}
	over   chan struct{} // closed when run has ended; then err says why
	err    error

	mu       sync.Mutex
	nextID   int64
	creating []*sub         // in the order of their requests, which is that of the answers
	running  map[int64]*sub // by watch id
	outbox   []*pb.WatchRequest
	wake     chan struct{} // there is something in the outbox
	heard    time.Time     // when the last message came
	answered bool          // whether one came at all
}

func newStream(b *Backend) *stream {
	s := &stream{
		backend: b, opened: make(chan struct{}), over: make(chan struct{}),
		running: map[int64]*sub{}, wake: make(chan struct{}, 1),
	}
	s.ctx, s.end = context.WithCancelCause(clientv3.WithRequireLeader(b.life.Context()))
	return s
}

func (s *stream) isOver() bool { return s.ctx.Err() != nil }

// run opens the stream and receives until it breaks.
func (s *stream) run() {
	defer close(s.over)
	var helpers sync.WaitGroup
	defer helpers.Wait()
	err := s.receive(&helpers)
	s.end(err)
	if s.err = s.backend.translate(context.Cause(s.ctx)); s.backend.life.Context().Err() != nil {
		s.err = naming.ErrClosed
	}
}

func (s *stream) receive(helpers *sync.WaitGroup) error {
	b := s.backend
	if b.guard == nil {
		if err := b.rules.examineClient(s.ctx, b.client); err != nil {
			return err
		}
	}
	late := time.AfterFunc(openTimeout, func() { s.end(context.DeadlineExceeded) })
	defer late.Stop()
	grpcStream, err := b.watch.Watch(s.ctx, callOptions...)
	if err != nil {
		return b.translate(err)
	}
	late.Stop()
	s.mu.Lock()
	s.heard = time.Now()
	s.mu.Unlock()
	close(s.opened)
	helpers.Go(func() { s.send(grpcStream) })
	helpers.Go(func() { s.look(grpcStream) })
	for {
		resp, err := grpcStream.Recv()
		if err != nil {
			return b.translate(err)
		}
		if err := s.deliver(resp); err != nil {
			return err
		}
	}
}

// send sends what is in the outbox: apart, because a server that hangs makes
// sending wait.
func (s *stream) send(grpcStream pb.Watch_WatchClient) {
	for {
		select {
		case <-s.wake:
		case <-s.ctx.Done():
			return
		}
		s.mu.Lock()
		requests := s.outbox
		s.outbox = nil
		s.mu.Unlock()
		for _, request := range requests {
			if grpcStream.Send(request) != nil {
				return // Recv has the reason
			}
		}
	}
}

// post puts a request into the outbox. s.mu is held.
func (s *stream) post(request *pb.WatchRequest) {
	s.outbox = append(s.outbox, request)
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// look asks the server to say something, ends the stream when it does not, and
// has watches re-authorised.
func (s *stream) look(grpcStream pb.Watch_WatchClient) {
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	probed := time.Now()
	for {
		select {
		case <-s.ctx.Done():
			return
		case <-ticker.C:
		}
		s.mu.Lock()
		now, limit := time.Now(), silentFor
		if !s.answered {
			limit = firstAnswer
		}
		silent := now.Sub(s.heard) > limit && len(s.creating)+len(s.running) > 0
		if now.Sub(probed) > probeEvery {
			probed = now
			s.post(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_ProgressRequest{ProgressRequest: &pb.WatchProgressRequest{}}})
		}
		for id, sub := range s.running {
			if now.After(sub.reauthorize) {
				s.recycle(id, sub)
			}
		}
		s.mu.Unlock()
		if silent {
			if server, ok := peer.FromContext(grpcStream.Context()); ok && s.backend.guard != nil {
				s.backend.guard.links.cut(server.Addr) // or the next stream might be on it
			}
			s.end(errSilent)
			return
		}
	}
}

// recycle has the server authorise a watch again, which it does only when one
// is made: the watch is cancelled and made anew, from where it was. s.mu is held.
func (s *stream) recycle(id int64, w *sub) {
	delete(s.running, id)
	s.cancel(id)
	s.create(w)
}

// create asks the server for the watch w. s.mu is held.
//
// It begins at the last revision that w has seen, not at the next one: until the
// store has reached the revision at which a watch begins, the server does not
// answer progress requests of the whole stream (3.7.3), and in a quiet cluster
// that is for ever. What w has seen already is not told again.
func (s *stream) create(w *sub) {
	if len(s.creating)+len(s.running) == 0 {
		s.heard = time.Now() // before, there was no reason to say anything
	}
	s.nextID++
	w.id = s.nextID
	s.creating = append(s.creating, w)
	request := &pb.WatchCreateRequest{Key: []byte(w.key), StartRevision: w.seenUpTo(), WatchId: w.id}
	if w.end != "" {
		request.RangeEnd = []byte(w.end)
	}
	s.post(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: request}})
}

// cancel tells the server that nobody wants the watch id. s.mu is held.
func (s *stream) cancel(id int64) {
	s.post(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CancelRequest{CancelRequest: &pb.WatchCancelRequest{WatchId: id}}})
}

// deliver gives a message to those whom it concerns.
func (s *stream) deliver(resp *pb.WatchResponse) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.heard, s.answered = time.Now(), true
	switch {
	case resp.Created:
		return s.created(resp)
	case resp.Canceled:
		// Of a watch that we cancelled ourselves there is none.
		if w := s.running[resp.WatchId]; w != nil {
			delete(s.running, resp.WatchId)
			w.fail(s.backend.refusedWatch(resp))
		}
	case len(resp.Events) > 0:
		if w := s.running[resp.WatchId]; w != nil {
			w.add(resp.Events)
		}
	case resp.WatchId < 0: // progress, of all watches
		for _, w := range s.running {
			w.progress(resp.Header.GetRevision())
		}
	default:
		if w := s.running[resp.WatchId]; w != nil {
			w.progress(resp.Header.GetRevision())
		}
	}
	return nil
}

// created handles the answer to a request for a watch. A refusal carries no id,
// but answers come in the order of the requests. s.mu is held.
func (s *stream) created(resp *pb.WatchResponse) error {
	if len(s.creating) == 0 || !resp.Canceled && resp.WatchId != s.creating[0].id {
		return errConfused
	}
	w := s.creating[0]
	s.creating = s.creating[1:]
	switch {
	case resp.Canceled && isEtcd(canceled(resp.CancelReason), rpctypes.ErrAuthOldRevision):
		s.create(w) // permissions have just changed: again
	case resp.Canceled:
		w.fail(s.backend.refusedWatch(resp))
	case w.unwanted:
		s.cancel(w.id)
	default:
		every := s.backend.settings.ReauthorizeEvery
		w.reauthorize = time.Now().Add(every*4/5 + rand.N(every*2/5)) //nolint:gosec // spreads load
		s.running[w.id] = w
		w.accept()
	}
	return nil
}

// refusedWatch gives the reason for which the server ended a watch.
func (b *Backend) refusedWatch(resp *pb.WatchResponse) error {
	err := canceled(resp.CancelReason)
	if resp.CompactRevision != 0 || isEtcd(err, rpctypes.ErrCompacted) {
		return errCompacted
	}
	return translate(err)
}

// subscribe makes a watch that goes on after revision seen.
func (s *stream) subscribe(key, end string, seen int64) *sub {
	w := &sub{key: key, end: end, seen: seen, notify: make(chan struct{}, 1)}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.create(w)
	return w
}

// unsubscribe ends a watch; nothing comes of it afterwards.
func (s *stream) unsubscribe(w *sub) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w.unwanted = true
	if s.running[w.id] == w {
		delete(s.running, w.id)
		s.cancel(w.id)
	}
}

// lastHeard is when the server said something.
func (s *stream) lastHeard() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.heard
}

// A sub is one watch on a stream: what came and was not read yet. Of each key
// it keeps the latest event only, so a slow reader costs no more memory than a
// listing.
type sub struct {
	key, end string

	// Under stream.mu.
	id          int64
	reauthorize time.Time
	unwanted    bool

	mu       sync.Mutex
	seen     int64 // everything up to this revision has come
	accepted bool
	events   map[string]*mvccpb.Event
	err      error

	notify chan struct{} // something is new
}

func (w *sub) seenUpTo() int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return max(w.seen, 1)
}

func (w *sub) change(f func()) {
	w.mu.Lock()
	f()
	w.mu.Unlock()
	select {
	case w.notify <- struct{}{}:
	default:
	}
}

func (w *sub) accept()        { w.change(func() { w.accepted = true }) }
func (w *sub) fail(err error) { w.change(func() { w.err = err }) }

func (w *sub) progress(revision int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.seen = max(w.seen, revision)
}

// add takes events: all those of the revisions that they are of.
func (w *sub) add(events []*mvccpb.Event) {
	w.change(func() {
		if w.events == nil {
			w.events = map[string]*mvccpb.Event{}
		}
		for _, event := range events {
			if event.Kv.ModRevision > w.seen {
				w.events[string(event.Kv.Key)] = event
			}
		}
		w.seen = max(w.seen, events[len(events)-1].Kv.ModRevision)
	})
}

// take gives what came since, in the order of the revisions, and whether the
// server has accepted the watch.
func (w *sub) take() (events []*mvccpb.Event, accepted bool, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, event := range w.events {
		events = append(events, event)
	}
	w.events = nil
	slices.SortFunc(events, func(a, b *mvccpb.Event) int { return int(a.Kv.ModRevision - b.Kv.ModRevision) })
	return events, w.accepted, w.err
}
