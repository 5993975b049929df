package runtime_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-6593ebad/skywarden/naming"
	"github.com/seed-6593ebad/skywarden/runtime"
)

func TestLocalNames(t *testing.T) {
	c := newCluster(t)
	n, other := c.node(), c.node()
	first, second := echo(t, n), echo(t, n)
	register(t, n, ".Log", first)
	wantErr(t, "second registration", n.Register(t.Context(), ".log", second), naming.ErrTaken)
	wantErr(t, "again", n.Register(t.Context(), ".log", first), naming.ErrTaken)
	wantErr(t, "standby for one's own", n.Register(t.Context(), ".log", first, runtime.Standby()), naming.ErrTaken)
	wantCall(t, query(t, n, ".LOG"), "x", "x")
	if _, err := other.Lookup(t.Context(), ".log"); !errors.Is(err, naming.ErrNotFound) {
		t.Errorf("found on another node: %v", err)
	}
	if len(c.claims) != 0 {
		t.Errorf("the registry was told: %v", c.claims)
	}
	for _, bad := range []string{".", "..a", ".a b", ".a.", "", "a/b"} {
		wantErr(t, "register "+bad, n.Register(t.Context(), bad, first), naming.ErrNameInvalid)
		_, err := n.Lookup(t.Context(), bad)
		wantErr(t, "lookup "+bad, err, naming.ErrNameInvalid)
		_, err = n.Query(t.Context(), bad)
		wantErr(t, "query "+bad, err, naming.ErrNameInvalid)
		wantErr(t, "release "+bad, n.Release(t.Context(), bad), naming.ErrNameInvalid)
	}

	// A Ref to the name follows it.
	ref := query(t, n, ".log")
	if err := n.Kill(first); err != nil {
		t.Fatal(err)
	}
	wantErr(t, "owner gone", ref.Send(t.Context(), "x"), naming.ErrNotFound)
	register(t, n, ".log", second)
	wantCall(t, ref, "x", "x")
	if err := n.Release(t.Context(), ".log"); err != nil {
		t.Error(err)
	}
	wantErr(t, "released", ref.Send(t.Context(), "x"), naming.ErrNotFound)
	wantErr(t, "released twice", n.Release(t.Context(), ".log"), naming.ErrNotFound)
	// Kill by name.
	register(t, n, ".log", second)
	if err := n.Kill(ref); err != nil {
		t.Error(err)
	}
	wantErr(t, "killed by name", second.Send(t.Context(), "x"), runtime.ErrServiceGone)
}

// TestWaitingForNames: Query and Standby wait until the name is there, or free,
// or until nothing can come any more.
func TestWaitingForNames(t *testing.T) {
	for _, name := range []string{".log", "log"} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newCluster(t).node()
				one, two := echo(t, n), echo(t, n)
				found := make(chan runtime.Ref)
				go func() {
					ref, err := n.Query(t.Context(), name)
					if err != nil {
						t.Error(err)
					}
					found <- ref
				}()
				synctest.Wait()
				register(t, n, name, one)
				wantCall(t, <-found, "x", "x")

				standby := func(ctx context.Context, ref runtime.Ref) chan error {
					done := make(chan error, 1)
					go func() { done <- n.Register(ctx, name, ref, runtime.Standby()) }()
					synctest.Wait()
					return done
				}
				took := standby(t.Context(), two)
				if err := n.Kill(one); err != nil {
					t.Fatal(err)
				}
				if err := <-took; err != nil {
					t.Fatal(err)
				}
				wantCall(t, query(t, n, name), "x", "x")

				short, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				wantErr(t, "its context ends", <-standby(short, echo(t, n)), context.DeadlineExceeded)
				_, err := n.Query(short, "."+"nobody")
				wantErr(t, "query, its context ended", err, context.DeadlineExceeded)

				dying := echo(t, n)
				died := standby(t.Context(), dying)
				if err := n.Kill(dying); err != nil {
					t.Fatal(err)
				}
				wantErr(t, "its service dies", <-died, runtime.ErrServiceGone)
				closed := standby(t.Context(), echo(t, n))
				if err := n.Close(t.Context()); err != nil {
					t.Error(err)
				}
				if err := <-closed; !errors.Is(err, naming.ErrClosed) && !errors.Is(err, runtime.ErrServiceGone) {
					t.Errorf("its node closes: %v", err)
				}
			})
		})
	}
}

