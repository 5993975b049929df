package adapter

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sync/singleflight"

	"github.com/seed-6593ebad/skywarden/naming"
	"github.com/seed-6593ebad/skywarden/runtime"
)

// Defaults of Config.
const (
	DefaultMaxStale = 10 * time.Minute
	// DefaultTTL is used where neither Config nor the backend names a TTL.
	DefaultTTL = 10 * time.Second
)

// A Config says what an Adapter works with. Backend, Node and Endpoint are
// required.
type Config struct {
	// Backend is where names live. The adapter uses it and does not close it.
	Backend naming.Backend
	// Node is the node that this adapter names services of.
	Node naming.NodeID
	// Endpoint is the address under which the node's services are registered. The
	// node must have bound it: an entry that names it is taken for a leftover of an
	// earlier process at the same place. See Register.
	Endpoint netip.AddrPort
	// AllowList says who may own what. It may be nil for a backend that is in this
	// process (Description.InProcess), and means "everything" there; for every other
	// backend nil is refused with ErrInsecureConfig.
	AllowList *AllowList
	// Principal is as whom the backend sees this process. Empty: the backend is
	// asked (naming.Identifier).
	Principal string
	// TTL is the time to live of leases: how long a name stays taken after its
	// owner died. 0: the backend's default.
	TTL time.Duration
	// MaxStale is how long look-ups are answered from memory, marked stale, while
	// the backend cannot be reached. 0: DefaultMaxStale.
	MaxStale time.Duration
	// Mirror are the scopes that are kept in memory from the start. Nil: all names
	// where the backend calls that cheap, else none; other names are kept from
	// their first look-up on.
	Mirror []naming.Scope
	// Logger gets a line for every naming event. The zero Logger writes nothing.
	Logger zerolog.Logger
	// Observers get the same events.
	Observers []Observer
}

// An Adapter implements runtime.Registry over a naming.Backend, for one node.
// Its methods may be called from any goroutine.
type Adapter struct {
	backend   naming.Backend
	node      naming.NodeID
	endpoint  netip.AddrPort
	principal atomic.Pointer[string] // nil until the backend has told
	allow     *AllowList             // nil: everything is allowed
	log       zerolog.Logger
	observers []Observer

	keeper *keeper
	mirror *mirror
	reads  singleflight.Group // one backend read for all who wait for one name
	ctx    context.Context    // ends with Close
	cancel context.CancelFunc
}

var _ runtime.Registry = (*Adapter)(nil)

// Validate reports everything that is wrong with cfg, at once, but for Node and
// Endpoint: who binds the endpoint knows those only later. New checks both.
func (cfg Config) Validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf("adapter: "+format, args...)) }
	if cfg.MaxStale < 0 {
		bad("MaxStale %s is negative", cfg.MaxStale)
	}
	if slices.ContainsFunc(cfg.Mirror, naming.Scope.IsZero) {
		bad("%w: Mirror has the zero scope", naming.ErrNameInvalid)
	}
	if cfg.Backend == nil {
		bad("Backend is missing")
		return errors.Join(errs...)
	}
	desc := naming.Describe(cfg.Backend)
	if cfg.AllowList == nil && !desc.InProcess {
		bad("%w: backend %q needs an AllowList: without one nothing says who may own which name (an empty list forbids all)", naming.ErrInsecureConfig, desc.Driver)
	}
	switch ttl := cfg.ttl(desc); {
	case ttl < desc.MinTTL:
		bad("TTL %s: backend %q takes %s at least", ttl, desc.Driver, desc.MinTTL)
	case desc.MaxTTL > 0 && ttl > desc.MaxTTL:
		bad("TTL %s: backend %q takes %s at most", ttl, desc.Driver, desc.MaxTTL)
	case ttl < 2*margin(ttl):
		bad("TTL %s: %s at least, so that an owner has time to stop before its name is free", ttl, 2*margin(0))
	}
	if _, tells := cfg.Backend.(naming.Identifier); !tells && cfg.Principal == "" && cfg.AllowList != nil {
		bad("%w: Principal is missing, and the backend does not tell: the allow-list needs one", naming.ErrInsecureConfig)
	}
	return errors.Join(errs...)
}

