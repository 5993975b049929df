package runtime_test

import (
	"context"
	"net/netip"
	"testing"

	"github.com/seed-6593ebad/skywarden/naming"
	"github.com/seed-6593ebad/skywarden/runtime"
)

// The benchmarks come with their floors: what a channel does in the same run.

func BenchmarkTell(b *testing.B) {
	b.Run("floor", func(b *testing.B) {
		ch, done := make(chan int, 1024), make(chan struct{})
		go func() {
			for range ch {
			}
			close(done)
		}()
		for i := 0; b.Loop(); i++ {
			ch <- i
		}
		close(ch)
		<-done
	})
	b.Run("service", func(b *testing.B) {
		n := benchNode(b)
		ref := spawn(b, n, func(*runtime.Context, int) error { return nil })
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			if err := ref.Send(b.Context(), i); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkCall(b *testing.B) {
	b.Run("floor", func(b *testing.B) {
		type call struct {
			msg   int
			reply chan int
		}
		ch, done := make(chan call), make(chan struct{})
		go func() {
			for c := range ch {
				c.reply <- c.msg
			}
			close(done)
		}()
		reply := make(chan int, 1)
		for i := 0; b.Loop(); i++ {
			ch <- call{i, reply}
			<-reply
		}
		close(ch)
		<-done
	})
	b.Run("service", func(b *testing.B) {
		n := benchNode(b)
		ref := spawn(b, n, func(c *runtime.Context, m int) error { return c.Reply(m) })
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			if _, err := ref.Call(b.Context(), i); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func benchNode(b *testing.B) *runtime.Node {
	b.Helper()
	id, err := naming.ParseNodeID("bench")
	if err != nil {
		b.Fatal(err)
	}
	n, err := runtime.New(runtime.Config{
		Node: id, Endpoint: netip.MustParseAddrPort("10.0.0.1:7000"), Registry: newRegistry(), Transport: new(runtime.InProcess),
	})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = n.Close(context.Background()) })
	return n
}
