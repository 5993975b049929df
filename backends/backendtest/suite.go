package backendtest

import (
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/seed-6593ebad/skywarden/naming"
)

// slack is added to every bound in time, for the scheduler and for slow
// machines.
const slack = 750 * time.Millisecond

// soon bounds what needs no waiting, on a server that is healthy.
const soon = 5 * time.Second

// Run runs the suite. First come the checks that leave the server healthy, in
// parallel, then one by one those that break it. It needs about ten times the
// TTL.
func Run(t *testing.T, h Harness) {
	t.Helper()
	s := newSuite(t, h)
	t.Run("Healthy", func(t *testing.T) {
		for _, c := range healthy {
			t.Run(c.name, func(t *testing.T) {
				t.Parallel()
				s.run(t, c)
			})
		}
	})
	t.Run("Broken", func(t *testing.T) {
		for _, c := range broken {
			t.Run(c.name, func(t *testing.T) { s.run(t, c) })
		}
	})
	t.Run("Leaks", func(t *testing.T) { s.run(t, leaks) })
}

type check struct {
	name  string
	run   func(t *testing.T, s *suite)
	needs []Ability
}

// The checks that may run at the same time, and those that may not.
var (
	healthy = []check{}
	broken  = []check{}
	leaks   = check{"Leaks", func(*testing.T, *suite) {}, []Ability{CanCount}}
)

type suite struct{ Harness }

func newSuite(t *testing.T, h Harness) *suite {
	t.Helper()
	if h.Open == nil {
		t.Fatal("backendtest: the Harness has no Open")
	}
	has := map[Ability]bool{
		CanPause:       h.Pause != nil && h.Resume != nil,
		CanKill:        h.Kill != nil && h.Restart != nil,
		CanExpireLease: h.ExpireLease != nil,
		CanRevoke:      h.Revoke != nil,
		CanPutUnheld:   h.PutUnheld != nil,
		CanCount:       h.Count != nil,
	}
	for ability, there := range has {
		_, lacks := h.Lacks[ability]
		switch {
		case !there && !lacks:
			t.Errorf("backendtest: the Harness has no %s: give it, or say in Lacks why not", ability)
		case there && lacks:
			t.Errorf("backendtest: the Harness has %s, and Lacks denies it", ability)
		}
	}
	for ability := range h.Lacks {
		if _, known := has[ability]; !known {
			t.Errorf("backendtest: Lacks names %q, which is no Ability", ability)
		}
	}
	if t.Failed() {
		t.FailNow()
	}
	s := &suite{h}
	if s.TTL == 0 {
		b := s.open(t, OwnerA)
		if s.TTL = naming.Describe(b).DefaultTTL; s.TTL <= 0 {
			t.Fatal("backendtest: neither Harness.TTL nor the driver's Description says a TTL")
		}
	}
	if s.FreeWithin == 0 {
		s.FreeWithin = s.TTL + time.Second
	}
	if s.FreeWithinRestart == 0 {
		s.FreeWithinRestart = 2*s.TTL + 4*time.Second
	}
	return s
}

func (s *suite) run(t *testing.T, c check) {
	for _, ability := range c.needs {
		if why, lacks := s.Lacks[ability]; lacks {
			msg := fmt.Sprintf("backendtest: NOT CHECKED: %s: the harness lacks %s: %s", t.Name(), ability, why)
			fmt.Fprintln(os.Stderr, msg)
			t.Skip(msg)
		}
	}
	c.run(t, s)
}

// open opens the backend as p, and closes it after the test.
func (s *suite) open(t *testing.T, p Principal) naming.Backend {
	t.Helper()
	b, err := s.Open(t, p)
	if err != nil {
		t.Fatalf("open as %s: %v", p, err)
	}
	t.Cleanup(func() { _ = b.Close() })
	return b
}
