package consul

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/seed-6593ebad/skywarden/naming"
)

// A hub keeps the one post at which all watches of a Backend listen: one server,
// of which is known that it is alive. A thousand watches cost one question every
// pulseEvery, and not each its own.
type hub struct {
	backend *Backend

	mu      sync.Mutex
	current *post
}

// join gives the post, at a server that has answered. Everyone who joined must
// leave.
func (h *hub) join(ctx context.Context) (*post, error) {
	h.mu.Lock()
	p := h.current
	if p == nil || p.ctx.Err() != nil {
		p = newPost(h.backend)
		if err := h.backend.life.Start(p.run); err != nil {
			p.end(err)
			h.mu.Unlock()
			return nil, err
		}
		h.current = p
	}
	p.users++
	h.mu.Unlock()
	select {
	case <-p.open:
		return p, nil
	case <-p.over:
		h.leave(p)
		return nil, p.err
	case <-ctx.Done():
		h.leave(p)
		return nil, ctx.Err()
	}
}

// leave ends a post at which nobody listens, and waits for it.
func (h *hub) leave(p *post) {
	h.mu.Lock()
	p.users--
	last := p.users == 0
	if last && h.current == p {
		h.current = nil
	}
	h.mu.Unlock()
	if last {
		p.end(errUnused)
		<-p.over
	}
}

// Times of a post. A server that hangs is noticed after pulseEvery + pulseTry +
// silentFor at the latest.
const (
	pulseEvery = 1500 * time.Millisecond
	pulseTry   = 1200 * time.Millisecond
	silentFor  = 4 * time.Second
	// A token that is not known may be about to be replaced by the next one.
	unknownFor = 3 * time.Second
)

var (
	errUnused = errors.New("nobody watches any more")
	errSilent = fmt.Errorf("%w: the watch hears nothing from the server", naming.ErrUnavailable)
)

// A post is a server that is asked every now and then whether it is alive, has a
// leader, and knows our token.
//
// A query that waits does not tell these: a server that hangs is as silent as one
// where nothing happens, a follower goes on waiting for a leader that is gone,
// and a running query is not looked at again when its token is deleted.
type post struct {
	backend *Backend
	client  *api.Client
	failed  func()
	ctx     context.Context
	end     context.CancelCauseFunc
	users   int // under hub.mu

	open chan struct{} // closed at the first answer
	over chan struct{} // closed when run has ended; then err says why
	err  error

	mu     sync.Mutex
	heard  time.Time     // when the last answer came
	leader string        // who leads, as the server said last
	moved  chan struct{} // closed and replaced when somebody else leads
}

func newPost(b *Backend) *post {
	p := &post{backend: b, open: make(chan struct{}), over: make(chan struct{}), moved: make(chan struct{})}
	p.client, p.failed = b.servers.pick()
	p.ctx, p.end = context.WithCancelCause(b.life.Context())
	return p
}

// run asks until the post is ended or the server cannot be used.
func (p *post) run() {
	defer close(p.over)
	p.end(p.pulse())
	if p.err = context.Cause(p.ctx); p.backend.life.Context().Err() != nil {
		p.err = naming.ErrClosed
	}
}

func (p *post) pulse() error {
	ticker := time.NewTicker(pulseEvery)
	defer ticker.Stop()
	var good time.Time
	for {
		err := p.ask()
		switch {
		case p.ctx.Err() != nil:
			return p.ctx.Err()
		case err == nil && good.IsZero():
			close(p.open)
			fallthrough
		case err == nil:
			good = time.Now()
		case good.IsZero(), errors.Is(err, naming.ErrInsecureConfig),
			errors.Is(err, naming.ErrUnavailable) && time.Since(good) > silentFor,
			!errors.Is(err, naming.ErrUnavailable) && time.Since(good) > unknownFor:
			if errors.Is(err, naming.ErrUnavailable) {
				p.failed()
				if !good.IsZero() {
					err = fmt.Errorf("%w: %w", errSilent, err)
				}
			}
			return err
		}
		select {
		case <-ticker.C:
		case <-p.ctx.Done():
			return p.ctx.Err()
		}
	}
}

// ask asks once. The question for our token is answered by the leader: so there
// is one.
func (p *post) ask() error {
	start := time.Now()
	err := once(p.ctx, pulseTry, func(ctx context.Context) error { return p.backend.self(ctx, p.client) })
	if err != nil {
		return err
	}
	var leader string
	err = once(p.ctx, pulseTry, func(ctx context.Context) (err error) {
		leader, err = p.client.Status().LeaderWithQueryOptions((&api.QueryOptions{}).WithContext(ctx))
		return err
	})
	p.mu.Lock()
	defer p.mu.Unlock()
	if err == nil && leader != "" && leader != p.leader {
		if p.leader != "" {
			close(p.moved)
			p.moved = make(chan struct{})
		}
		p.leader = leader
	}
	if err == nil {
		p.heard = start
	}
	return err
}

// state gives when the server was heard last, and a channel that is closed when
// somebody else leads.
func (p *post) state() (heard time.Time, moved <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.heard, p.moved
}
