package configs

import (
	"context"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/rs/zerolog"

	"github.com/seed-6593ebad/skywarden"
	"github.com/seed-6593ebad/skywarden/backends/consul"
	"github.com/seed-6593ebad/skywarden/backends/etcd"
	"github.com/seed-6593ebad/skywarden/backends/memory"
	"github.com/seed-6593ebad/skywarden/naming"
)

// Open loads the file at path and starts the node that it describes. Changes are
// made to the node's configuration before it starts: for what a file cannot say,
// such as observers. ctx bounds the start alone.
//
// A file that has services is refused: a program starts its own.
func Open(ctx context.Context, path string, changes ...func(*skywarden.Config)) (*skywarden.Node, error) {
	c, err := Load(path)
	if err != nil {
		return nil, err
	}
	return c.Open(ctx, changes...)
}

// Open starts the node that c describes, as the function Open does. It does not
// start c.Services.
func (c *Config) Open(ctx context.Context, changes ...func(*skywarden.Config)) (*skywarden.Node, error) {
	cfg := skywarden.Config{
		Node:      c.Node.String(),
		Listen:    c.Listen.String(),
		Advertise: c.Advertise.String(),
		AllowList: c.Allow,
		TTL:       c.TTL,
		MaxStale:  c.MaxStale,
		Logger:    c.Logger(os.Stderr),
	}
	for _, change := range changes {
		change(&cfg)
	}
	if cfg.Backend == nil {
		backend, err := c.OpenBackend(ctx, cfg.Logger)
		if err != nil {
			return nil, err
		}
		cfg.Backend = backend
	}
	node, err := skywarden.New(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.file, err)
	}
	return node, nil
}

// OpenBackend opens the backend alone. Whoever called it closes it.
func (c *Config) OpenBackend(ctx context.Context, log zerolog.Logger) (naming.Backend, error) {
	var backend naming.Backend
	var err error
	switch {
	case c.Memory != nil:
		return new(memory.Server).Open(), nil
	case c.Consul != nil:
		cfg := *c.Consul
		cfg.Logger = log
		backend, err = consul.Open(ctx, cfg)
	default:
		cfg := *c.Etcd
		cfg.Logger = log
		backend, err = etcd.Open(ctx, cfg)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.file, err)
	}
	return backend, nil
}

// Logger gives the logger that c.Log describes. w need not be safe for concurrent
// use.
func (c *Config) Logger(w io.Writer) zerolog.Logger {
	if c.Log.Console {
		w = zerolog.ConsoleWriter{Out: w, TimeFormat: "15:04:05.000", NoColor: !takesColour(w)}
	}
	return zerolog.New(zerolog.SyncWriter(w)).Level(c.Log.Level).Hook(milliseconds{})
}

// takesColour says whether w is a terminal, and nobody objects to colours
// (https://no-color.org).
func takesColour(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok || os.Getenv("NO_COLOR") != "" {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// milliseconds dates each line. Zerolog's own timestamps have seconds, unless a
// global of it is changed.
type milliseconds struct{}

// Run implements zerolog.Hook.
func (milliseconds) Run(e *zerolog.Event, _ zerolog.Level, _ string) {
	e.Str("time", time.Now().Format("2006-01-02T15:04:05.000Z07:00"))
}
