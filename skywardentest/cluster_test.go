package skywardentest_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"github.com/seed-6593ebad/skywarden"
	"github.com/seed-6593ebad/skywarden/adapter"
	"github.com/seed-6593ebad/skywarden/backends/memory"
	"github.com/seed-6593ebad/skywarden/naming"
	"github.com/seed-6593ebad/skywarden/runtime"
	"github.com/seed-6593ebad/skywarden/skywardentest"
)

// A service answers with its node's name, and keeps what it was told of its own.
type service struct {
	skywarden.Ref

	mu   sync.Mutex
	told []string
}

func (s *service) heard() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.told)
}

func spawn(t testing.TB, n *skywarden.Node) *service {
	t.Helper()
	s := new(service)
	var err error
	s.Ref, err = n.Spawn(
		func(c *skywarden.Context, _ any) error { return c.Reply(n.ID().String()) },
		skywarden.OnName(func(_ *skywarden.Context, e skywarden.NameEvent) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.told = append(s.told, e.Kind.String())
		}))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// own has node i own bank.
func own(t testing.TB, c *skywardentest.Cluster, i int) *service {
	t.Helper()
	s := spawn(t, c.Node(i))
	if err := c.Node(i).Register(t.Context(), "bank", s.Ref); err != nil {
		t.Fatal(err)
	}
	c.AwaitOwner("bank", i)
	return s
}

// standBy has node i wait for bank. The channel gives what became of it.
func standBy(t testing.TB, c *skywardentest.Cluster, i int) <-chan error {
	t.Helper()
	n, ref, got := c.Node(i), spawn(t, c.Node(i)).Ref, make(chan error, 1)
	go func() { got <- n.Register(t.Context(), "bank", ref, skywarden.Standby()) }()
	return got
}

// ask calls bank from node i.
func ask(t testing.TB, c *skywardentest.Cluster, i int) (string, error) {
	t.Helper()
	ref, err := c.Node(i).Lookup(t.Context(), "bank")
	if err != nil {
		return "", err
	}
	return skywarden.Call[string](t.Context(), ref, "who is it?")
}

func wantAnswer(t testing.TB, c *skywardentest.Cluster, from int, want string) {
	t.Helper()
	if got, err := ask(t, c, from); err != nil || got != want {
		t.Errorf("node %d was answered by %q, %v; want %s", from, got, err, want)
	}
}

// both runs a test with the machine's clock, and in a bubble.
func both(t *testing.T, test func(*testing.T)) {
	t.Run("real", test)
	t.Run("bubble", func(t *testing.T) { synctest.Test(t, test) })
}

func TestExpire(t *testing.T) {
	both(t, func(t *testing.T) {
		c := skywardentest.New(t, 2)
		s := own(t, c, 0)
		registered := c.AwaitEvent(0, adapter.EventRegister, "bank")
		for range 2 {
			c.Expire(0)
			c.AwaitEvent(0, adapter.EventSuspended, "bank")
			if e := c.AwaitEvent(0, adapter.EventResumed, "BANK"); e.Epoch <= registered.Epoch {
				t.Errorf("resumed under epoch %d after %d", e.Epoch, registered.Epoch)
			}
		}
		// What was told is handled before what is sent now.
		if _, err := s.Call(t.Context(), nil); err != nil {
			t.Error(err)
		}
		if got, want := s.heard(), []string{"suspended", "resumed", "suspended", "resumed"}; !slices.Equal(got, want) {
			t.Errorf("told %q, want %q", got, want)
		}
		c.AwaitOwner("bank", 0)
		wantAnswer(t, c, 1, "node-0")
	})
}

func TestExpireName(t *testing.T) {
	both(t, func(t *testing.T) {
		c := skywardentest.New(t, 2)
		own(t, c, 1)
		c.ExpireName("bank")
		c.AwaitEvent(1, adapter.EventSuspended, "bank")
		c.AwaitEvent(1, adapter.EventResumed, "bank")
	})
}

