package memory

import "github.com/seed-6593ebad/skywarden/naming"

// Levers break a Server on purpose, and do what only its administrator could.
// They are for tests; no running program needs them.
type Levers struct{ s *Server }

// Levers gives the levers of s.
func (s *Server) Levers() Levers { return Levers{s} }

// Pause makes the server fall silent, as a stopped process is: calls wait for
// it, watches say Down after a while, leases are not renewed. Its clock goes on,
// so leases expire.
func (l Levers) Pause() { l.set(func() { l.s.paused = true }) }

// Resume ends Pause.
func (l Levers) Resume() { l.set(func() { l.s.paused = false }) }

// Kill stops the server as if its process had died: as Pause, but watches
// notice at once, and the server's clock stands still.
func (l Levers) Kill() {
	l.set(func() {
		l.s.killed = true
		for h := range l.s.leases {
			h.timer.Stop()
		}
	})
}

// Restart ends Kill. All entries are there as before, and each lease has its
// full TTL from now on, as with etcd.
func (l Levers) Restart() {
	l.set(func() {
		if !l.s.killed {
			return
		}
		l.s.killed = false
		for h := range l.s.leases {
			l.s.renewLease(h)
		}
	})
}

// Cut takes the way to the server from b alone: for b it is as if the server
// was paused.
func (l Levers) Cut(b *Backend) { l.set(func() { b.cut = true }) }

// Heal ends Cut.
func (l Levers) Heal(b *Backend) { l.set(func() { b.cut = false }) }

// Crash takes b from the server as the death of its process does: the server is
// told nothing, so b's leases live until their TTL has passed. Calls and watches
// of b end with ErrClosed, and b is still to be closed.
func (l Levers) Crash(b *Backend) {
	l.set(func() {
		b.closed = true
		b.leases = nil // or Close would end them
	})
}

// ExpireLeases ends all leases that b opened, now, as when their TTL had
// passed, and says how many there were. b notices as soon as it can reach the
// server.
func (l Levers) ExpireLeases(b *Backend) int {
	n := 0
	l.set(func() {
		for h := range l.s.leases {
			if h.backend == b {
				l.s.endLease(h)
				n++
			}
		}
	})
	return n
}

// ExpireLease ends the lease that holds name, now, and says whether there was
// one. All its names become free.
func (l Levers) ExpireLease(name naming.Name) (held bool) {
	l.set(func() {
		if e := l.s.entries[name]; e != nil && e.lease != nil {
			held = true
			l.s.endLease(e.lease)
		}
	})
	return held
}

// Put stores value under name without a lease, over whatever is there: a lease
// that held the name does not hold it any more.
func (l Levers) Put(name naming.Name, value []byte) (rev naming.Revision) {
	l.set(func() { rev = l.s.put(name, value, nil) })
	return rev
}

// Delete deletes the entry under name, whoever holds it.
func (l Levers) Delete(name naming.Name) { l.set(func() { l.s.remove(name) }) }

func (l Levers) set(f func()) {
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	f()
	l.s.broadcast()
}
