package skywardentest

import (
	"context"
	"time"
)

// Expire ends node i's leases, so that all its names are free now. A node that
// lives notices at once, and claims them again: a standby may be faster. Of a node
// that was killed it frees the names before their TTL has passed.
//
// Of a node that cannot reach the server Expire is more than any promise allows
// for: it answers to its names until their deadline, because it cannot know.
//
// A node without a name ends the test: there would be nothing to see.
func (c *Cluster) Expire(i int) {
	c.tb.Helper()
	if c.server.Levers().ExpireLeases(c.member(i).backend.Backend) == 0 {
		c.tb.Fatalf("skywardentest: expire: node %d holds no name", i)
	}
}

// ExpireName ends the lease that holds name, whoever has it: see Expire. The same
// lease may hold other names.
func (c *Cluster) ExpireName(name string) {
	c.tb.Helper()
	parsed := c.parse(name)
	if !c.server.Levers().ExpireLease(parsed) {
		c.tb.Fatalf("skywardentest: expire: nobody holds %s", parsed)
	}
}

// Partition takes the way to the name server from node i. Other nodes still reach
// it, and it them. Its leases run out after their TTL; before that it stops
// answering to its names, and its services are told that they are suspended.
func (c *Cluster) Partition(i int) {
	c.tb.Helper()
	c.partition(i, true)
}

// Heal ends Partition.
func (c *Cluster) Heal(i int) {
	c.tb.Helper()
	c.partition(i, false)
}

func (c *Cluster) partition(i int, cut bool) {
	c.tb.Helper()
	m := c.living(i)
	c.mu.Lock()
	m.cut = cut
	c.mu.Unlock()
	if cut {
		c.server.Levers().Cut(m.backend.Backend)
	} else {
		c.server.Levers().Heal(m.backend.Backend)
	}
}

// Pause makes the name server fall silent, for all nodes. Its clock goes on, so
// leases run out.
func (c *Cluster) Pause() { c.server.Levers().Pause() }

// Resume ends Pause.
func (c *Cluster) Resume() { c.server.Levers().Resume() }

// Kill ends node i as the death of its process would: its names are not given up,
// and become free when their TTL has passed. Nothing more is logged, and no
// observer is told.
//
// Goroutines cannot be killed: a handler that runs goes on to its end, with its
// Context ended, and what it sends and answers gets nowhere. What it does besides
// that happens. Callers who wait for it get runtime.ErrServiceGone.
func (c *Cluster) Kill(i int) {
	c.tb.Helper()
	m := c.living(i)
	m.silent.Store(true)
	c.server.Levers().Crash(m.backend.Backend)
	// The shortest time for handlers that is not over before Close begins.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(c.tb.Context()), time.Millisecond)
	defer cancel()
	_ = m.Close(ctx) // says that names were not given up, and that handlers run
}

// Restart starts node i again at the same place: with its name and its endpoint,
// without services. A node that was not killed is closed before, as in a rolling
// update. A node that was killed finds the names that it left behind, and may
// register them at once.
func (c *Cluster) Restart(i int) {
	c.tb.Helper()
	m := c.member(i)
	c.end(i, m)
	c.start(i)
}

// living is member of a node that was not killed.
func (c *Cluster) living(i int) *member {
	c.tb.Helper()
	m := c.member(i)
	if m.silent.Load() {
		c.tb.Fatalf("skywardentest: node %d was killed before", i)
	}
	return m
}
