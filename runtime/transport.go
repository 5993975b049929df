package runtime

import (
	"context"
	"net/netip"

	"github.com/seed-6593ebad/skywarden/naming"
)

// A Transport carries messages between nodes. InProcess is the one between
// nodes of one process. Its methods may be called from any goroutine.
type Transport interface {
	// Bind delivers what is addressed to endpoint to r, until unbind is called.
	// An endpoint can be bound once at a time.
	Bind(endpoint netip.AddrPort, r Receiver) (unbind func(), err error)

	// Send hands m to the node at to. It returns nil when the receiving node has
	// accepted the message; it waits while the receiving mailbox is full, until ctx
	// ends. Errors: ErrUnavailable when no such node can be reached, and those of
	// Receiver.Receive.
	Send(ctx context.Context, to naming.Address, m Message) error
}

// A Receiver is a node as its transport sees it.
type Receiver interface {
	// Receive puts m into the mailbox of the service to.Handle(). Where m is
	// addressed by a name, naming.ErrFenced says that the service does not hold it
	// now, under m.Epoch; a higher epoch than the owner knows is waited for, for up
	// to 1 s, because the sender may have the news first. Other errors:
	// ErrServiceGone (and naming.ErrNotFound: no such service), ErrWrongType,
	// ErrSelf, naming.ErrUnavailable (the node is closing), the context's (mailbox
	// full).
	Receive(ctx context.Context, to naming.Address, m Message) error
}

// A Message is what travels between services.
type Message struct {
	From  naming.Address // zero for a sender that is no service
	Name  naming.Name    // by which the receiver was addressed; zero where it was by handle
	Epoch uint64         // of Name, as the sender knows it
	Body  any

	// Reply and Session are set in a call: the answer goes to
	// Reply.Reply(Session, …), once; more than one answer is harmless.
	Reply   Replier
	Session uint64
}

// A Replier takes the answer to a call.
type Replier interface {
	// Reply hands over the answer. epoch is that of the name under which the
	// service answers, 0 where it was addressed by handle.
	Reply(session, epoch uint64, body any, err error)
}
