package consul_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/seed-6593ebad/skywarden/backends/consul"
	"github.com/seed-6593ebad/skywarden/integration/harness"
	"github.com/seed-6593ebad/skywarden/naming"
)

// What a change of a name in use costs must not depend on how many names there
// are: bytes of answers, and answers (wake-ups), per change.
func TestCostOfAChangeDoesNotDependOnTheNames(t *testing.T) {
	small, large := newCost(t, 1_000).measure(t, 50), newCost(t, 10_000).measure(t, 50)
	t.Logf("1 000 names: %s; 10 000 names: %s", small, large)
	if large.bytes > 1.1*small.bytes || large.answers > 1.1*small.answers {
		t.Errorf("a change costs %s with 10 000 names, and %s with 1 000", large, small)
	}
	if small.answers < 0.9 || small.answers > 1.1 {
		t.Errorf("a change of a name in use gives %.2f answers, want 1", small.answers)
	}
}

// BenchmarkChange is a change until a watch of this name has told it.
func BenchmarkChange(b *testing.B) {
	for _, names := range []int{1_000, 10_000} {
		b.Run(fmt.Sprintf("%d names", names), func(b *testing.B) {
			cost := newCost(b, names)
			b.ResetTimer()
			per := cost.measure(b, b.N)
			b.ReportMetric(per.bytes, "bytes/change")
			b.ReportMetric(per.answers, "wakeups/change")
		})
	}
}

// A cost is a server with many names, ten of which are in use by a backend whose
// requests are counted.
type cost struct {
	recorder *harness.HTTPRecorder
	used     []naming.Name
	leases   []naming.Lease
	revs     []naming.Revision
	logs     []*harness.WatchLog
	round    int
}

type perChange struct{ bytes, answers float64 }

func (p perChange) String() string {
	return fmt.Sprintf("%.0f bytes in %.2f answers a change", p.bytes, p.answers)
}

func newCost(tb testing.TB, names int) *cost {
	tb.Helper()
	server := harness.StartConsul(tb, harness.ConsulOptions{})
	fill(tb, server, names)
	c := &cost{recorder: harness.NewHTTPRecorder(tb, server.CA, server.Address)}
	cfg := configWith(tb, server.ConsulAccess, "alice", principal(tb, server.ConsulAccess, "alice", rights(tb, "alice")))
	owner := openBackend(tb, cfg)
	l, err := owner.Lease(tb.Context(), 30*time.Second)
	if err != nil {
		tb.Fatal(err)
	}
	cfg.Addresses = []string{c.recorder.URL()}
	reader := openBackend(tb, cfg)
	for i := range 10 {
		n := name(tb, fmt.Sprintf("a.used%d", i))
		rev, err := l.Claim(tb.Context(), n, []byte("x"), 0)
		if err != nil {
			tb.Fatal(err)
		}
		log := harness.Watch(tb, reader, naming.Only(n))
		log.Wait("synced", 1, 10*time.Second)
		c.used, c.leases, c.revs, c.logs = append(c.used, n), append(c.leases, l), append(c.revs, rev), append(c.logs, log)
	}
	return c
}

// fill gives the server names that nobody here uses.
func fill(tb testing.TB, server *harness.Consul, names int) {
	tb.Helper()
	value := []byte(strings.Repeat("x", 300))
	todo := make(chan int)
	var wg sync.WaitGroup
	for range 32 {
		wg.Go(func() {
			for i := range todo {
				if _, err := server.Admin.KV().Put(&api.KVPair{Key: key(fmt.Sprintf("other.n%d", i)), Value: value}, nil); err != nil {
					tb.Errorf("put: %v", err)
				}
			}
		})
	}
	for i := range names {
		todo <- i
	}
	close(todo)
	wg.Wait()
	if tb.Failed() {
		tb.FailNow()
	}
}

func openBackend(tb testing.TB, cfg consul.Config) *consul.Backend {
	tb.Helper()
	b, err := consul.Open(tb.Context(), cfg)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { b.Close() })
	return b
}

// measure changes names in use, one after the other, and counts what the reader
// is sent for it. What it is sent all the time, to know that the server is alive,
// does not count.
func (c *cost) measure(tb testing.TB, changes int) perChange {
	tb.Helper()
	c.recorder.Forget()
	for range changes {
		i := c.round % len(c.used)
		c.round++
		value := fmt.Sprintf("%0300d", c.round)
		rev, err := c.leases[i].Update(tb.Context(), c.used[i], []byte(value), c.revs[i])
		if err != nil {
			tb.Fatal(err)
		}
		c.revs[i] = rev
		c.logs[i].Wait(fmt.Sprintf("put %s=%s held=true", c.used[i], value), 1, 10*time.Second)
	}
	var bytes, answers float64
	for _, request := range c.recorder.Requests() {
		if strings.HasPrefix(request.Path, "/v1/kv/") {
			bytes += float64(request.Bytes)
			answers++
		}
	}
	return perChange{bytes / float64(changes), answers / float64(changes)}
}
