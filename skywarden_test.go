package skywarden_test

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"github.com/seed-6593ebad/skywarden"
	"github.com/seed-6593ebad/skywarden/adapter"
	"github.com/seed-6593ebad/skywarden/backends/memory"
	"github.com/seed-6593ebad/skywarden/naming"
	"github.com/seed-6593ebad/skywarden/runtime"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// start starts a node that says nothing, and closes it with the test.
func start(t *testing.T, cfg skywarden.Config) *skywarden.Node {
	t.Helper()
	cfg.Logger = zerolog.Nop()
	n, err := skywarden.New(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = n.Close(context.Background()) })
	return n
}

// who spawns a service that answers with its node's name.
func who(t *testing.T, n *skywarden.Node, opts ...skywarden.SpawnOption) skywarden.Ref {
	t.Helper()
	ref, err := n.Spawn(func(c *skywarden.Context, _ any) error { return c.Reply(n.ID().String()) }, opts...)
	if err != nil {
		t.Fatal(err)
	}
	return ref
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); {
		if time.Now().After(deadline) {
			t.Fatalf("not within 10 s: %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// TestTheZeroConfigWorks: one node, nothing to set.
func TestTheZeroConfigWorks(t *testing.T) {
	n := start(t, skywarden.Config{})
	if err := n.Register(t.Context(), "bank", who(t, n)); err != nil {
		t.Fatal(err)
	}
	ref, err := n.Lookup(t.Context(), "BANK")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := skywarden.Call[string](t.Context(), ref, ""); err != nil || got != n.ID().String() {
		t.Errorf("got %q, %v", got, err)
	}
	if n.Principal() != "local" {
		t.Errorf("principal %q", n.Principal())
	}
}

func TestBadConfig(t *testing.T) {
	for name, c := range map[string]struct {
		cfg  skywarden.Config
		says string
	}{
		"node":                 {skywarden.Config{Node: "a b"}, "Node: invalid name"},
		"listen, no port":      {skywarden.Config{Listen: "127.0.0.1"}, "is not IP:PORT"},
		"listen, host name":    {skywarden.Config{Listen: "localhost:0"}, "host names are not accepted"},
		"listen, foreign IP":   {skywarden.Config{Listen: "192.0.2.1:0"}, "Listen: "},
		"advertise missing":    {skywarden.Config{Listen: "0.0.0.0:0"}, "Advertise: is missing"},
		"advertise host name":  {skywarden.Config{Advertise: "game.example:1"}, "Advertise: address not allowed"},
		"advertise unspecific": {skywarden.Config{Advertise: "0.0.0.0:7000"}, "unspecified"},
		"TTL":                  {skywarden.Config{TTL: time.Millisecond}, "TTL 1ms"},
		"mailbox":              {skywarden.Config{MailboxSize: -1}, "MailboxSize: -1"},
	} {
		t.Run(name, func(t *testing.T) {
			n, err := skywarden.New(t.Context(), c.cfg)
			if err == nil {
				_ = n.Close(t.Context())
				t.Fatal("accepted")
			}
			if !strings.Contains(err.Error(), c.says) {
				t.Errorf("error %q does not say %q", err, c.says)
			}
		})
	}
}

// TestBadConfigIsToldAtOnce: all that is wrong, in one error.
func TestBadConfigIsToldAtOnce(t *testing.T) {
	_, err := skywarden.New(t.Context(), skywarden.Config{
		Node: "-", Listen: "x", MailboxSize: -1, TTL: time.Millisecond, MaxStale: -1, Mirror: []naming.Scope{{}},
	})
	if err == nil {
		t.Fatal("accepted")
	}
	for _, part := range []string{"Node: ", "Listen: ", "MailboxSize", "TTL", "MaxStale", "Mirror"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%q does not mention %s", err, part)
		}
	}
}

// TestCloseFromInside is refused, and nothing is closed.
func TestCloseFromInside(t *testing.T) {
	n := start(t, skywarden.Config{})
	ref, err := n.Spawn(func(c *skywarden.Context, _ any) error { return n.Close(c) })
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ref.Call(t.Context(), nil); !errors.Is(err, runtime.ErrSelf) {
		t.Errorf("got %v", err)
	}
	if err := n.Register(t.Context(), "bank", ref); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

// TestNewClosesTheBackendWhenItFails: it owns it.
func TestNewClosesTheBackendWhenItFails(t *testing.T) {
	var srv memory.Server
	b := srv.Open()
	if _, err := skywarden.New(t.Context(), skywarden.Config{Backend: b, Node: "-"}); err == nil {
		t.Fatal("accepted")
	}
	if _, err := b.Lease(t.Context(), 0); !errors.Is(err, naming.ErrClosed) {
		t.Errorf("the backend is open: %v", err)
	}
}

// TestEndpointIsExclusive: two nodes cannot have one endpoint, and a stranger who
// connects is shown the door.
func TestEndpointIsExclusive(t *testing.T) {
	n := start(t, skywarden.Config{})
	if other, err := skywarden.New(t.Context(), skywarden.Config{Listen: n.Endpoint().String()}); err == nil {
		_ = other.Close(t.Context())
		t.Error("a second node has the same endpoint")
	}
	conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", n.Endpoint().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
	if k, err := conn.Read(make([]byte, 1)); k != 0 || err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("read %d bytes, %v; want the connection closed", k, err)
	}
}

// TestListener: a node takes an endpoint that is bound already, and closes it.
func TestListener(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	n := start(t, skywarden.Config{Listener: listener})
	if got := n.Endpoint().String(); got != listener.Addr().String() {
		t.Errorf("the endpoint is %s, want %s", got, listener.Addr())
	}
	if err := n.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := listener.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("the listener is open: %v", err)
	}
}

// TestNewClosesTheListenerWhenItFails: it owns it.
func TestNewClosesTheListenerWhenItFails(t *testing.T) {
	for says, listen := range map[string]func() (net.Listener, string, error){
		"Listener is given as well": func() (net.Listener, string, error) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			return l, "127.0.0.1:0", err
		},
		"is no IP:PORT of TCP": func() (net.Listener, string, error) {
			l, err := net.Listen("unix", filepath.Join(t.TempDir(), "socket"))
			return l, "", err
		},
		"Advertise: is missing": func() (net.Listener, string, error) {
			l, err := net.Listen("tcp", "0.0.0.0:0")
			return l, "", err
		},
	} {
		t.Run(says, func(t *testing.T) {
			listener, listen, err := listen()
			if err != nil {
				t.Fatal(err)
			}
			_, err = skywarden.New(t.Context(), skywarden.Config{Listener: listener, Listen: listen})
			if err == nil || !strings.Contains(err.Error(), says) {
				t.Errorf("got %v", err)
			}
			if _, err := listener.Accept(); !errors.Is(err, net.ErrClosed) {
				t.Errorf("the listener is open: %v", err)
			}
		})
	}
}

