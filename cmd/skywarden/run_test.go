package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/seed-6593ebad/skywarden/adapter/record"
	"github.com/seed-6593ebad/skywarden/backends/memory"
	"github.com/seed-6593ebad/skywarden/naming"
)

func TestExitCodes(t *testing.T) {
	wrap := func(err error) error {
		return &naming.Error{Op: "claim", Backend: "etcd", Err: fmt.Errorf("%w: because", err)}
	}
	for _, test := range []struct {
		err  error
		want int
	}{
		{nil, exitOK},
		{errors.New("anything"), exitFailure},
		{wrap(naming.ErrTaken), exitFailure},
		{wrap(naming.ErrUnavailable), exitFailure},
		{wrap(naming.ErrInsecureConfig), exitFailure},
		{usageError{errors.New("no such flag")}, exitUsage},
		{wrap(naming.ErrNotFound), exitNotFound},
		{wrap(naming.ErrDenied), exitDenied},
		{wrap(naming.ErrUnauthenticated), exitDenied},
		{wrap(naming.ErrNameNotAllowed), exitDenied},
		{wrap(naming.ErrAddressNotAllowed), exitDenied},
		{hintedError{wrap(naming.ErrDenied), "ask"}, exitDenied},
	} {
		if got := exitCode(test.err); got != test.want {
			t.Errorf("%v: got %d, want %d", test.err, got, test.want)
		}
	}
}

func TestErrorsEndInAHint(t *testing.T) {
	var stderr bytes.Buffer
	fail(&stderr, errors.Join(errors.New("one"), fmt.Errorf("two: %w", naming.ErrDenied)))
	want := "skywarden: one\nskywarden: two: permission denied\nhint: " + hintFor(naming.ErrDenied) + "\n"
	if diff := cmp.Diff(want, stderr.String()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestNodeRunsUntilInterrupted uses the sample as it is.
func TestNodeRunsUntilInterrupted(t *testing.T) {
	sample, err := os.ReadFile(filepath.FromSlash("../../configs/memory.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	listen, err := freeEndpoint()
	if err != nil {
		t.Fatal(err)
	}
	sample = bytes.Replace(sample, []byte("127.0.0.1:7000"), []byte(listen), 1)
	file := filepath.Join(t.TempDir(), "memory.yaml")
	if err := os.WriteFile(file, sample, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	r, w := io.Pipe()
	var stderr bytes.Buffer
	code := make(chan int)
	go func() {
		code <- run(ctx, []string{"node", "-c", file}, w, &stderr)
	}()
	line := make([]byte, 200)
	n, err := r.Read(line)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := string(line[:n]), "node game-1 is ready at "+listen+": 2 services\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	cancel()
	if got := <-code; got != exitOK {
		t.Errorf("exit code %d, want %d; stderr:\n%s", got, exitOK, stderr.String())
	}
}

// A malformed entry is shown as one, and hides nothing.
func TestListShowsMalformedEntries(t *testing.T) {
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
	good, err := record.Encode(record.Record{Address: address, Epoch: 7})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lease.Claim(t.Context(), name("game.lobby"), good, 0); err != nil {
		t.Fatal(err)
	}
	server.Levers().Put(name("game.bad"), []byte("\x1b[2J{"))
	server.Levers().Put(name("game.orphan"), good)
	server.Levers().Put(name("other"), good)

	entries, err := list(t.Context(), backend, family("game."))
	if err != nil {
		t.Fatal(err)
	}
	var table, lines bytes.Buffer
	if err := errors.Join(
		(&lsCommand{}).show(&console{out: &table}, entries),
		(&lsCommand{JSON: true}).show(&console{out: &lines}, entries),
	); err != nil {
		t.Fatal(err)
	}
	want := `NAME         ADDRESS                  EPOCH  HELD
game.bad     malformed                -      no
game.lobby   game-1@10.0.0.5:7000/42  7      yes
game.orphan  game-1@10.0.0.5:7000/42  7      no
game.bad: malformed record: `
	if !strings.HasPrefix(table.String(), want) {
		t.Errorf("got\n%s\nwant\n%s…", table.String(), want)
	}
	for i, want := range []string{
		`{"name":"game.bad","handle":0,"epoch":0,"held":false,"malformed":"malformed record: `,
		`{"name":"game.lobby","node":"game-1","endpoint":"10.0.0.5:7000","handle":42,"epoch":7,"held":true}`,
		`{"name":"game.orphan","node":"game-1","endpoint":"10.0.0.5:7000","handle":42,"epoch":7,"held":false}`,
	} {
		if got := strings.Split(lines.String(), "\n")[i]; !strings.HasPrefix(got, want) {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	if strings.Contains(table.String()+lines.String(), "\x1b") {
		t.Error("an escape sequence of an entry came through")
	}
}

// The demo notices when something is not as it tells: here the time is up
// before the story is.
func TestDemoFailsWhenItGoesOtherwise(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	var stdout, stderr bytes.Buffer
	if code := run(ctx, []string{"demo"}, &stdout, &stderr); code != exitFailure {
		t.Errorf("exit code %d, want %d", code, exitFailure)
	}
	if !strings.Contains(stdout.String(), "✗") || !strings.Contains(stderr.String(), "did not go as told") {
		t.Errorf("stdout:\n%s\nstderr:\n%s", stdout.String(), stderr.String())
	}
}
