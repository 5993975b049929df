package skywardentest

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/seed-6593ebad/skywarden"
	"github.com/seed-6593ebad/skywarden/adapter"
	"github.com/seed-6593ebad/skywarden/naming"
)

// poll is how often a condition is looked at that nothing tells of.
const poll = 5 * time.Millisecond

// Await waits until ok says so. If it does not within 10 s and three TTLs, the
// test ends and says that it waited for what. ok is called from the goroutine of
// the caller, many times.
func (c *Cluster) Await(what string, ok func() bool) {
	c.tb.Helper()
	ctx, cancel := c.patience()
	defer cancel()
	c.await(ctx, what, ok)
}

// AwaitOwner waits until all nodes that can reach the server find name on node i,
// by its newest claim: their calls get there from then on. Nodes that were killed,
// closed or partitioned are not asked; while the server is paused none can be.
func (c *Cluster) AwaitOwner(name string, i int) {
	c.tb.Helper()
	owner, parsed := c.living(i).ID(), c.parse(name)
	ctx, cancel := c.patience()
	defer cancel()
	c.await(ctx, parsed.String()+" is on node "+owner.String(), func() bool {
		return c.everywhere(ctx, parsed, func(m *member, at naming.Address, err error) bool {
			return err == nil && at.Node() == owner && m.backend.upToDate(ctx, parsed)
		})
	})
}

// AwaitFree waits until all nodes that can reach the server find that nobody has
// name. Nodes that were killed, closed or partitioned are not asked.
func (c *Cluster) AwaitFree(name string) {
	c.tb.Helper()
	parsed := c.parse(name)
	ctx, cancel := c.patience()
	defer cancel()
	c.await(ctx, parsed.String()+" is free", func() bool {
		return c.everywhere(ctx, parsed, func(_ *member, _ naming.Address, err error) bool { return errors.Is(err, naming.ErrNotFound) })
	})
}

// AwaitEvent waits until node i has told its observers of such an event of name,
// and gives it. Events are read in their order, as from a log: those up to the one
// that was awaited are never seen again. A node that was restarted begins anew.
// Those of the backend, such as adapter.EventBackendDown, have the name "".
//
// When adapter.EventSuspended, EventResumed or EventLost is there, the service
// that has the name was told so before: it handles OnName ahead of every message
// that is sent to it from then on.
func (c *Cluster) AwaitEvent(i int, kind adapter.EventKind, name string) skywarden.Event {
	c.tb.Helper()
	m := c.member(i)
	if name != "" {
		name = c.parse(name).String()
	}
	ctx, cancel := c.patience()
	defer cancel()
	for {
		event, news := m.next(kind, name)
		if news == nil {
			return event
		}
		select {
		case <-news:
		case <-ctx.Done():
			c.tb.Fatalf("skywardentest: node %d did not tell %q of %q; what it told: %s", i, kind, name, m.told(name))
		}
	}
}

// next takes the next event of that kind, or gives the channel that is closed when
// it is worth looking again.
func (m *member) next(kind adapter.EventKind, name string) (skywarden.Event, <-chan struct{}) {
	m.c.mu.Lock()
	defer m.c.mu.Unlock()
	for k, event := range m.events[name] {
		if event.Kind == kind {
			m.events[name] = m.events[name][k+1:]
			return event, nil
		}
	}
	return skywarden.Event{}, m.c.news
}

// told says which events of name are still to be awaited.
func (m *member) told(name string) string {
	m.c.mu.Lock()
	defer m.c.mu.Unlock()
	var kinds []string
	for _, event := range m.events[name] {
		kinds = append(kinds, string(event.Kind))
	}
	if kinds == nil {
		return "nothing"
	}
	return strings.Join(kinds, ", ")
}

// everywhere says whether every node that can reach the server gets such an
// answer to a look-up of name. One node at least must be there to be asked.
func (c *Cluster) everywhere(ctx context.Context, name naming.Name, such func(*member, naming.Address, error) bool) bool {
	c.mu.Lock()
	members := slices.DeleteFunc(slices.Clone(c.members), func(m *member) bool { return m == nil || m.cut || m.silent.Load() })
	c.mu.Unlock()
	asked := 0
	for _, m := range members {
		var at naming.Address
		ref, err := m.Lookup(ctx, name.String())
		if err == nil {
			at, err = ref.Address(ctx)
		}
		switch {
		case errors.Is(err, naming.ErrClosed): // by the test
		case !such(m, at, err):
			return false
		default:
			asked++
		}
	}
	return asked > 0
}

func (c *Cluster) await(ctx context.Context, what string, ok func() bool) {
	c.tb.Helper()
	again := time.NewTicker(poll)
	defer again.Stop()
	for !ok() {
		select {
		case <-again.C:
		case <-ctx.Done():
			c.tb.Fatalf("skywardentest: waited in vain: %s", what)
		}
	}
}

// patience is the context of one Await.
func (c *Cluster) patience() (context.Context, context.CancelFunc) {
	c.mu.Lock()
	defer c.mu.Unlock()
	longest := TTL
	for _, m := range c.members {
		if m != nil {
			longest = max(longest, m.ttl)
		}
	}
	return context.WithTimeout(c.tb.Context(), 10*time.Second+3*longest)
}

func (c *Cluster) parse(name string) naming.Name {
	c.tb.Helper()
	parsed, err := naming.ParseName(name)
	if err != nil {
		c.tb.Fatalf("skywardentest: %v", err)
	}
	return parsed
}
