package runtime

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"github.com/seed-6593ebad/skywarden/naming"
)

// DefaultMailboxSize is how many messages may wait for a service where neither
// Config nor Spawn says otherwise.
const DefaultMailboxSize = 64 << 10

// A Config says how a Node is to be. Node, Endpoint and Registry are needed.
type Config struct {
	Node     naming.NodeID
	Endpoint netip.AddrPort // under which other nodes send to this one
	Registry Registry       // not closed by the Node
	// Transport carries messages to other nodes. Nil: the nodes of this process that
	// have none either.
	Transport Transport
	// MailboxSize is how many messages may wait for a service. 0:
	// DefaultMailboxSize.
	MailboxSize int
	// OnPanic is told of each panic of a service, after the service was stopped, in
	// the goroutine that panicked. May be nil.
	OnPanic func(Panic)
	Logger  zerolog.Logger // the zero Logger is silent
}

// A Node runs services. Its methods may be called from any goroutine.
type Node struct {
	id          naming.NodeID
	endpoint    netip.AddrPort
	registry    Registry
	transport   Transport
	unbind      func()
	mailboxSize int
	onPanic     func(Panic)
	log         zerolog.Logger

	services table
	last     atomic.Uint64 // handle given
	names    names
	locals   locals
	targets  sync.Map  // what names look like → *target
	slots    sync.Pool // of *replySlot

	// Close ends these one after the other: open at once, life when handlers had
	// half of its time, base at its end.
	base, life, open          context.Context
	endBase, endLife, endOpen context.CancelFunc

	mu       sync.RWMutex  // Spawn against Close
	closing  atomic.Bool   // nothing new is taken
	closed   atomic.Bool   // nothing leaves any more
	done     chan struct{} // closed when Close is through
	closeErr error         // set before done

	work    atomic.Int64  // goroutines and timers that Close waits for
	drained chan struct{} // one place: work fell to 0 while closing
}

// New starts a node and binds its endpoint on the transport.
//
// Errors: all that is wrong with cfg, joined; naming.ErrTaken when the endpoint
// is bound already.
func New(cfg Config) (*Node, error) {
	var problems []error
	if cfg.Node.IsZero() {
		problems = append(problems, fmt.Errorf("Config.Node: %w: a node needs one", naming.ErrNameInvalid))
	} else if _, err := naming.NewAddress(cfg.Node, cfg.Endpoint, 0); err != nil {
		problems = append(problems, fmt.Errorf("Config.Endpoint: %w", err))
	}
	if cfg.Registry == nil {
		problems = append(problems, errors.New("Config.Registry: a node needs one"))
	}
	if cfg.MailboxSize < 0 {
		problems = append(problems, fmt.Errorf("Config.MailboxSize: %d is negative", cfg.MailboxSize))
	}
	if err := errors.Join(problems...); err != nil {
		return nil, err
	}
	if cfg.Transport == nil {
		cfg.Transport = &shared
	}
	if cfg.MailboxSize == 0 {
		cfg.MailboxSize = DefaultMailboxSize
	}
	n := &Node{
		id: cfg.Node, endpoint: cfg.Endpoint, registry: cfg.Registry, transport: cfg.Transport,
		mailboxSize: cfg.MailboxSize, onPanic: cfg.OnPanic,
		log:     cfg.Logger.With().Stringer("node", cfg.Node).Logger(),
		names:   names{held: make(map[naming.Name]*heldName)},
		done:    make(chan struct{}),
		drained: make(chan struct{}, 1),
		slots:   sync.Pool{New: func() any { return newReplySlot() }},
	}
	// The lifetime of the node, which ends in Close.
	n.base, n.endBase = context.WithCancel(context.Background()) //nolint:forbidigo // made once; Close ends it
	n.life, n.endLife = context.WithCancel(n.base)
	n.open, n.endOpen = context.WithCancel(n.life)
	n.locals = newLocals(n.open)
	unbind, err := cfg.Transport.Bind(cfg.Endpoint, n)
	if err != nil {
		n.endBase()
		return nil, err
	}
	n.unbind = unbind
	return n, nil
}

// ID gives the node's name.
func (n *Node) ID() naming.NodeID { return n.id }

// Endpoint gives where other nodes send to.
func (n *Node) Endpoint() netip.AddrPort { return n.endpoint }

// At gives a Ref to the service at addr, on this node or another.
func (n *Node) At(addr naming.Address) Ref { return Ref{node: n, addr: addr} }

// Spawn starts a service that takes messages of any type. It owns no goroutine
// while it has nothing to do. Errors: naming.ErrClosed, and one that says what is
// wrong with handler or opts.
func (n *Node) Spawn(handler Handler, opts ...SpawnOption) (Ref, error) {
	return n.spawn(handler, nil, opts)
}

func (n *Node) spawn(handler Handler, accepts func(any) error, opts []SpawnOption) (Ref, error) {
	if handler == nil {
		return Ref{}, errors.New("spawn: the handler is nil")
	}
	s := &service{node: n, handler: handler, accepts: accepts}
	s.size = n.mailboxSize
	s.context.s = s
	s.start = s.run
	for _, opt := range opts {
		opt(s)
	}
	if s.size < 1 {
		return Ref{}, fmt.Errorf("spawn: a mailbox for %d messages: give 1 or more", s.size)
	}
	n.mu.RLock()
	defer n.mu.RUnlock()
	if n.closing.Load() {
		return Ref{}, fmt.Errorf("spawn: %w: node %s", naming.ErrClosed, n.id)
	}
	handle := n.last.Add(1)
	if handle > math.MaxUint32 {
		return Ref{}, errors.New("spawn: the node has given out all handles")
	}
	s.handle = naming.Handle(handle)
	n.services.put(s)
	return s.ref(), nil
}

