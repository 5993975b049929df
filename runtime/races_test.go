package runtime_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"github.com/seed-6593ebad/skywarden/naming"
	"github.com/seed-6593ebad/skywarden/runtime"
)

// TestEverybodyIsTold: however a service ends, and however many wait for it, each
// caller and each waiting sender gets an error at once, also while its handler is
// stuck.
func TestEverybodyIsTold(t *testing.T) {
	for name, test := range map[string]struct {
		end     func(*runtime.Node, gate) error
		current error // what the caller gets whose message is being handled
		stuck   bool  // the handler does not end
	}{
		"kill": {
			func(n *runtime.Node, g gate) error { return n.Kill(g.Ref) },
			runtime.ErrServiceGone, true,
		},
		"close": {
			func(n *runtime.Node, _ gate) error {
				ctx, cancel := context.WithCancel(context.Background())
				cancel()
				if err := n.Close(ctx); !errors.Is(err, context.Canceled) {
					return errors.Join(errors.New("close with a stuck handler"), err)
				}
				return nil
			},
			runtime.ErrServiceGone, true,
		},
		"panic": {
			func(_ *runtime.Node, g gate) error { g.open <- struct{}{}; return nil },
			runtime.ErrPanicked, false,
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const size = 5
				n := newCluster(t).node()
				g := gate{entered: make(chan any, 100), open: make(chan struct{})}
				g.Ref = spawn(t, n, func(_ *runtime.Context, m any) error {
					g.entered <- m
					<-g.open
					panic("boom")
				}, runtime.MailboxSize(size))

				call := func(into chan error) {
					_, err := g.Call(context.Background(), 1)
					into <- err
				}
				current, queued := make(chan error, 1), make(chan error, 3*size)
				go call(current)
				synctest.Wait()
				for range 2 * size { // some wait in the mailbox, some for room in it
					go call(queued)
				}
				sent := make(chan error, size)
				synctest.Wait()
				for range size {
					go func() { sent <- g.Send(context.Background(), 1) }()
				}
				synctest.Wait()

				if err := test.end(n, g); err != nil {
					t.Error(err)
				}
				wantErr(t, "current", <-current, test.current)
				for range 2 * size {
					wantErr(t, "queued call", <-queued, runtime.ErrServiceGone)
				}
				for range size {
					wantErr(t, "waiting send", <-sent, runtime.ErrServiceGone)
				}
				if len(n.Stat()) != 0 {
					t.Error("the service is still there")
				}
				if test.stuck {
					g.open <- struct{}{} // now it panics: nobody minds
				}
				synctest.Wait()
				if handled := len(g.entered); handled != 1 {
					t.Errorf("%d messages were handled, want 1", handled)
				}
			})
		})
	}
}

// TestPanicIsReported to the log and the hook, also a hook that panics.
func TestPanicIsReported(t *testing.T) {
	c := newCluster(t)
	var log bytes.Buffer
	told := make(chan runtime.Panic, 1)
	n := c.node(func(cfg *runtime.Config) {
		cfg.Logger = zerolog.New(&log)
		cfg.OnPanic = func(p runtime.Panic) {
			told <- p
			panic("and again")
		}
	})
	ref := spawn(t, n, func(_ *runtime.Context, m string) error { panic(m) })
	register(t, n, "bank", ref)
	addr, _ := ref.Address(t.Context())
	_, err := ref.Call(t.Context(), "boom")
	wantErr(t, "caller", err, runtime.ErrPanicked, runtime.ErrServiceGone)
	p := <-told
	if p.Value != "boom" || p.Handle != addr.Handle() || !slices.Equal(p.Names, []string{"bank"}) ||
		!strings.Contains(string(p.Stack), "TestPanicIsReported") {
		t.Errorf("told %v %v %v\n%s", p.Value, p.Handle, p.Names, p.Stack)
	}
	if err := n.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	var messages []string
	for line := range strings.Lines(log.String()) {
		var entry struct{ Level, Message, Panic, Stack string }
		if err := json.Unmarshal([]byte(line), &entry); err != nil {
			t.Fatal(err)
		}
		if entry.Level == "error" {
			messages = append(messages, entry.Message+": "+entry.Panic)
		}
	}
	want := []string{"service panicked and was stopped: boom", "the OnPanic hook panicked: and again"}
	if !slices.Equal(messages, want) {
		t.Errorf("logged %q, want %q", messages, want)
	}
}

