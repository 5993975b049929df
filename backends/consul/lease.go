package consul

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/seed-6593ebad/skywarden/internal/driver"
	"github.com/seed-6593ebad/skywarden/naming"
)

// Deadlines of sessions. The SDK's RenewPeriodic notices a lost session after
// half its TTL, and its Lock after minutes (issue 18271); hence a loop of our own.
const (
	createTimeout = 3 * time.Second
	createTry     = 1500 * time.Millisecond
	renewTry      = 800 * time.Millisecond

	// lockDelay is the shortest that the SDK lets through: it takes 0 for Consul's
	// own, 15 s in which nobody may have the name of a dead owner.
	lockDelay = time.Millisecond
)

// A session is the Consul session behind a lease.
type session struct {
	b     *Backend
	ttl   time.Duration
	id    string
	lease *driver.Lease
}

// Lease implements naming.Backend: a session without checks, on the principal's
// own node, whose keys are deleted with it. A ttl under MinTTL or over MaxTTL is
// ErrInsecureConfig, also where the servers' session_ttl_min says so. ErrDenied
// means too that the node is not registered.
func (b *Backend) Lease(ctx context.Context, ttl time.Duration) (naming.Lease, error) {
	const op = "lease"
	if ttl == 0 {
		ttl = b.settings.DefaultTTL
	}
	switch {
	case ctx.Err() != nil:
		return nil, b.life.Fail(op, naming.Name{}, ctx.Err())
	case ttl < b.settings.MinTTL || ttl > MaxTTL:
		return nil, b.life.Fail(op, naming.Name{}, fmt.Errorf("%w: a lease of %v: give %v to %v, or 0 for %v", naming.ErrInsecureConfig, ttl, b.settings.MinTTL, MaxTTL, b.settings.DefaultTTL))
	}
	waiting, cancel := b.life.Bound(ctx, createTimeout)
	defer cancel()
	type created struct {
		id       string
		deadline time.Time
		err      error
	}
	result := make(chan created)
	err := b.life.Start(func() {
		within, cancel := context.WithTimeout(b.life.Context(), createTimeout)
		defer cancel()
		id, deadline, err := b.create(within, ttl)
		select {
		case result <- created{id, deadline, err}:
		case <-waiting.Done(): // the caller has gone, and knows of no session
			if err == nil {
				_ = b.destroy(b.life.Context(), id)
			}
		}
	})
	if err != nil {
		return nil, b.life.Fail(op, naming.Name{}, err)
	}
	select {
	case r := <-result:
		if r.err != nil {
			return nil, b.life.Fail(op, naming.Name{}, b.life.Explain(ctx, r.err))
		}
		on := &session{b: b, ttl: ttl, id: r.id}
		l, err := b.life.NewLease(ttl, r.deadline, on, func(l *driver.Lease) { on.lease = l })
		if err != nil {
			return nil, b.life.Fail(op, naming.Name{}, err) // what was made ends by itself
		}
		return l, nil
	case <-waiting.Done():
		return nil, b.life.Fail(op, naming.Name{}, b.life.Explain(ctx, fmt.Errorf("%w: no answer within %v", naming.ErrUnavailable, createTimeout)))
	}
}

// create makes a session. One whose answer was lost holds nothing and ends by
// itself after twice the TTL.
func (b *Backend) create(ctx context.Context, ttl time.Duration) (id string, deadline time.Time, err error) {
	err = b.again(ctx, createTry, func(ctx context.Context, client *api.Client) (err error) {
		start := time.Now()
		id, _, err = client.Session().CreateNoChecks(&api.SessionEntry{
			Name: b.settings.keys.root + "/" + b.settings.Principal, Node: b.settings.Node,
			TTL: ttl.String(), LockDelay: lockDelay, Behavior: api.SessionBehaviorDelete,
		}, b.writing(ctx))
		if err == nil && id == "" {
			return fmt.Errorf("%w: the server made a session without an id", naming.ErrUnavailable)
		}
		deadline = start.Add(ttl)
		return err
	})
	return id, deadline, err
}

// destroy ends a session; that there is none is fine. It tries for closeTimeout.
func (b *Backend) destroy(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, closeTimeout)
	defer cancel()
	err := b.again(ctx, createTry, func(ctx context.Context, client *api.Client) error {
		_, err := client.Session().Destroy(id, b.writing(ctx))
		return err
	})
	if errors.Is(err, naming.ErrLeaseLost) {
		return nil
	}
	return err
}

// Renew implements driver.Session. A refusal is not final: the token may be about
// to be replaced, and the next one may renew the same session.
func (s *session) Renew(ctx context.Context, left time.Duration) (deadline time.Time, err error) {
	client, failed := s.b.servers.pick()
	start := time.Now()
	var renewed []api.SessionEntry
	err = once(ctx, min(renewTry, left), func(ctx context.Context) error {
		// Not Session().Renew, which keeps neither the server's words nor its status,
		// and gives (nil, nil) for a session that is gone.
		_, err := client.Raw().Write("/v1/session/renew/"+s.id, nil, &renewed, s.b.writing(ctx))
		return err
	})
	if err != nil {
		if errors.Is(err, naming.ErrUnavailable) {
			failed()
		}
		return time.Time{}, err
	}
	if len(renewed) != 1 || renewed[0].ID != s.id {
		return time.Time{}, fmt.Errorf("%w: the server does not say that it has renewed the session", naming.ErrUnavailable)
	}
	granted, err := time.ParseDuration(renewed[0].TTL)
	if err != nil {
		granted = s.ttl
	}
	return start.Add(min(s.ttl, granted)), nil
}

// End implements driver.Session. The names go with the session, and are held back
// for its lock delay.
func (s *session) End(ctx context.Context) error { return s.b.destroy(ctx, s.id) }
