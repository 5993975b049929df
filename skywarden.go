// Package skywarden is an actor runtime in which a name can only be answered by
// the service that is entitled to it. Nodes run services; services take names
// and send each other messages; every naming call goes through one adapter to a
// name server: Consul, etcd, or the built-in one.
//
//	node, err := skywarden.New(ctx, skywarden.Config{})
//	bank, err := skywarden.Spawn(node, func(c *skywarden.Context, m Deposit) error { … })
//	err = node.Register(ctx, "bank", bank)
//	// elsewhere
//	ref, err := node.Query(ctx, "bank")
//	balance, err := skywarden.Call[Balance](ctx, ref, Deposit{5})
//
// This package wires the parts together and owns the order of start and
// shutdown. The parts: package runtime runs services, package adapter names them,
// package naming is the contract with backends, whose drivers are below backends.
// Package configs makes nodes from configuration files.
//
// In this version messages travel between the nodes of one process only. Names
// are visible to, and exclusive among, all processes that use the same server.
package skywarden

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"reflect"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/seed-6593ebad/skywarden/adapter"
	"github.com/seed-6593ebad/skywarden/backends/memory"
	"github.com/seed-6593ebad/skywarden/naming"
	"github.com/seed-6593ebad/skywarden/runtime"
)

// What users meet of the parts, under one roof.
type (
	// A Context is what a handler gets beside its message.
	Context = runtime.Context
	// A Ref says whom to send to.
	Ref = runtime.Ref
	// A Handler handles the messages of a service.
	Handler = runtime.Handler
	// A SpawnOption changes one Spawn.
	SpawnOption = runtime.SpawnOption
	// A RegisterOption changes one registration.
	RegisterOption = runtime.RegisterOption
	// A NameEvent tells a service what became of a name that it holds.
	NameEvent = runtime.NameEvent
	// A Panic tells of a service that panicked.
	Panic = runtime.Panic
	// A Message is what a Transport carries.
	Message = runtime.Message
	// A Transport carries messages between nodes.
	Transport = runtime.Transport
	// An Event tells an Observer what happened to a name.
	Event = adapter.Event
	// An Observer is told what happens to names.
	Observer = adapter.Observer
	// An ObserverFunc makes an Observer of a function.
	ObserverFunc = adapter.ObserverFunc
	// An AllowList says who may own what.
	AllowList = adapter.AllowList
)

// Options for Spawn and Register.
var (
	// OnName has a service told what becomes of its names: see runtime.OnName.
	OnName = runtime.OnName
	// MailboxSize bounds one service's mailbox: see runtime.MailboxSize.
	MailboxSize = runtime.MailboxSize
	// Standby makes Register wait until the name is free.
	Standby = runtime.Standby
)

// Spawn starts a service that takes messages of type M: see runtime.Spawn.
func Spawn[M any](n *Node, handler func(*Context, M) error, opts ...SpawnOption) (Ref, error) {
	return runtime.Spawn(n.Node, handler, opts...)
}

// Call sends msg and waits for the answer, which must be an R: see runtime.Call.
func Call[R any](ctx context.Context, ref Ref, msg any) (R, error) {
	return runtime.Call[R](ctx, ref, msg)
}

// A Config says how a Node is to be. The zero Config is a node with a built-in
// name server of its own.
type Config struct {
	// Node is the node's name. Empty: the machine's and the port of the endpoint,
	// which stays the same when a process with a fixed port is started again.
	Node string

	// Listen is the IP:PORT that the node binds as long as it lives. Empty:
	// 127.0.0.1 and a free port. Nothing is served there in this version:
	// connections are closed at once. It is bound because that proves that nobody
	// else can be there, which is why an entry that names it may be taken over as
	// one's own leftover.
	Listen string

	// Listener takes the place of Listen: an endpoint that was bound before, such as
	// a socket that systemd hands over. Its address is an IP:PORT of TCP, and whoever
	// gives it answers for it that nobody else is there. The node owns it, as it owns
	// Backend. Nil: the node binds Listen.
	Listener net.Listener

	// Advertise is the IP:PORT that others are told. Empty: what Listen was bound
	// to; it must be given where that is an unspecified IP such as 0.0.0.0.
	Advertise string

	// Backend is where names live. The node owns it: New closes it when it fails, and
	// Close closes it. Nil: a built-in name server of the node's own. Several nodes
	// of one process share a memory.Server, each with its own Open.
	Backend naming.Backend

	// AllowList says who may own what. Nil is accepted only for a backend inside this
	// process, and allows everything there.
	AllowList *AllowList

	// Principal is as whom the backend sees this node. Empty: it is asked.
	Principal string

	// TTL is how long a name stays taken after its owner died. 0: the backend's
	// default.
	TTL time.Duration

	// MaxStale is how long look-ups are answered from memory while the backend
	// cannot be reached. 0: 10 minutes.
	MaxStale time.Duration

	// Mirror are the names that are kept in memory from the start: see
	// adapter.Config.
	Mirror []naming.Scope

	// MailboxSize is how many messages may wait for a service. 0:
	// runtime.DefaultMailboxSize.
	MailboxSize int

	// Transport carries messages to other nodes. Nil: to the nodes of this process
	// that have none either.
	Transport Transport

	// OnPanic is told of each panic of a service. May be nil.
	OnPanic func(Panic)

	// Observers are told what happens to names.
	Observers []Observer

	// Logger takes the log. The zero Logger stands for one that writes to stderr;
	// for silence give zerolog.Nop().
	Logger zerolog.Logger
}

