package runtime_test

import (
	"context"
	"errors"
	"fmt"
	goruntime "runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-6593ebad/skywarden/naming"
	"github.com/seed-6593ebad/skywarden/runtime"
)

func TestCallAndSend(t *testing.T) {
	c := newCluster(t)
	n, other := c.node(), c.node()
	var got []int
	ref := spawn(t, n, func(c *runtime.Context, m int) error {
		if m < 0 {
			return c.Reply(slices.Clone(got))
		}
		got = append(got, m)
		return nil
	})
	for i := range 1000 {
		if err := ref.Send(t.Context(), i); err != nil {
			t.Fatal(err)
		}
	}
	for _, from := range []*runtime.Node{n, other} {
		addr, err := ref.Address(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		all, err := runtime.Call[[]int](t.Context(), from.At(addr), -1)
		if err != nil || len(all) != 1000 || !slices.IsSorted(all) {
			t.Errorf("%s: got %d messages, %v; want 1000 in order", from.ID(), len(all), err)
		}
	}
	if _, err := runtime.Call[string](t.Context(), ref, -1); !errors.Is(err, runtime.ErrWrongType) {
		t.Errorf("answer of another type: %v", err)
	}
}

func TestAnswers(t *testing.T) {
	boom := errors.New("boom")
	for name, test := range map[string]struct {
		handler func(c *runtime.Context, m any) error
		want    any
		err     error
	}{
		"reply":              {func(c *runtime.Context, m any) error { return c.Reply(m) }, 1, nil},
		"the first counts":   {func(c *runtime.Context, _ any) error { _ = c.Reply(1); return c.Reply(2) }, 1, nil},
		"nil is an answer":   {func(c *runtime.Context, _ any) error { return c.Reply(nil) }, nil, nil},
		"error":              {func(*runtime.Context, any) error { return boom }, nil, boom},
		"error after reply":  {func(c *runtime.Context, m any) error { _ = c.Reply(m); return boom }, 1, nil},
		"nothing":            {func(*runtime.Context, any) error { return nil }, nil, runtime.ErrNoReply},
		"panic":              {func(*runtime.Context, any) error { panic("x") }, nil, runtime.ErrPanicked},
		"panic is gone too":  {func(*runtime.Context, any) error { panic("x") }, nil, runtime.ErrServiceGone},
		"panic after reply":  {func(c *runtime.Context, m any) error { _ = c.Reply(m); panic("x") }, 1, nil},
		"panic(nil)":         {func(*runtime.Context, any) error { panic(nil) }, nil, runtime.ErrPanicked}, //nolint:govet // on purpose
		"goexit":             {func(*runtime.Context, any) error { goruntime.Goexit(); return nil }, nil, runtime.ErrPanicked},
		"exit":               {func(c *runtime.Context, _ any) error { c.Exit(); return c.Reply(1) }, 1, nil},
		"exit without":       {func(c *runtime.Context, _ any) error { c.Exit(); return nil }, nil, runtime.ErrNoReply},
		"killed by itself":   {func(c *runtime.Context, _ any) error { return c.Node().Kill(c.Self()) }, nil, runtime.ErrServiceGone},
		"defer":              {func(c *runtime.Context, m any) error { d := c.Defer(); go func() { _ = d.Reply(m) }(); return nil }, 1, nil},
		"defer, fail":        {func(c *runtime.Context, _ any) error { return c.Defer().Fail(boom) }, nil, boom},
		"defer, fail nil":    {func(c *runtime.Context, _ any) error { return c.Defer().Fail(nil) }, nil, runtime.ErrNoReply},
		"defer, both":        {func(c *runtime.Context, m any) error { d := c.Defer(); _ = d.Reply(m); return d.Fail(boom) }, 1, nil},
		"defer, then exit":   {func(c *runtime.Context, _ any) error { c.Defer(); c.Exit(); return nil }, nil, runtime.ErrServiceGone},
		"defer, then panic":  {func(c *runtime.Context, _ any) error { c.Defer(); panic("x") }, nil, runtime.ErrPanicked},
		"call to oneself":    {func(c *runtime.Context, m any) error { _, err := c.Self().Call(c, m); return err }, nil, runtime.ErrSelf},
		"of one's own child": {callInside, 1, nil},
	} {
		t.Run(name, func(t *testing.T) {
			for _, remote := range []bool{false, true} {
				c := newCluster(t)
				n := c.node()
				ref, err := n.Spawn(test.handler)
				if err != nil {
					t.Fatal(err)
				}
				if remote {
					addr, _ := ref.Address(t.Context())
					ref = c.node().At(addr)
				}
				got, err := ref.Call(t.Context(), 1)
				if got != test.want || !errors.Is(err, test.err) || (err == nil) != (test.err == nil) {
					t.Errorf("remote %v: got %v, %v; want %v, %v", remote, got, err, test.want, test.err)
				}
			}
		})
	}
}

// callInside spawns another echo, and asks it with a context derived from c.
func callInside(c *runtime.Context, m any) error {
	child, err := c.Node().Spawn(func(c2 *runtime.Context, m any) error {
		if from, ok := c2.Sender(); !ok || from != c.Self() {
			return fmt.Errorf("the sender is %s, not %s", from, c.Self())
		}
		return c2.Reply(m)
	})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(c, time.Minute)
	defer cancel()
	answer, err := child.Call(ctx, m)
	if err != nil {
		return err
	}
	return c.Reply(answer)
}

func TestMessagesNobodyTakes(t *testing.T) {
	c := newCluster(t)
	n := c.node()
	ref := echo(t, n)
	gone := echo(t, n)
	if err := n.Kill(gone); err != nil {
		t.Fatal(err)
	}
	away, err := naming.ParseAddress("away@10.9.9.9:1/1")
	if err != nil {
		t.Fatal(err)
	}
	addr, _ := ref.Address(t.Context())
	impostor, err := naming.NewAddress(away.Node(), addr.Endpoint(), addr.Handle())
	if err != nil {
		t.Fatal(err)
	}
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	for name, test := range map[string]struct {
		ctx  context.Context
		ref  runtime.Ref
		msg  any
		want []error
	}{
		"wrong type":          {nil, ref, 1, []error{runtime.ErrWrongType}},
		"nil":                 {nil, ref, nil, []error{runtime.ErrWrongType}},
		"gone":                {nil, gone, "", []error{runtime.ErrServiceGone, naming.ErrNotFound}},
		"zero":                {nil, runtime.Ref{}, "", []error{naming.ErrNotFound}},
		"no such node":        {nil, n.At(away), "", []error{naming.ErrUnavailable}},
		"another node's past": {nil, c.node().At(impostor), "", []error{runtime.ErrServiceGone, naming.ErrNotFound}},
		"canceled":            {canceled, ref, "", []error{context.Canceled}},
	} {
		ctx := test.ctx
		if ctx == nil {
			ctx = t.Context()
		}
		wantErr(t, "send: "+name, test.ref.Send(ctx, test.msg), test.want...)
		_, err := test.ref.Call(ctx, test.msg)
		wantErr(t, "call: "+name, err, test.want...)
	}
	wantErr(t, "kill again", n.Kill(gone), runtime.ErrServiceGone)
	wantErr(t, "kill elsewhere", n.Kill(n.At(away)), naming.ErrAddressNotAllowed)
	wantErr(t, "kill nobody", n.Kill(runtime.Ref{}), runtime.ErrServiceGone)
}

func TestSpawnRefuses(t *testing.T) {
	n := newCluster(t).node()
	if _, err := n.Spawn(nil); err == nil || !strings.Contains(err.Error(), "nil") {
		t.Errorf("nil handler: %v", err)
	}
	if _, err := runtime.Spawn[int](n, nil); err == nil || !strings.Contains(err.Error(), "nil") {
		t.Errorf("typed nil handler: %v", err)
	}
	if _, err := n.Spawn(func(*runtime.Context, any) error { return nil }, runtime.MailboxSize(0)); err == nil {
		t.Error("mailbox of 0 accepted")
	}
	_, err := runtime.New(runtime.Config{MailboxSize: -1})
	for _, part := range []string{"Config.Node", "Config.Registry", "Config.MailboxSize"} {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("%q does not mention %s", err, part)
		}
	}
}