// TestS4Partition: an owner that cannot reach the server is fenced before its
// standby begins, and told that it has lost once it can.
func TestS4Partition(t *testing.T) {
	both(t, func(t *testing.T) {
		c := skywardentest.New(t, 3)
		s := own(t, c, 0)
		got := standBy(t, c, 1)
		begin := time.Now()
		c.Partition(0)
		wantAnswer(t, c, 2, "node-0") // messages still reach it
		c.AwaitEvent(0, adapter.EventSuspended, "bank")
		if answer, err := ask(t, c, 2); err == nil && answer == "node-0" {
			t.Error("it answers although it is fenced")
		}
		c.AwaitOwner("bank", 1)
		// Up to a fifth of the TTL had passed since the last renewal.
		if d := time.Since(begin); d < skywardentest.TTL*3/4 {
			t.Errorf("node-1 has it after %s, within the TTL of %s", d, skywardentest.TTL)
		}
		if err := <-got; err != nil {
			t.Error(err)
		}
		wantAnswer(t, c, 2, "node-1")
		c.Heal(0)
		c.AwaitEvent(0, adapter.EventLost, "bank")
		c.AwaitOwner("bank", 1) // node 0 is asked again, too
		if _, err := s.Call(t.Context(), nil); err != nil {
			t.Error(err)
		}
		if got, want := s.heard(), []string{"suspended", "lost"}; !slices.Equal(got, want) {
			t.Errorf("told %q, want %q", got, want)
		}
	})
}

// TestS5Partition: an outage is no absence.
func TestS5Partition(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := skywardentest.New(t, 2)
		own(t, c, 0)
		c.Partition(1)
		c.AwaitEvent(1, adapter.EventBackendDown, "")
		if _, err := c.Node(1).Lookup(t.Context(), "shop"); !errors.Is(err, naming.ErrUnavailable) {
			t.Errorf("a name that it does not know: %v", err)
		}
		wantAnswer(t, c, 1, "node-0") // the last known owner
		c.Heal(1)
		c.AwaitEvent(1, adapter.EventBackendUp, "")
		c.AwaitFree("shop")
	})
}

func TestPause(t *testing.T) {
	both(t, func(t *testing.T) {
		c := skywardentest.New(t, 2)
		own(t, c, 0)
		c.Pause()
		c.AwaitEvent(0, adapter.EventSuspended, "bank")
		if _, err := ask(t, c, 1); !errors.Is(err, naming.ErrLeaseLost) {
			t.Errorf("got %v", err)
		}
		c.Resume()
		c.AwaitEvent(0, adapter.EventResumed, "bank")
		c.AwaitOwner("bank", 0)
		wantAnswer(t, c, 1, "node-0")
	})
}

// TestL1Kill: a dead owner's name is free after its TTL and not before.
func TestL1Kill(t *testing.T) {
	both(t, func(t *testing.T) {
		c := skywardentest.New(t, 2)
		s := own(t, c, 0)
		begin := time.Now()
		c.Kill(0)
		if d := time.Since(begin); d > skywardentest.TTL/4 {
			t.Errorf("Kill took %s", d)
		}
		if _, err := ask(t, c, 1); !errors.Is(err, naming.ErrUnavailable) {
			t.Errorf("a dead node answers with %v", err)
		}
		if _, err := s.Call(t.Context(), nil); !errors.Is(err, naming.ErrClosed) {
			t.Errorf("calls from it: %v", err)
		}
		c.AwaitFree("bank")
		if d := time.Since(begin); d < skywardentest.TTL*3/4 || d > skywardentest.TTL+time.Second {
			t.Errorf("free after %s; the TTL is %s", d, skywardentest.TTL)
		}
		if told := s.heard(); told != nil {
			t.Errorf("a dead service was told %q", told)
		}
	})
}