// TestOthersSurviveAPanic.
func TestOthersSurviveAPanic(t *testing.T) {
	n := newCluster(t).node()
	good := echo(t, n)
	bad := spawn(t, n, func(*runtime.Context, string) error { panic("boom") })
	for range 10 {
		if _, err := bad.Call(t.Context(), ""); !errors.Is(err, runtime.ErrServiceGone) {
			t.Error(err)
		}
		wantCall(t, good, "x", "x")
	}
}

// TestCallEndsWithItsContext, whatever the service does; a late answer then goes
// nowhere, and above all not to the next call.
func TestCallEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newCluster(t).node()
		g := newGate(t, n)
		for i := range 100 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			begin := time.Now()
			_, err := g.Call(ctx, -i)
			cancel()
			wantErr(t, "call", err, context.DeadlineExceeded)
			if d := time.Since(begin); d != time.Second {
				t.Fatalf("took %s", d)
			}
		}
		close(g.open)
		for i := range 100 {
			wantCall(t, g.Ref, i, i)
		}
	})
}

// TestLateAnswersGoNowhere: answers, late, early and doubled, from many
// goroutines at once.
func TestLateAnswersGoNowhere(t *testing.T) {
	n := newCluster(t).node()
	var answers sync.WaitGroup
	ref := spawn(t, n, func(c *runtime.Context, m int) error {
		d := c.Defer()
		for range 2 {
			answers.Go(func() { _ = d.Reply(m) })
		}
		return nil
	})
	var wg sync.WaitGroup
	var ended atomic.Int64
	for g := range 4 {
		wg.Go(func() {
			for i := range 2000 {
				want := g*10000 + i
				ctx, cancel := context.WithCancel(t.Context())
				if i%3 == 0 {
					answers.Go(cancel)
				}
				got, err := ref.Call(ctx, want)
				cancel()
				switch {
				case errors.Is(err, context.Canceled):
					ended.Add(1)
				case err != nil || got != want:
					t.Errorf("got %v, %v, want %d", got, err, want)
				}
			}
		})
	}
	wg.Wait()
	answers.Wait()
	t.Logf("%d calls ended before their answer", ended.Load())
}

// TestCloseOrder: names are free before handlers have finished; handlers may
// finish; their Contexts end half-way; Close ends with its context.
func TestCloseOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		n, other := c.node(), c.node()
		begin := time.Now()
		var ended time.Duration
		polite := spawn(t, n, func(ctx *runtime.Context, _ string) error {
			time.Sleep(2 * time.Second)
			return ctx.Reply("finished")
		})
		patient := spawn(t, n, func(ctx *runtime.Context, _ string) error {
			<-ctx.Done()
			ended = time.Since(begin)
			return nil
		})
		register(t, n, "bank", polite)
		if err := patient.Send(t.Context(), ""); err != nil {
			t.Fatal(err)
		}
		answered := make(chan error, 1)
		go func() {
			_, err := polite.Call(t.Context(), "")
			answered <- err
		}()
		synctest.Wait()
		closed := make(chan error, 2)
		for range 2 { // the second waits for the first
			go func() {
				ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
				defer cancel()
				closed <- n.Close(ctx)
			}()
		}
		synctest.Wait()
		register(t, other, "bank", echo(t, other))
		if d := time.Since(begin); d != 0 {
			t.Errorf("the name was free after %s", d)
		}
		if _, err := n.Spawn(func(*runtime.Context, any) error { return nil }); !errors.Is(err, naming.ErrClosed) {
			t.Errorf("spawn while closing: %v", err)
		}
		addr, _ := patient.Address(t.Context())
		wantErr(t, "to a closing node", other.At(addr).Send(t.Context(), ""), naming.ErrUnavailable)
		if err := <-answered; err != nil {
			t.Errorf("call that was being handled: %v", err)
		}
		if d := time.Since(begin); d != 2*time.Second {
			t.Errorf("it was answered after %s, want 2 s", d)
		}
		for range 2 {
			if err := <-closed; err != nil {
				t.Error(err)
			}
		}
		if ended != 5*time.Second || time.Since(begin) != 5*time.Second {
			t.Errorf("the Context ended after %s, and Close returned after %s; want 5 s", ended, time.Since(begin))
		}
		wantErr(t, "send after Close", polite.Send(t.Context(), ""), naming.ErrClosed)
		_, err := n.Lookup(t.Context(), "bank")
		wantErr(t, "lookup after Close", err, naming.ErrClosed)
		wantErr(t, "unbound", other.At(addr).Send(t.Context(), ""), naming.ErrUnavailable)
	})
}