func TestNamesOfOneService(t *testing.T) {
	c := newCluster(t)
	n, other := c.node(), c.node()
	ref := spawn(t, n, func(c *runtime.Context, m string) error {
		for _, name := range []string{"one", "two", ".three"} {
			if err := c.Register(name); err != nil {
				return err
			}
		}
		wantErr(t, "again", c.Register("one"), naming.ErrTaken)
		return c.Reply(m)
	})
	wantCall(t, ref, "x", "x")
	wantErr(t, "taken on the node", n.Register(t.Context(), "one", echo(t, n)), naming.ErrTaken)
	wantErr(t, "taken elsewhere", other.Register(t.Context(), "one", echo(t, other)), naming.ErrTaken)
	wantErr(t, "for a service elsewhere", other.Register(t.Context(), "four", ref), naming.ErrAddressNotAllowed)
	gone := echo(t, other)
	if err := other.Kill(gone); err != nil {
		t.Fatal(err)
	}
	wantErr(t, "for a service that is gone", other.Register(t.Context(), "four", gone), runtime.ErrServiceGone)
	wantErr(t, "for nobody", other.Register(t.Context(), "four", runtime.Ref{}), runtime.ErrServiceGone)
	wantErr(t, "not held", n.Release(t.Context(), "four"), naming.ErrNotFound)
	wantErr(t, "held elsewhere", other.Release(t.Context(), "one"), naming.ErrNotFound)
	if err := n.Release(t.Context(), "two"); err != nil {
		t.Error(err)
	}
	if names := n.Stat()[0].Names; !slices.Equal(names, []string{".three", "one"}) {
		t.Errorf("has %v", names)
	}
	two := echo(t, other)
	register(t, other, "two", two)
	wantCall(t, query(t, n, "two"), "y", "y")
}

// TestNamesAreFreeAfterTheEnd of their service, however it ends.
func TestNamesAreFreeAfterTheEnd(t *testing.T) {
	for name, end := range map[string]func(*runtime.Node, runtime.Ref) error{
		"kill":  (*runtime.Node).Kill,
		"exit":  func(_ *runtime.Node, r runtime.Ref) error { return r.Send(context.Background(), "exit") },
		"panic": func(_ *runtime.Node, r runtime.Ref) error { return r.Send(context.Background(), "panic") },
		"close": func(n *runtime.Node, _ runtime.Ref) error { return n.Close(context.Background()) },
	} {
		t.Run(name, func(t *testing.T) {
			c := newCluster(t)
			n, other := c.node(), c.node()
			ref := spawn(t, n, func(c *runtime.Context, m string) error {
				if m == "panic" {
					panic(m)
				}
				c.Exit()
				return nil
			})
			register(t, n, "bank", ref)
			byName := query(t, other, "bank")
			next := make(chan error, 1)
			go func() { next <- other.Register(t.Context(), "bank", echo(t, other), runtime.Standby()) }()
			if err := end(n, ref); err != nil {
				t.Fatal(err)
			}
			if err := <-next; err != nil {
				t.Fatal(err)
			}
			wantCall(t, byName, "x", "x")
		})
	}
}

