package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/seed-6593ebad/skywarden/adapter"
	"github.com/seed-6593ebad/skywarden/naming"
	"github.com/seed-6593ebad/skywarden/runtime"
)

// goodbye bounds what is done after an interrupt.
const goodbye = 5 * time.Second

type holdCommand struct {
	configFlag
	Name    string `arg:"" help:"The name."`
	Addr    string `required:"" placeholder:"IP:PORT" help:"Where the service listens, as others reach it."`
	Standby bool   `help:"Wait until the name is free, instead of failing when it is taken."`
	JSON    bool   `name:"json" help:"Print one JSON object per event."`
}

// Run claims the name for handle 0 of the address, which is the endpoint
// itself. A second hold of the same name and address on the same node takes the
// first one's place: it is the same service.
func (cmd *holdCommand) Run(ctx context.Context, c *console) (err error) {
	name, err := parseName(cmd.Name)
	if err != nil {
		return err
	}
	endpoint, err := naming.ParseEndpoint(cmd.Addr)
	if err != nil {
		return usageError{err}
	}
	cfg, backend, err := cmd.open(ctx, c)
	if err != nil {
		return err
	}
	defer closing(&err, backend.Close)
	addr, err := naming.NewAddress(cfg.Node, endpoint, 0)
	if err != nil {
		return err
	}
	a, err := adapter.New(ctx, adapter.Config{
		Backend: backend, Node: cfg.Node, Endpoint: endpoint, AllowList: cfg.Allow,
		TTL: cfg.TTL, MaxStale: cfg.MaxStale, Mirror: []naming.Scope{}, Logger: cfg.Logger(c.err),
	})
	if err != nil {
		return err
	}
	defer closing(&err, func() error {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), goodbye)
		defer cancel()
		return a.Close(ctx)
	})

	lost := make(chan error, 1)
	claim, err := a.Register(ctx, name, addr, runtime.RegisterOptions{
		Standby: cmd.Standby,
		Notify: func(e runtime.NameEvent) {
			cmd.tell(c, e.Kind.String(), addr, e.Epoch, e.Err)
			if e.Kind == runtime.NameLost {
				lost <- e.Err
			}
		},
	})
	if err != nil {
		if cmd.Standby && ctx.Err() != nil && errors.Is(err, context.Canceled) {
			return nil // interrupted while it waited
		}
		return err
	}
	epoch, _ := claim.Serving()
	cmd.tell(c, "held", addr, epoch, nil)
	select {
	case err := <-lost:
		return fmt.Errorf("%s is lost: %w", name, err)
	case <-ctx.Done():
		return nil // Close releases the name
	}
}

// tell prints one thing that became of the name.
func (cmd *holdCommand) tell(c *console, event string, addr naming.Address, epoch uint64, why error) {
	reason := ""
	if why != nil {
		reason = why.Error()
	}
	if cmd.JSON {
		_ = c.json(struct {
			Event   string         `json:"event"`
			Name    string         `json:"name"`
			Address naming.Address `json:"address"`
			Epoch   uint64         `json:"epoch,omitempty"`
			Reason  string         `json:"reason,omitempty"`
		}{event, cmd.Name, addr, epoch, reason})
		return
	}
	line := cmd.Name + ": " + event
	if epoch != 0 {
		line += fmt.Sprintf(" at %s, epoch %d", addr, epoch)
	}
	if reason != "" {
		line += " (" + printable(reason) + ")"
	}
	c.printf("%s\n", line)
}
