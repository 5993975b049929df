//go:build unix

package e2e

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/seed-6593ebad/skywarden/configs"
	"github.com/seed-6593ebad/skywarden/integration/harness"
)

// startEtcd runs an etcd whose access control is what configs/etcd-roles.txt
// says, letter by letter.
func startEtcd(t *testing.T) *harness.Etcd {
	t.Helper()
	etcd := harness.StartEtcd(t, harness.EtcdOptions{NoAuth: true})
	applyRoles(t, etcd, configs.EtcdRoles)
	return etcd
}

// applyRoles does what etcdctl does with each line.
func applyRoles(t *testing.T, etcd *harness.Etcd, commands string) {
	t.Helper()
	applied := 0
	for line := range strings.Lines(commands) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			applyRole(t, etcd.Admin, line)
			applied++
		}
	}
	if applied == 0 {
		t.Fatal("etcd-roles.txt has no commands")
	}
}

// applyRole does what etcdctl does with these arguments.
func applyRole(t *testing.T, admin *clientv3.Client, line string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	words := strings.Fields(line)
	arg := func(i int) string {
		if i >= len(words) {
			t.Fatalf("etcd-roles.txt: %q has too few arguments", line)
		}
		return words[i]
	}
	var err error
	switch command := arg(0) + " " + arg(1); {
	case command == "auth enable":
		_, err = admin.AuthEnable(ctx)
	case command == "role add":
		_, err = admin.RoleAdd(ctx, arg(2))
	case command == "user add" && arg(3) == "--no-password":
		_, err = admin.UserAddWithOptions(ctx, arg(2), "", &clientv3.UserAddOptions{NoPassword: true})
	case command == "user grant-role":
		_, err = admin.UserGrantRole(ctx, arg(2), arg(3))
	case command == "role grant-permission":
		access, known := map[string]clientv3.PermissionType{
			"read": clientv3.PermissionType(clientv3.PermRead), "readwrite": clientv3.PermissionType(clientv3.PermReadWrite),
		}[arg(3)]
		end := ""
		switch {
		case len(words) == 6 && arg(5) == "--prefix=true":
			end = clientv3.GetPrefixRangeEnd(arg(4))
		case len(words) == 6:
			end = arg(5)
		case len(words) != 5:
			known = false
		}
		if !known {
			t.Fatalf("etcd-roles.txt: %q is not understood", line)
		}
		_, err = admin.RoleGrantPermission(ctx, arg(2), arg(4), end, access)
	default:
		t.Fatalf("etcd-roles.txt: %q is not understood", line)
	}
	if err != nil {
		t.Fatalf("etcd-roles.txt: %q: %v", line, err)
	}
}

// A sample is configs/etcd.yaml with what differs from node to node.
type sample struct {
	node    string // "game-1" where empty
	user    string // "game" where empty
	port    int    // a free one where 0
	service string // "game.lobby" where empty
	now     bool   // the service does not stand by
	change  []string
}

// write puts the sample and its certificates into a directory of their own, and
// gives the file's path.
func (s *sample) write(t *testing.T, etcd *harness.Etcd) string {
	t.Helper()
	if s.node == "" {
		s.node = "game-1"
	}
	if s.user == "" {
		s.user = "game"
	}
	if s.port == 0 {
		s.port = freePort(t)
	}
	if s.service == "" {
		s.service = "game.lobby"
	}
	dir := t.TempDir()
	etcd.CA.WriteFile(t, dir, "ca")
	etcd.CA.Client(t, s.user).WriteFiles(t, dir, s.user)
	changes := append([]string{
		"node: game-1", "node: " + s.node,
		"listen: 127.0.0.1:7000", "listen: " + s.address(),
		"advertise: 127.0.0.1:7000", "advertise: " + s.address(),
		"https://127.0.0.1:2379", etcd.Endpoints()[0],
		"cert: game.pem", "cert: " + s.user + ".pem",
		"{file: game-key.pem}", "{file: " + s.user + "-key.pem}",
		"name: game.lobby", "name: " + s.service,
	}, s.change...)
	if s.now {
		changes = append(changes, "standby: true", "standby: false")
	}
	text := configs.EtcdSample
	for i := 0; i < len(changes); i += 2 {
		if !strings.Contains(text, changes[i]) {
			t.Fatalf("configs/etcd.yaml does not say %q any more", changes[i])
		}
		text = strings.ReplaceAll(text, changes[i], changes[i+1])
	}
	file := filepath.Join(dir, "etcd.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func (s *sample) address() string { return fmt.Sprintf("127.0.0.1:%d", s.port) }

// freePort finds a port that the sample's allow-list permits.
func freePort(t *testing.T) int {
	t.Helper()
	for port := 7000; port <= 7999; port++ {
		if used[port] {
			continue
		}
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			continue
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		used[port] = true
		return port
	}
	t.Fatal("no free port from 7000 to 7999")
	return 0
}

// used are the ports that were given out. Tests of this package do not run in
// parallel.
var used = map[int]bool{}
