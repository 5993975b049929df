// Command standby has two nodes offer the same service. The second one waits
// until the name is free, and its callers never learn a new address: they call
// the name.
package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/rs/zerolog"

	"github.com/seed-6593ebad/skywarden"
	"github.com/seed-6593ebad/skywarden/backends/memory"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "standby:", err)
		os.Exit(1)
	}
}

func run() error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	var names memory.Server

	first, greeter, err := start(ctx, &names, "first")
	if err != nil {
		return err
	}
	if err := first.Register(ctx, "greeter", greeter); err != nil {
		return err
	}

	second, greeter, err := start(ctx, &names, "second")
	if err != nil {
		return err
	}
	defer second.Close(ctx)
	took := make(chan error, 1)
	go func() { took <- second.Register(ctx, "greeter", greeter, skywarden.Standby()) }()

	ref, err := second.Query(ctx, "greeter")
	if err != nil {
		return err
	}
	if err := greet(ctx, ref); err != nil {
		return err
	}

	// Close gives the names up before anything else. (Had the process died, the name
	// would be free when its lease ends.)
	if err := first.Close(ctx); err != nil {
		return err
	}
	if err := <-took; err != nil {
		return err
	}
	return greet(ctx, ref)
}

// start starts a node with a service that says which node it is on, and that is
// told what becomes of its name.
func start(ctx context.Context, names *memory.Server, node string) (*skywarden.Node, skywarden.Ref, error) {
	n, err := skywarden.New(ctx, skywarden.Config{Node: node, Backend: names.Open(), Logger: zerolog.Nop()})
	if err != nil {
		return nil, skywarden.Ref{}, err
	}
	greeter, err := skywarden.Spawn(n, func(c *skywarden.Context, who string) error {
		return c.Reply("hello " + who + ", I am on " + node)
	}, skywarden.OnName(func(_ *skywarden.Context, e skywarden.NameEvent) {
		fmt.Println(node, "is told:", e.Name, e.Kind)
	}))
	return n, greeter, err
}

func greet(ctx context.Context, ref skywarden.Ref) error {
	answer, err := skywarden.Call[string](ctx, ref, "you")
	if err == nil {
		fmt.Println(answer)
	}
	return err
}
