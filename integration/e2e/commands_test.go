//go:build unix

package e2e

import (
	"encoding/json"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestCommands is the way of a user: the sample files, two nodes, and every
// command that shows or holds names.
func TestCommands(t *testing.T) {
	etcd := startEtcd(t)
	one, two := &sample{node: "game-1"}, &sample{node: "game-2"}
	file1, file2 := one.write(t, etcd), two.write(t, etcd)

	node1 := start(t, "node", "-c", file1)
	node1.await(t, 10*time.Second, "node game-1 is ready at "+one.address(), "1 service", "standing by for game.lobby")
	node1.passed()
	await(t, func() bool { return strings.Contains(node1.output(), `"event":"register","result":"ok"`) })
	node2 := start(t, "node", "-c", file2)
	node2.await(t, 10*time.Second, "node game-2 is ready at "+two.address())

	address := "game-1@" + one.address() + "/1"
	t.Run("ls", func(t *testing.T) {
		out, _ := skywarden(t, 0, "ls", "-c", file2)
		want := strings.Join([]string{"NAME", "ADDRESS", "EPOCH", "HELD", "game.lobby", address}, " ")
		if got := strings.Join(strings.Fields(out), " "); !strings.HasPrefix(got, want) || !strings.HasSuffix(got, " yes") {
			t.Errorf("got\n%s\nwant %s … yes", out, want)
		}
		out, _ = skywarden(t, 0, "ls", "-c", file2, "--json", "game.")
		var l struct {
			Name, Node, Endpoint string
			Handle               int
			Epoch                uint64
			Held                 bool
		}
		if err := json.Unmarshal([]byte(out), &l); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		if l.Name != "game.lobby" || l.Node != "game-1" || l.Endpoint != one.address() || l.Handle != 1 || l.Epoch == 0 || !l.Held {
			t.Errorf("got %s", out)
		}
		if out, _ = skywarden(t, 0, "ls", "-c", file2, "--json", "billing"); out != "" {
			t.Errorf("ls billing: got %s", out)
		}
	})
	t.Run("get", func(t *testing.T) {
		if out, _ := skywarden(t, 0, "get", "-c", file2, "game.lobby"); out != address+"\n" {
			t.Errorf("got %q, want %q", out, address)
		}
		out, _ := skywarden(t, 0, "get", "-c", file2, "--json", "Game.Lobby")
		if want := fmt.Sprintf(`{"name":"game.lobby","node":"game-1","endpoint":%q,"handle":1,"epoch":`, one.address()); !strings.HasPrefix(out, want) {
			t.Errorf("got %s, want %s…", out, want)
		}
		_, errs := skywarden(t, 3, "get", "-c", file2, "game.nobody")
		wants(t, errs, "not found", "hint: skywarden ls")
		_, errs = skywarden(t, 3, "get", "-c", file2, "--wait", "300ms", "game.nobody")
		wants(t, errs, "nobody took game.nobody within 300ms")
		_, errs = skywarden(t, 4, "get", "-c", file2, "elsewhere")
		wants(t, errs, "elsewhere: name not allowed", "hint: see allow")
	})
	t.Run("hold", func(t *testing.T) {
		billing := &sample{node: "legacy-1", user: "billing"}
		file := billing.write(t, etcd)
		waiting := start(t, "get", "-c", file2, "--wait", "20s", "billing")
		hold := start(t, "hold", "-c", file, "billing", "--addr", "10.0.0.9:8080")
		hold.await(t, 10*time.Second, "billing: held at legacy-1@10.0.0.9:8080/0, epoch ")
		waiting.await(t, 5*time.Second, "legacy-1@10.0.0.9:8080/0")
		// Held once: not by another address, but the same service may come again.
		_, errs := skywarden(t, 1, "hold", "-c", file, "billing", "--addr", "10.0.0.10:8080")
		wants(t, errs, "name taken by legacy-1@10.0.0.9:8080/0", "hint: a standby waits")
		hold.signal(t, syscall.SIGINT)
		<-hold.exited
		if code := hold.cmd.ProcessState.ExitCode(); code != 0 {
			t.Errorf("exit code %d after SIGINT, want 0", code)
		}
		skywarden(t, 3, "get", "-c", file2, "billing")
	})
	t.Run("denied", func(t *testing.T) {
		// By the allow-list of the file.
		_, errs := skywarden(t, 4, "hold", "-c", file1, "billing", "--addr", "10.0.0.9:8080")
		wants(t, errs, "name not allowed", `principal "game"`, "hint: see allow")
		_, errs = skywarden(t, 4, "hold", "-c", file1, "game.x", "--addr", "192.0.2.1:7001")
		wants(t, errs, "address not allowed")
		// By the server, where the file was edited to allow it.
		edited := &sample{change: []string{"owners: [billing]", "owners: [billing, game]"}}
		_, errs = skywarden(t, 4, "hold", "-c", edited.write(t, etcd), "billing", "--addr", "10.0.0.9:8080")
		wants(t, errs, "permission denied", "hint: the server's access control")
		// Nobody without a certificate of a known user gets in.
		stranger := &sample{user: "mallory"}
		_, errs = skywarden(t, 4, "ls", "-c", stranger.write(t, etcd))
		wants(t, errs, "hint: ")
	})
	t.Run("interrupt", func(t *testing.T) {
		released := time.Now()
		node1.end(t)
		taken := node2.await(t, 5*time.Second, `"event":"register","result":"ok","name":"game.lobby"`)
		t.Logf("measured: SIGTERM to taken over by the standby: %s", taken.at.Sub(released).Round(time.Millisecond))
		if out, _ := skywarden(t, 0, "get", "-c", file2, "game.lobby"); out != "game-2@"+two.address()+"/1\n" {
			t.Errorf("get: %q", out)
		}
		node2.end(t)
		skywarden(t, 3, "get", "-c", file2, "game.lobby")
		leases, err := etcd.Admin.Leases(t.Context())
		if err != nil || len(leases.Leases) != 0 {
			t.Errorf("leases left on the server: %v, %v", leases, err)
		}
	})
}

func wants(t *testing.T, got string, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(got, part) {
			t.Errorf("got\n%s\nwant %q in it", got, part)
		}
	}
}

// await waits until done, for 10 s.
func await(t *testing.T, done func() bool) {
	t.Helper()
	timeout, tick := time.After(10*time.Second), time.NewTicker(10*time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-tick.C:
		case <-timeout:
			t.Fatal("this did not happen within 10s")
		}
	}
}
