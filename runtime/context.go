package runtime

import (
	"context"
	"time"
)

// A Context is what a handler gets beside its message: whom to answer, who it
// is, and its life. There is one for each service.
//
// It is a context.Context that ends when the service ends, and passed on as one
// it makes the service the sender of what is sent. In that role it may be used
// from any goroutine, and as long as one likes. The methods about the message
// (Sender, Reply, Defer) are for the handler, while it runs.
type Context struct {
	s *service

	// Of the message that is being handled; nil and false in between.
	msg      *envelope
	answered bool
	deferred bool
}

type serviceKey struct{}

// serviceOf gives the service on whose behalf ctx is used, nil for none.
func serviceOf(ctx context.Context) *service {
	if c, ok := ctx.(*Context); ok {
		return c.s
	}
	s, _ := ctx.Value(serviceKey{}).(*service)
	return s
}

// ServiceOf gives the service whose Context ctx is, or is made from; false where
// there is none.
func ServiceOf(ctx context.Context) (Ref, bool) {
	if s := serviceOf(ctx); s != nil {
		return s.ref(), true
	}
	return Ref{}, false
}

// Deadline implements context.Context: there is none.
func (c *Context) Deadline() (time.Time, bool) { return time.Time{}, false }

// Done implements context.Context: it is closed when the service is killed or
// has ended, or half-way through the time that Node.Close was given.
func (c *Context) Done() <-chan struct{} { return c.s.life().Done() }

// Err implements context.Context.
func (c *Context) Err() error { return c.s.life().Err() }

// Value implements context.Context.
func (c *Context) Value(key any) any {
	if key == (serviceKey{}) {
		return c.s
	}
	return c.s.life().Value(key)
}

// Self gives the service's own Ref, bound to its handle.
func (c *Context) Self() Ref { return c.s.ref() }

// Node gives the node that the service runs on.
func (c *Context) Node() *Node { return c.s.node }

// Sender gives the service that the message came from; false where it came from
// none.
func (c *Context) Sender() (Ref, bool) {
	if c.msg == nil || c.msg.From.IsZero() {
		return Ref{}, false
	}
	return c.s.node.At(c.msg.From), true
}

// Reply answers the call that is being handled. It is the first answer that
// counts; where nobody waits for an answer, Reply does nothing. The only error is
// naming.ErrFenced (and naming.ErrLeaseLost): the service was called by a name
// that it does not hold any more; then the caller gets this error instead.
func (c *Context) Reply(answer any) error {
	if c.msg == nil || c.msg.Reply == nil {
		return nil
	}
	c.answered = true
	return c.msg.answer(answer, nil)
}

// Defer keeps the call that is being handled to be answered later: the handler
// may return without a reply. Where nobody waits for an answer, the Deferred does
// nothing.
func (c *Context) Defer() *Deferred {
	d := &Deferred{s: c.s}
	if c.msg != nil && c.msg.Reply != nil {
		c.deferred = true
		d.msg = *c.msg
		d.msg.Body = nil
		c.s.keep(d)
	}
	return d
}

// Exit ends the service after the message that is being handled. Messages that
// wait are not handled; their callers get ErrServiceGone.
func (c *Context) Exit() { c.s.exit() }

// Register claims name for the service, as Node.Register does. The service
// handles nothing else meanwhile.
func (c *Context) Register(name string, opts ...RegisterOption) error {
	return c.s.node.Register(c, name, c.Self(), opts...)
}

// Release gives name up, as Node.Release does.
func (c *Context) Release(name string) error { return c.s.node.Release(c, name) }

// Lookup is Node.Lookup.
func (c *Context) Lookup(name string) (Ref, error) { return c.s.node.Lookup(c, name) }

// After sends msg to the service itself when d has passed. It does not count
// against the bound of the mailbox. A message of a type that the service does
// not take is logged and dropped.
func (c *Context) After(d time.Duration, msg any) *Timer { return c.s.after(d, msg) }

// A Deferred is a call that is answered later, by Reply or Fail, from any
// goroutine. The first answer counts. If the service ends before, the caller gets
// ErrServiceGone.
type Deferred struct {
	s   *service
	msg envelope
}

// Reply answers the call, as Context.Reply does.
func (d *Deferred) Reply(answer any) error { return d.finish(answer, nil) }

// Fail answers the call with an error; ErrNoReply where err is nil.
func (d *Deferred) Fail(err error) error {
	if err == nil {
		err = ErrNoReply
	}
	return d.finish(nil, err)
}

func (d *Deferred) finish(answer any, err error) error {
	if d.msg.Reply == nil {
		return nil
	}
	d.s.forget(d)
	return d.msg.answer(answer, err)
}

// A Timer is a message that Context.After will send.
type Timer struct {
	s    *service
	t    *time.Timer // guarded by s.mu, as done is
	done bool        // fired or stopped
}

// Stop says whether it prevented the message from being sent. A message that
// waits in the mailbox already is not taken back.
func (t *Timer) Stop() bool { return t.s.stopTimer(t) }
