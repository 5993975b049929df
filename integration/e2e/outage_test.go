//go:build unix

package e2e

import (
	"context"
	"errors"
	"io"
	"os"
	"testing"
	"time"

	"github.com/seed-6593ebad/skywarden/adapter"
	"github.com/seed-6593ebad/skywarden/configs"
	"github.com/seed-6593ebad/skywarden/naming"
)

// outage is how long the server is away: SKYWARDEN_OUTAGE, or 15 s.
func outage(t *testing.T) time.Duration {
	t.Helper()
	s := os.Getenv("SKYWARDEN_OUTAGE")
	if s == "" {
		return 15 * time.Second
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		t.Fatalf("SKYWARDEN_OUTAGE: %v", err)
	}
	return d
}

// TestS5L2Outage: while the server is away, look-ups of names that are in the
// mirror go on and are marked, others say within 1 s that they cannot be
// answered. When it is back, owners are registered again, and a process that was
// started meanwhile is as well.
func TestS5L2Outage(t *testing.T) {
	onEach(t, testS5L2Outage)
}

func testS5L2Outage(t *testing.T, r registry) {
	one := &sample{now: true}
	owner := start(t, "node", "-c", one.write(t, r))
	owner.await(t, 10*time.Second, "is ready")

	// A node that looks names up.
	reader := &sample{node: "reader-1"}
	cfg, err := configs.Load(reader.write(t, r), "echo")
	if err != nil {
		t.Fatal(err)
	}
	backend, err := cfg.OpenBackend(t.Context(), cfg.Logger(io.Discard))
	if err != nil {
		t.Fatal(err)
	}
	defer backend.Close()
	a, err := adapter.New(t.Context(), adapter.Config{
		Backend: backend, Node: cfg.Node, Endpoint: cfg.Advertise, AllowList: cfg.Allow,
		TTL: cfg.TTL, MaxStale: cfg.MaxStale,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := a.Close(ctx); err != nil {
			t.Error(err)
		}
	}()
	lobby, nobody := parse(t, "game.lobby"), parse(t, "game.nobody")
	if b, err := a.Query(t.Context(), lobby); err != nil || b.Stale {
		t.Fatalf("before the outage: %+v, %v", b, err)
	}

	r.Pause(t)
	paused := time.Now()
	away := outage(t)
	// The mirror notices within L3.
	await(t, func() bool { b, err := a.Lookup(t.Context(), lobby); return err == nil && b.Stale })
	t.Logf("measured: outage noticed after %s", time.Since(paused).Round(time.Millisecond))
	owner.await(t, ttl, `"event":"suspended"`, `"name":"game.lobby"`) // S4: before its lease can end
	late := &sample{node: "game-7", service: "game.late", now: true}
	latecomer := start(t, "node", "-c", late.write(t, r))

	slowest := time.Duration(0)
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for time.Since(paused) < away {
		b, err := a.Lookup(t.Context(), lobby)
		if err != nil || !b.Stale || b.Address.Node().String() != "game-1" {
			t.Fatalf("mirrored name after %s: %+v, %v", time.Since(paused), b, err)
		}
		asked := time.Now()
		_, err = a.Lookup(t.Context(), nobody)
		if !errors.Is(err, naming.ErrUnavailable) {
			t.Fatalf("other name after %s: %v, want %v", time.Since(paused), err, naming.ErrUnavailable)
		}
		slowest = max(slowest, time.Since(asked))
		<-tick.C
	}
	t.Logf("measured: slowest answer about a name that is not in the mirror: %s", slowest.Round(time.Millisecond))
	if slowest > time.Second {
		t.Errorf("an answer took %s, want 1s at most", slowest)
	}
	if seen := latecomer.output(); hasAll(seen, []string{"is ready"}) {
		t.Errorf("ready without a server:\n%s", seen)
	}

	r.Unpause(t)
	back := time.Now()
	resumed := owner.await(t, 10*time.Second, `"event":"resumed"`, `"name":"game.lobby"`)
	t.Logf("measured: server back to the owner registered again: %s", resumed.at.Sub(back).Round(time.Millisecond))
	latecomer.await(t, 10*time.Second, "node game-7 is ready")
	t.Logf("measured: server back to a latecomer ready: %s", time.Since(back).Round(time.Millisecond))
	await(t, func() bool { b, err := a.Lookup(t.Context(), lobby); return err == nil && !b.Stale })
	t.Logf("measured: server back to look-ups live: %s", time.Since(back).Round(time.Millisecond))
	await(t, func() bool { _, err := a.Lookup(t.Context(), parse(t, "game.late")); return err == nil })
	if took := time.Since(back); took > 7*time.Second { // L2, and its jitter
		t.Errorf("everybody is back after %s, want 7s at most", took)
	}
	if _, err := a.Lookup(t.Context(), nobody); !errors.Is(err, naming.ErrNotFound) {
		t.Errorf("after the outage: %v, want %v", err, naming.ErrNotFound)
	}
	owner.end(t)
	latecomer.end(t)
}

func parse(t *testing.T, s string) naming.Name {
	t.Helper()
	n, err := naming.ParseName(s)
	if err != nil {
		t.Fatal(err)
	}
	return n
}
