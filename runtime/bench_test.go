package runtime_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/seed-6593ebad/skywarden/naming"
	"github.com/seed-6593ebad/skywarden/runtime"
)

// The benchmarks have a floor beside them, the least Go that can do the job, and
// report their ratio to it as "x-floor". The floor is measured in the same run,
// because absolute times drift from machine to machine.

func benchNode(b *testing.B) (*runtime.Node, *registry) {
	b.Helper()
	r := newRegistry()
	id, err := naming.ParseNodeID("bench")
	if err != nil {
		b.Fatal(err)
	}
	ep, err := naming.ParseEndpoint("10.0.0.1:7000")
	if err != nil {
		b.Fatal(err)
	}
	n, err := runtime.New(runtime.Config{Node: id, Endpoint: ep, Registry: r, Transport: new(runtime.InProcess)})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = n.Close(context.Background()) })
	return n, r
}

// against measures work and floor for b.N operations each, and reports work.
func against(b *testing.B, floor, work func(n int)) {
	b.Helper()
	b.ReportAllocs()
	work(100) // warm
	b.ResetTimer()
	begin := time.Now()
	work(b.N)
	took := time.Since(begin)
	b.StopTimer()
	begin = time.Now()
	floor(b.N)
	b.ReportMetric(float64(took)/float64(time.Since(begin)), "x-floor")
}

// collector starts a service that says when it has got so many messages.
func collector(b *testing.B, n *runtime.Node) (runtime.Ref, func(total int) <-chan struct{}) {
	b.Helper()
	var left int
	done := make(chan struct{}, 1)
	type expect struct{ total int }
	ref, err := n.Spawn(func(c *runtime.Context, m any) error {
		if e, ok := m.(expect); ok {
			left = e.total
			return c.Reply(nil)
		}
		if left--; left == 0 {
			done <- struct{}{}
		}
		return nil
	})
	if err != nil {
		b.Fatal(err)
	}
	return ref, func(total int) <-chan struct{} {
		if _, err := ref.Call(context.Background(), expect{total}); err != nil {
			b.Error(err)
		}
		return done
	}
}

func benchTell(b *testing.B, producers int) {
	b.Helper()
	n, _ := benchNode(b)
	ref, expect := collector(b, n)
	ctx := context.Background()
	spread := func(total int, send func()) {
		var wg sync.WaitGroup
		for p := range producers {
			share := total / producers
			if p == 0 {
				share += total % producers
			}
			wg.Go(func() {
				for range share {
					send()
				}
			})
		}
		wg.Wait()
	}
	against(b, func(total int) {
		ch, done := make(chan int, 1024), make(chan struct{})
		go func() {
			for range total {
				<-ch
			}
			close(done)
		}()
		spread(total, func() { ch <- 1 })
		<-done
	}, func(total int) {
		done := expect(total)
		spread(total, func() {
			if err := ref.Send(ctx, 1); err != nil {
				b.Error(err)
			}
		})
		<-done
	})
}

func BenchmarkTell(b *testing.B)             { benchTell(b, 1) }
func BenchmarkTell8Producers(b *testing.B)   { benchTell(b, 8) }
func BenchmarkCall(b *testing.B)             { benchCall(b, 1) }
func BenchmarkCall64Callers(b *testing.B)    { benchCall(b, 64) }
func BenchmarkSendByName(b *testing.B)       { benchByName(b, false) }
func BenchmarkSendByNameAcross(b *testing.B) { benchByName(b, true) }

func benchCall(b *testing.B, callers int) {
	b.Helper()
	n, _ := benchNode(b)
	ref, err := n.Spawn(func(c *runtime.Context, m any) error { return c.Reply(m) })
	if err != nil {
		b.Fatal(err)
	}
	spread := func(total int, call func(answers chan int)) {
		var wg sync.WaitGroup
		for p := range callers {
			share := total / callers
			if p == 0 {
				share += total % callers
			}
			wg.Go(func() {
				answers := make(chan int, 1)
				for range share {
					call(answers)
				}
			})
		}
		wg.Wait()
	}
	against(b, func(total int) {
		type request struct{ answers chan int }
		requests := make(chan request, 1024)
		done := make(chan struct{})
		go func() {
			defer close(done)
			for r := range requests {
				r.answers <- 1
			}
		}()
		spread(total, func(answers chan int) {
			requests <- request{answers}
			<-answers
		})
		close(requests)
		<-done
	}, func(total int) {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		spread(total, func(chan int) {
			if _, err := ref.Call(ctx, 1); err != nil {
				b.Error(err)
			}
		})
	})
}

func BenchmarkPingPong(b *testing.B) {
	n, _ := benchNode(b)
	done := make(chan struct{}, 1)
	type ball struct {
		left int
		to   [2]runtime.Ref
	}
	player := func(c *runtime.Context, m *ball) error {
		if m.left--; m.left <= 0 {
			done <- struct{}{}
			return nil
		}
		return m.to[m.left%2].Send(c, m)
	}
	one, two := spawn(b, n, player), spawn(b, n, player)
	against(b, func(total int) {
		ping, pong := make(chan int), make(chan int)
		go func() {
			for m := range ping {
				pong <- m
			}
			close(pong)
		}()
		for range (total + 1) / 2 {
			ping <- 1
			<-pong
		}
		close(ping)
		<-pong
	}, func(total int) {
		if err := one.Send(context.Background(), &ball{total, [2]runtime.Ref{one, two}}); err != nil {
			b.Fatal(err)
		}
		<-done
	})
}

func BenchmarkSpawnKill(b *testing.B) {
	n, _ := benchNode(b)
	handler := func(*runtime.Context, any) error { return nil }
	type bare struct {
		work func(*runtime.Context, any) error
	}
	against(b, func(total int) {
		var mu sync.Mutex
		table := map[int]*bare{}
		for i := range total {
			mu.Lock()
			table[i] = &bare{work: handler}
			mu.Unlock()
		}
		for i := range total {
			mu.Lock()
			delete(table, i)
			mu.Unlock()
		}
	}, func(total int) {
		refs := make([]runtime.Ref, 0, total)
		for range total {
			ref, err := n.Spawn(handler)
			if err != nil {
				b.Fatal(err)
			}
			refs = append(refs, ref)
		}
		for _, ref := range refs {
			if err := n.Kill(ref); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func benchByName(b *testing.B, across bool) {
	b.Helper()
	n, r := benchNode(b)
	ref, expect := collector(b, n)
	if err := n.Register(b.Context(), "bank", ref); err != nil {
		b.Fatal(err)
	}
	from := n
	if across {
		id, _ := naming.ParseNodeID("across")
		ep, _ := naming.ParseEndpoint("10.0.0.2:7000")
		wire := new(runtime.InProcess)
		unbind, err := wire.Bind(n.Endpoint(), n)
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(unbind)
		if from, err = runtime.New(runtime.Config{Node: id, Endpoint: ep, Registry: r, Transport: wire}); err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { _ = from.Close(context.Background()) })
	}
	byName, err := from.Query(b.Context(), "bank")
	if err != nil {
		b.Fatal(err)
	}
	ctx := context.Background()
	tell := func(to runtime.Ref) func(total int) {
		return func(total int) {
			done := expect(total)
			for range total {
				if err := to.Send(ctx, 1); err != nil {
					b.Fatal(err)
				}
			}
			<-done
		}
	}
	against(b, tell(ref), tell(byName)) // the floor is a send by handle
}
