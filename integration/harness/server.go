package harness

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

const loopback = "127.0.0.1"

// A Server is one running server with the levers to break it. Its methods end
// the test if the lever fails. They must not be called concurrently.
type Server struct {
	runner runner
	ready  func(context.Context) error
	paused bool
}

// spec says all it takes to run a server, in a container or as a process.
type spec struct {
	image Image
	ports []int             // listened on, the same number inside and outside of a container
	peers peerHost          // where its peers reach it; zero for a server without peers
	files map[string][]byte // name below dir -> content
	// args is the command line; the server listens on host, and finds its
	// files and may keep its data below dir, which is its working directory.
	args func(host, dir string) []string
	// ready asks the server once; it is repeated until it succeeds.
	ready func(context.Context) error
}

// peerHost is where the servers of a cluster reach one of them: an address in
// a Docker network of their own, or loopback if they are processes.
type peerHost struct {
	network string // "" for processes
	ip      string
}

// runner is what a container and a process have in common.
type runner interface {
	start(context.Context) error // also after kill and stop: same ports, same data
	pause(context.Context) error
	unpause(context.Context) error
	kill(context.Context) error
	stop(context.Context) error
	running(context.Context) (bool, error)
	log(context.Context) (string, error)
	remove(context.Context) error // whatever the state
}

const (
	leverTimeout = 30 * time.Second // measured: each lever 0.45 s at most
	readyTimeout = 60 * time.Second // measured: 0.5 s etcd, 3 s Consul; more when tests of several packages share two cores
)

// startServer runs a server until the test ends.
func startServer(tb testing.TB, s spec) *Server {
	tb.Helper()
	mode, err := CurrentMode()
	if err != nil {
		tb.Fatalf("harness: %v", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), buildTimeout)
	defer cancel()
	server := &Server{ready: s.ready}
	dir := tb.TempDir() // before the cleanup of the server, so that it is removed after it
	tb.Cleanup(func() { server.cleanUp(tb) })
	if mode.Containers {
		ref, origin, err := s.image.container(ctx)
		if err != nil {
			tb.Fatalf("harness: %v", err)
		}
		announce(s.image, origin)
		created, err := newContainer(ctx, s, ref)
		if created != nil {
			server.runner = created // removed by cleanUp even if it is only half made
		}
		if err != nil {
			tb.Fatalf("harness: create a container of %s: %v", ref, err)
		}
	} else {
		program, origin, err := s.image.program(ctx, hostOS, mode.arch)
		if err != nil {
			tb.Fatalf("harness: %v", err)
		}
		announce(s.image, origin)
		server.runner, err = newProcess(s, program, dir)
		if err != nil {
			tb.Fatalf("harness: prepare %s: %v", s.image, err)
		}
	}
	server.Start(tb)
	return server
}

// Start starts the server again after Kill or Stop, on the same port and with
// the same data, and returns when it answers.
func (s *Server) Start(tb testing.TB) {
	tb.Helper()
	s.pull(tb, "start", s.runner.start)
	ctx, cancel := context.WithTimeout(context.Background(), readyTimeout)
	defer cancel()
	if err := s.awaitReady(ctx); err != nil {
		tb.Fatalf("harness: the server does not answer: %v", err)
	}
}

func (s *Server) awaitReady(ctx context.Context) error {
	return poll(ctx, func(try context.Context) (done bool, err error) {
		err = s.ready(try)
		if err == nil {
			return true, nil
		}
		if running, stateErr := s.runner.running(ctx); stateErr != nil || !running {
			return true, errors.Join(fmt.Errorf("it has ended by itself: %w", err), stateErr)
		}
		return false, err
	})
}

// poll repeats step, each time with two seconds, until it is done. When ctx
// ends first, the error is the latest one of step.
func poll(ctx context.Context, step func(context.Context) (done bool, err error)) error {
	retry := time.NewTicker(50 * time.Millisecond)
	defer retry.Stop()
	for {
		try, cancel := context.WithTimeout(ctx, 2*time.Second)
		done, err := step(try)
		cancel()
		if done {
			return err
		}
		select {
		case <-retry.C:
		case <-ctx.Done():
			return err
		}
	}
}

// Pause stops the server in its tracks, as SIGSTOP does: connections stay
// open and nothing answers. Unpause lets it go on.
func (s *Server) Pause(tb testing.TB) {
	tb.Helper()
	s.pull(tb, "pause", s.runner.pause)
	s.paused = true
}

// Unpause lets a paused server go on.
func (s *Server) Unpause(tb testing.TB) {
	tb.Helper()
	s.pull(tb, "unpause", s.runner.unpause)
	s.paused = false
}

// Kill ends the server at once, as SIGKILL does; its data stays. The server
// must not be paused.
func (s *Server) Kill(tb testing.TB) {
	tb.Helper()
	s.pull(tb, "kill", s.runner.kill)
}

// Stop asks the server to end, as SIGTERM does, and waits for it; its data
// stays. The server must not be paused.
func (s *Server) Stop(tb testing.TB) {
	tb.Helper()
	s.pull(tb, "stop", s.runner.stop)
}

// Log returns what the server has written to its log so far.
func (s *Server) Log(tb testing.TB) string {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), leverTimeout)
	defer cancel()
	log, err := s.runner.log(ctx)
	if err != nil {
		tb.Fatalf("harness: read the server's log: %v", err)
	}
	return log
}

func (s *Server) pull(tb testing.TB, name string, lever func(context.Context) error) {
	tb.Helper()
	// Not tb.Context(): levers are pulled in cleanups too, when that has ended.
	ctx, cancel := context.WithTimeout(context.Background(), leverTimeout)
	defer cancel()
	if err := lever(ctx); err != nil {
		tb.Fatalf("harness: %s the server: %v", name, err)
	}
}

func (s *Server) cleanUp(tb testing.TB) {
	tb.Helper()
	if s.runner == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), leverTimeout)
	defer cancel()
	if tb.Failed() {
		if log, err := s.runner.log(ctx); err == nil {
			tb.Logf("harness: end of the server's log:\n%s", lastLines(log, 30))
		}
	}
	if s.paused {
		if err := s.runner.unpause(ctx); err != nil {
			tb.Logf("harness: unpause before removal: %v", err)
		}
	}
	if err := s.runner.remove(ctx); err != nil {
		tb.Errorf("harness: the server is left over: %v", err)
	}
}

// freePort returns a port of loopback on which nothing listens. It is taken
// from below the range of ephemeral ports (32768 up on Linux, 49152 up
// elsewhere): while a server is down, no outgoing connection can get its port.
// Nor can another server of this test process: the port is the test's until it
// ends.
func freePort(tb testing.TB) int {
	tb.Helper()
	for range 100 {
		port := 20000 + rand.IntN(12000)
		if _, taken := takenPorts.LoadOrStore(port, true); taken {
			continue
		}
		tb.Cleanup(func() { takenPorts.Delete(port) })
		listener, err := net.Listen("tcp", net.JoinHostPort(loopback, strconv.Itoa(port)))
		if err != nil {
			continue
		}
		if err := listener.Close(); err != nil {
			tb.Fatalf("harness: %v", err)
		}
		return port
	}
	tb.Fatal("harness: no free port between 20000 and 32000 on 127.0.0.1 in 100 tries")
	return 0
}

var takenPorts sync.Map // port -> true

func lastLines(text string, count int) string {
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-count):], "\n")
}
