package main

import (
	"github.com/seed-6593ebad/skywarden"
)

// serviceKinds are the services that `skywarden node` can run. They are for
// trying things out: a program of yours spawns its own.
var serviceKinds = map[string]func() skywarden.Handler{
	"echo":    newEcho,
	"counter": newCounter,
}

// newEcho makes a service that answers with the message it got.
func newEcho() skywarden.Handler {
	return func(c *skywarden.Context, msg any) error { return c.Reply(msg) }
}

// newCounter makes a service that answers with the number of messages so far.
func newCounter() skywarden.Handler {
	n := 0
	return func(c *skywarden.Context, _ any) error {
		n++
		return c.Reply(n)
	}
}
