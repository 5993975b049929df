package runtime

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"runtime/debug"
	"slices"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"github.com/seed-6593ebad/skywarden/naming"
)

// A Handler handles the messages of one service, one at a time. What it returns
// goes to the caller, if there is one who was not answered: the error, or
// ErrNoReply for nil. An error that nobody waits for is logged.
//
// A handler may block; its service then does nothing else. A panic ends the
// service (and no other): see ErrPanicked.
type Handler func(c *Context, msg any) error

// A service is one actor. Its mailbox is in mailbox.go.
type service struct {
	mailbox
	node    *Node
	handle  naming.Handle
	handler Handler
	accepts func(msg any) error // nil: everything
	onName  func(*Context, NameEvent)
	context Context

	// Guarded by mailbox.mu.
	timers    map[*Timer]struct{}
	deferred  map[*Deferred]struct{}
	lifetime  context.Context // made at first use
	cancel    context.CancelCauseFunc
	cancelled error // why; set where lifetime was not made yet

	names  atomic.Pointer[[]*heldName] // replaced, never changed; writers hold node.names.mu
	locals []naming.LocalName          // guarded by node.locals.mu

	handled atomic.Uint64
	refused atomic.Uint64
}

// A SpawnOption changes one Spawn.
type SpawnOption func(*service)

// OnName has f told what becomes of the names that the service holds. f runs as
// the handler does, one call at a time and never beside it, and ahead of the
// messages that wait.
func OnName(f func(*Context, NameEvent)) SpawnOption {
	return func(s *service) { s.onName = f }
}

// MailboxSize bounds the service's mailbox to n messages instead of the node's
// default, not counting the one that is being handled.
func MailboxSize(n int) SpawnOption {
	return func(s *service) { s.size = n }
}

// Spawn starts a service that takes messages of type M; senders of anything else
// get ErrWrongType. M may be an interface, and then takes nil too. Errors are those of Node.Spawn.
func Spawn[M any](n *Node, handler func(*Context, M) error, opts ...SpawnOption) (Ref, error) {
	if handler == nil {
		return n.Spawn(nil)
	}
	takes := reflect.TypeFor[M]()
	accepts := func(msg any) error {
		if _, ok := msg.(M); !ok && (msg != nil || takes.Kind() != reflect.Interface) {
			return fmt.Errorf("%w: the service takes %v, not %T", ErrWrongType, takes, msg)
		}
		return nil
	}
	return n.spawn(func(c *Context, msg any) error {
		m, _ := msg.(M) // accepts has seen it
		return handler(c, m)
	}, accepts, opts)
}

func (s *service) address() naming.Address { return s.node.address(s.handle) }

func (s *service) ref() Ref { return Ref{node: s.node, addr: s.address()} }

// An envelope is a message in a mailbox, with the name that it was addressed by.
type envelope struct {
	Message
	held *heldName // nil where addressed by handle
}

// answer hands the answer to the caller, unless the service may not speak for
// the name that it was called by any more (promise S4).
func (e *envelope) answer(body any, err error) error {
	epoch := e.Epoch
	if e.held != nil {
		current, refusal := e.held.serving()
		if refusal != nil {
			e.fail(refusal)
			return refusal
		}
		epoch = current
	}
	e.Reply.Reply(e.Session, epoch, body, err)
	return nil
}

// fail tells the caller, if there is one, what the runtime has to say.
func (e *envelope) fail(err error) {
	if e.Reply != nil {
		e.Reply.Reply(e.Session, e.Epoch, nil, err)
	}
}

// serve has the service handle one message.
func (s *service) serve(e *envelope) {
	if e.held != nil {
		if err := e.held.check(e.Epoch); err != nil {
			s.refused.Add(1)
			s.node.log.Debug().Uint32("handle", uint32(s.handle)).Stringer("name", e.Name).Err(err).Msg("message refused")
			e.fail(err)
			return
		}
	}
	c := &s.context
	c.msg, c.answered, c.deferred = e, false, false
	err := s.handler(c, e.Body)
	c.msg = nil
	s.handled.Add(1)
	switch {
	case e.Reply == nil || c.answered || c.deferred:
		if err != nil {
			s.node.log.Warn().Uint32("handle", uint32(s.handle)).Strs("names", s.nameStrings()).Err(err).
				Msg("handler returned an error that nobody waits for")
		}
	case err != nil:
		_ = e.answer(nil, err)
	default:
		_ = e.answer(nil, fmt.Errorf("%w: the handler of %T returned nil without one", ErrNoReply, e.Body))
	}
}

