// Command hello is the smallest program with a named service: a bank on one
// node, its customer on another.
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

// Deposit is the message that the bank takes.
type Deposit struct{ Amount int }

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "hello:", err)
		os.Exit(1)
	}
}

func run() (err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()

	var names memory.Server // the built-in name server, which both nodes share
	a, err := skywarden.New(ctx, skywarden.Config{Node: "a", Backend: names.Open(), Logger: zerolog.Nop()})
	if err != nil {
		return err
	}
	defer a.Close(ctx)
	b, err := skywarden.New(ctx, skywarden.Config{Node: "b", Backend: names.Open(), Logger: zerolog.Nop()})
	if err != nil {
		return err
	}
	defer b.Close(ctx)

	// A service handles one message at a time, so it needs no lock.
	balance := 0
	bank, err := skywarden.Spawn(a, func(c *skywarden.Context, m Deposit) error {
		balance += m.Amount
		return c.Reply(balance)
	})
	if err != nil {
		return err
	}
	if err := a.Register(ctx, "bank", bank); err != nil {
		return err
	}

	// Query waits until somebody answers to the name.
	ref, err := b.Query(ctx, "bank")
	if err != nil {
		return err
	}
	for _, amount := range []int{5, 10} {
		balance, err := skywarden.Call[int](ctx, ref, Deposit{amount})
		if err != nil {
			return err
		}
		fmt.Println("balance:", balance)
	}
	return nil
}
