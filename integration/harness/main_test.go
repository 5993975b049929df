package harness_test

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/seed-6593ebad/skywarden/integration/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }

// nowhere is a Docker engine that does not exist.
const nowhere = "DOCKER_HOST=tcp://127.0.0.1:1"

func TestWithoutEngine(t *testing.T) {
	t.Run("required", func(t *testing.T) {
		output, err := rerun(t, "TestNothing", nowhere, "SKYWARDEN_REQUIRE_CONTAINERS=1", "SKYWARDEN_FORCE_PROCESSES=")
		if err == nil || !strings.Contains(output, "no Docker engine") {
			t.Errorf("the tests ended with %v and this output, want a failure for want of an engine:\n%s", err, output)
		}
	})
	t.Run("not required", func(t *testing.T) {
		output, err := rerun(t, "TestNothing", nowhere, "SKYWARDEN_REQUIRE_CONTAINERS=", "SKYWARDEN_FORCE_PROCESSES=")
		if err != nil {
			t.Fatalf("%v\n%s", err, output)
		}
		lines := strings.Split(strings.TrimSpace(output), "\n")
		for _, line := range []string{lines[0], lines[len(lines)-1]} {
			if !strings.Contains(line, "NO CONTAINERS") {
				t.Errorf("first or last line is %q, want it to say NO CONTAINERS:\n%s", line, output)
			}
		}
	})
	t.Run("contradiction", func(t *testing.T) {
		output, err := rerun(t, "TestNothing", "SKYWARDEN_REQUIRE_CONTAINERS=1", "SKYWARDEN_FORCE_PROCESSES=1")
		if err == nil || !strings.Contains(output, "contradicts") {
			t.Errorf("the tests ended with %v and this output, want a contradiction:\n%s", err, output)
		}
	})
}

// TestNothing is run by TestWithoutEngine, which looks at what Main says.
func TestNothing(*testing.T) {}

// rerun runs one test of this package in a process of its own.
func rerun(t *testing.T, test string, env ...string) (output string, err error) {
	t.Helper()
	command := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+test+"$", "-test.timeout=2m")
	command.Env = append(os.Environ(), env...)
	raw, err := command.CombinedOutput()
	return string(raw), err
}
