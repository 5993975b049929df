package adapter_test

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-6593ebad/skywarden/adapter"
	"github.com/seed-6593ebad/skywarden/backends/memory"
	"github.com/seed-6593ebad/skywarden/naming"
	"github.com/seed-6593ebad/skywarden/runtime"
)

var address0 netip.AddrPort

// A crowd is an owner of many names and a resolver that sees them all, with an
// allow-list of one rule for each name.
type crowd struct {
	owner, resolver *adapter.Adapter
	names           []naming.Name
	claims          []runtime.Claim
	addr            naming.Address
}

func newCrowd(tb testing.TB, n int) *crowd {
	tb.Helper()
	c := &crowd{addr: address(tb, "owner@10.0.0.1:7000/1")}
	rules := make([]adapter.Rule, n)
	for i := range n {
		c.names = append(c.names, parse(tb, fmt.Sprintf("svc.%d", i)))
		rules[i] = adapter.Rule{Scope: naming.Only(c.names[i]), Owners: []string{"local"}, Addresses: prefixes("10.0.0.0/8")}
	}
	list, err := adapter.NewAllowList(rules)
	if err != nil {
		tb.Fatal(err)
	}
	var srv memory.Server
	open := func(id string) *adapter.Adapter {
		addr := address(tb, id+"/1")
		backend := srv.Open()
		a, err := adapter.New(tb.Context(), adapter.Config{Backend: backend, Node: addr.Node(), Endpoint: addr.Endpoint(), AllowList: list})
		if err != nil {
			tb.Fatal(err)
		}
		tb.Cleanup(func() {
			ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
			defer cancel()
			_ = a.Close(ctx)
			_ = backend.Close()
		})
		return a
	}
	c.owner, c.resolver = open("owner@10.0.0.1:7000"), open("resolver@10.0.0.2:7000")
	for _, name := range c.names {
		claim, err := c.owner.Register(tb.Context(), name, c.addr, runtime.RegisterOptions{})
		if err != nil {
			tb.Fatal(err)
		}
		c.claims = append(c.claims, claim)
	}
	for _, name := range c.names {
		if _, err := c.resolver.Query(tb.Context(), name); err != nil {
			tb.Fatal(err)
		}
	}
	return c
}

// churn registers names anew, 100 a second, until the returned function is called.
func (c *crowd) churn(tb testing.TB) (stop func()) {
	ctx, cancel := context.WithCancel(tb.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for i := 0; ; i = (i + 1) % len(c.names) {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			if err := c.claims[i].Release(ctx); err != nil {
				continue
			}
			if claim, err := c.owner.Register(ctx, c.names[i], c.addr, runtime.RegisterOptions{}); err == nil {
				c.claims[i] = claim
			}
		}
	})
	return func() { cancel(); wg.Wait() }
}

// BenchmarkLookup is the whole look-up path of a resolver, with its allow-list
// and staleness checks, over 10 000 names of which 100 a second change hands.
// "floor" is the least that could do it: a map of the same names.
func BenchmarkLookup(b *testing.B) {
	c := newCrowd(b, 10_000)
	floor := make(map[naming.Name]runtime.Binding, len(c.names))
	for _, n := range c.names {
		floor[n] = runtime.Binding{Address: c.addr}
	}
	b.Run("floor", func(b *testing.B) {
		b.ReportAllocs()
		i := 0
		for b.Loop() {
			if i++; i == len(c.names) {
				i = 0
			}
			if floor[c.names[i]].Address.IsZero() {
				b.Fatal("not found")
			}
		}
	})
	lookup := func(b *testing.B, i int) {
		// A name that is changing hands just now is not there for a moment.
		if _, err := c.resolver.Lookup(b.Context(), c.names[i]); err != nil && naming.Code(err) != "not_found" {
			b.Error(err)
		}
	}
	b.Run("one", func(b *testing.B) {
		defer c.churn(b)()
		b.ReportAllocs()
		i := 0
		for b.Loop() {
			if i++; i == len(c.names) {
				i = 0
			}
			lookup(b, i)
		}
	})
	b.Run("parallel", func(b *testing.B) {
		defer c.churn(b)()
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			for i := 0; pb.Next(); i++ {
				if i == len(c.names) {
					i = 0
				}
				lookup(b, i)
			}
		})
	})
}

// TestLookupDoesNotAllocate pins what BenchmarkLookup shows. In a bubble all else
// is quiet, and the mirror has everything.
func TestLookupDoesNotAllocate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCrowd(t, 100)
		synctest.Wait()
		for who, a := range map[string]*adapter.Adapter{"owner": c.owner, "resolver": c.resolver} {
			if n := testing.AllocsPerRun(100, func() {
				for _, name := range c.names {
					if _, err := a.Lookup(t.Context(), name); err != nil {
						t.Fatal(err)
					}
				}
			}); n != 0 {
				t.Errorf("%s: %v allocations for 100 look-ups", who, n)
			}
		}
		if n := testing.AllocsPerRun(1000, func() { c.claims[0].Serving() }); n != 0 {
			t.Errorf("Serving: %v allocations", n)
		}
	})
}