// TestS4FencedOnArrival: from the moment at which the clock says so, and before
// anybody was told, a message to the name is refused.
func TestS4FencedOnArrival(t *testing.T) {
	c := newCluster(t)
	owner, client := c.node(), c.node()
	handled := 0
	ref := spawn(t, owner, func(c *runtime.Context, m string) error { handled++; return c.Reply(m) })
	register(t, owner, "bank", ref)
	byName := query(t, client, "bank")
	wantCall(t, byName, "x", "x")

	c.get("bank").expire()
	_, err := byName.Call(t.Context(), "x")
	wantErr(t, "call", err, naming.ErrFenced, naming.ErrLeaseLost)
	wantErr(t, "send", byName.Send(t.Context(), "x"), naming.ErrFenced, naming.ErrLeaseLost)
	if handled != 1 {
		t.Errorf("the service handled %d messages, want 1", handled)
	}
	wantCall(t, ref, "by handle", "by handle")
	c.get("bank").resume()
	wantCall(t, byName, "again", "again")
}

// TestS4FencedBeforeHandling: a message to a name is not handled once the name is
// not served, although it was accepted before.
func TestS4FencedBeforeHandling(t *testing.T) {
	for name, test := range map[string]struct {
		fence func(c *cluster, n *runtime.Node)
		want  []error
	}{
		"the clock says so": {func(c *cluster, _ *runtime.Node) { c.get("bank").expire() }, []error{naming.ErrFenced, naming.ErrLeaseLost}},
		"suspended":         {func(c *cluster, _ *runtime.Node) { c.get("bank").suspend() }, []error{naming.ErrFenced, naming.ErrLeaseLost}},
		"lost":              {func(c *cluster, _ *runtime.Node) { c.get("bank").lose(naming.ErrTaken) }, []error{naming.ErrFenced, naming.ErrTaken}},
		"released":          {func(_ *cluster, n *runtime.Node) { _ = n.Release(context.Background(), "bank") }, []error{naming.ErrFenced}},
		"another epoch":     {func(c *cluster, _ *runtime.Node) { cl := c.get("bank"); cl.suspend(); cl.resume() }, []error{naming.ErrFenced}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCluster(t)
				n, client := c.node(), c.node()
				g := newGate(t, n)
				register(t, n, "bank", g.Ref)
				byName := query(t, client, "bank")
				if err := g.Send(t.Context(), "by handle"); err != nil {
					t.Fatal(err)
				}
				<-g.entered
				called := make(chan error, 1)
				go func() {
					_, err := byName.Call(t.Context(), "by name")
					called <- err
				}()
				if err := byName.Send(t.Context(), "sent by name"); err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
				test.fence(c, n)
				close(g.open)
				wantErr(t, "call", <-called, test.want...)
				synctest.Wait()
				if len(g.entered) != 0 {
					t.Errorf("%q was handled", <-g.entered)
				}
				if got := n.Stat()[0].Refused; got != 2 {
					t.Errorf("%d messages refused, want 2", got)
				}
				wantCall(t, g.Ref, "by handle still", "by handle still")
			})
		})
	}
}

// TestS4FencedReply: an answer does not leave once the name is not served,
// although its message was handled before.
func TestS4FencedReply(t *testing.T) {
	replies := map[string]func(c *runtime.Context) error{
		"reply": func(c *runtime.Context) error { return c.Reply("x") },
		"error": func(*runtime.Context) error { return errors.New("boom") },
		"none":  func(*runtime.Context) error { return nil },
		"defer": func(c *runtime.Context) error { return c.Defer().Reply("x") },
	}
	for name, reply := range replies {
		t.Run(name, func(t *testing.T) {
			c := newCluster(t)
			n, client := c.node(), c.node()
			inHandler := make(chan error, 1)
			ref := spawn(t, n, func(ctx *runtime.Context, _ string) error {
				c.get("bank").expire()
				err := reply(ctx)
				inHandler <- err
				return err
			})
			register(t, n, "bank", ref)
			got, err := query(t, client, "bank").Call(t.Context(), "")
			if got != nil {
				t.Errorf("got the answer %v", got)
			}
			wantErr(t, "caller", err, naming.ErrFenced, naming.ErrLeaseLost)
			if err := <-inHandler; name == "reply" || name == "defer" {
				wantErr(t, "service", err, naming.ErrFenced, naming.ErrLeaseLost)
			}
		})
	}
}

