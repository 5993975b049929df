package runtime_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-6593ebad/skywarden/naming"
	"github.com/seed-6593ebad/skywarden/runtime"
)

// TestS4FencedBeforeTheService: from the moment at which the clock says so, no
// message that was addressed by the name reaches the service, whoever knows what.
func TestS4FencedBeforeTheService(t *testing.T) {
	c := newCluster(t)
	owner, client := c.node(), c.node()
	handled := 0
	svc := spawn(t, owner, func(c *runtime.Context, m string) error { handled++; return c.Reply(m) })
	register(t, owner, "bank", svc)
	ref := query(t, client, "bank")
	wantCall(t, ref, "x", "x")

	c.get("bank").expire()
	_, err := ref.Call(t.Context(), "x")
	wantErr(t, "call", err, naming.ErrFenced)
	wantErr(t, "send", ref.Send(t.Context(), "x"), naming.ErrFenced)
	if handled != 1 {
		t.Errorf("the service handled %d messages, want 1", handled)
	}
	wantCall(t, svc, "by handle", "by handle")

	c.get("bank").suspend()
	_, err = ref.Call(t.Context(), "x")
	wantErr(t, "call of a suspended name", err, naming.ErrFenced, naming.ErrLeaseLost)
	c.get("bank").resume()
	wantCall(t, ref, "again", "again")
}

// TestS4QueuedMessagesAreFenced: what waits in the mailbox when the name is lost
// is refused when its turn comes.
func TestS4QueuedMessagesAreFenced(t *testing.T) {
	c := newCluster(t)
	owner, client := c.node(), c.node()
	g := newGate(t, owner)
	register(t, owner, "bank", g.Ref)
	ref := query(t, client, "bank")
	errs := make(chan error)
	for range 2 {
		go func() { _, err := ref.Call(t.Context(), "x"); errs <- err }()
	}
	<-g.entered
	for owner.Stat()[0].Waiting == 0 { // until the second is in the mailbox
		if t.Context().Err() != nil {
			t.FailNow()
		}
	}
	c.get("bank").expire()
	close(g.open)
	// The one that was being handled is not answered, the other one not handled.
	for range 2 {
		wantErr(t, "call", <-errs, naming.ErrFenced)
	}
	if n := len(g.entered); n != 0 {
		t.Errorf("%d more messages were handled", n)
	}
	if got := owner.Stat()[0].Refused; got != 1 {
		t.Errorf("refused %d, want 1", got)
	}
}

// TestS4RepliesAreFenced: a service that lost its name while it worked does not
// answer as it, and its handler is told.
func TestS4RepliesAreFenced(t *testing.T) {
	c := newCluster(t)
	owner, client := c.node(), c.node()
	replied := make(chan error, 1)
	svc := spawn(t, owner, func(rc *runtime.Context, _ string) error {
		c.get("bank").suspend()
		replied <- rc.Reply("late")
		return nil
	})
	register(t, owner, "bank", svc)
	_, err := query(t, client, "bank").Call(t.Context(), "x")
	wantErr(t, "call", err, naming.ErrFenced, naming.ErrLeaseLost)
	wantErr(t, "reply", <-replied, naming.ErrFenced)
}

// TestStaleSenderLooksAgain: a message for an epoch that is over is fenced, and
// its sender finds the new owner.
func TestStaleSenderLooksAgain(t *testing.T) {
	c := newCluster(t)
	first, second, client := c.node(), c.node(), c.node()
	answer := func(n *runtime.Node) runtime.Ref {
		return spawn(t, n, func(c *runtime.Context, _ string) error { return c.Reply(n.ID().String()) })
	}
	register(t, first, "bank", answer(first))
	ref := query(t, client, "bank")
	wantCall(t, ref, "", first.ID().String())

	c.lag(t, "bank") // the client goes on seeing the first owner
	if err := first.Release(t.Context(), "bank"); err != nil {
		t.Fatal(err)
	}
	register(t, second, "bank", answer(second))
	_, err := ref.Call(t.Context(), "")
	wantErr(t, "call with an old look-up", err, naming.ErrFenced)
	c.change(func() { delete(c.lagging, parse("bank")) })
	wantCall(t, ref, "", second.ID().String())
}

// TestOwnerIsTold what becomes of its name, in its own turn.
func TestOwnerIsTold(t *testing.T) {
	c := newCluster(t)
	n := c.node()
	told := make(chan runtime.NameEvent, 3)
	svc := echo(t, n, runtime.OnName(func(_ *runtime.Context, e runtime.NameEvent) { told <- e }))
	register(t, n, "bank", svc)
	claim := c.get("bank")
	claim.suspend()
	claim.resume()
	claim.lose(naming.ErrTaken)
	for _, want := range []runtime.NameEventKind{runtime.NameSuspended, runtime.NameResumed, runtime.NameLost} {
		if e := <-told; e.Kind != want || e.Name != parse("bank") {
			t.Errorf("told %v of %s, want %v", e.Kind, e.Name, want)
		}
	}
	wantCall(t, svc, "lives on", "lives on")
	register(t, n, "bank", svc) // a lost name may be tried again
}

