package skywarden_test

import (
	"context"
	"fmt"

	"github.com/rs/zerolog"

	"github.com/seed-6593ebad/skywarden"
	"github.com/seed-6593ebad/skywarden/backends/memory"
)

type Deposit struct{ Amount int }

// The first service with a name: a bank on one node, its customer on another.
func Example() {
	ctx := context.Background()
	var names memory.Server // the built-in name server
	a, _ := skywarden.New(ctx, skywarden.Config{Backend: names.Open(), Logger: zerolog.Nop()})
	defer a.Close(ctx)
	b, _ := skywarden.New(ctx, skywarden.Config{Backend: names.Open(), Logger: zerolog.Nop()})
	defer b.Close(ctx)

	balance := 0
	bank, _ := skywarden.Spawn(a, func(c *skywarden.Context, m Deposit) error {
		balance += m.Amount
		return c.Reply(balance)
	})
	_ = a.Register(ctx, "bank", bank)

	ref, _ := b.Query(ctx, "bank") // waits until somebody answers to the name
	got, err := skywarden.Call[int](ctx, ref, Deposit{5})
	fmt.Println(got, err)
	// Output: 5 <nil>
}

// A standby waits until the name is free, and is found as soon as it is.
func ExampleStandby() {
	ctx := context.Background()
	var names memory.Server
	node := func(answer string) (*skywarden.Node, skywarden.Ref) {
		n, _ := skywarden.New(ctx, skywarden.Config{Backend: names.Open(), Logger: zerolog.Nop()})
		ref, _ := n.Spawn(func(c *skywarden.Context, _ any) error { return c.Reply(answer) })
		return n, ref
	}
	first, one := node("one")
	second, two := node("two")
	defer second.Close(ctx)

	_ = first.Register(ctx, "bank", one)
	taken := make(chan error)
	go func() { taken <- second.Register(ctx, "bank", two, skywarden.Standby()) }()

	_ = first.Close(ctx) // gives its names up before anything else
	if err := <-taken; err != nil {
		fmt.Println(err)
	}
	ref, _ := second.Lookup(ctx, "bank")
	got, _ := skywarden.Call[string](ctx, ref, "who is it?")
	fmt.Println(got)
	// Output: two
}