// TestS4CallerRefusesLowerEpoch: an answer from an owner who was followed by
// another, as the caller knows, is refused; and an answer carries its epoch.
func TestS4CallerRefusesLowerEpoch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		a, b, client := c.node(), c.node(), c.node()
		slow := newGate(t, a)
		register(t, a, "bank", slow.Ref)
		byName := query(t, client, "bank")
		called := make(chan error, 1)
		go func() {
			_, err := byName.Call(t.Context(), 1)
			called <- err
		}()
		<-slow.entered
		// The old owner's clock is wrong: it believes that it still holds the name.
		old := c.get("bank")
		c.change(func() { delete(c.claims, old.name) })
		register(t, b, "bank", echo(t, b))
		wantCall(t, byName, "x", "x") // the client knows the new epoch from here on
		close(slow.open)
		wantErr(t, "answer of the old owner", <-called, naming.ErrFenced)
	})
}

// TestS4EpochOfTheMessage: an owner refuses what was meant for an earlier or a
// later one.
func TestS4EpochOfTheMessage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		n := c.node()
		ref := echo(t, n)
		register(t, n, "bank", ref)
		cl := c.get("bank")
		cl.suspend()
		cl.resume() // under epoch 2
		to, _ := ref.Address(t.Context())
		send := func(name string, epoch uint64) error {
			return c.wire.Send(t.Context(), to, runtime.Message{Name: parse(name), Epoch: epoch, Body: "x"})
		}
		begin := time.Now()
		wantErr(t, "earlier", send("bank", 1), naming.ErrFenced)
		wantErr(t, "no name of its", send("shop", 2), naming.ErrFenced)
		if d := time.Since(begin); d != 0 {
			t.Errorf("refused after %s, not at once", d)
		}
		if err := send("bank", 2); err != nil {
			t.Errorf("its own epoch: %v", err)
		}
		wantErr(t, "later", send("bank", 3), naming.ErrFenced)
		if d := time.Since(begin); d != time.Second {
			t.Errorf("waited %s for the news, want 1 s", d)
		}
		gone, err := naming.NewAddress(to.Node(), to.Endpoint(), 99)
		if err != nil {
			t.Fatal(err)
		}
		to = gone // an error is not an absence: the name may be elsewhere
		err = send("bank", 2)
		wantErr(t, "no such service", err, naming.ErrFenced)
		if errors.Is(err, naming.ErrNotFound) {
			t.Errorf("claims that the name does not exist: %v", err)
		}
	})
}

// TestSenderAheadOfOwner: who knows of a claim before its owner does is not
// turned away.
func TestSenderAheadOfOwner(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		n, client := c.node(), c.node()
		ref := echo(t, n)
		c.late = make(chan struct{})
		registered := make(chan error, 1)
		go func() { registered <- n.Register(t.Context(), "bank", ref) }()
		byName := query(t, client, "bank") // the registry knows
		called := make(chan error, 1)
		call := func() {
			_, err := byName.Call(t.Context(), "x")
			called <- err
		}
		go call()
		synctest.Wait()
		close(c.late) // the owner learns it
		if err := <-called; err != nil {
			t.Errorf("while it is being registered: %v", err)
		}
		if err := <-registered; err != nil {
			t.Error(err)
		}
		// The same when it is claimed again.
		cl := c.get("bank")
		cl.suspend()
		c.change(func() { c.epoch++; cl.epoch = c.epoch })
		go call()
		synctest.Wait()
		c.change(func() { c.epoch-- })
		cl.resume()
		if err := <-called; err != nil {
			t.Errorf("while it is being claimed again: %v", err)
		}
	})
}