// TestKillIsSilent: observers hear nothing of a process that died.
func TestKillIsSilent(t *testing.T) {
	var mu sync.Mutex
	var told []adapter.EventKind
	c := skywardentest.New(t, 1, func(_ int, cfg *skywarden.Config) {
		cfg.Observers = append(cfg.Observers, adapter.ObserverFunc(func(e skywarden.Event) {
			mu.Lock()
			defer mu.Unlock()
			told = append(told, e.Kind)
		}))
	})
	own(t, c, 0)
	c.Kill(0)
	mu.Lock()
	defer mu.Unlock()
	if !slices.Equal(told, []adapter.EventKind{adapter.EventRegister}) {
		t.Errorf("told %q", told)
	}
}

// TestKillWithExpire does not wait for the TTL.
func TestKillWithExpire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := skywardentest.New(t, 2)
		own(t, c, 0)
		got := standBy(t, c, 1)
		synctest.Wait()
		begin := time.Now()
		c.Kill(0)
		c.Expire(0)
		c.AwaitOwner("bank", 1)
		if d := time.Since(begin); d > 100*time.Millisecond {
			t.Errorf("took %s", d)
		}
		if err := <-got; err != nil {
			t.Error(err)
		}
	})
}

// TestKillWithHandler: who waits for a handler is told that it is gone, its
// Context ends, and what it still sends gets nowhere.
func TestKillWithHandler(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := skywardentest.New(t, 2)
		sent := make(chan error, 1)
		bank := spawn(t, c.Node(1))
		busy, err := c.Node(0).Spawn(func(sc *skywarden.Context, _ any) error {
			<-sc.Done()
			time.Sleep(time.Second)
			sent <- c.Node(0).At(addressOf(t, bank.Ref)).Send(t.Context(), nil)
			return sc.Reply("late")
		})
		if err != nil {
			t.Fatal(err)
		}
		answered := make(chan error, 1)
		remote := c.Node(1).At(addressOf(t, busy))
		go func() {
			_, err := remote.Call(t.Context(), nil)
			answered <- err
		}()
		synctest.Wait()
		c.Kill(0)
		if err := <-answered; !errors.Is(err, runtime.ErrServiceGone) {
			t.Errorf("the caller got %v", err)
		}
		if err := <-sent; !errors.Is(err, naming.ErrClosed) {
			t.Errorf("sent after its death: %v", err)
		}
	})
}

func addressOf(t testing.TB, ref skywarden.Ref) naming.Address {
	t.Helper()
	at, err := ref.Address(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return at
}

// TestL1Restart: what a process left behind is taken over at once by the one that
// is started in its place, and by no other.
func TestL1Restart(t *testing.T) {
	both(t, func(t *testing.T) {
		c := skywardentest.New(t, 3)
		own(t, c, 0)
		before := c.Node(0)
		c.Kill(0)
		if err := c.Node(1).Register(t.Context(), "bank", spawn(t, c.Node(1)).Ref); !errors.Is(err, naming.ErrTaken) {
			t.Errorf("another node: %v", err)
		}
		begin := time.Now()
		c.Restart(0)
		own(t, c, 0)
		if d := time.Since(begin); d > skywardentest.TTL/2 {
			t.Errorf("took %s", d)
		}
		if n := c.Node(0); n == before || n.ID() != before.ID() || n.Endpoint() != before.Endpoint() {
			t.Errorf("%s at %s became %s at %s", before.ID(), before.Endpoint(), n.ID(), n.Endpoint())
		}
		wantAnswer(t, c, 2, "node-0")
	})
}

// TestRestartOfALivingNode gives its names up, as a rolling update does.
func TestRestartOfALivingNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := skywardentest.New(t, 2)
		own(t, c, 0)
		got := standBy(t, c, 1)
		synctest.Wait()
		begin := time.Now()
		c.Restart(0)
		c.AwaitOwner("bank", 1)
		if d := time.Since(begin); d > 100*time.Millisecond {
			t.Errorf("took %s", d)
		}
		if err := <-got; err != nil {
			t.Error(err)
		}
		wantAnswer(t, c, 0, "node-1")
	})
}

