package runtime

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/seed-6593ebad/skywarden/naming"
)

// A Ref says whom to send to. One that Spawn, Context.Self, Context.Sender or
// Node.At gave is bound to a handle: it means that service and no other, also
// after its end. One that Lookup or Query gave is bound to a name: each message
// goes to who holds the name at that moment.
//
// A Ref is a small value that is compared with ==. It sends on behalf of the
// node that gave it and may be used from any goroutine. The zero Ref is nobody.
type Ref struct {
	node   *Node
	target *target        // the name; nil where bound to a handle
	addr   naming.Address // where bound to a handle
}

// A target is a name that this node has found. There is one per name and node,
// so that Refs to a name are equal.
type target struct {
	global naming.Name // one of the two is set
	local  naming.LocalName
	epoch  atomic.Uint64 // the highest seen of a global name
}

func (t *target) String() string {
	if t.global.IsZero() {
		return t.local.String()
	}
	return t.global.String()
}

// learn takes note of an epoch of the name.
func (t *target) learn(epoch uint64) {
	for {
		known := t.epoch.Load()
		if epoch <= known || t.epoch.CompareAndSwap(known, epoch) {
			return
		}
	}
}

// checkReply refuses the answer of an owner who was followed by another one
// that this node knows of already (promise S4).
func (t *target) checkReply(epoch uint64) error {
	if t.global.IsZero() {
		return nil
	}
	if known := t.epoch.Load(); epoch < known {
		return fenced(t.global, "the answer is from epoch %d, and epoch %d is known", epoch, known)
	}
	t.learn(epoch)
	return nil
}

// IsZero says whether r is the zero Ref, which is nobody.
func (r Ref) IsZero() bool { return r == Ref{} }

// Name gives the name that r is bound to, "" where it is bound to a handle.
func (r Ref) Name() string {
	if r.target == nil {
		return ""
	}
	return r.target.String()
}

// Address says where a message to r would go now. Where r is bound to a handle
// it cannot fail; where it is bound to a name it is a look-up, with its errors.
func (r Ref) Address(ctx context.Context) (naming.Address, error) {
	to, _, err := r.resolve(ctx)
	return to, err
}

// String gives the name, or the address where r is bound to a handle; "nobody"
// for the zero Ref.
func (r Ref) String() string {
	switch {
	case r.IsZero():
		return "nobody"
	case r.target != nil:
		return r.target.String()
	}
	return r.addr.String()
}

// Send puts msg into the mailbox of the service at r. It returns nil when it is
// there: whether and how it is handled is not known (see Call). Messages of one
// sender to one service arrive in order. While the mailbox is full Send waits,
// until ctx ends; who waited first is let in first.
//
// Handlers pass their *Context, which makes the service the sender. The body is
// handed over as it is: who sent it must not change it any more.
//
// Errors:
//
//   - ErrServiceGone: there is no such service any more. It is
//     naming.ErrNotFound too where its node says so now; so is the zero Ref.
//   - ErrWrongType: the service does not take messages of this type.
//   - ErrSelf: see there.
//   - of a Ref bound to a name: those of Lookup, and naming.ErrFenced when the
//     service that is said to hold the name does not hold it, with the same
//     epoch, any more; naming.ErrLeaseLost too where its lease is lost. Before
//     that, Send looked the name up again and tried once more.
//   - naming.ErrUnavailable: its node cannot be reached, or is closing.
//   - naming.ErrClosed: r's own node is closed.
//   - the context's.
func (r Ref) Send(ctx context.Context, msg any) error {
	return r.deliver(ctx, Message{Body: msg})
}

var errNobody = fmt.Errorf("%w: the zero Ref is nobody", naming.ErrNotFound)

// deliver is the one way of a message out of a node.
func (r Ref) deliver(ctx context.Context, m Message) error {
	if r.node == nil {
		return errNobody
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("send to %s: %w", r, err)
	}
	if r.node.closed.Load() {
		return fmt.Errorf("%w: node %s", naming.ErrClosed, r.node.id)
	}
	if sender := serviceOf(ctx); sender != nil {
		m.From = sender.address()
	}
	err := r.deliverOnce(ctx, m)
	if errors.Is(err, naming.ErrFenced) && ctx.Err() == nil {
		err = r.deliverOnce(ctx, m) // to who is said to hold the name now
	}
	return err
}

func (r Ref) deliverOnce(ctx context.Context, m Message) error {
	to, epoch, err := r.resolve(ctx)
	if err != nil {
		return err
	}
	if r.target != nil && !r.target.global.IsZero() {
		m.Name, m.Epoch = r.target.global, epoch
	}
	if m.Reply != nil && m.From == to {
		return fmt.Errorf("%w: a service cannot call itself: send, and go on when the message comes", ErrSelf)
	}
	if r.node.isSelf(to) {
		return r.node.Receive(ctx, to, m)
	}
	return r.node.transport.Send(ctx, to, m)
}

// resolve says where r is at this moment, and for a global name under which
// epoch.
func (r Ref) resolve(ctx context.Context) (naming.Address, uint64, error) {
	switch {
	case r.node == nil:
		return naming.Address{}, 0, errNobody
	case r.target == nil:
		return r.addr, 0, nil
	case r.target.global.IsZero():
		addr, err := r.node.locals.lookup(r.target.local)
		return addr, 0, err
	}
	b, err := r.node.registry.Lookup(ctx, r.target.global)
	if err != nil {
		return naming.Address{}, 0, err
	}
	r.target.learn(b.Epoch)
	return b.Address, b.Epoch, nil
}
