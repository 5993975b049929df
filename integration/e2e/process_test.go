//go:build unix

package e2e

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// program builds the command once, beside the test binary, where the go tool
// removes both. It is built in its own module, as users do.
var program = sync.OnceValues(func() (string, error) {
	binary, err := filepath.Abs(os.Args[0])
	if err != nil {
		return "", err
	}
	path := filepath.Join(filepath.Dir(binary), "skywarden-under-test")
	build := exec.Command("go", "build", "-o", path, "./cmd/skywarden")
	build.Dir = filepath.Join("..", "..")
	if output, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the command: %w\n%s", err, output)
	}
	return path, nil
})

// A process is a running skywarden.
type process struct {
	cmd     *exec.Cmd
	exited  chan struct{}
	mu      sync.Mutex
	lines   []line
	next    int           // the first that await has not looked at
	changed chan struct{} // closed and replaced with each line
}

type line struct {
	text string
	at   time.Time
}

// start runs skywarden in the background until the test ends.
func start(t *testing.T, args ...string) *process {
	t.Helper()
	path, err := program()
	if err != nil {
		t.Fatal(err)
	}
	p := &process{cmd: exec.Command(path, args...), exited: make(chan struct{}), changed: make(chan struct{})}
	r, w := io.Pipe()
	p.cmd.Stdout, p.cmd.Stderr = w, w
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	read := make(chan struct{})
	go func() {
		defer close(read)
		for s := bufio.NewScanner(r); s.Scan(); {
			p.add(s.Text())
		}
	}()
	go func() {
		defer close(p.exited)
		_ = p.cmd.Wait() // exit looks at the state
		_ = w.Close()
		<-read
	}()
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill() // it may have ended; a stopped process dies as well
		<-p.exited
		if t.Failed() {
			t.Logf("output of skywarden %s:\n%s", strings.Join(args, " "), p.output())
		}
	})
	return p
}

func (p *process) add(text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lines = append(p.lines, line{text, time.Now()})
	close(p.changed)
	p.changed = make(chan struct{})
}

func (p *process) output() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var b strings.Builder
	for _, l := range p.lines {
		b.WriteString(l.at.Format("05.000 ") + l.text + "\n")
	}
	return b.String()
}

// await waits until the process writes a line that has all parts, and gives it.
// Lines that an earlier await passed do not count.
func (p *process) await(t *testing.T, within time.Duration, parts ...string) line {
	t.Helper()
	timeout := time.After(within)
	for {
		p.mu.Lock()
		for p.next < len(p.lines) {
			l := p.lines[p.next]
			p.next++
			if hasAll(l.text, parts) {
				p.mu.Unlock()
				return l
			}
		}
		changed := p.changed
		p.mu.Unlock()
		select {
		case <-changed:
		case <-timeout:
			t.Fatalf("no line with %q within %s", parts, within)
		}
	}
}

func hasAll(s string, parts []string) bool {
	for _, part := range parts {
		if !strings.Contains(s, part) {
			return false
		}
	}
	return true
}

// passed forgets what the process wrote so far.
func (p *process) passed() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.next = len(p.lines)
}

func (p *process) signal(t *testing.T, s syscall.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		t.Fatalf("signal %s: %v", s, err)
	}
}

// end interrupts the process and demands that it ends well.
func (p *process) end(t *testing.T) {
	t.Helper()
	p.signal(t, syscall.SIGTERM)
	select {
	case <-p.exited:
	case <-time.After(10 * time.Second):
		t.Fatal("the process does not end 10 s after SIGTERM")
	}
	if code := p.cmd.ProcessState.ExitCode(); code != 0 {
		t.Fatalf("exit code %d after SIGTERM, want 0", code)
	}
}

// skywarden runs one command to its end and demands an exit code.
func skywarden(t *testing.T, code int, args ...string) (stdout, stderr string) {
	t.Helper()
	path, err := program()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		if _, ok := errors.AsType[*exec.ExitError](err); !ok {
			t.Fatalf("skywarden %s: %v", strings.Join(args, " "), err)
		}
	}
	if got := cmd.ProcessState.ExitCode(); got != code {
		t.Fatalf("skywarden %s: exit code %d, want %d\nstdout:\n%s\nstderr:\n%s", strings.Join(args, " "), got, code, out.String(), errs.String())
	}
	return out.String(), errs.String()
}
