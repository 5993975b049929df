package memory

import (
	"context"
	"fmt"
	"iter"
	"time"

	"github.com/seed-6593ebad/skywarden/naming"
)

const (
	// aliveEvery is the longest silence of a healthy watch; the contract allows 5 s.
	aliveEvery = 2 * time.Second
	// patience is how long a watch waits for a silent server before it says Down.
	patience = 2 * time.Second
)

// watch is one running range statement. Instead of events it remembers which
// names changed, each once, and reads their state when the reader is ready for
// it. So a slow reader never blocks the server, costs memory for each name and
// not for each change, and is never told less than the latest.
type watch struct {
	backend *Backend
	scope   naming.Scope
	wake    chan struct{} // holds one token when a name was marked

	// Guarded by Server.mu.
	told    map[naming.Name]naming.Revision // what the reader knows to be there
	changed map[naming.Name]naming.Revision // names to look at, with the revision of their last change
	queue   []naming.Name                   // the keys of changed, oldest first
	heard   time.Time                       // when the server last answered
	spoke   time.Time                       // when the reader was last told something
	// syncing: Synced is to come after the first `before` names of queue.
	syncing bool
	before  int
	isDown  bool // Down was told, and Synced was not told since
	offline bool // the server was out of reach when last asked
}

// Watch implements naming.Backend. It uses no goroutine: all is done by the one
// that ranges. When the server does not answer, Down comes after 2 s; when it
// was killed, at once.
func (b *Backend) Watch(ctx context.Context, scope naming.Scope) iter.Seq2[naming.Event, error] {
	return func(yield func(naming.Event, error) bool) {
		const op = "watch"
		if scope.IsZero() {
			yield(naming.Event{}, fail(op, naming.Name{}, fmt.Errorf("%w: the zero Scope holds no name", naming.ErrNameInvalid)))
			return
		}
		w := &watch{
			backend: b, scope: scope, wake: make(chan struct{}, 1), heard: time.Now(), offline: true,
			told: make(map[naming.Name]naming.Revision), changed: make(map[naming.Name]naming.Revision),
		}
		defer b.server.drop(w)
		name, _ := scope.Name()
		for {
			if err := ctx.Err(); err != nil {
				yield(naming.Event{}, fail(op, name, err))
				return
			}
			ev, changed, wait, err := b.server.next(w)
			if err != nil {
				yield(naming.Event{}, fail(op, name, err))
				return
			}
			if ev.Kind == 0 {
				timer := time.NewTimer(wait)
				select {
				case <-changed:
				case <-w.wake:
				case <-ctx.Done():
				case <-b.closing:
				case <-timer.C:
				}
				timer.Stop()
				continue
			}
			if !yield(ev, nil) {
				return
			}
		}
	}
}

// next gives the event that the reader is to be told now. If there is none,
// its Kind is 0, and it is worth asking again after changed, w.wake or wait.
func (s *Server) next(w *watch) (ev naming.Event, changed <-chan struct{}, wait time.Duration, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := w.backend
	if b.closed {
		return ev, nil, 0, naming.ErrClosed
	}
	now := time.Now()
	if !s.reachedBy(b) {
		w.offline = true
		left := patience - now.Sub(w.heard)
		switch {
		case w.isDown:
			left = patience // nothing more to tell until something changes
		case s.killed || left <= 0:
			w.isDown = true
			return naming.Event{Kind: naming.Down, Err: fail("watch", naming.Name{}, errSilent)}, nil, 0, nil
		}
		return ev, s.whenChanged(), left, nil
	}
	w.heard = now
	p, err := s.authenticate(b)
	if err != nil {
		return ev, nil, 0, err
	}
	if err := p.mayRead(w.scope); err != nil {
		return ev, nil, 0, err
	}
	if w.offline {
		s.sync(w)
	}
	for len(w.queue) > 0 && (!w.syncing || w.before > 0) {
		if ev := s.pop(w); ev.Kind != 0 {
			w.spoke = now
			return ev, nil, 0, nil
		}
	}
	switch left := aliveEvery - now.Sub(w.spoke); {
	case w.syncing:
		w.syncing, w.isDown = false, false
		ev.Kind = naming.Synced
	case left <= 0:
		ev.Kind = naming.Alive
	default:
		return ev, s.whenChanged(), left, nil
	}
	w.spoke = now
	return ev, nil, 0, nil
}

var errSilent = fmt.Errorf("%w: the server does not answer", naming.ErrUnavailable)

// sync is called when the server is reached for the first time, or again. A
// reader that was not told Down needs no Synced: all that changed meanwhile is
// in the queue.
func (s *Server) sync(w *watch) {
	w.offline = false
	if _, known := s.watches[w]; !known {
		if s.watches == nil {
			s.watches = make(map[*watch]struct{})
		}
		s.watches[w] = struct{}{}
		w.syncing = true
		for name, e := range s.entries {
			w.mark(name, e.revision)
		}
	}
	if w.isDown {
		w.syncing = true
	}
	if w.syncing {
		w.before = len(w.queue)
	}
}

// mark notes that name changed at revision rev.
func (w *watch) mark(name naming.Name, rev naming.Revision) {
	if !w.scope.Contains(name) {
		return
	}
	if _, queued := w.changed[name]; !queued {
		w.queue = append(w.queue, name)
	}
	w.changed[name] = rev
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// pop takes the oldest name from the queue and gives its event, or none if the
// reader knows already what is there.
func (s *Server) pop(w *watch) naming.Event {
	name := w.queue[0]
	w.queue = w.queue[1:]
	w.before = max(0, w.before-1)
	rev := w.changed[name]
	delete(w.changed, name)

	there := s.look(name)
	known := w.told[name]
	switch {
	case there.Revision == known: // also: not there, and never told
		return naming.Event{}
	case there.Revision != 0:
		w.told[name] = there.Revision
		return naming.Event{Kind: naming.Put, Entry: there}
	}
	delete(w.told, name)
	there.Revision = rev
	return naming.Event{Kind: naming.Delete, Entry: there}
}

// drop forgets a watch that ended.
func (s *Server) drop(w *watch) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.watches, w)
}
