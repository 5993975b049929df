package harness

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/moby/moby/client"
	"github.com/testcontainers/testcontainers-go"
	tclog "github.com/testcontainers/testcontainers-go/log"
	"go.uber.org/goleak"
)

// Mode says how the servers run.
type Mode struct {
	Containers bool   // false: child processes
	Reason     string // the engine, or why there is none
	arch       string // GOARCH of the engine's machine
}

// String is one line for the user's eyes; it is loud without containers.
func (m Mode) String() string {
	if m.Containers {
		return "servers run in containers (" + m.Reason + ")"
	}
	return "NO CONTAINERS: the servers run as child processes of the tests (" + m.Reason + ")"
}

// Main runs the tests of a package and exits. It says in its first and in its
// last line how the servers run, fails if SKYWARDEN_REQUIRE_CONTAINERS=1 and
// there is no Docker engine, and fails if a goroutine is left over.
func Main(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) int {
	mode, err := CurrentMode()
	if err != nil {
		fmt.Fprintln(os.Stderr, "harness:", err)
		return 1
	}
	fmt.Fprintln(os.Stderr, "harness:", mode)
	code := m.Run()
	if mode.Containers {
		if engine, err := engine(); err == nil {
			_ = engine.Close() // idle connections only; nothing is lost if that fails
		}
	}
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, "harness:", err)
		code = 1
	}
	fmt.Fprintln(os.Stderr, "harness:", mode)
	return code
}

// CurrentMode decides once per process how servers run. The error says that
// containers are required and cannot be had.
var CurrentMode = sync.OnceValues(func() (Mode, error) {
	required := os.Getenv("SKYWARDEN_REQUIRE_CONTAINERS") == "1"
	if os.Getenv("SKYWARDEN_FORCE_PROCESSES") == "1" {
		if required {
			return Mode{}, errors.New("SKYWARDEN_FORCE_PROCESSES=1 contradicts SKYWARDEN_REQUIRE_CONTAINERS=1: unset one of them")
		}
		return Mode{Reason: "SKYWARDEN_FORCE_PROCESSES=1", arch: runtime.GOARCH}, nil
	}
	mode, err := probeEngine()
	if err == nil {
		return mode, nil
	}
	if required {
		return Mode{}, fmt.Errorf("no Docker engine: %w (start one, or unset SKYWARDEN_REQUIRE_CONTAINERS to run the servers as child processes)", err)
	}
	return Mode{Reason: "no Docker engine: " + firstLine(err.Error()), arch: runtime.GOARCH}, nil
})

func probeEngine() (Mode, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	engine, err := engine()
	if err != nil {
		return Mode{}, err
	}
	version, err := engine.Client().ServerVersion(ctx, client.ServerVersionOptions{})
	if err != nil {
		return Mode{}, err
	}
	if version.Os != "linux" {
		return Mode{}, fmt.Errorf("the engine runs %s containers, the servers need linux", version.Os)
	}
	return Mode{Containers: true, Reason: "Docker engine " + version.Version, arch: version.Arch}, nil
}

// engine is the Docker engine as testcontainers finds it. It is asked once
// per process.
var engine = sync.OnceValues(func() (*testcontainers.DockerProvider, error) {
	tclog.SetDefault(tclog.NewNoopLogger()) // its errors come back as errors; the rest is noise
	for name, value := range map[string]string{
		// The reaper's image would have to be pulled; tests remove their own containers.
		"TESTCONTAINERS_RYUK_DISABLED": "true",
		// With /.dockerenv testcontainers dials the gateway, where nothing is published.
		"TESTCONTAINERS_HOST_OVERRIDE": loopback,
	} {
		if os.Getenv(name) != "" {
			continue
		}
		if err := os.Setenv(name, value); err != nil {
			return nil, err
		}
	}
	provider, err := testcontainers.NewDockerProvider(testcontainers.WithLogger(tclog.NewNoopLogger()))
	if err != nil {
		return nil, err
	}
	// testcontainers looks for another engine when the one that the user names
	// is silent; a user who names one means that one.
	if named, found := os.Getenv("DOCKER_HOST"), provider.Client().DaemonHost(); named != "" && named != found {
		return nil, fmt.Errorf("DOCKER_HOST=%s does not answer", named)
	}
	return provider, nil
})

func firstLine(text string) string {
	line, _, _ := strings.Cut(text, "\n")
	return line
}