// ttl is TTL, or the default for it.
func (cfg Config) ttl(desc naming.Description) time.Duration {
	if cfg.TTL != 0 {
		return cfg.TTL
	}
	if desc.DefaultTTL != 0 {
		return desc.DefaultTTL
	}
	return DefaultTTL
}

// New checks cfg, reports everything that is wrong with it at once, and starts
// the mirror. It does not wait for the backend: where that cannot be reached the
// adapter starts all the same and recovers with it. ctx bounds New alone.
func New(ctx context.Context, cfg Config) (*Adapter, error) {
	var place error
	if cfg.Node.IsZero() {
		place = fmt.Errorf("adapter: %w: Node is missing", naming.ErrNameInvalid)
	} else if _, err := naming.NewAddress(cfg.Node, cfg.Endpoint, 0); err != nil {
		place = fmt.Errorf("adapter: Endpoint: %w", err)
	}
	if err := errors.Join(place, cfg.Validate()); err != nil {
		return nil, err
	}
	desc := naming.Describe(cfg.Backend)
	maxStale := cfg.MaxStale
	if maxStale == 0 {
		maxStale = DefaultMaxStale
	}
	scopes := slices.Clone(cfg.Mirror)
	if cfg.Mirror == nil && desc.MirrorAll {
		scopes = []naming.Scope{naming.All()}
	}

	a := &Adapter{
		backend: cfg.Backend, node: cfg.Node, endpoint: cfg.Endpoint,
		allow: cfg.AllowList, log: cfg.Logger, observers: slices.Clone(cfg.Observers),
	}
	if cfg.Principal != "" {
		a.principal.Store(&cfg.Principal)
	}
	asking, done := context.WithTimeout(ctx, readPatience)
	defer done()
	if err := a.identify(asking); err != nil && !errors.Is(err, naming.ErrUnavailable) && !errors.Is(err, context.DeadlineExceeded) {
		return nil, fmt.Errorf("adapter: asking the backend who we are: %w", err)
	}
	a.ctx, a.cancel = context.WithCancel(context.WithoutCancel(ctx))
	a.mirror = newMirror(a, maxStale)
	a.keeper = newKeeper(a, cfg.ttl(desc), desc.NamesPerLease)
	for _, sc := range scopes {
		a.mirror.watch(sc)
	}
	a.mirror.start()
	return a, nil
}

// Principal is as whom the backend sees this process; "" where it does not tell,
// or could not be asked so far.
func (a *Adapter) Principal() string {
	if p := a.principal.Load(); p != nil {
		return *p
	}
	return ""
}

// identify makes sure that the principal is known. The allow-list cannot be asked
// before that: a process that starts while the backend is away waits with it.
func (a *Adapter) identify(ctx context.Context) error {
	if a.principal.Load() != nil {
		return nil
	}
	id, ok := a.backend.(naming.Identifier)
	if !ok {
		a.principal.Store(new(string)) // New made sure that nothing asks for it
		return nil
	}
	p, err := id.WhoAmI(ctx)
	if err != nil {
		return err
	}
	a.principal.Store(&p)
	return nil
}

// Retire releases every name, by ending the leases, and takes no new ones. Look-ups
// go on. It returns when that is done or ctx ends; an error means that some names
// become free only when their leases end. It is idempotent.
func (a *Adapter) Retire(ctx context.Context) error { return a.keeper.close(ctx) }

// Close releases every name, ends the leases and stops the mirror. It returns
// when that is done or ctx ends; an error means that some names become free only
// when their leases end. It is idempotent.
func (a *Adapter) Close(ctx context.Context) error {
	err := a.keeper.close(ctx)
	a.cancel()
	a.mirror.wait()
	return err
}