func TestRefs(t *testing.T) {
	n := newCluster(t).node()
	ref := echo(t, n)
	register(t, n, "bank", ref)
	register(t, n, ".log", ref)
	set := map[runtime.Ref]bool{ref: true, query(t, n, "Bank"): true, query(t, n, "bank"): true, query(t, n, ".log"): true}
	if len(set) != 3 {
		t.Errorf("%d different Refs, want 3", len(set))
	}
	addr, _ := ref.Address(t.Context())
	if n.At(addr) != ref {
		t.Error("At(Address()) is another Ref")
	}
	for r := range set {
		if got, err := r.Address(t.Context()); got != addr || err != nil {
			t.Errorf("%s is at %s, %v; want %s", r, got, err, addr)
		}
	}
	if s := fmt.Sprint(query(t, n, "bank"), ref, query(t, n, ".log"), runtime.Ref{}); s != "bank "+addr.String()+" .log nobody" {
		t.Errorf("got %q", s)
	}
}

func TestHandlesAreNotUsedAgain(t *testing.T) {
	n := newCluster(t).node()
	seen := map[naming.Handle]bool{0: true}
	for range 1000 {
		ref := echo(t, n)
		addr, _ := ref.Address(t.Context())
		if seen[addr.Handle()] {
			t.Fatalf("handle %d twice", addr.Handle())
		}
		seen[addr.Handle()] = true
		if err := n.Kill(ref); err != nil {
			t.Fatal(err)
		}
	}
	if stat := n.Stat(); len(stat) != 0 {
		t.Errorf("%d services are left", len(stat))
	}
}

