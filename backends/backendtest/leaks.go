package backendtest

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/seed-6593ebad/skywarden/naming"
)

// leavesNothingBehind: after 1 000 names came and went there is no lease, entry,
// goroutine or file descriptor more than before.
func leavesNothingBehind(s *suite) {
	t := s.t
	const workers, cycles, leases, watches, backends = 8, 1000, 100, 100, 10
	a, reader := s.open(OwnerA), s.open(Reader)
	use := func(b naming.Backend, n naming.Name) error { // everything once
		l, err := b.Lease(t.Context(), s.TTL)
		if err != nil {
			return err
		}
		if _, err := l.Claim(t.Context(), n, nil, 0); err != nil {
			return err
		}
		if err := firstError(t.Context(), b, naming.Only(n)); err != nil {
			return err
		}
		return l.Close(t.Context())
	}
	if err := use(a, s.name("shared.")); err != nil {
		t.Fatal(err)
	}
	if err := firstError(t.Context(), reader, naming.All()); err != nil {
		t.Fatal(err)
	}
	// Earlier checks may have left leases to their TTL.
	eventually(t, s.FreeWithinRestart+slack, "all that earlier checks left is gone", func() error {
		if now := s.Count(t); now != (Count{}) {
			return fmt.Errorf("there is %+v", now)
		}
		return nil
	})
	goroutines, files := runtime.NumGoroutine(), openFiles(t)

	forAll(workers, func(w int) {
		l, err := a.Lease(t.Context(), s.TTL)
		if err != nil {
			t.Errorf("lease: %v", err)
			return
		}
		for range cycles / workers {
			n := s.name("shared.")
			if _, err := l.Claim(t.Context(), n, []byte("x"), 0); err != nil {
				t.Errorf("claim: %v", err)
				return
			}
			if err := l.Release(t.Context(), n); err != nil {
				t.Errorf("release: %v", err)
				return
			}
		}
		if err := l.Close(t.Context()); err != nil {
			t.Errorf("close lease: %v", err)
		}
	})
	forAll(workers, func(w int) {
		for i := w; i < leases; i += workers {
			if err := use(a, s.name("shared.")); err != nil {
				t.Errorf("lease %d: %v", i, err)
			}
		}
		for i := w; i < watches; i += workers {
			ctx, cancel := context.WithCancel(t.Context())
			if i%2 == 0 {
				time.AfterFunc(time.Duration(i)*100*time.Microsecond, cancel)
			}
			for ev, err := range reader.Watch(ctx, naming.All()) {
				if err == nil && i%2 == 1 && ev.Kind == naming.Synced {
					break
				}
			}
			cancel()
		}
		for i := w; i < leases; i += workers { // cancelled half-way
			ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i)*50*time.Microsecond)
			if l, err := a.Lease(ctx, s.TTL); err == nil {
				_, _ = l.Claim(ctx, s.name("shared."), nil, 0)
				if err := l.Close(t.Context()); err != nil {
					t.Errorf("close lease: %v", err)
				}
			}
			cancel()
		}
	})
	for range backends {
		b, err := s.Open(t, OwnerA)
		if err != nil {
			t.Fatalf("open: %v", err)
		}
		if err := use(&checked{b, t, s.Injected}, s.name("shared.")); err != nil {
			t.Errorf("another Backend: %v", err)
		}
		if err := b.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	}

	eventually(t, backWithin, "nothing is left", func() error {
		if now := s.Count(t); now != (Count{}) {
			return fmt.Errorf("on the server is %+v", now)
		}
		if now := runtime.NumGoroutine(); now > goroutines {
			return fmt.Errorf("there are %d goroutines, and were %d", now, goroutines)
		}
		if now := openFiles(t); now > files {
			return fmt.Errorf("there are %d open files, and were %d", now, files)
		}
		return nil
	})
}

// openFiles counts this process's open files, where the system tells (Linux).
func openFiles(t *testing.T) int {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		if runtime.GOOS == "linux" {
			t.Errorf("count open files: %v", err)
		}
		return 0
	}
	return len(fds)
}
