package skywardentest_test

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"

	"github.com/seed-6593ebad/skywarden"
	"github.com/seed-6593ebad/skywarden/adapter"
	"github.com/seed-6593ebad/skywarden/skywardentest"
)

type deposit struct{ amount int }

// startBank is the program under test: a bank that takes no more money while it
// may have lost its name. It returns when it has the name.
func startBank(ctx context.Context, n *skywarden.Node) error {
	state, balance := "open", 0
	bank, err := skywarden.Spawn(n, func(c *skywarden.Context, d deposit) error {
		balance += d.amount
		return c.Reply(fmt.Sprintf("%s: %d, %s", n.ID(), balance, state))
	}, skywarden.OnName(func(_ *skywarden.Context, e skywarden.NameEvent) {
		state += ", " + e.Kind.String()
	}))
	if err != nil {
		return err
	}
	return n.Register(ctx, "bank", bank, skywarden.Standby())
}

// TestFailover is what a test of one's own looks like: the owner dies, and its
// standby answers the same callers. In the bubble the TTL passes in no time.
func TestFailover(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := skywardentest.New(t, 3)
		if err := startBank(t.Context(), c.Node(0)); err != nil {
			t.Fatal(err)
		}
		standby := make(chan error, 1)
		go func() { standby <- startBank(t.Context(), c.Node(1)) }()
		bank, err := c.Node(2).Query(t.Context(), "bank")
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{"node-0: 5, open", "node-0: 10, open"} {
			if got, err := skywarden.Call[string](t.Context(), bank, deposit{5}); err != nil || got != want {
				t.Errorf("got %q, %v; want %q", got, err, want)
			}
		}

		c.Kill(0)
		if err := <-standby; err != nil {
			t.Fatal(err)
		}
		c.AwaitOwner("bank", 1)   // as node 2 sees it, too
		want := "node-1: 5, open" // money that is not written down is gone with its node
		if got, err := skywarden.Call[string](t.Context(), bank, deposit{5}); err != nil || got != want {
			t.Errorf("got %q, %v; want %q", got, err, want)
		}
	})
}

// The owner of a name cannot reach the name server for a while. It is told, and
// has the name again afterwards.
func Example() {
	test := func(t testing.TB) { // yours is a TestXxx with a *testing.T
		c := skywardentest.New(t, 2)
		if err := startBank(t.Context(), c.Node(0)); err != nil {
			t.Fatalf("%v", err)
		}
		c.AwaitOwner("bank", 0)

		c.Partition(0)
		fmt.Println(c.AwaitEvent(0, adapter.EventSuspended, "bank").Err)
		c.Heal(0)
		c.AwaitEvent(0, adapter.EventResumed, "bank")
		c.AwaitOwner("bank", 0)

		bank, err := c.Node(1).Lookup(t.Context(), "bank")
		if err != nil {
			t.Fatalf("%v", err)
		}
		fmt.Println(skywarden.Call[string](t.Context(), bank, deposit{5}))
	}
	fmt.Println(len(record(context.Background(), test)), "failures")
	// Output:
	// lease lost: not renewed before its deadline
	// node-0: 5, open, suspended, resumed <nil>
	// 0 failures
}