// TestFencedSenderLooksUpAgain, once.
func TestFencedSenderLooksUpAgain(t *testing.T) {
	c := newCluster(t)
	a, b := c.node(), c.node()
	reg := &forgetful{registry: c.registry}
	client := c.node(func(cfg *runtime.Config) { cfg.Registry = reg })
	register(t, a, "bank", spawn(t, a, func(c *runtime.Context, _ string) error { return c.Reply("a") }))
	byName := query(t, client, "bank")
	reg.old, _ = c.Lookup(t.Context(), parse("bank"))
	if err := a.Release(t.Context(), "bank"); err != nil {
		t.Fatal(err)
	}
	register(t, b, "bank", spawn(t, b, func(c *runtime.Context, _ string) error { return c.Reply("b") }))

	reg.lag = 1
	wantCall(t, byName, "x", "b")
	if err := a.Close(t.Context()); err != nil { // now there is no service at all at the old address
		t.Fatal(err)
	}
	reg.lag = 2
	_, err := byName.Call(t.Context(), "x")
	if !errors.Is(err, naming.ErrUnavailable) && !errors.Is(err, naming.ErrFenced) {
		t.Errorf("with a registry that lags on: %v", err)
	}
}

// forgetful is a registry whose next look-ups give the owner of before.
type forgetful struct {
	*registry
	old runtime.Binding
	lag int
}

func (f *forgetful) Lookup(ctx context.Context, name naming.Name) (runtime.Binding, error) {
	if f.lag > 0 {
		f.lag--
		return f.old, nil
	}
	return f.registry.Lookup(ctx, name)
}

// TestOwnerDiesWhileSenderWaits for room: to the sender of a message to a name
// that is an owner who changed, not a name that is gone.
func TestOwnerDiesWhileSenderWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		n, client := c.node(), c.node()
		g := newGate(t, n, runtime.MailboxSize(1))
		register(t, n, "bank", g.Ref)
		byName := query(t, client, "bank")
		c.lag(t, "bank")
		for range 2 {
			if err := byName.Send(t.Context(), 1); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		sent := make(chan error, 1)
		go func() { sent <- byName.Send(t.Context(), 1) }()
		synctest.Wait()
		addr, _ := g.Address(t.Context())
		direct := make(chan error, 1)
		go func() {
			direct <- c.wire.Send(t.Context(), addr, runtime.Message{Name: parse("bank"), Epoch: 1})
		}()
		synctest.Wait()
		if err := n.Kill(g.Ref); err != nil {
			t.Fatal(err)
		}
		wantErr(t, "send by name", <-sent, naming.ErrFenced)
		wantErr(t, "one try", <-direct, naming.ErrFenced)
		close(g.open)
	})
}

// TestCloseEndsRegistrations at once, those of handlers too.
func TestCloseEndsRegistrations(t *testing.T) {
	for _, name := range []string{"bank", ".bank"} {
		synctest.Test(t, func(t *testing.T) {
			c := newCluster(t)
			n, other := c.node(), c.node()
			register(t, other, "bank", echo(t, other))
			register(t, n, ".bank", echo(t, n))
			registered := make(chan error, 1)
			ref := spawn(t, n, func(c *runtime.Context, _ string) error {
				err := c.Register(name, runtime.Standby())
				registered <- err
				return err
			})
			if err := ref.Send(t.Context(), ""); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			begin := time.Now()
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
			defer cancel()
			if err := n.Close(ctx); err != nil {
				t.Error(err)
			}
			if d := time.Since(begin); d != 0 {
				t.Errorf("%s: Close took %s", name, d)
			}
			if err := <-registered; !errors.Is(err, naming.ErrClosed) && !errors.Is(err, runtime.ErrServiceGone) {
				t.Errorf("%s: %v", name, err)
			}
		})
	}
}

