package configs_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/seed-6593ebad/skywarden"
	"github.com/seed-6593ebad/skywarden/configs"
	"github.com/seed-6593ebad/skywarden/naming"
)

// A file becomes a running node, which does what the file says.
func TestOpen(t *testing.T) {
	t.Setenv("SKYWARDEN_TEST_LISTEN", freeEndpoint())
	file := write(t, `
node: game-1
listen: {env: SKYWARDEN_TEST_LISTEN}
advertise: 127.0.0.1:7444
backend: {memory: {}}
allow:
  - {name: game., owners: [local], addresses: [127.0.0.0/8], ports: [7000-7999]}
`)
	var seen []skywarden.Event
	node, err := configs.Open(t.Context(), file, func(c *skywarden.Config) {
		c.Logger = zerolog.Nop()
		c.Observers = []skywarden.Observer{observer(func(e skywarden.Event) { seen = append(seen, e) })}
	})
	if err != nil {
		t.Fatal(err)
	}
	ref, err := node.Spawn(func(c *skywarden.Context, msg any) error { return c.Reply(msg) })
	if err != nil {
		t.Fatal(err)
	}
	if err := node.Register(t.Context(), "game.lobby", ref); err != nil {
		t.Errorf("a name that the file allows: %v", err)
	}
	if err := node.Register(t.Context(), "billing", ref); !errors.Is(err, naming.ErrNameNotAllowed) {
		t.Errorf("a name that the file does not allow: %v, want %v", err, naming.ErrNameNotAllowed)
	}
	if got := node.ID().String() + "@" + node.Endpoint().String(); got != "game-1@127.0.0.1:7444" {
		t.Errorf("the node is %s", got)
	}
	if err := node.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if len(seen) < 2 {
		t.Errorf("the observer saw %v", seen)
	}
}

func TestOpenRefuses(t *testing.T) {
	head := "node: game-1\nlisten: " + freeEndpoint() + "\n"
	for _, test := range []struct{ file, want string }{
		{head + "backend: {memory: {}}\nservices: [{name: game.lobby, kind: echo}]\n", "services: this program runs no services of a file"},
		{head + "backend: {memory: {}}\nttl: 10ms\n", `ttl: "10ms" is too short for memory (write 1s or more)`},
	} {
		file := write(t, test.file)
		node, err := configs.Open(t.Context(), file)
		if node != nil || err == nil || !strings.HasPrefix(err.Error(), file) || !strings.Contains(err.Error(), test.want) {
			t.Errorf("got %v, %v, want %q after the name of the file", node, err, test.want)
		}
	}
}

func TestLogger(t *testing.T) {
	var out bytes.Buffer
	jsonLog := configs.Config{Log: configs.Log{Level: zerolog.WarnLevel}}
	log := jsonLog.Logger(&out)
	log.Info().Msg("not this")
	log.Warn().Str("name", "game.lobby").Msg("this")
	var line struct{ Level, Time, Name, Message string }
	if err := json.Unmarshal(out.Bytes(), &line); err != nil {
		t.Fatalf("%v: %s", err, out.String())
	}
	if at, err := time.Parse("2006-01-02T15:04:05.000Z07:00", line.Time); err != nil || time.Since(at) > time.Minute {
		t.Errorf("time %q: %v", line.Time, err)
	}
	if line.Level != "warn" || line.Name != "game.lobby" || line.Message != "this" {
		t.Errorf("got %s", out.String())
	}
	out.Reset()
	consoleLog := configs.Config{Log: configs.Log{Level: zerolog.InfoLevel, Console: true}}
	log = consoleLog.Logger(&out)
	log.Info().Msg("for people")
	if got := out.String(); !strings.HasSuffix(got, " INF for people\n") {
		t.Errorf("got %q, want no colours where there is no terminal", got)
	}
}

func Example() {
	dir, err := os.MkdirTemp("", "skywarden")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, "skywarden.yaml")
	if err := os.WriteFile(file, fmt.Appendf(nil, `
node: game-1
listen: %s
backend: {memory: {}}
log: {level: warn, format: console}
`, freeEndpoint()), 0o600); err != nil {
		fmt.Println(err)
		return
	}
	ctx := context.Background()
	node, err := configs.Open(ctx, file)
	if err != nil {
		fmt.Println(err) // all that is wrong with the file, each with its line
		return
	}
	defer node.Close(ctx)
	fmt.Println(node.ID(), "runs")
	// Output: game-1 runs
}

type observer func(skywarden.Event)

func (o observer) Observe(e skywarden.Event) { o(e) }

// freeEndpoint gives an endpoint that nobody has bound a moment ago, or "".
func freeEndpoint() string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return ""
	}
	defer l.Close()
	return l.Addr().String()
}

func write(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "skywarden.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}
