package runtime

import (
	"cmp"
	"slices"
	"time"

	"github.com/seed-6593ebad/skywarden/naming"
)

// A ServiceStat is what can be seen of a service from outside.
type ServiceStat struct {
	Handle  naming.Handle
	Names   []string      // that it serves now, node-local ones too, sorted
	Waiting int           // messages in its mailbox
	Blocked int           // senders that wait for room in it
	Handled uint64        // messages that its handler got
	Refused uint64        // messages that were fenced after they had been accepted
	Busy    time.Duration // during which it had something to do
	Running bool          // it has something to do now
}

// Stat gives the services of the node, by handle. The figures of one service
// belong together only roughly.
func (n *Node) Stat() []ServiceStat {
	var stats []ServiceStat
	for _, s := range n.services.all() {
		stat := ServiceStat{
			Handle: s.handle, Names: s.nameStrings(),
			Handled: s.handled.Load(), Refused: s.refused.Load(),
		}
		s.mu.Lock()
		stat.Waiting = len(s.queue) + int(s.left.Load())
		if s.waiting != nil {
			stat.Blocked = s.waiting.Len()
		}
		stat.Running = s.state != idle
		stat.Busy = s.busy
		if !s.since.IsZero() {
			stat.Busy += time.Since(s.since)
		}
		s.mu.Unlock()
		stats = append(stats, stat)
	}
	slices.SortFunc(stats, func(a, b ServiceStat) int { return cmp.Compare(a.Handle, b.Handle) })
	return stats
}
