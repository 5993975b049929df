package runtime

import (
	"container/list"
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// A mailbox holds what a service has to do. A goroutine handles it, and lives
// only as long as there is something to handle: a parked goroutine per service
// would cost 2.9 KB and 2.6 µs each.
//
// Senders append to queue under mu. The goroutine takes the whole queue as its
// batch and leaves the slice of its last batch in its place, so that neither is
// made anew. The elements of batch do not change until the next swap: who stops
// the service may read them.
type mailbox struct {
	size  int    // most messages that wait
	start func() // runs the service; stored, because "go s.run()" allocates

	mu      sync.Mutex
	state   state
	queue   []envelope
	batch   []envelope
	events  []NameEvent // ahead of queue, and not bounded by size
	waiting *list.List  // of *waiter, first come first; nil at first
	since   time.Time   // the goroutine works; zero where there is none
	busy    time.Duration

	left      atomic.Int64 // messages of batch that wait
	attention atomic.Bool  // look at events, exiting and state before the next message
	exiting   atomic.Bool
}

type state uint8

const (
	idle     state = iota // nothing to do, no goroutine
	running               // has a goroutine
	stopping              // takes nothing more; its goroutine has not noticed yet
	stopped
)

// A waiter is a sender whose message found no room.
type waiter struct {
	e        envelope
	admitted chan error // one place: nil once e is in the queue, or why it never will be
}

// keepBuffer is the most messages whose room an idle mailbox keeps.
const keepBuffer = 256

// put adds e, and waits for room until ctx ends. Where mayWait is false it gives
// ErrSelf instead.
func (s *service) put(ctx context.Context, e envelope, mayWait bool) error {
	s.mu.Lock()
	switch {
	case s.state >= stopping:
		s.mu.Unlock()
		return ErrServiceGone
	case s.hasRoom() && (s.waiting == nil || s.waiting.Len() == 0):
		s.add(e) // unlocks
		return nil
	case !mayWait:
		s.mu.Unlock()
		return fmt.Errorf("%w: its mailbox is full (%d messages)", ErrSelf, s.size)
	}
	if s.waiting == nil {
		s.waiting = list.New()
	}
	w := &waiter{e, make(chan error, 1)}
	place := s.waiting.PushBack(w)
	s.mu.Unlock()

	select {
	case err := <-w.admitted:
		return err
	case <-ctx.Done():
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case err := <-w.admitted: // meanwhile
		return err
	default:
	}
	if s.waiting != nil { // nil: it is being stopped, and w will be told, or is not listened to
		s.waiting.Remove(place)
	}
	return fmt.Errorf("mailbox full (%d messages): %w", s.size, ctx.Err())
}

// push adds e beyond the bound.
func (s *service) push(e envelope) {
	s.mu.Lock()
	if s.state >= stopping {
		s.mu.Unlock()
		return
	}
	s.add(e)
}

// tell has the service told of a name, ahead of its messages.
func (s *service) tell(ev NameEvent) {
	if s.onName == nil {
		return
	}
	s.mu.Lock()
	if s.state >= stopping {
		s.mu.Unlock()
		return
	}
	s.events = append(s.events, ev)
	s.attention.Store(true)
	s.wake()
}

// add appends e, wakes the service and unlocks.
func (s *service) add(e envelope) {
	s.queue = append(s.queue, e)
	s.wake()
}

// wake starts the goroutine where there is none, and unlocks.
func (s *service) wake() {
	wasIdle := s.state == idle
	if wasIdle {
		s.state = running
		s.node.begin()
	}
	s.mu.Unlock()
	if wasIdle {
		go s.start()
	}
}

func (s *service) hasRoom() bool { return len(s.queue)+int(s.left.Load()) < s.size }

// admit lets waiting senders in, in their order, as far as there is room.
func (s *service) admit() {
	for s.waiting != nil && s.waiting.Len() > 0 && s.hasRoom() {
		w := s.waiting.Remove(s.waiting.Front()).(*waiter)
		s.queue = append(s.queue, w.e)
		w.admitted <- nil
	}
}

// run is the service's goroutine.
func (s *service) run() {
	clean := false
	defer func() {
		if !clean {
			value := recover()
			if value == nil {
				value = errGoexit
			}
			s.crashed(value)
			s.mu.Lock()
			s.state = stopped
			s.batch = nil
			s.account()
			s.mu.Unlock()
		}
		s.node.finish()
	}()
	for s.turn() {
	}
	clean = true
}

// turn handles what is there now. It gives false when there is no more, and then
// the service may have another goroutine already.
func (s *service) turn() bool {
	if !s.attend() {
		return false
	}
	s.mu.Lock()
	if s.since.IsZero() {
		s.since = time.Now()
	}
	clear(s.batch)
	s.admit()
	if len(s.queue) == 0 {
		if s.attention.Load() {
			s.mu.Unlock()
			return true
		}
		s.rest()
		s.mu.Unlock()
		return false
	}
	s.batch, s.queue = s.queue, s.batch[:0]
	s.left.Store(int64(len(s.batch)))
	batch := s.batch
	s.mu.Unlock()

	for i := range batch {
		if s.attention.Load() && !s.attend() {
			return false
		}
		s.left.Store(int64(len(batch) - i - 1))
		s.serve(&batch[i])
	}
	return true
}

// rest makes the service idle.
func (s *service) rest() {
	s.state = idle
	s.account()
	s.batch = s.batch[:0]
	if cap(s.batch) > keepBuffer {
		s.batch = nil
	}
	if cap(s.queue) > keepBuffer {
		s.queue = nil
	}
}

// account adds the time since the goroutine started to the busy time.
func (s *service) account() {
	if !s.since.IsZero() {
		s.busy += time.Since(s.since)
		s.since = time.Time{}
	}
}

// attend does what comes before messages. It gives false when the service is
// stopped: its goroutine ends.
func (s *service) attend() bool {
	for s.attention.Swap(false) { // before the looks, so that none is missed
		if s.exiting.Load() {
			s.stop(errExited, false)
		}
		s.mu.Lock()
		if s.state == stopping {
			s.state = stopped
			s.batch = nil
			s.account()
			s.mu.Unlock()
			s.end(ErrServiceGone)
			return false
		}
		events := s.events
		s.events = nil
		s.mu.Unlock()
		for _, ev := range events {
			s.onName(&s.context, ev)
		}
	}
	return true
}

// current gives the message of batch that is being handled, or was handled last:
// that one has been answered, and to fail it again does no harm. It is zero where
// the first is still to come. The caller holds mu.
func (m *mailbox) current() envelope {
	if i := len(m.batch) - int(m.left.Load()) - 1; i >= 0 {
		return m.batch[i]
	}
	return envelope{}
}

// leftover is what a service leaves undone when it is stopped.
type leftover struct {
	idle     bool     // no handler runs
	current  envelope // see mailbox.current
	messages []envelope
	waiting  []*waiter
	deferred map[*Deferred]struct{}
}

// shut makes the mailbox take nothing more, and gives what is in it; false where
// that was done before.
func (s *service) shut() (leftover, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state >= stopping {
		return leftover{}, false
	}
	l := leftover{idle: s.state == idle, deferred: s.deferred}
	if l.idle {
		s.state = stopped
	} else {
		s.state = stopping
		s.attention.Store(true)
		l.current = s.current()
		l.messages = append(l.messages, s.batch[len(s.batch)-int(s.left.Load()):]...)
	}
	l.messages = append(l.messages, s.queue...)
	s.queue, s.deferred, s.events = nil, nil, nil
	if s.waiting != nil {
		for p := s.waiting.Front(); p != nil; p = p.Next() {
			l.waiting = append(l.waiting, p.Value.(*waiter))
		}
		s.waiting = nil
	}
	for t := range s.timers {
		t.done = true
		if t.t.Stop() {
			s.node.finish()
		}
	}
	s.timers = nil
	return l, true
}
