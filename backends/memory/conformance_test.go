package memory_test

import (
	"testing"
	"time"

	"github.com/seed-6593ebad/skywarden/backends/backendtest"
	"github.com/seed-6593ebad/skywarden/backends/memory"
	"github.com/seed-6593ebad/skywarden/naming"
)

func TestConformance(t *testing.T) {
	backendtest.Run(t, harness(t))
}

// TestConformanceWithFaults runs the suite on a server to which the way is bad.
func TestConformanceWithFaults(t *testing.T) {
	h := harness(t)
	open := h.Open
	h.Injected = true
	h.Open = func(tb testing.TB, p backendtest.Principal) (naming.Backend, error) {
		tb.Helper()
		b, err := open(tb, p)
		if err != nil {
			return nil, err
		}
		return backendtest.Faulty(b, backendtest.Faults{
			Seed: 1, Latency: 3 * time.Millisecond, Unavailable: 0.1, LostAnswer: 0.1, Hiccup: 0.05,
		}), nil
	}
	backendtest.Run(t, h)
}

func harness(t *testing.T) backendtest.Harness {
	t.Helper()
	s := new(memory.Server)
	credentials := make(map[backendtest.Principal]memory.Credential)
	for p, rights := range backendtest.Plan() {
		c, err := s.Grant(string(p), memory.Grant(rights))
		if err != nil {
			t.Fatal(err)
		}
		credentials[p] = c
	}
	levers := s.Levers()
	return backendtest.Harness{
		Open: func(_ testing.TB, p backendtest.Principal) (naming.Backend, error) {
			return s.OpenAs(credentials[p]), nil // of WrongCredential it is nobody's
		},
		TTL:     time.Second,
		Pause:   func(testing.TB) { levers.Pause() },
		Resume:  func(testing.TB) { levers.Resume() },
		Kill:    func(testing.TB) { levers.Kill() },
		Restart: func(testing.TB) { levers.Restart() },
		ExpireLease: func(tb testing.TB, name naming.Name) {
			tb.Helper()
			if !levers.ExpireLease(name) {
				tb.Errorf("no lease holds %v", name)
			}
		},
		Revoke: func(tb testing.TB, p backendtest.Principal) {
			tb.Helper()
			if !s.Revoke(string(p)) {
				tb.Errorf("%s was not known", p)
			}
		},
		PutUnheld: func(_ testing.TB, name naming.Name, value []byte) { levers.Put(name, value) },
		Count: func(testing.TB) backendtest.Count {
			now := s.Stats()
			return backendtest.Count{Leases: now.Leases, Entries: now.Entries}
		},
	}
}
