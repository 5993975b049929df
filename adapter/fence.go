package adapter

import "time"

// margin is how long before a lease's deadline its owner stops answering: the
// slack for clocks that do not run at quite the same speed, and for the time
// between the check and the answer.
func margin(ttl time.Duration) time.Duration { return max(500*time.Millisecond, ttl/10) }

// A fence is a moment by three clocks. It has passed when any of them says so:
// the monotonic clock, which stands still while the machine sleeps; the wall
// clock, which goes on then but may be set back; and the boot-time clock, which
// does neither but does not exist everywhere.
type fence struct {
	at   time.Time // with its monotonic reading
	wall time.Time // without
	boot time.Duration
}

// newFence puts a fence at a moment that was computed from a reading of
// time.Now.
func newFence(at time.Time) fence {
	f := fence{at: at, wall: at.Round(0)}
	if now, ok := bootTime(); ok {
		f.boot = now + time.Until(at)
	}
	return f
}

func (f fence) passed() bool {
	now := time.Now()
	if !now.Before(f.at) || !now.Round(0).Before(f.wall) { // Round(0) leaves the wall clock alone
		return true
	}
	boot, ok := bootTime()
	return ok && boot >= f.boot
}
