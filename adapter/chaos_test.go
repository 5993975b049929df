package adapter_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/seed-6593ebad/skywarden/adapter"
	"github.com/seed-6593ebad/skywarden/backends/backendtest"
	"github.com/seed-6593ebad/skywarden/backends/memory"
	"github.com/seed-6593ebad/skywarden/naming"
	"github.com/seed-6593ebad/skywarden/runtime"
)

// TestS4NeverTwoOwnersInChaos lets nodes take and give up the same names for five
// minutes while servers are cut off, leases die and answers are lost. At no time
// may two serve one name, nobody is told anything after Release, and in the end
// nothing is left.
func TestS4NeverTwoOwnersInChaos(t *testing.T) {
	for seed := range uint64(6) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			run(t, func(w *world) { chaos(w, seed) })
		})
	}
}

func chaos(w *world, seed uint64) {
	rnd := rand.New(rand.NewPCG(seed, 1))
	const nodes, names = 3, 4
	var faulty []*backendtest.FaultyBackend
	var ns []*node
	var mems []*memory.Backend
	for i := range nodes {
		m := w.srv.Open()
		f := backendtest.Faulty(m, backendtest.Faults{Seed: seed + uint64(i), Latency: 200 * time.Millisecond, Unavailable: 0.1, LostAnswer: 0.1, Unclear: 0.3, Hiccup: 0.05})
		faulty, mems = append(faulty, f), append(mems, m)
		w.Cleanup(func() { _ = f.Close() })
		ns = append(ns, w.node(fmt.Sprintf("n%d", i), netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(i + 1)}), 7000).String(), func(c *adapter.Config) { c.Backend = f }))
	}
	cut := map[int]bool{}
	var mu sync.Mutex
	live := map[naming.Name]map[runtime.Claim]int{}
	ctx, cancel := context.WithCancel(w.Context())
	var wg sync.WaitGroup
	for i, n := range ns {
		for j := range names {
			r := rand.New(rand.NewPCG(seed, uint64(i*100+j)))
			name := parse(w, fmt.Sprintf("svc-%d", j))
			wg.Go(func() {
				for ctx.Err() == nil {
					lost := make(chan struct{}, 1)
					within, stop := context.WithTimeout(ctx, time.Duration(1+r.IntN(20000))*time.Millisecond)
					var gone atomic.Bool
					c, err := n.Register(within, name, n.addr, runtime.RegisterOptions{Standby: r.IntN(2) == 0, Notify: func(e runtime.NameEvent) {
						if gone.Load() {
							w.Error("told after release")
						}
						if e.Kind == runtime.NameLost {
							lost <- struct{}{}
						}
					}})
					stop()
					if err != nil {
						sleep(ctx, time.Duration(r.IntN(1000))*time.Millisecond)
						continue
					}
					mu.Lock()
					if live[name] == nil {
						live[name] = map[runtime.Claim]int{}
					}
					live[name][c] = i
					mu.Unlock()
					select {
					case <-lost:
					case <-time.After(time.Duration(r.IntN(15000)) * time.Millisecond):
					case <-ctx.Done():
					}
					within, stop = context.WithTimeout(context.WithoutCancel(ctx), time.Duration(1+r.IntN(3000))*time.Millisecond)
					_ = c.Release(within)
					gone.Store(true)
					stop()
					mu.Lock()
					delete(live[name], c)
					mu.Unlock()
				}
			})
		}
	}
	for range 3000 {
		time.Sleep(100 * time.Millisecond)
		mu.Lock()
		for name, cs := range live {
			serving := 0
			for c := range cs {
				if _, ok := c.Serving(); ok {
					serving++
				}
			}
			if serving > 1 {
				w.Errorf("%s is served by %d", name, serving)
			}
		}
		mu.Unlock()
		switch x, who := rnd.IntN(100), rnd.IntN(nodes); {
		case x < 2:
			cut[who] = true
			w.srv.Levers().Cut(mems[who])
		case x < 6:
			cut[who] = false
			w.srv.Levers().Heal(mems[who])
		case x < 7 && !cut[who]: // else it would go on until its deadline, which the server broke
			w.srv.Levers().ExpireLeases(mems[who])
		}
	}
	for i := range nodes {
		w.srv.Levers().Heal(mems[i])
		faulty[i].Set(backendtest.Faults{})
	}
	cancel()
	wg.Wait()
	time.Sleep(time.Minute)
	if got := w.srv.Stats(); got.Entries != 0 || got.Leases != 0 {
		w.Errorf("left on the server: %+v", got)
	}
	for _, n := range ns {
		for j := range names {
			n.want(fmt.Sprintf("svc-%d", j), "not_found")
		}
	}
	for j := range names {
		c := ns[0].mustRegister(fmt.Sprintf("svc-%d", j))
		ns[1].want(fmt.Sprintf("svc-%d", j), ns[0].addr.String())
		_ = c.Release(w.Context())
	}
}

func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}
