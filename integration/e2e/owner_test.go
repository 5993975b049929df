//go:build unix

package e2e

import (
	"strings"
	"syscall"
	"testing"
	"time"
)

const registered = `"event":"register","result":"ok","name":"game.lobby"`

// TestL1KilledOwner: the name of a process that was killed is free, and taken
// over, within L1.
func TestL1KilledOwner(t *testing.T) {
	onEach(t, testL1KilledOwner)
}

func testL1KilledOwner(t *testing.T, r registry) {
	one, two := &sample{node: "game-1"}, &sample{node: "game-2"}
	owner := start(t, "node", "-c", one.write(t, r))
	owner.await(t, 10*time.Second, registered)
	standby := start(t, "node", "-c", two.write(t, r))
	standby.await(t, 10*time.Second, "standing by for game.lobby")

	killed := time.Now()
	owner.signal(t, syscall.SIGKILL)
	taken := standby.await(t, r.free()+2*time.Second, registered)
	took := taken.at.Sub(killed)
	t.Logf("measured: SIGKILL to taken over by the standby, TTL %s: %s", ttl, took.Round(time.Millisecond))
	if took > r.free() {
		t.Errorf("took %s, want %s at most", took, r.free())
	}
}

// TestL1RestartedOwner: a process that comes back at its old place does not wait
// for the lease of its former life.
func TestL1RestartedOwner(t *testing.T) {
	onEach(t, testL1RestartedOwner)
}

func testL1RestartedOwner(t *testing.T, r registry) {
	one := &sample{now: true}
	file := one.write(t, r)
	owner := start(t, "node", "-c", file)
	owner.await(t, 10*time.Second, "is ready")

	owner.signal(t, syscall.SIGKILL)
	<-owner.exited
	restarted := time.Now()
	again := start(t, "node", "-c", file)
	ready := again.await(t, ttl, "is ready")
	took := ready.at.Sub(restarted)
	t.Logf("measured: start of the process to name back, while its old lease lives: %s", took.Round(time.Millisecond))
	if took > 2*time.Second {
		t.Errorf("took %s, want at once", took)
	}
	// The other way round: a process at another place has to wait, and is told.
	other := &sample{node: "game-9", now: true}
	_, errs := skywarden(t, 1, "node", "-c", other.write(t, r))
	wants(t, errs, "name taken by game-1@"+one.address())
}

// TestS4StoppedOwner: a process that was stopped past its TTL learns that it has
// lost its lease before it does anything else.
func TestS4StoppedOwner(t *testing.T) {
	onEach(t, testS4StoppedOwner)
}

func testS4StoppedOwner(t *testing.T, r registry) {
	one, two := &sample{node: "game-1"}, &sample{node: "game-2"}
	file := one.write(t, r)
	owner := start(t, "node", "-c", file)
	owner.await(t, 10*time.Second, registered)
	standby := start(t, "node", "-c", two.write(t, r))
	standby.await(t, 10*time.Second, "standing by for game.lobby")

	owner.signal(t, syscall.SIGSTOP)
	standby.await(t, r.free()+2*time.Second, registered)
	owner.passed()
	owner.signal(t, syscall.SIGCONT)
	first := owner.await(t, 5*time.Second, `"name":"game.lobby"`)
	if !hasAll(first.text, []string{`"event":"suspended"`, `"result":"lease_lost"`}) {
		t.Errorf("first line about the name after SIGCONT is %s", first.text)
	}
	owner.await(t, 10*time.Second, `"event":"lost"`, "game-2@"+two.address())
	if out, _ := skywarden(t, 0, "get", "-c", file, "game.lobby"); !strings.HasPrefix(out, "game-2@") {
		t.Errorf("get: %q", out)
	}
	owner.end(t)
}