// TestS8Server: its own levers are at hand.
func TestS8Server(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := skywardentest.New(t, 2)
		own(t, c, 0)
		name, err := naming.ParseName("bank")
		if err != nil {
			t.Fatal(err)
		}
		c.Server().Levers().Delete(name)
		c.AwaitEvent(0, adapter.EventOverwritten, "bank")
		c.AwaitEvent(0, adapter.EventRestored, "bank")
		c.AwaitOwner("bank", 0)
	})
}

// TestAwaitAsksWhoIsThere: not who was closed, also during an outage, and again who
// was healed.
func TestAwaitAsksWhoIsThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := skywardentest.New(t, 2)
		own(t, c, 0)
		c.Partition(0)
		if err := c.Node(0).Close(t.Context()); !errors.Is(err, naming.ErrUnavailable) {
			t.Errorf("close: %v", err)
		}
		c.AwaitFree("bank")
		c.Heal(0)
		c.AwaitFree("bank")
		c.Kill(0)
		c.Partition(1)
		c.Heal(1)
		c.AwaitFree("bank")
	})
}

// TestAdd: a node that comes later is asked like the others.
func TestAdd(t *testing.T) {
	c := skywardentest.New(t, 1)
	own(t, c, 0)
	if i := c.Add(); i != 1 {
		t.Errorf("it has the number %d", i)
	}
	c.AwaitOwner("bank", 0)
	wantAnswer(t, c, 1, "node-0")
}

// TestClustersDoNotMeet, although their nodes have the same names and endpoints.
func TestClustersDoNotMeet(t *testing.T) {
	a, b := skywardentest.New(t, 1), skywardentest.New(t, 1)
	own(t, a, 0)
	b.AwaitFree("bank")
}

func TestOptions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const ttl = 10 * time.Minute // Await is as patient as that needs
		c := skywardentest.New(t, 2, func(i int, cfg *skywarden.Config) {
			cfg.Node, cfg.TTL = fmt.Sprintf("n%d", 7+i), ttl
		})
		own(t, c, 1)
		wantAnswer(t, c, 0, "n8")
		begin := time.Now()
		c.Kill(1)
		c.AwaitFree("bank")
		if d := time.Since(begin); d < ttl*3/4 {
			t.Errorf("free after %s", d)
		}
	})
}

// TestEndOfTheTest: nothing is left, whatever the levers did, and it takes no
// time.
func TestEndOfTheTest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var begin time.Time
		var server *memory.Server
		failures := record(t.Context(), func(t testing.TB) {
			c := skywardentest.New(t, 4)
			server = c.Server()
			for i := range 4 {
				n := c.Node(i)
				if err := n.Register(t.Context(), "bank."+n.ID().String(), spawn(t, n).Ref); err != nil {
					t.Errorf("%v", err)
				}
			}
			c.Partition(0)
			c.Kill(1)
			c.Expire(1)
			c.Partition(3)
			if err := c.Node(3).Close(t.Context()); !errors.Is(err, naming.ErrUnavailable) {
				t.Errorf("%v", err)
			}
			time.Sleep(skywardentest.TTL) // its name is free
			if err := c.Node(2).Close(t.Context()); err != nil {
				t.Errorf("%v", err)
			}
			server.Levers().Kill()
			c.Pause()
			begin = time.Now()
		})
		if failures != nil {
			t.Errorf("failed: %q", failures)
		}
		if d := time.Since(begin); d > 100*time.Millisecond {
			t.Errorf("took %s", d)
		}
		if got := server.Stats(); got != (memory.Stats{}) {
			t.Errorf("left: %+v", got)
		}
	})
}