// TestIdleServicesOwnNoGoroutine, also after they were used.
func TestIdleServicesOwnNoGoroutine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newCluster(t).node()
		before := goruntime.NumGoroutine()
		for range 1000 {
			wantCall(t, echo(t, n), "x", "x")
		}
		synctest.Wait()
		if after := goruntime.NumGoroutine(); after > before+10 {
			t.Errorf("%d goroutines for 1000 idle services", after-before)
		}
	})
}

func TestMailboxIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, size := range []int{1, 2, 7} {
			n := newCluster(t).node()
			g := newGate(t, n, runtime.MailboxSize(size))
			send := func(ctx context.Context, m int) error { return g.Send(ctx, m) }
			if err := send(t.Context(), 0); err != nil {
				t.Fatal(err)
			}
			synctest.Wait() // 0 is being handled
			for i := range size {
				if err := send(t.Context(), i+1); err != nil {
					t.Fatal(err)
				}
			}
			// Full: the next senders wait, and are let in as they came.
			order := make(chan int, 10)
			for i := range 3 {
				go func() {
					if err := send(t.Context(), size+1+i); err != nil {
						t.Error(err)
					}
					order <- i
				}()
				synctest.Wait()
			}
			short, cancel := context.WithTimeout(t.Context(), time.Second)
			begin := time.Now()
			err := send(short, -1)
			cancel()
			wantErr(t, "full", err, context.DeadlineExceeded)
			if d := time.Since(begin); d != time.Second {
				t.Errorf("gave up after %s, not 1 s", d)
			}
			stat := n.Stat()[0]
			if stat.Waiting != size || stat.Blocked != 3 || !stat.Running {
				t.Errorf("stat says %+v; want %d waiting and 3 blocked", stat, size)
			}
			close(g.open)
			synctest.Wait()
			close(g.entered)
			var got []int
			for m := range g.entered {
				got = append(got, m.(int))
			}
			if len(got) != size+4 || !slices.IsSorted(got) {
				t.Errorf("size %d: handled %v", size, got)
			}
			if stat := n.Stat()[0]; stat.Waiting != 0 || stat.Blocked != 0 || stat.Running || stat.Handled != uint64(size+4) {
				t.Errorf("afterwards stat says %+v", stat)
			}
		}
	})
}

// TestNobodyJumpsTheQueue: who comes when there is room again does not pass those
// who wait for it.
func TestNobodyJumpsTheQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newCluster(t).node()
		g := newGate(t, n, runtime.MailboxSize(3))
		for i := range 6 {
			go func() { _ = g.Send(t.Context(), i) }()
			synctest.Wait()
		}
		g.open <- struct{}{}
		synctest.Wait() // the second is being handled, two wait, and so do two senders
		go func() { _ = g.Send(t.Context(), 6) }()
		synctest.Wait()
		close(g.open)
		synctest.Wait()
		for i := range 7 {
			if m := <-g.entered; m != i {
				t.Errorf("%d. message is %v", i, m)
			}
		}
	})
}

// TestFullMailboxOfOnesOwn is an error at once, because nobody else would make
// room.
func TestFullMailboxOfOnesOwn(t *testing.T) {
	n := newCluster(t).node()
	ref := spawn(t, n, func(c *runtime.Context, m int) error {
		if m == 0 {
			return nil
		}
		if err := c.Self().Send(c, 0); err != nil {
			return err
		}
		return c.Self().Send(c, 0)
	}, runtime.MailboxSize(1))
	_, err := ref.Call(t.Context(), 1)
	wantErr(t, "second message to oneself", err, runtime.ErrSelf)
}

