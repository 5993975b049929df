package memory

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/seed-6593ebad/skywarden/naming"
)

const (
	driver     = "memory"
	defaultTTL = 5 * time.Second
	// callTimeout is how long a call waits for a server that does not answer.
	callTimeout = 2 * time.Second
	// closeTimeout is how long Close waits for it; the contract allows 2 s.
	closeTimeout = time.Second
)

// The shortest and the longest lease there are.
const (
	// A name is answered until a margin of max(500 ms, TTL/10) before the lease's
	// deadline; a lease of 1 s leaves half of it for serving.
	MinTTL = time.Second
	MaxTTL = 24 * time.Hour
)

// A Backend speaks for one principal to a Server: see naming.Backend, which it
// implements, with naming.Describer and naming.Identifier. It is made by
// Server.Open and Server.OpenAs.
type Backend struct {
	server     *Server
	credential Credential
	local      bool

	closeOnce sync.Once
	closeErr  error
	closing   chan struct{}
	renewing  sync.WaitGroup // one for each lease's loop

	// Guarded by server.mu.
	closed bool
	cut    bool // see Levers.Cut
	leases map[*Lease]struct{}
}

var (
	_ naming.Backend    = (*Backend)(nil)
	_ naming.Describer  = (*Backend)(nil)
	_ naming.Identifier = (*Backend)(nil)
)

func newBackend(s *Server, c Credential, local bool) *Backend {
	return &Backend{server: s, credential: c, local: local, closing: make(chan struct{}), leases: make(map[*Lease]struct{})}
}

// call asks the server to run f, and waits for a server that does not answer.
// As f runs wholly or not at all, a call that fails has done nothing.
func (b *Backend) call(ctx context.Context, op string, name naming.Name, f func(*principal) error) error {
	if err := ctx.Err(); err != nil {
		return fail(op, name, err)
	}
	var timeout <-chan time.Time
	for {
		answered, changed, err := b.server.ask(b, f)
		if answered {
			return fail(op, name, err)
		}
		if timeout == nil {
			timer := time.NewTimer(callTimeout)
			defer timer.Stop()
			timeout = timer.C
		}
		select {
		case <-changed:
		case <-b.closing:
			return fail(op, name, naming.ErrClosed)
		case <-ctx.Done():
			return fail(op, name, ctx.Err())
		case <-timeout:
			return fail(op, name, errNoAnswer)
		}
	}
}

var errNoAnswer = fmt.Errorf("%w: the server did not answer within %v", naming.ErrUnavailable, callTimeout)

func fail(op string, name naming.Name, err error) error {
	if err == nil {
		return nil
	}
	return &naming.Error{Op: op, Name: name, Backend: driver, Err: err}
}

var errZeroName = fmt.Errorf("%w: the zero Name is no name", naming.ErrNameInvalid)

// Get implements naming.Backend.
func (b *Backend) Get(ctx context.Context, name naming.Name) (naming.Entry, error) {
	const op = "get"
	if name.IsZero() {
		return naming.Entry{}, fail(op, name, errZeroName)
	}
	var e naming.Entry
	err := b.call(ctx, op, name, func(p *principal) error {
		if err := p.mayRead(naming.Only(name)); err != nil {
			return err
		}
		if e = b.server.look(name); e.Revision == 0 {
			return naming.ErrNotFound
		}
		return nil
	})
	if err != nil {
		return naming.Entry{}, err
	}
	return e, nil
}

// Lease implements naming.Backend. Every principal that the server knows may
// open leases. A ttl under 1 s or over 24 h is ErrInsecureConfig.
func (b *Backend) Lease(ctx context.Context, ttl time.Duration) (naming.Lease, error) {
	const op = "lease"
	if ttl == 0 {
		ttl = defaultTTL
	}
	if ttl < MinTTL || ttl > MaxTTL {
		return nil, fail(op, naming.Name{}, fmt.Errorf("%w: a lease of %v: give %v to %v, or 0 for %v", naming.ErrInsecureConfig, ttl, MinTTL, MaxTTL, defaultTTL))
	}
	var l *Lease
	err := b.call(ctx, op, naming.Name{}, func(*principal) error {
		l = newLease(b, ttl)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return l, nil
}

// WhoAmI implements naming.Identifier.
func (b *Backend) WhoAmI(ctx context.Context) (string, error) {
	var who string
	err := b.call(ctx, "whoami", naming.Name{}, func(p *principal) error {
		who = p.name
		return nil
	})
	return who, err
}

// Describe implements naming.Describer.
func (b *Backend) Describe() naming.Description {
	return naming.Description{
		Driver: driver, InProcess: true, MirrorAll: true,
		DefaultTTL: defaultTTL, MinTTL: MinTTL, MaxTTL: MaxTTL,
	}
}

// Close implements naming.Backend. If it held leases and the server does not
// answer, it gives ErrUnavailable after 1 s, and the leases end after their TTL.
func (b *Backend) Close() error {
	b.closeOnce.Do(func() { b.closeErr = b.close() })
	return b.closeErr
}

func (b *Backend) close() error {
	s := b.server
	s.mu.Lock()
	b.closed = true
	leases := b.leases
	b.leases = nil
	s.mu.Unlock()

	close(b.closing)
	b.renewing.Wait()
	if len(leases) == 0 {
		return nil
	}
	timer := time.NewTimer(closeTimeout)
	defer timer.Stop()
	for {
		changed, err := b.endAll(leases)
		if !errors.Is(err, naming.ErrUnavailable) {
			return fail("close", naming.Name{}, err)
		}
		select {
		case <-changed:
		case <-timer.C:
			return fail("close", naming.Name{}, err)
		}
	}
}

func (b *Backend) endAll(leases map[*Lease]struct{}) (changed <-chan struct{}, err error) {
	s := b.server
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.reachedBy(b) {
		return s.whenChanged(), errSilent
	}
	if _, err := s.authenticate(b); err != nil {
		return nil, err
	}
	for l := range leases {
		s.endLease(l.held)
	}
	return nil, nil
}
