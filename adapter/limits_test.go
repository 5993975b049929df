package adapter_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-6593ebad/skywarden/adapter"
	"github.com/seed-6593ebad/skywarden/backends/memory"
	"github.com/seed-6593ebad/skywarden/naming"
)

// A choosy backend is the built-in name server with another description, and
// counts what it is asked. No server of this module is like it, a user's may be.
type choosy struct {
	*memory.Backend
	desc naming.Description
	gets atomic.Int32
}

func (c *choosy) Describe() naming.Description { return c.desc }

func (c *choosy) Get(ctx context.Context, name naming.Name) (naming.Entry, error) {
	c.gets.Add(1)
	return c.Backend.Get(ctx, name)
}

func (w *world) choosy(desc naming.Description) (*choosy, func(*adapter.Config)) {
	c := &choosy{Backend: w.srv.Open(), desc: desc}
	w.Cleanup(func() { _ = c.Close() })
	return c, func(cfg *adapter.Config) { cfg.Backend = c }
}

func TestNamesPerLease(t *testing.T) {
	run(t, func(w *world) {
		_, use := w.choosy(naming.Description{InProcess: true, NamesPerLease: 3})
		a := w.node("a", "10.0.0.1:7000", use)
		done := make(chan struct{})
		for i := range 10 {
			go func() { a.mustRegister(fmt.Sprintf("svc-%d", i)); done <- struct{}{} }()
		}
		for range 10 {
			<-done
		}
		synctest.Wait()
		if got := w.srv.Stats(); got.Leases != 4 || got.Entries != 10 {
			t.Errorf("on the server: %+v, want 10 entries under 4 leases", got)
		}
	})
}

// Where one watch over all names is dear, a name gets its own watch with its
// first look-up, and loses it again when nobody asks for it any more.
func TestNamesAreWatchedAsTheyAreUsed(t *testing.T) {
	run(t, func(w *world) {
		c, use := w.choosy(naming.Description{InProcess: true})
		a, b := w.node("a", "10.0.0.1:7000"), w.node("b", "10.0.0.2:7000", use)
		a.mustRegister("bank")
		b.want("bank", a.addr.String()) // asks the backend
		for range 100 {
			b.want("bank", a.addr.String())
		}
		if got := c.gets.Load(); got != 1 {
			t.Errorf("%d reads for 101 look-ups of one name", got)
		}
		before := w.srv.Stats().Watches
		time.Sleep(time.Hour)
		synctest.Wait()
		if got := w.srv.Stats().Watches; got != before-1 {
			t.Errorf("%d watches after an idle hour, %d before", got, before)
		}
		b.want("bank", a.addr.String())
		// Own names are watched as long as they are held: they are to be defended.
		b.mustRegister("own")
		time.Sleep(time.Hour)
		w.srv.Levers().Delete(parse(t, "own"))
		time.Sleep(time.Second)
		a.want("own", b.addr.String())
	})
}

// One read of the backend serves all who wait for the same name.
func TestOneReadForMany(t *testing.T) {
	run(t, func(w *world) {
		c, use := w.choosy(naming.Description{InProcess: true})
		w.node("a", "10.0.0.1:7000").mustRegister("bank")
		b := w.node("b", "10.0.0.2:7000", use)
		w.srv.Levers().Pause()
		done := make(chan struct{})
		for range 100 {
			go func() { b.mustLookUp("bank"); done <- struct{}{} }()
		}
		synctest.Wait()
		w.srv.Levers().Resume()
		for range 100 {
			<-done
		}
		if got := c.gets.Load(); got != 1 {
			t.Errorf("%d reads for 100 concurrent look-ups", got)
		}
	})
}

func (n *node) mustLookUp(name string) {
	if _, err := n.Lookup(n.w.Context(), parse(n.w, name)); err != nil {
		n.w.Errorf("lookup: %v", err)
	}
}

func TestConfigIsChecked(t *testing.T) {
	run(t, func(w *world) {
		_, remote := w.choosy(naming.Description{Driver: "remote", MinTTL: 5 * time.Second, MaxTTL: time.Minute})
		list, err := adapter.NewAllowList(nil)
		if err != nil {
			t.Fatal(err)
		}
		good := adapter.Config{Node: address(t, "a@10.0.0.1:7000/0").Node(), Endpoint: address(t, "a@10.0.0.1:7000/0").Endpoint(), AllowList: list}
		remote(&good)
		for name, c := range map[string]struct {
			change func(*adapter.Config)
			kind   error
		}{
			"no allow-list":    {func(c *adapter.Config) { c.AllowList = nil }, naming.ErrInsecureConfig},
			"no node":          {func(c *adapter.Config) { c.Node = naming.NodeID{} }, naming.ErrNameInvalid},
			"no endpoint":      {func(c *adapter.Config) { c.Endpoint = good.Endpoint; c.Endpoint = address0 }, naming.ErrAddressNotAllowed},
			"no backend":       {func(c *adapter.Config) { c.Backend = nil }, nil},
			"TTL too short":    {func(c *adapter.Config) { c.TTL = time.Second }, nil},
			"TTL too long":     {func(c *adapter.Config) { c.TTL = time.Hour }, nil},
			"negative staling": {func(c *adapter.Config) { c.MaxStale = -1 }, nil},
			"zero scope":       {func(c *adapter.Config) { c.Mirror = []naming.Scope{{}} }, naming.ErrNameInvalid},
		} {
			cfg := good
			c.change(&cfg)
			a, err := adapter.New(w.Context(), cfg)
			if err == nil {
				t.Errorf("%s: accepted", name)
				_ = a.Close(w.Context())
			} else if c.kind != nil {
				wantErr(t, err, c.kind)
			}
		}
	})
}
