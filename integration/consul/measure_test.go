package consul_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/seed-6593ebad/skywarden/backends/consul"
	"github.com/seed-6593ebad/skywarden/integration/harness"
	"github.com/seed-6593ebad/skywarden/naming"
)

// L1: the owner vanishes without a word, as by SIGKILL or a cut cable; its name
// is free, and that is seen by others, twice the TTL after its last renewal.
func TestL1DeadOwnersNameIsFree(t *testing.T) {
	server := start(t)
	seen := watch(t, openAs(t, server.ConsulAccess, "bob"), "a.")
	limit := 2*ttl + time.Second
	cfg := config(t, server.ConsulAccess, "alice")
	sinceRenewal := die(t, seen, cfg, server.Address, 20, limit+10*time.Second, func() {})
	if worst := report(t, fmt.Sprintf("since the last renewal, TTL %v", ttl), sinceRenewal); worst > limit+slack {
		t.Errorf("the slowest was free after %v, want %v at most", worst, limit)
	}
}

// die lets owners with a name each vanish, after that does what else happens,
// and says how long after its last renewal each name was free.
func die(t *testing.T, seen *harness.WatchLog, cfg consul.Config, address string, owners int, within time.Duration, meanwhile func()) []time.Duration {
	t.Helper()
	var deaths, all sync.WaitGroup
	var mu sync.Mutex
	var sinceRenewal []time.Duration
	for i := range owners {
		proxy := harness.NewProxy(t, address)
		l := lease(t, open(t, via(cfg, proxy.Address())))
		n := fmt.Sprintf("a.dies%d", i)
		claim(t, l, n, "1")
		deaths.Add(1)
		all.Go(func() {
			<-time.After(ttl/2 + rand.N(ttl/2)) // any time between two renewals
			proxy.BlackHole()
			<-time.After(200 * time.Millisecond) // what was under way has arrived
			renewed := l.Deadline().Add(-ttl)
			deaths.Done()
			free := seen.Wait("delete "+n, 1, within)
			mu.Lock()
			defer mu.Unlock()
			sinceRenewal = append(sinceRenewal, free.Sub(renewed))
			if !free.After(l.Deadline()) {
				t.Errorf("%s was free %v before its owner had to stop", n, l.Deadline().Sub(free))
			}
			if !ended(l) {
				t.Errorf("the owner of %s does not know that its lease has ended", n)
			}
			proxy.Heal() // so that Close need not wait
		})
	}
	deaths.Wait()
	meanwhile()
	all.Wait()
	return sinceRenewal
}

// report logs times and gives the longest.
func report(t *testing.T, what string, times []time.Duration) time.Duration {
	t.Helper()
	if len(times) == 0 {
		t.Fatal("no times")
	}
	slices.Sort(times)
	worst := times[len(times)-1]
	t.Logf("%s: p50 %v, p99 %v, max %v of %d", what, times[len(times)/2].Round(10*time.Microsecond),
		times[len(times)*99/100].Round(10*time.Microsecond), worst.Round(10*time.Microsecond), len(times))
	return worst
}

// Not a promise, but the figures that the README gives.
func TestClaimLatency(t *testing.T) {
	server := start(t)
	b := openAs(t, server.ConsulAccess, "alice")
	l := lease(t, b)
	var claims, updates, gets, releases []time.Duration
	timed := func(into *[]time.Duration, f func() error) {
		begin := time.Now()
		if err := f(); err != nil {
			t.Fatal(err)
		}
		*into = append(*into, time.Since(begin))
	}
	for i := range 300 {
		n := name(t, fmt.Sprintf("a.n%d", i%100))
		var rev naming.Revision
		timed(&claims, func() (err error) { rev, err = l.Claim(t.Context(), n, []byte("some bytes"), 0); return err })
		timed(&updates, func() error { _, err := l.Update(t.Context(), n, []byte("other bytes"), rev); return err })
		timed(&gets, func() error { _, err := b.Get(t.Context(), n); return err })
		timed(&releases, func() error { return l.Release(t.Context(), n) })
	}
	for what, times := range map[string][]time.Duration{"claim": claims, "update": updates, "get": gets, "release": releases} {
		report(t, what+", one after the other", times)
	}
}