// A Node runs services. Its methods may be called from any goroutine; those that
// are not here are runtime.Node's.
type Node struct {
	*runtime.Node

	adapter  *adapter.Adapter
	backend  naming.Backend
	listener net.Listener
	accepts  sync.WaitGroup
	close    func(context.Context) error
}

// New starts a node. It does not wait for the backend: where that cannot be
// reached, the node starts all the same and recovers with it. ctx bounds New
// alone.
//
// Errors: all that is wrong with cfg, joined. Some wrap naming.ErrInsecureConfig.
func New(ctx context.Context, cfg Config) (*Node, error) {
	n := &Node{backend: cfg.Backend, listener: cfg.Listener}
	if n.backend == nil {
		n.backend = new(memory.Server).Open()
	}
	if err := n.start(ctx, cfg); err != nil {
		return nil, errors.Join(err, n.stop(ctx))
	}
	closing := make(chan struct{}, 1) // one Close at a time; the first does the work
	done := false
	var result error
	n.close = func(ctx context.Context) error {
		select {
		case closing <- struct{}{}:
		case <-ctx.Done():
			return fmt.Errorf("close node %s: %w", n.ID(), ctx.Err())
		}
		defer func() { <-closing }()
		if !done {
			done, result = true, n.stop(ctx)
		}
		return result
	}
	return n, nil
}

// start begins with the endpoint, because whoever binds it is the node.
func (n *Node) start(ctx context.Context, cfg Config) error {
	if reflect.ValueOf(cfg.Logger).IsZero() {
		cfg.Logger = zerolog.New(os.Stderr).With().Timestamp().Logger()
	}
	ac := adapter.Config{
		Backend: n.backend, AllowList: cfg.AllowList, Principal: cfg.Principal,
		TTL: cfg.TTL, MaxStale: cfg.MaxStale, Mirror: cfg.Mirror, Logger: cfg.Logger, Observers: cfg.Observers,
	}
	endpoint, errEndpoint := n.bind(ctx, cfg)
	id, errNode := nodeID(cfg.Node, endpoint)
	var errMailbox error
	if cfg.MailboxSize < 0 {
		errMailbox = fmt.Errorf("config: MailboxSize: %d is negative", cfg.MailboxSize)
	}
	if err := errors.Join(errNode, errEndpoint, errMailbox, ac.Validate()); err != nil {
		return err
	}
	var err error
	ac.Node, ac.Endpoint = id, endpoint
	if n.adapter, err = adapter.New(ctx, ac); err != nil {
		return err
	}
	n.Node, err = runtime.New(runtime.Config{
		Node: id, Endpoint: endpoint, Registry: n.adapter, Transport: cfg.Transport,
		MailboxSize: cfg.MailboxSize, OnPanic: cfg.OnPanic, Logger: cfg.Logger,
	})
	return err
}

// bind takes the node's endpoint and gives what others are told of it.
func (n *Node) bind(ctx context.Context, cfg Config) (netip.AddrPort, error) {
	var told netip.AddrPort
	var errTold error
	if cfg.Advertise != "" {
		if told, errTold = naming.ParseEndpoint(cfg.Advertise); errTold != nil {
			errTold = fmt.Errorf("config: Advertise: %w", errTold)
		}
	}
	bound, err := n.listen(ctx, cfg.Listen)
	if err := errors.Join(err, errTold); err != nil {
		return netip.AddrPort{}, err
	}
	n.accepts.Go(n.turnAway)
	switch {
	case told.IsValid():
		return told, nil
	case bound.Addr().IsUnspecified():
		return netip.AddrPort{}, fmt.Errorf("config: Advertise: is missing, and what is bound (%s) is no address that others can call: give the IP:PORT under which they reach this node", bound)
	}
	return bound, nil
}

