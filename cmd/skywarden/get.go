package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/seed-6593ebad/skywarden/adapter"
	"github.com/seed-6593ebad/skywarden/naming"
)

type getCommand struct {
	configFlag
	Name string        `arg:"" help:"The name."`
	Wait time.Duration `placeholder:"DURATION" help:"Wait this long for the name to appear, such as 10s."`
	JSON bool          `name:"json" help:"Print JSON."`
}

// Run asks as a node would: through the allow-list, and with a linearizable
// read.
func (cmd *getCommand) Run(ctx context.Context, c *console) (err error) {
	name, err := parseName(cmd.Name)
	if err != nil {
		return err
	}
	cfg, backend, err := cmd.open(ctx, c)
	if err != nil {
		return err
	}
	defer closing(&err, backend.Close)
	a, err := adapter.New(ctx, adapter.Config{
		Backend: backend, Node: cfg.Node, Endpoint: cfg.Advertise, AllowList: cfg.Allow,
		TTL: cfg.TTL, MaxStale: cfg.MaxStale, Mirror: []naming.Scope{}, Logger: cfg.Logger(c.err),
	})
	if err != nil {
		return err
	}
	defer closing(&err, func() error { return a.Close(ctx) })

	find := a.Lookup
	waiting := ctx
	if cmd.Wait > 0 {
		find = a.Query
		var cancel context.CancelFunc
		waiting, cancel = context.WithTimeout(ctx, cmd.Wait)
		defer cancel()
	}
	b, err := find(waiting, name)
	if errors.Is(err, context.DeadlineExceeded) && errors.Is(err, naming.ErrNotFound) {
		return fmt.Errorf("%w: nobody took %s within %s", naming.ErrNotFound, name, cmd.Wait)
	}
	if err != nil {
		return err
	}
	if cmd.JSON {
		return c.json(struct {
			Name     naming.Name    `json:"name"`
			Node     string         `json:"node"`
			Endpoint netip.AddrPort `json:"endpoint"`
			Handle   naming.Handle  `json:"handle"`
			Epoch    uint64         `json:"epoch"`
		}{name, b.Address.Node().String(), b.Address.Endpoint(), b.Address.Handle(), b.Epoch})
	}
	c.printf("%s\n", b.Address)
	return nil
}
