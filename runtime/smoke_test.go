package runtime_test

import (
	"context"
	"net/netip"
	"testing"
	"time"

	"github.com/seed-6593ebad/skywarden/adapter"
	"github.com/seed-6593ebad/skywarden/backends/memory"
	"github.com/seed-6593ebad/skywarden/naming"
	"github.com/seed-6593ebad/skywarden/runtime"
)

func TestSmoke(t *testing.T) {
	var srv memory.Server
	mk := func(id, ep string) *runtime.Node {
		nid, _ := naming.ParseNodeID(id)
		e := netip.MustParseAddrPort(ep)
		b := srv.Open()
		a, err := adapter.New(t.Context(), adapter.Config{Backend: b, Node: nid, Endpoint: e})
		if err != nil {
			t.Fatal(err)
		}
		n, err := runtime.New(runtime.Config{Node: nid, Endpoint: e, Registry: a})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			ctx, c := context.WithTimeout(context.Background(), 2*time.Second)
			defer c()
			if err := n.Close(ctx); err != nil {
				t.Error(err)
			}
			a.Close(ctx)
			b.Close()
		})
		return n
	}
	n1, n2 := mk("a", "127.0.0.1:1001"), mk("b", "127.0.0.1:1002")
	total := 0
	bank, err := runtime.Spawn(n1, func(c *runtime.Context, m int) error { total += m; return c.Reply(total) })
	if err != nil {
		t.Fatal(err)
	}
	if err := n1.Register(t.Context(), "bank", bank); err != nil {
		t.Fatal(err)
	}
	ref, err := n2.Query(t.Context(), "bank")
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		got, err := runtime.Call[int](t.Context(), ref, 5)
		if err != nil || got != 5*(i+1) {
			t.Fatal(got, err)
		}
	}
	if err := ref.Send(t.Context(), "x"); err == nil {
		t.Fatal("wrong type accepted")
	} else {
		t.Log(err)
	}
}