// Kill ends a service of this node at once: its names are given up, its Context
// ends, and whoever waits for it gets ErrServiceGone. A handler that runs is not
// interrupted otherwise, and goes on to its end. Errors: ErrServiceGone when
// there is no such service, naming.ErrAddressNotAllowed when it is on another
// node.
func (n *Node) Kill(ref Ref) error {
	s, err := n.own(ref)
	if err != nil {
		return fmt.Errorf("kill: %w", err)
	}
	s.stop(errKilled, true)
	return nil
}

var errKilled = fmt.Errorf("%w: it was killed", ErrServiceGone)

// own gives the service of this node that ref means.
func (n *Node) own(ref Ref) (*service, error) {
	var s *service
	switch {
	case ref.IsZero():
	case ref.target == nil && !n.isSelf(ref.addr), ref.node != n && ref.target != nil && ref.target.global.IsZero():
		return nil, fmt.Errorf("%w: %s is a service of another node", naming.ErrAddressNotAllowed, ref)
	case ref.target == nil:
		s = n.services.get(ref.addr.Handle())
	case ref.target.global.IsZero():
		s = n.locals.owner(ref.target.local)
	default:
		s = n.names.owner(ref.target.global)
	}
	if s == nil {
		return nil, fmt.Errorf("%w: %s is no service of this node", ErrServiceGone, ref)
	}
	return s, nil
}

// Receive implements Receiver: it is the one way of a message into a node.
func (n *Node) Receive(ctx context.Context, to naming.Address, m Message) error {
	byName := !m.Name.IsZero()
	var s *service
	if n.isSelf(to) {
		s = n.services.get(to.Handle())
	}
	switch {
	case s != nil:
	case byName:
		return fenced(m.Name, "%s does not hold it: there is no such service", to)
	case n.closing.Load():
		return fmt.Errorf("%w: node %s is closing", naming.ErrUnavailable, n.id)
	default:
		return fmt.Errorf("%w: service %s: %w", ErrServiceGone, to, naming.ErrNotFound)
	}
	e := envelope{Message: m}
	if byName {
		if e.held = s.heldName(m.Name); e.held == nil {
			return fenced(m.Name, "%s does not hold it", to)
		}
		if err := e.held.admit(ctx, m.Epoch); err != nil {
			return err
		}
	}
	if s.accepts != nil {
		if err := s.accepts(m.Body); err != nil {
			return err
		}
	}
	err := s.put(ctx, e, m.From != to)
	if byName && errors.Is(err, ErrServiceGone) {
		return fenced(m.Name, "%s does not hold it any more: %w", to, err)
	}
	return err
}

// Close ends the node. It refuses new work, gives up all names, and fails all
// messages that wait; their callers get ErrServiceGone, as do those of calls that
// were kept by Context.Defer. Handlers that run may finish, and answer those who
// called by handle: when half of the time that ctx leaves is over their Contexts
// end, and when all of it is over Close returns, with an error that wraps ctx's
// and says how many still run. With a ctx without a deadline Close waits for them
// as long as they take.
//
// The Registry is not closed. A second Close waits for the first and returns the
// same. A handler cannot close its own node: ErrSelf.
func (n *Node) Close(ctx context.Context) error {
	if s := serviceOf(ctx); s != nil && s.node == n {
		return fmt.Errorf("close node %s: %w: close it from outside", n.id, ErrSelf)
	}
	n.mu.Lock()
	first := !n.closing.Swap(true)
	n.mu.Unlock()
	if !first {
		select {
		case <-n.done:
			return n.closeErr
		case <-ctx.Done():
			return fmt.Errorf("close node %s: %w", n.id, ctx.Err())
		}
	}
	n.endOpen()
	n.giveBack(n.names.takeFrom(nil), closePatience)
	closing := fmt.Errorf("%w: node %s closes", ErrServiceGone, n.id)
	services := n.services.all()
	for _, s := range services {
		s.stop(closing, false)
	}
	n.closeErr = n.drain(ctx)
	for _, s := range services {
		s.abandon(closing)
	}
	n.closed.Store(true)
	n.endBase()
	n.unbind()
	close(n.done)
	return n.closeErr
}

// drain waits for all goroutines of the node.
func (n *Node) drain(ctx context.Context) error {
	var half <-chan time.Time
	if deadline, ok := ctx.Deadline(); ok {
		half = time.After(time.Until(deadline) / 2)
	}
	for n.work.Load() > 0 {
		select {
		case <-n.drained:
		case <-half:
			n.endLife()
		case <-ctx.Done():
			return fmt.Errorf("close node %s: %d handlers or releases still run: %w", n.id, n.work.Load(), ctx.Err())
		}
	}
	return nil
}

// begin and finish count what Close waits for.
func (n *Node) begin() { n.work.Add(1) }

func (n *Node) finish() {
	if n.work.Add(-1) == 0 && n.closing.Load() {
		select {
		case n.drained <- struct{}{}:
		default:
		}
	}
}

func (n *Node) address(h naming.Handle) naming.Address {
	addr, _ := naming.NewAddress(n.id, n.endpoint, h) // New has checked both
	return addr
}

func (n *Node) isSelf(addr naming.Address) bool {
	return addr.Endpoint() == n.endpoint && addr.Node() == n.id
}

// remove takes a service that was stopped out of the node's tables, and gives up
// its names.
func (n *Node) remove(s *service) {
	n.services.remove(s.handle)
	n.locals.drop(s)
	n.giveBack(n.names.takeFrom(s), releasePatience)
}