func TestTimers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newCluster(t).node()
		var mu sync.Mutex
		var got []string
		begin := time.Now()
		ref := spawn(t, n, func(c *runtime.Context, m string) error {
			mu.Lock()
			got = append(got, fmt.Sprintf("%s@%s", m, time.Since(begin)))
			mu.Unlock()
			switch m {
			case "start":
				c.After(2*time.Second, "two")
				c.After(time.Second, "one")
				c.After(time.Second, 1) // of the wrong type: logged, dropped
				stopped := c.After(time.Hour, "never")
				if !stopped.Stop() || stopped.Stop() {
					t.Error("Stop is true the first time alone")
				}
			case "one":
				if from, ok := c.Sender(); !ok || from != c.Self() {
					t.Errorf("the sender of a timer's message is %s", from)
				}
				c.After(10*time.Second, "after its death")
			}
			return nil
		})
		if err := ref.Send(t.Context(), "start"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Second)
		if err := n.Kill(ref); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		mu.Lock()
		defer mu.Unlock()
		if s := strings.Join(got, " "); s != "start@0s one@1s two@2s" {
			t.Errorf("got %s", s)
		}
		if err := n.Close(t.Context()); err != nil {
			t.Error(err)
		}
		if d := time.Since(begin); d != 5*time.Second+time.Minute {
			t.Errorf("timers held Close up: it is %s", d)
		}
	})
}

// TestTimersPassTheBound: a service can always wake itself.
func TestTimersPassTheBound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newCluster(t).node()
		var count int
		ref := spawn(t, n, func(c *runtime.Context, m bool) error {
			count++
			if m {
				for range 100 {
					c.After(time.Second, false)
				}
				time.Sleep(time.Minute)
			}
			return nil
		}, runtime.MailboxSize(1))
		if err := ref.Send(t.Context(), true); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if count != 101 {
			t.Errorf("%d messages, want 101", count)
		}
	})
}

// TestContextIsTheServicesLife: it ends with the service and with nothing else.
func TestContextIsTheServicesLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for name, end := range map[string]struct {
			do    func(*runtime.Node, runtime.Ref) error
			cause error
		}{
			"kill":  {(*runtime.Node).Kill, runtime.ErrServiceGone},
			"exit":  {func(_ *runtime.Node, r runtime.Ref) error { return r.Send(t.Context(), "exit") }, runtime.ErrServiceGone},
			"panic": {func(_ *runtime.Node, r runtime.Ref) error { return r.Send(t.Context(), "panic") }, runtime.ErrPanicked},
			"close": {func(n *runtime.Node, _ runtime.Ref) error { return n.Close(t.Context()) }, runtime.ErrServiceGone},
		} {
			n := newCluster(t).node()
			var ctx context.Context
			ref := spawn(t, n, func(c *runtime.Context, m string) error {
				switch m {
				case "exit":
					c.Exit()
				case "panic":
					panic(m)
				}
				ctx = c //nolint:fatcontext // the test looks at it from outside
				return c.Reply(nil)
			})
			if _, err := ref.Call(t.Context(), ""); err != nil {
				t.Fatal(err)
			}
			derived, cancel := context.WithCancel(ctx)
			if ctx.Err() != nil {
				t.Errorf("%s: over before its end", name)
			}
			if err := end.do(n, ref); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			if derived.Err() == nil || ctx.Err() == nil {
				t.Errorf("%s: its Context goes on", name)
			}
			wantErr(t, name, context.Cause(ctx), end.cause)
			cancel()
		}
	})
}

func TestStat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newCluster(t).node()
		one, two := newGate(t, n), echo(t, n)
		register(t, n, "b", one.Ref)
		register(t, n, "a", one.Ref)
		register(t, n, ".c", one.Ref)
		for range 3 {
			if err := one.Send(t.Context(), 1); err != nil {
				t.Fatal(err)
			}
		}
		wantCall(t, two, "x", "x")
		time.Sleep(time.Second)
		stat := n.Stat()
		if len(stat) != 2 || !slices.Equal(stat[0].Names, []string{".c", "a", "b"}) || stat[0].Waiting != 2 ||
			stat[0].Handled != 0 || stat[0].Busy != time.Second || !stat[0].Running ||
			stat[1].Handled != 1 || stat[1].Running {
			t.Errorf("got %+v", stat)
		}
		close(one.open)
	})
}

func TestInProcessEndpointsAreExclusive(t *testing.T) {
	c := newCluster(t)
	n := c.node()
	cfg := runtime.Config{Node: n.ID(), Endpoint: n.Endpoint(), Registry: c.registry, Transport: &c.wire}
	_, err := runtime.New(cfg)
	wantErr(t, "bound twice", err, naming.ErrTaken)
	if err := n.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	again, err := runtime.New(cfg)
	if err != nil {
		t.Fatalf("bound again after Close: %v", err)
	}
	if err := again.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
}