// TestNamesGoWithTheirService, however it ends.
func TestNamesGoWithTheirService(t *testing.T) {
	for end, do := range map[string]func(*runtime.Node, runtime.Ref){
		"exit":  func(_ *runtime.Node, r runtime.Ref) { _ = r.Send(context.Background(), "exit") },
		"panic": func(_ *runtime.Node, r runtime.Ref) { _ = r.Send(context.Background(), "panic") },
		"kill":  func(n *runtime.Node, r runtime.Ref) { _ = n.Kill(r) },
		"close": func(n *runtime.Node, _ runtime.Ref) { _ = n.Close(context.Background()) },
	} {
		t.Run(end, func(t *testing.T) {
			c := newCluster(t)
			n, other := c.node(), c.node()
			svc := spawn(t, n, func(c *runtime.Context, m string) error {
				if m == "panic" {
					panic(m)
				}
				c.Exit()
				return nil
			})
			register(t, n, "bank", svc)
			register(t, n, ".bank", svc)
			do(n, svc)
			register(t, other, "bank", echo(t, other), runtime.Standby())
			if end != "close" {
				register(t, n, ".bank", echo(t, n))
			}
		})
	}
}

// TestLocalNames never leave their node.
func TestLocalNames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		n, other := c.node(), c.node()
		found := make(chan runtime.Ref)
		go func() { found <- query(t, n, ".log") }()
		synctest.Wait()
		register(t, n, ".LOG", echo(t, n))
		wantCall(t, <-found, "x", "x")
		wantErr(t, "second registration", n.Register(t.Context(), ".log", echo(t, n)), naming.ErrTaken)
		_, err := other.Lookup(t.Context(), ".log")
		wantErr(t, "look-up elsewhere", err, naming.ErrNotFound)
		if len(c.claims) != 0 {
			t.Errorf("the registry has %d names", len(c.claims))
		}
		if err := n.Release(t.Context(), ".log"); err != nil {
			t.Error(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err = n.Query(ctx, ".log")
		wantErr(t, "query of a released name", err, context.DeadlineExceeded)
	})
}

func TestRegisterRefuses(t *testing.T) {
	c := newCluster(t)
	n, other := c.node(), c.node()
	svc := echo(t, n)
	for _, test := range []struct {
		name string
		ref  runtime.Ref
		want error
	}{
		{"", svc, naming.ErrNameInvalid},
		{"a/b", svc, naming.ErrNameInvalid},
		{".", svc, naming.ErrNameInvalid},
		{"bank", echo(t, other), naming.ErrAddressNotAllowed},
		{"bank", runtime.Ref{}, runtime.ErrServiceGone},
	} {
		wantErr(t, test.name, n.Register(t.Context(), test.name, test.ref), test.want)
	}
	register(t, n, "bank", svc)
	wantErr(t, "twice", n.Register(t.Context(), "BANK", svc), naming.ErrTaken)
	wantErr(t, "another service", n.Register(t.Context(), "bank", echo(t, n)), naming.ErrTaken)
	if err := n.Kill(svc); err != nil {
		t.Fatal(err)
	}
	wantErr(t, "of a service that is gone", n.Register(t.Context(), "shop", svc), runtime.ErrServiceGone)
	wantErr(t, "release of no name", n.Release(t.Context(), "shop"), naming.ErrNotFound)
}

// TestCloseGivesNamesUpFirst: a handler that takes its time does not keep a name.
func TestCloseGivesNamesUpFirst(t *testing.T) {
	c := newCluster(t)
	n, other := c.node(), c.node()
	g := newGate(t, n)
	register(t, n, "bank", g.Ref)
	call := make(chan error, 1)
	go func() { _, err := g.Call(t.Context(), "x"); call <- err }()
	<-g.entered
	closed := make(chan error, 1)
	go func() { closed <- n.Close(context.Background()) }()
	register(t, other, "bank", echo(t, other), runtime.Standby())
	select {
	case err := <-closed:
		t.Errorf("closed under a running handler: %v", err)
	default:
	}
	close(g.open)
	if err := <-closed; err != nil {
		t.Error(err)
	}
	if err := <-call; err != nil && !errors.Is(err, runtime.ErrServiceGone) {
		t.Error(err)
	}
}
