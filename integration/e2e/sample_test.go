//go:build unix

package e2e

import (
	"cmp"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A sample is a sample file with what differs from node to node.
type sample struct {
	node    string // "game-1" where empty
	user    string // the principal, "game" where empty
	port    int    // a free one where 0
	service string // "game.lobby" where empty
	now     bool   // the service does not stand by
	change  []string
}

// write puts the sample for r, and the credential of its user, into a directory
// of their own, and gives the file's path.
func (s *sample) write(t *testing.T, r registry) string {
	t.Helper()
	dir := t.TempDir()
	s.user = cmp.Or(s.user, "game")
	return s.writeInto(t, dir, r.sample(t, dir, s.user))
}

// writeInto writes the text with its changes, given in pairs.
func (s *sample) writeInto(t *testing.T, dir, text string, more ...string) string {
	t.Helper()
	s.node, s.user, s.service = cmp.Or(s.node, "game-1"), cmp.Or(s.user, "game"), cmp.Or(s.service, "game.lobby")
	if s.port == 0 {
		s.port = freePort(t)
	}
	changes := append([]string{
		"node: game-1", "node: " + s.node,
		"listen: 127.0.0.1:7000", "listen: " + s.address(),
		"advertise: 127.0.0.1:7000", "advertise: " + s.address(),
		"name: game.lobby", "name: " + s.service,
	}, s.change...)
	if s.now {
		changes = append(changes, "standby: true", "standby: false")
	}
	file := filepath.Join(dir, "node.yaml")
	if err := os.WriteFile(file, []byte(changed(t, text, append(changes, more...)...)), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// changed replaces texts that must be there, given in pairs.
func changed(t *testing.T, text string, changes ...string) string {
	t.Helper()
	for i := 0; i < len(changes); i += 2 {
		if !strings.Contains(text, changes[i]) {
			t.Fatalf("the sample does not say %q any more", changes[i])
		}
		text = strings.ReplaceAll(text, changes[i], changes[i+1])
	}
	return text
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
