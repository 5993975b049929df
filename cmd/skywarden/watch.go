package main

import (
	"context"
	"errors"
	"time"

	"github.com/seed-6593ebad/skywarden/naming"
)

type watchCommand struct {
	configFlag
	Prefix string `arg:"" optional:"" help:"A family such as \"game.\", or one name. Default: all names."`
	JSON   bool   `name:"json" help:"Print one JSON object per event, as it is done where the output is no terminal."`
}

// Run shows what is there, and then every change until it is interrupted.
func (cmd *watchCommand) Run(ctx context.Context, c *console) (err error) {
	scope, err := naming.ParseScope(cmd.Prefix)
	if err != nil {
		return usageError{err}
	}
	_, backend, err := cmd.open(ctx, c)
	if err != nil {
		return err
	}
	defer closing(&err, backend.Close)
	err = cmd.follow(ctx, c, backend, scope)
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return nil // interrupted
	}
	return err
}

// follow tells the events of one watch, each as soon as it is known.
func (cmd *watchCommand) follow(ctx context.Context, c *console, backend naming.Backend, scope naming.Scope) error {
	for e, err := range backend.Watch(ctx, scope) {
		if err != nil {
			return err
		}
		if e.Kind == naming.Alive {
			continue
		}
		now := time.Now()
		if cmd.JSON || !c.terminal {
			if err := c.json(newSeen(now, e)); err != nil {
				return err
			}
			continue
		}
		cmd.show(c, now, e)
	}
	return nil
}

// Widths of the columns: most names and addresses fit. Who wants to go on with
// them takes the JSON.
const (
	nameWidth    = 24
	addressWidth = 34
)

func (cmd *watchCommand) show(c *console, now time.Time, e naming.Event) {
	at := c.paint(dim, now.Format("15:04:05.000"))
	l := newListed(e.Entry)
	switch {
	case e.Kind == naming.Delete:
		c.printf("%s  %-9s  %s\n", at, "free", l.Name)
	case e.Kind == naming.Put && l.Malformed != "":
		c.printf("%s  %-9s  %-*s  %s\n", at, state(l), nameWidth, l.Name, l.Malformed)
	case e.Kind == naming.Put:
		c.printf("%s  %-9s  %-*s  %-*s  epoch %d\n", at, state(l), nameWidth, l.Name, addressWidth, l.address, l.Epoch)
	case e.Kind == naming.Down:
		c.printf("%s  %-9s  %s\n", at, "down", printable(e.Err.Error()))
	default:
		c.printf("%s  %-9s  what is there now has been told\n", at, e.Kind)
	}
}

func state(l listed) string {
	switch {
	case l.Malformed != "":
		return "malformed"
	case l.Held:
		return "held"
	}
	return "orphaned" // the lease behind it is gone
}

// newSeen gives an event as JSON has it.
func newSeen(now time.Time, e naming.Event) any {
	type head struct {
		Time  time.Time `json:"time"`
		Event string    `json:"event"` // put, delete, synced or down
	}
	h := head{now, e.Kind.String()}
	switch e.Kind {
	case naming.Put:
		return struct {
			head
			listed
		}{h, newListed(e.Entry)}
	case naming.Delete:
		return struct {
			head
			Name naming.Name `json:"name"`
		}{h, e.Entry.Name}
	case naming.Down:
		return struct {
			head
			Reason string `json:"reason"`
		}{h, printable(e.Err.Error())}
	}
	return h
}