// TestL5CloseIsBounded by its context, whatever handlers and the registry do.
func TestL5CloseIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		n := c.node()
		c.hold = make(chan struct{}) // a registry that does not answer to releases
		for i := range 100 {
			register(t, n, fmt.Sprintf("bank-%d", i), echo(t, n))
		}
		begin := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		if err := n.Close(ctx); err != nil {
			t.Error(err)
		}
		if d := time.Since(begin); d > time.Second {
			t.Errorf("a silent registry holds Close up for %s", d)
		}

		n = c.node()
		g := newGate(t, n)
		if err := g.Send(t.Context(), 1); err != nil {
			t.Fatal(err)
		}
		<-g.entered
		begin = time.Now()
		ctx, cancel = context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		err := n.Close(ctx)
		wantErr(t, "stuck handler", err, context.DeadlineExceeded)
		if d := time.Since(begin); d != 3*time.Second {
			t.Errorf("took %s, want 3 s", d)
		}
		close(g.open)
	})
}

// TestCloseFromInside is refused: a handler would wait for itself.
func TestCloseFromInside(t *testing.T) {
	n := newCluster(t).node()
	ref := spawn(t, n, func(c *runtime.Context, _ string) error { return c.Node().Close(c) })
	_, err := ref.Call(t.Context(), "")
	wantErr(t, "close", err, runtime.ErrSelf)
	wantCall(t, echo(t, n), "the node is open", "the node is open")
}

// TestStorm: senders, callers, kills, exits, panics, names and Close at once.
// Every call comes back, and nothing is left.
func TestStorm(t *testing.T) {
	c := newCluster(t)
	nodes := []*runtime.Node{c.node(), c.node()}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	running := func() bool {
		select {
		case <-stop:
			return false
		default:
			return true
		}
	}
	var current [2]atomic.Pointer[runtime.Ref]
	for i, n := range nodes {
		ref := spawn(t, n, storm)
		current[i].Store(&ref)
		wg.Go(func() { // services come, take a name, and go
			for k := 0; running(); k++ {
				ref, err := runtime.Spawn(n, storm, runtime.MailboxSize(3))
				if err != nil {
					t.Error(err)
					return
				}
				old := current[i].Swap(&ref)
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
				_ = n.Register(ctx, "bank", ref, runtime.Standby())
				_ = n.Register(ctx, ".bank", ref)
				cancel()
				switch k % 3 {
				case 0:
					_ = n.Kill(*old)
				default:
					_ = old.Send(t.Context(), k%3)
				}
			}
		})
	}
	var calls, answers atomic.Int64
	for i := range 4 {
		wg.Go(func() {
			for k := 0; running(); k++ {
				ref := *current[k%2].Load()
				switch k % 4 {
				case 1:
					ref, _ = nodes[i%2].Lookup(t.Context(), "bank")
				case 2:
					ref, _ = nodes[i%2].Lookup(t.Context(), ".bank")
				}
				ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
				got, err := ref.Call(ctx, 10+k)
				cancel()
				calls.Add(1)
				switch {
				case err == nil && got == 10+k:
					answers.Add(1)
				case err == nil, errors.Is(err, context.DeadlineExceeded):
					t.Errorf("call %d: got %v, %v", 10+k, got, err)
				}
				_ = nodes[i%2].Stat()
			}
		})
	}
	<-time.After(time.Second)
	close(stop)
	wg.Wait()
	for _, n := range nodes {
		if err := n.Close(t.Context()); err != nil {
			t.Error(err)
		}
		if left := n.Stat(); len(left) != 0 {
			t.Errorf("left: %+v", left)
		}
	}
	if len(c.claims) != 0 {
		t.Errorf("%d names are still claimed", len(c.claims))
	}
	if answers.Load() == 0 || answers.Load() == calls.Load() {
		t.Errorf("%d calls, %d answers: this was no storm", calls.Load(), answers.Load())
	}
	t.Logf("%d calls, %d answers", calls.Load(), answers.Load())
}

func storm(c *runtime.Context, m int) error {
	switch m {
	case 1:
		c.Exit()
		return nil
	case 2:
		panic("storm")
	}
	if m%5 == 0 {
		d := c.Defer()
		c.After(time.Microsecond, 0)
		return d.Reply(m)
	}
	return c.Reply(m)
}