// stop ends the service: it takes nothing more, gives up its names, and all who
// wait for it are told why. A handler that runs goes on to its end; with
// interrupt, its Context ends, and its caller is told why at once.
func (s *service) stop(why error, interrupt bool) {
	left, ok := s.shut()
	if !ok {
		if interrupt {
			s.end(why)
		}
		return
	}
	names := s.nameStrings()
	s.node.remove(s)
	if interrupt || left.idle {
		s.end(why)
	}
	if interrupt {
		left.current.fail(why)
	}
	lost := 0
	for i := range left.messages {
		e := &left.messages[i]
		e.fail(why)
		if e.Reply == nil {
			lost++
		}
	}
	for _, w := range left.waiting {
		w.admitted <- why
	}
	for d := range left.deferred {
		d.msg.fail(why)
	}
	level := zerolog.DebugLevel
	if lost > 0 {
		level = zerolog.WarnLevel
	}
	s.node.log.WithLevel(level).Int("messages_lost", lost).Uint32("handle", uint32(s.handle)).Strs("names", names).AnErr("why", why).Msg("service stopped")
}

// abandon tells the caller of a handler that runs on after its service was
// stopped that nobody waits for it any more.
func (s *service) abandon(why error) {
	s.mu.Lock()
	var current envelope
	if s.state == stopping {
		current = s.current()
	}
	s.mu.Unlock()
	current.fail(why)
}

// end ends the service's Context.
func (s *service) end(why error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cancelled == nil {
		s.cancelled = why
		if s.cancel != nil {
			s.cancel(why)
		}
	}
}

// life gives the context behind the service's Context.
func (s *service) life() context.Context {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lifetime == nil {
		s.lifetime, s.cancel = context.WithCancelCause(s.node.life)
		if s.cancelled != nil {
			s.cancel(s.cancelled)
		}
	}
	return s.lifetime
}

var errExited = fmt.Errorf("%w: it exited", ErrServiceGone)

// exit asks for the end of the service after the message that is being handled.
func (s *service) exit() {
	s.exiting.Store(true)
	s.attention.Store(true)
	s.mu.Lock()
	idle := s.state == idle
	s.mu.Unlock()
	if idle { // not called by the handler: no message is being handled
		s.stop(errExited, false)
	}
}

// crashed ends the service after a panic, or after the handler ended its
// goroutine.
func (s *service) crashed(value any) {
	stack := debug.Stack()
	p := Panic{Handle: s.handle, Names: s.nameStrings(), Value: value, Stack: stack}
	s.stop(errPanicked, true)
	if s.context.msg != nil {
		s.context.msg.fail(errPanicked) // where it had been stopped before
	}
	s.node.log.Error().Uint32("handle", uint32(s.handle)).Strs("names", p.Names).
		Str("panic", fmt.Sprint(value)).Bytes("stack", stack).Msg("service panicked and was stopped")
	if s.node.onPanic == nil {
		return
	}
	defer func() {
		if again := recover(); again != nil {
			s.node.log.Error().Str("panic", fmt.Sprint(again)).Msg("the OnPanic hook panicked")
		}
	}()
	s.node.onPanic(p)
}

var errPanicked = fmt.Errorf("%w: %w", ErrServiceGone, ErrPanicked)

// errGoexit is the value of a Panic whose handler called runtime.Goexit.
var errGoexit = errors.New("the handler ended its goroutine")

// A Panic is what Config.OnPanic is told.
type Panic struct {
	Handle naming.Handle
	Names  []string // that the service held
	Value  any
	Stack  []byte
}

func (s *service) keep(d *Deferred) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.deferred == nil {
		s.deferred = make(map[*Deferred]struct{})
	}
	s.deferred[d] = struct{}{}
}

func (s *service) forget(d *Deferred) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.deferred, d)
}

func (s *service) after(d time.Duration, msg any) *Timer {
	t := &Timer{s: s}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state >= stopping {
		t.done = true
		return t
	}
	if s.timers == nil {
		s.timers = make(map[*Timer]struct{})
	}
	s.timers[t] = struct{}{}
	s.node.begin()
	t.t = time.AfterFunc(d, func() {
		defer s.node.finish()
		s.fire(t, msg)
	})
	return t
}

func (s *service) fire(t *Timer, msg any) {
	if !s.stopTimer(t) {
		return
	}
	if s.accepts != nil {
		if err := s.accepts(msg); err != nil {
			s.node.log.Warn().Uint32("handle", uint32(s.handle)).Err(err).Msg("message of a timer dropped")
			return
		}
	}
	s.push(envelope{Message: Message{From: s.address(), Body: msg}})
}

// stopTimer marks t as done, and says whether it was not before.
func (s *service) stopTimer(t *Timer) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if t.done {
		return false
	}
	t.done = true
	delete(s.timers, t)
	if t.t.Stop() {
		s.node.finish()
	}
	return true
}

func (s *service) nameStrings() []string {
	var names []string
	for _, h := range s.heldNames() {
		if _, err := h.serving(); err == nil {
			names = append(names, h.name.String())
		}
	}
	names = append(names, s.node.locals.of(s)...)
	slices.Sort(names)
	return names
}

// heldName gives the service's hold on name, in whatever state it is; nil for
// none.
func (s *service) heldName(name naming.Name) *heldName {
	for _, h := range s.heldNames() {
		if h.name == name {
			return h
		}
	}
	return nil
}

func (s *service) isStopped() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state >= stopping
}

func (s *service) heldNames() []*heldName {
	if names := s.names.Load(); names != nil {
		return *names
	}
	return nil
}