// TestOnName: the service is told in its own turn, ahead of what waits, and goes
// on by its handle.
func TestOnName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		n := c.node()
		var mu sync.Mutex
		var log []string
		note := func(format string, args ...any) {
			mu.Lock()
			defer mu.Unlock()
			log = append(log, fmt.Sprintf(format, args...))
		}
		open := make(chan struct{})
		ref := spawn(t, n, func(_ *runtime.Context, m string) error {
			note("%s begins", m)
			<-open
			note("%s ends", m)
			return nil
		}, runtime.OnName(func(c *runtime.Context, ev runtime.NameEvent) {
			note("%s %s", ev.Name, ev.Kind)
			if err := c.Reply("nobody waits"); err != nil {
				t.Error(err)
			}
			if ev.Kind == runtime.NameLost {
				c.Exit()
			}
		}))
		register(t, n, "bank", ref)
		for i := range 3 {
			if err := ref.Send(t.Context(), fmt.Sprint(i)); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		cl := c.get("bank")
		cl.suspend()
		cl.resume()
		open <- struct{}{}
		synctest.Wait()
		cl.lose(naming.ErrTaken)
		close(open)
		synctest.Wait()
		want := []string{"0 begins", "0 ends", "bank suspended", "bank resumed", "1 begins", "1 ends", "bank lost"}
		if !slices.Equal(log, want) {
			t.Errorf("got  %v\nwant %v", log, want)
		}
		wantErr(t, "after it exited", ref.Send(t.Context(), ""), runtime.ErrServiceGone)
	})
}

// TestLostNameCanBeRegisteredAgain.
func TestLostNameCanBeRegisteredAgain(t *testing.T) {
	c := newCluster(t)
	n, client := c.node(), c.node()
	ref := echo(t, n)
	register(t, n, "bank", ref)
	byName := query(t, client, "bank")
	c.lag(t, "bank")
	c.get("bank").lose(naming.ErrTaken)
	wantErr(t, "lost", byName.Send(t.Context(), ""), naming.ErrFenced, naming.ErrTaken)
	wantErr(t, "release", n.Release(t.Context(), "bank"), naming.ErrNotFound)
	c.change(func() { delete(c.lagging, parse("bank")) })
	register(t, n, "bank", ref)
	wantCall(t, byName, "x", "x")
}

// TestServiceDiesWhileItIsRegistered: nothing stays claimed.
func TestServiceDiesWhileItIsRegistered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		n := c.node()
		ref := echo(t, n)
		c.late = make(chan struct{})
		registered := make(chan error, 1)
		go func() { registered <- n.Register(t.Context(), "bank", ref) }()
		synctest.Wait()
		if err := n.Kill(ref); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		close(c.late)
		wantErr(t, "register", <-registered, runtime.ErrServiceGone)
		synctest.Wait()
		if c.get("bank") != nil {
			t.Error("the name is still claimed")
		}
	})
}

// What the runtime refuses by itself is reported all the same; local names are
// nobody else's business.
func TestRefusedRegistrationsAreReported(t *testing.T) {
	c := newCluster(t)
	n, other := c.node(), c.node()
	svc := echo(t, n)
	register(t, n, "bank", svc)
	for _, test := range []struct {
		name string
		ref  runtime.Ref
		want error
	}{
		{"a/b", svc, naming.ErrNameInvalid},
		{"", svc, naming.ErrNameInvalid},
		{"BANK", svc, naming.ErrTaken},
		{"shop", echo(t, other), naming.ErrAddressNotAllowed},
		{"shop", runtime.Ref{}, runtime.ErrServiceGone},
		{".", svc, naming.ErrNameInvalid},
	} {
		wantErr(t, test.name, n.Register(t.Context(), test.name, test.ref), test.want)
	}
	want := []string{"a/b: name_invalid", ": name_invalid", "bank: taken", "shop: address_not_allowed", "shop: internal"}
	if !slices.Equal(c.refused, want) {
		t.Errorf("reported %q, want %q", c.refused, want)
	}
}
