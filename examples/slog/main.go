// Command slog sends what happens to names to log/slog: through an Observer the
// library feeds any logger, and never imports it.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/rs/zerolog"

	"github.com/seed-6593ebad/skywarden"
	"github.com/seed-6593ebad/skywarden/backends/memory"
	"github.com/seed-6593ebad/skywarden/naming"
)

func main() {
	// Without the time, so that the output is always the same.
	handler := slog.NewTextHandler(os.Stdout, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}})
	if err := run(slog.New(handler)); err != nil {
		fmt.Fprintln(os.Stderr, "slog:", err)
		os.Exit(1)
	}
}

// observe gives an Observer that logs. slog handlers are safe for concurrent
// use, as Observe must be; one that may block belongs behind a channel.
func observe(log *slog.Logger) skywarden.ObserverFunc {
	return func(e skywarden.Event) {
		level := slog.LevelInfo
		if e.Err != nil {
			level = slog.LevelWarn
		}
		attrs := []slog.Attr{
			slog.String("event", string(e.Kind)), slog.String("result", naming.Code(e.Err)),
			slog.String("name", e.Name.String()), slog.String("principal", e.Principal),
		}
		if !e.Holder.IsZero() {
			attrs = append(attrs, slog.String("holder", e.Holder.Node().String()))
		}
		log.LogAttrs(context.Background(), level, "naming", attrs...)
	}
}

func run(log *slog.Logger) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	var names memory.Server
	node, err := skywarden.New(ctx, skywarden.Config{
		Node: "game-1", Backend: names.Open(),
		Logger:    zerolog.Nop(), // or everything is told twice
		Observers: []skywarden.Observer{observe(log)},
	})
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
	if err := node.Register(ctx, "bank", other); !errors.Is(err, naming.ErrTaken) {
		return fmt.Errorf("a second registration: %w", err)
	}
	return node.Release(ctx, "bank")
}
