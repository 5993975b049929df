package harness

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"time"
)

const hostOS = runtime.GOOS

// process runs a server as a child process of the test.
type process struct {
	program string
	args    []string
	dir     string

	command *exec.Cmd     // the latest start
	ended   chan struct{} // closed once command was waited for
}

// newProcess prepares a server and does not start it.
func newProcess(s spec, program, dir string) (*process, error) {
	for name, content := range s.files {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			return nil, err
		}
	}
	return &process{program: program, args: s.args(loopback, dir), dir: dir}, nil
}

func (p *process) start(context.Context) error {
	if p.command != nil && !p.hasEnded() {
		return errors.New("it is running already")
	}
	log, err := os.OpenFile(p.logFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close() // the child has its own descriptor
	command := exec.Command(p.program, p.args...)
	command.Dir, command.Stdout, command.Stderr = p.dir, log, log
	command.SysProcAttr = childAttributes()
	if err := command.Start(); err != nil {
		return err
	}
	ended := make(chan struct{})
	p.command, p.ended = command, ended
	go func() {
		defer close(ended)
		_ = command.Wait() // killed, stopped or fallen: the log says why
	}()
	return nil
}

func (p *process) pause(context.Context) error   { return suspend(p.command.Process) }
func (p *process) unpause(context.Context) error { return resume(p.command.Process) }

func (p *process) kill(ctx context.Context) error {
	if err := p.command.Process.Kill(); err != nil {
		return err
	}
	return p.await(ctx)
}

func (p *process) stop(ctx context.Context) error {
	if err := terminate(p.command.Process); err != nil {
		return err
	}
	grace, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if p.await(grace) == nil {
		return nil
	}
	return p.kill(ctx)
}

func (p *process) running(context.Context) (bool, error) { return !p.hasEnded(), nil }

func (p *process) log(context.Context) (string, error) {
	text, err := os.ReadFile(p.logFile())
	return string(text), err
}

func (p *process) remove(ctx context.Context) error {
	if p.command == nil || p.hasEnded() {
		return nil
	}
	return p.kill(ctx) // the files go with the test's directory
}

func (p *process) logFile() string { return filepath.Join(p.dir, "server.log") }

func (p *process) hasEnded() bool {
	select {
	case <-p.ended:
		return true
	default:
		return false
	}
}

func (p *process) await(ctx context.Context) error {
	select {
	case <-p.ended:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("process %d does not end: %w", p.command.Process.Pid, ctx.Err())
	}
}
