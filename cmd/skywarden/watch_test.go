package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/seed-6593ebad/skywarden/adapter/record"
	"github.com/seed-6593ebad/skywarden/backends/memory"
	"github.com/seed-6593ebad/skywarden/naming"
)

// watchLines follows server, and gives each line as it is written.
func watchLines(t *testing.T, server *memory.Server, terminal bool) <-chan string {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	backend := server.Open()
	r, w := io.Pipe()
	done := make(chan error, 1)
	go func() {
		err := (&watchCommand{}).follow(ctx, &console{out: w, terminal: terminal}, backend, family("game."))
		_ = w.Close()
		done <- err
	}()
	lines := make(chan string, 100)
	go func() {
		for s := bufio.NewScanner(r); s.Scan(); {
			lines <- s.Text()
		}
		close(lines)
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("the watch ended with %v", err)
		}
		for range lines { // until it is closed
		}
		if err := backend.Close(); err != nil {
			t.Error(err)
		}
	})
	return lines
}

func TestWatch(t *testing.T) {
	server := new(memory.Server)
	backend := server.Open()
	defer backend.Close()
	lease, err := backend.Lease(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	address, err := naming.ParseAddress("game-1@10.0.0.5:7000/42")
	if err != nil {
		t.Fatal(err)
	}
	value, err := record.Encode(record.Record{Address: address, Epoch: 7})
	if err != nil {
		t.Fatal(err)
	}
	server.Levers().Put(name("game.orphan"), value)
	people, programs := watchLines(t, server, true), watchLines(t, server, false)
	// next gives the line of each for one event.
	next := func() (string, map[string]any) {
		line := <-people
		var event map[string]any
		if text := <-programs; json.Unmarshal([]byte(text), &event) != nil {
			t.Fatalf("not JSON: %s", text)
		}
		if at, ok := event["time"].(string); !ok || len(line) < 12 {
			t.Errorf("no time: %v, %q", event, line)
		} else if parsed, err := time.Parse(time.RFC3339Nano, at); err != nil || time.Since(parsed) > time.Minute {
			t.Errorf("time %q: %v", at, err)
		}
		return line[12:], event
	}
	expect := func(line string, event map[string]any) {
		t.Helper()
		gotLine, gotEvent := next()
		if gotLine != line {
			t.Errorf("got  %q\nwant %q", gotLine, line)
		}
		for key, want := range event {
			if got := gotEvent[key]; got != want {
				t.Errorf("%s: got %v, want %v", key, got, want)
			}
		}
	}
	const at = "game-1@10.0.0.5:7000/42             epoch 7"
	expect("  orphaned   game.orphan               "+at, map[string]any{"event": "put", "name": "game.orphan", "held": false, "epoch": 7.0})
	expect("  synced     what is there now has been told", map[string]any{"event": "synced"})
	if _, err := lease.Claim(t.Context(), name("game.lobby"), value, 0); err != nil {
		t.Fatal(err)
	}
	expect("  held       game.lobby                "+at, map[string]any{"event": "put", "name": "game.lobby", "node": "game-1", "endpoint": "10.0.0.5:7000", "handle": 42.0, "held": true})
	server.Levers().Put(name("game.bad"), []byte("\x1b[2J{"))
	if line, event := next(); !strings.HasPrefix(line, "  malformed  game.bad                  malformed record: ") || strings.Contains(line, "\x1b") || event["malformed"] == "" {
		t.Errorf("got %q, %v", line, event)
	}
	if err := lease.Release(t.Context(), name("game.lobby")); err != nil {
		t.Fatal(err)
	}
	expect("  free       game.lobby", map[string]any{"event": "delete", "name": "game.lobby", "held": nil})
	server.Levers().Kill()
	if line, event := next(); !strings.HasPrefix(line, "  down       ") || event["event"] != "down" || event["reason"] == "" {
		t.Errorf("got %q, %v", line, event)
	}
	server.Levers().Restart()
	expect("  synced     what is there now has been told", map[string]any{"event": "synced"})
}
