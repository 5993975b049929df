package harness

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/seed-6593ebad/skywarden/naming"
)

// A WatchLog keeps what a watch told: "put a.b=value held=true", "delete a.b",
// "synced", "down", "alive".
type WatchLog struct {
	tb     testing.TB
	cancel context.CancelFunc
	done   chan struct{}

	mu     sync.Mutex
	lines  []string
	times  []time.Time
	err    error
	change chan struct{} // closed at the next change
}

// Watch runs a watch until the test ends.
func Watch(tb testing.TB, b naming.Backend, scope naming.Scope) *WatchLog {
	tb.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	w := &WatchLog{tb: tb, cancel: cancel, done: make(chan struct{}), change: make(chan struct{})}
	go func() {
		defer close(w.done)
		for event, err := range b.Watch(ctx, scope) {
			if err != nil {
				w.mu.Lock()
				w.err = err
				w.mu.Unlock()
				return
			}
			w.add(event)
		}
	}()
	tb.Cleanup(w.Stop)
	return w
}

// Stop ends the watch, and returns when it has ended.
func (w *WatchLog) Stop() { w.cancel(); <-w.done }

func (w *WatchLog) add(event naming.Event) {
	line := event.Kind.String()
	switch event.Kind {
	case naming.Put:
		line += fmt.Sprintf(" %s=%s held=%v", event.Entry.Name, event.Entry.Value, event.Entry.Held)
	case naming.Delete:
		line += " " + event.Entry.Name.String()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lines = append(w.lines, line)
	w.times = append(w.times, time.Now())
	close(w.change)
	w.change = make(chan struct{})
}

// All gives what was told, without signs of life.
func (w *WatchLog) All() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var lines []string
	for _, line := range w.lines {
		if line != "alive" {
			lines = append(lines, line)
		}
	}
	return lines
}

// Wait waits until line was told at least n times, and says when it was.
func (w *WatchLog) Wait(line string, n int, within time.Duration) time.Time {
	w.tb.Helper()
	late := time.NewTimer(within)
	defer late.Stop()
	for {
		w.mu.Lock()
		count := 0
		for i, l := range w.lines {
			if l != line {
				continue
			}
			if count++; count == n {
				at := w.times[i]
				w.mu.Unlock()
				return at
			}
		}
		change := w.change
		w.mu.Unlock()
		select {
		case <-change:
		case <-late.C:
			w.tb.Fatalf("%q was not told %d times within %v, but %q (end: %v)", line, n, within, w.All(), w.End())
		}
	}
}

// Ended is closed when the watch has ended; then End says why.
func (w *WatchLog) Ended() <-chan struct{} { return w.done }

// End gives the error by which the watch has ended; nil while it runs.
func (w *WatchLog) End() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err
}