// TestDefaultNodeNameIsStable: with a fixed port it is the same after a restart.
func TestDefaultNodeNameIsStable(t *testing.T) {
	n := start(t, skywarden.Config{})
	id, endpoint := n.ID(), n.Endpoint().String()
	if err := n.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if again := start(t, skywarden.Config{Listen: endpoint}); again.ID() != id {
		t.Errorf("%s became %s", id, again.ID())
	}
}

// TestOwnerDiesStandbyTakesOver is the main job from end to end: an owner that is
// cut off stops answering before its standby begins, callers follow the name, and
// the old owner's service is told.
func TestOwnerDiesStandbyTakesOver(t *testing.T) {
	var srv memory.Server
	cut := srv.Open()
	a := start(t, skywarden.Config{Node: "a", Backend: cut, TTL: 2 * time.Second})
	b := start(t, skywarden.Config{Node: "b", Backend: srv.Open(), TTL: 2 * time.Second})
	client := start(t, skywarden.Config{Node: "client", Backend: srv.Open()})

	var mu sync.Mutex
	var told []string
	owner := who(t, a, skywarden.OnName(func(_ *skywarden.Context, e skywarden.NameEvent) {
		mu.Lock()
		defer mu.Unlock()
		told = append(told, e.Kind.String())
	}))
	if err := a.Register(t.Context(), "bank", owner); err != nil {
		t.Fatal(err)
	}
	won := make(chan error, 1)
	go func() { won <- b.Register(t.Context(), "bank", who(t, b), skywarden.Standby()) }()
	ref, err := client.Query(t.Context(), "bank")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := skywarden.Call[string](t.Context(), ref, ""); got != "a" {
		t.Fatalf("answered by %q, %v", got, err)
	}

	srv.Levers().Cut(cut)
	last := ""
	eventually(t, "b answers", func() bool {
		got, err := skywarden.Call[string](t.Context(), ref, "")
		switch {
		case err == nil && got == "a" && last == "b":
			t.Error("a answered after b")
		case err != nil && !errors.Is(err, naming.ErrFenced) && !errors.Is(err, naming.ErrLeaseLost) && !errors.Is(err, naming.ErrNotFound):
			t.Errorf("call: %v", err)
		}
		last = got
		return got == "b"
	})
	if err := <-won; err != nil {
		t.Error(err)
	}
	srv.Levers().Heal(cut)
	eventually(t, "a's service is told", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(told) == 2 && told[0] == "suspended" && told[1] == "lost"
	})
	// The service itself lives on, by its handle.
	if got, err := skywarden.Call[string](t.Context(), owner, ""); got != "a" {
		t.Errorf("by handle: %q, %v", got, err)
	}
}