// listen binds where, unless the node was given a listener, and says what is
// bound.
func (n *Node) listen(ctx context.Context, where string) (netip.AddrPort, error) {
	if n.listener != nil {
		addr, ok := n.listener.Addr().(*net.TCPAddr)
		switch {
		case where != "":
			return netip.AddrPort{}, errors.New("config: Listen: Listener is given as well: give one of them")
		case !ok:
			return netip.AddrPort{}, fmt.Errorf("config: Listener: listens on %s %q, which is no IP:PORT of TCP", n.listener.Addr().Network(), n.listener.Addr())
		}
		return unmapped(addr.AddrPort()), nil
	}
	if where == "" {
		where = "127.0.0.1:0"
	}
	if _, err := netip.ParseAddrPort(where); err != nil {
		return netip.AddrPort{}, fmt.Errorf("config: Listen: %q is not IP:PORT (host names are not accepted), such as 0.0.0.0:7000", where)
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", where)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("config: Listen: %w", err)
	}
	n.listener = listener
	return unmapped(listener.Addr().(*net.TCPAddr).AddrPort()), nil
}

// unmapped is ep with an IPv4 that was written as IPv6 written as IPv4.
func unmapped(ep netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(ep.Addr().Unmap(), ep.Port())
}

// turnAway closes every connection, until the listener is closed.
func (n *Node) turnAway() {
	for {
		conn, err := n.listener.Accept()
		switch {
		case err == nil:
			_ = conn.Close()
		case errors.Is(err, net.ErrClosed):
			return
		default: // out of descriptors, or a connection that was gone already
			time.Sleep(10 * time.Millisecond) //nolint:forbidigo // nothing tells when there are descriptors again
		}
	}
}

// nodeID parses the node's name, or makes one from the machine's.
func nodeID(s string, endpoint netip.AddrPort) (naming.NodeID, error) {
	if s != "" {
		id, err := naming.ParseNodeID(s)
		if err != nil {
			return naming.NodeID{}, fmt.Errorf("config: Node: %w", err)
		}
		return id, nil
	}
	host, _, _ := strings.Cut(hostname(), ".")
	if id, err := naming.ParseNodeID(fmt.Sprintf("%s-%d", host, endpoint.Port())); err == nil {
		return id, nil
	}
	return naming.ParseNodeID(fmt.Sprintf("node-%d", endpoint.Port())) // the machine's name is no label
}

func hostname() string {
	host, err := os.Hostname()
	if err != nil {
		return "node"
	}
	return host
}

// Principal is as whom the backend sees this node; "" where it does not tell, or
// could not be asked so far.
func (n *Node) Principal() string { return n.adapter.Principal() }

// Close ends the node, in this order: its names are given up, so that others can
// take over at once; services get to the end of what they are doing (see
// runtime.Node.Close); the mirror, the backend and the endpoint are closed. ctx
// bounds how long services are waited for; where it has no deadline that is 3 s.
// The backend's part takes at most 3 s, also when its server is away: then the
// error says that names become free only when their leases end.
//
// Close may be repeated: the next one waits for the first and returns the same.
// A handler cannot close its own node: runtime.ErrSelf.
func (n *Node) Close(ctx context.Context) error {
	if self, ok := runtime.ServiceOf(ctx); ok {
		if addr, err := self.Address(ctx); err == nil && addr.Node() == n.ID() && addr.Endpoint() == n.Endpoint() {
			return fmt.Errorf("close node %s: %w: close it from outside", n.ID(), runtime.ErrSelf)
		}
	}
	return n.close(ctx)
}

// stop undoes start, also where that got only half-way.
func (n *Node) stop(ctx context.Context) error {
	const (
		patience = 3 * time.Second // for services, where ctx names none
		parting  = time.Second     // for giving up names; what is not said by then the leases' ends will say
	)
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, patience)
		defer cancel()
	}
	var errs []error
	if n.Node != nil {
		retire, cancel := context.WithTimeout(ctx, parting)
		errs = append(errs, n.adapter.Retire(retire))
		cancel()
		errs = append(errs, n.Node.Close(ctx))
	}
	if n.adapter != nil {
		_ = n.adapter.Close(ctx) // Retire has said what there is to say
	}
	errs = append(errs, n.backend.Close())
	if n.listener != nil {
		_ = n.listener.Close()
		n.accepts.Wait()
	}
	return errors.Join(errs...)
}
