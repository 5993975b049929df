// Command observer counts what happens to names. An Observer is how metrics, an
// audit trail or an alarm are fed.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/seed-6593ebad/skywarden"
	"github.com/seed-6593ebad/skywarden/backends/memory"
	"github.com/seed-6593ebad/skywarden/naming"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "observer:", err)
		os.Exit(1)
	}
}

// A counter counts events by kind and result. Observe is called from many
// goroutines, and must return soon.
type counter struct {
	mu     sync.Mutex
	counts map[string]int
}

func (c *counter) Observe(e skywarden.Event) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.counts[string(e.Kind)+" "+naming.Code(e.Err)]++
}

func run() error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	seen := &counter{counts: map[string]int{}}
	var names memory.Server
	node, err := skywarden.New(ctx, skywarden.Config{Backend: names.Open(), Observers: []skywarden.Observer{seen}, Logger: zerolog.Nop()})
	if err != nil {
		return err
	}
	defer node.Close(ctx)
	ignore := func(*skywarden.Context, any) error { return nil }
	bank, err := node.Spawn(ignore)
	if err != nil {
		return err
	}
	other, err := node.Spawn(ignore)
	if err != nil {
		return err
	}
	if err := node.Register(ctx, "bank", bank); err != nil {
		return err
	}
	// A second claim is refused, and the error names the holder.
	if err := node.Register(ctx, "bank", other); !errors.Is(err, naming.ErrTaken) {
		return fmt.Errorf("a second registration: %w", err)
	}
	if err := node.Release(ctx, "bank"); err != nil {
		return err
	}
	for _, what := range []string{"register ok", "register taken", "release ok"} {
		fmt.Println(what, seen.counts[what])
	}
	return nil
}