// TestMistakes: what cannot be done, or does not come, fails the test and says why.
func TestMistakes(t *testing.T) {
	type Cluster = skywardentest.Cluster
	for name, test := range map[string]struct {
		do   func(testing.TB, *Cluster)
		want string
	}{
		"no such node":      {func(_ testing.TB, c *Cluster) { c.Node(2) }, "there is no node 2: the cluster has 2"},
		"negative node":     {func(_ testing.TB, c *Cluster) { c.Partition(-1) }, "there is no node -1"},
		"expire nothing":    {func(_ testing.TB, c *Cluster) { c.Expire(1) }, "node 1 holds no name"},
		"expire nobody's":   {func(_ testing.TB, c *Cluster) { c.ExpireName("shop") }, "nobody holds shop"},
		"expire no name":    {func(_ testing.TB, c *Cluster) { c.ExpireName("a/b") }, "invalid name"},
		"owner of no name":  {func(_ testing.TB, c *Cluster) { c.AwaitOwner("a/b", 0) }, "invalid name"},
		"killed twice":      {func(_ testing.TB, c *Cluster) { c.Kill(0); c.Kill(0) }, "node 0 was killed before"},
		"dead partition":    {func(_ testing.TB, c *Cluster) { c.Kill(0); c.Partition(0) }, "node 0 was killed before"},
		"dead owner":        {func(_ testing.TB, c *Cluster) { c.Kill(0); c.AwaitOwner("bank", 0) }, "node 0 was killed before"},
		"nobody to ask":     {func(_ testing.TB, c *Cluster) { c.Kill(0); c.Partition(1); c.AwaitFree("shop") }, "in vain: shop is free"},
		"other owner":       {func(_ testing.TB, c *Cluster) { c.AwaitOwner("bank", 1) }, "in vain: bank is on node node-1"},
		"not free":          {func(_ testing.TB, c *Cluster) { c.AwaitFree("bank") }, "in vain: bank is free"},
		"never":             {func(_ testing.TB, c *Cluster) { c.Await("the impossible", func() bool { return false }) }, "in vain: the impossible"},
		"no such event":     {func(_ testing.TB, c *Cluster) { c.AwaitEvent(0, adapter.EventLost, "bank") }, `node 0 did not tell "lost" of "bank"; what it told: register`},
		"no event":          {func(_ testing.TB, c *Cluster) { c.AwaitEvent(1, adapter.EventLost, "bank") }, "what it told: nothing"},
		"bad configuration": {func(t testing.TB, _ *Cluster) { skywardentest.New(t, 1, option(skywarden.Config{TTL: 1})) }, "node 0: adapter: TTL 1ns"},
		"own listener": {func(t testing.TB, _ *Cluster) {
			skywardentest.New(t, 1, option(skywarden.Config{Listen: "127.0.0.1:0"}))
		}, "these are the cluster's"},
		"handler does not end": {func(t testing.TB, c *Cluster) {
			begun := make(chan struct{})
			ref, err := c.Node(0).Spawn(func(*skywarden.Context, any) error {
				close(begun)
				time.Sleep(time.Minute)
				return nil
			})
			if err := errors.Join(err, ref.Send(t.Context(), nil)); err != nil {
				t.Errorf("%v", err)
			}
			<-begun
		}, "1 handlers or releases still run"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				failures := record(t.Context(), func(tb testing.TB) {
					c := skywardentest.New(tb, 2)
					own(tb, c, 0)
					test.do(tb, c)
				})
				time.Sleep(time.Minute) // until all handlers have ended
				if len(failures) != 1 || !strings.Contains(failures[0], test.want) {
					t.Errorf("failed with %q, want %q", failures, test.want)
				}
			})
		})
	}
}

func option(with skywarden.Config) skywardentest.Option {
	return func(_ int, cfg *skywarden.Config) {
		cfg.TTL, cfg.Listen, cfg.Logger = with.TTL, with.Listen, zerolog.Nop()
	}
}

// TestEndOfTheTestEndsStandby: a standby's Register that the end of the test ends says so.
func TestEndOfTheTestEndsStandby(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got <-chan error
		record(t.Context(), func(t testing.TB) {
			c := skywardentest.New(t, 2)
			own(t, c, 0)
			got = standBy(t, c, 1)
		})
		if err := <-got; !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
	})
}