// TestL5CloseWithBackendDown returns within 3 s although the server is away.
func TestL5CloseWithBackendDown(t *testing.T) {
	var srv memory.Server
	n := start(t, skywarden.Config{Backend: srv.Open()})
	for name := range strings.FieldsSeq("a b c d e f g h") {
		if err := n.Register(t.Context(), name, who(t, n)); err != nil {
			t.Fatal(err)
		}
	}
	srv.Levers().Pause()
	defer srv.Levers().Resume()
	begin := time.Now()
	if err := n.Close(t.Context()); !errors.Is(err, naming.ErrUnavailable) {
		t.Errorf("Close says %v", err)
	}
	if d := time.Since(begin); d > 4*time.Second {
		t.Errorf("took %s; L5 says 3 s, and 1 s of slack", d)
	}
	if err := n.Close(t.Context()); !errors.Is(err, naming.ErrUnavailable) {
		t.Errorf("the second Close says %v", err)
	}
}

// TestEveryAttemptIsTold: also registrations that never reach the name server.
func TestEveryAttemptIsTold(t *testing.T) {
	var mu sync.Mutex
	var told []string
	n := start(t, skywarden.Config{Observers: []skywarden.Observer{adapter.ObserverFunc(func(e skywarden.Event) {
		mu.Lock()
		defer mu.Unlock()
		told = append(told, string(e.Kind)+" "+e.Name.String()+" "+naming.Code(e.Err))
	})}})
	svc, gone := who(t, n), who(t, n)
	if err := n.Kill(gone); err != nil {
		t.Fatal(err)
	}
	_ = n.Register(t.Context(), "bank", svc)
	_ = n.Register(t.Context(), "bank", svc)
	_ = n.Register(t.Context(), "bank", who(t, n))
	_ = n.Register(t.Context(), "a/b", svc)
	_ = n.Register(t.Context(), "shop", gone)
	mu.Lock()
	defer mu.Unlock()
	want := []string{"register bank ok", "register bank taken", "register bank taken", "register  name_invalid", "register shop internal"}
	if !slices.Equal(told, want) {
		t.Errorf("told %q, want %q", told, want)
	}
}

// TestPanickedServiceFreesItsName, so that a standby takes over.
func TestPanickedServiceFreesItsName(t *testing.T) {
	var srv memory.Server
	panicked := make(chan skywarden.Panic, 1)
	a := start(t, skywarden.Config{Node: "a", Backend: srv.Open(), OnPanic: func(p skywarden.Panic) { panicked <- p }})
	b := start(t, skywarden.Config{Node: "b", Backend: srv.Open()})
	bad, err := skywarden.Spawn(a, func(*skywarden.Context, string) error { panic("boom") })
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Register(t.Context(), "bank", bad); err != nil {
		t.Fatal(err)
	}
	won := make(chan error, 1)
	go func() { won <- b.Register(t.Context(), "bank", who(t, b), skywarden.Standby()) }()
	if _, err := bad.Call(t.Context(), ""); !errors.Is(err, runtime.ErrPanicked) {
		t.Errorf("the caller got %v", err)
	}
	if p := <-panicked; p.Value != "boom" || len(p.Names) != 1 {
		t.Errorf("told %+v", p)
	}
	if err := <-won; err != nil {
		t.Error(err)
	}
}
