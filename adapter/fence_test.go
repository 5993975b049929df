package adapter

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestFencePassesByWhicheverClockSaysLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFence(time.Now().Add(time.Second))
		if f.passed() {
			t.Error("passed at once")
		}
		time.Sleep(time.Second)
		if !f.passed() {
			t.Error("not passed at its time")
		}
		// A machine that slept: the wall clock went on, the monotonic one did not.
		f = newFence(time.Now().Add(time.Hour))
		f.wall = f.wall.Add(-time.Hour)
		if !f.passed() {
			t.Error("not passed by the wall clock")
		}
		// One whose wall clock was set back meanwhile: only the boot-time clock knows.
		if _, ok := bootTime(); ok {
			f = newFence(time.Now().Add(time.Hour))
			f.boot -= time.Hour
			if !f.passed() {
				t.Error("not passed by the boot-time clock")
			}
		}
	})
}

func TestMargin(t *testing.T) {
	for ttl, want := range map[time.Duration]time.Duration{time.Second: 500 * time.Millisecond, 5 * time.Second: 500 * time.Millisecond, time.Minute: 6 * time.Second} {
		if got := margin(ttl); got != want {
			t.Errorf("margin(%s) = %s, want %s", ttl, got, want)
		}
	}
}
