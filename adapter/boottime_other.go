//go:build !linux

package adapter

import "time"

// bootTime: this system gives no such clock here; the wall clock notices sleep.
func bootTime() (time.Duration, bool) { return 0, false }
