//go:build unix

package e2e

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/seed-6593ebad/skywarden/configs"
	"github.com/seed-6593ebad/skywarden/integration/harness"
)

// A registry is a real server whose access control is what the samples say.
type registry interface {
	// sample gives the sample file, with a credential of user in dir.
	sample(t *testing.T, dir, user string) string
	// free is how long after an owner's death its name is free at the latest (L1),
	// with the TTL of sample.
	free() time.Duration
	// leases counts what nodes have left behind.
	leases(t *testing.T) int
	Pause(tb testing.TB)
	Unpause(tb testing.TB)
}

// ttl is that of the samples, as the tests write them. Consul ends a session
// after twice as long.
const ttl = 5 * time.Second

// onEach runs a test on each kind of server.
func onEach(t *testing.T, test func(t *testing.T, r registry)) {
	t.Helper()
	t.Run("etcd", func(t *testing.T) { test(t, startEtcd(t)) })
	t.Run("consul", func(t *testing.T) { test(t, startConsul(t)) })
}

// etcdRegistry is an etcd with configs/etcd-roles.txt.
type etcdRegistry struct{ *harness.Etcd }

// startEtcd runs an etcd whose access control is what configs/etcd-roles.txt
// says, letter by letter.
func startEtcd(t *testing.T) etcdRegistry {
	t.Helper()
	etcd := harness.StartEtcd(t, harness.EtcdOptions{NoAuth: true})
	applyRoles(t, etcd, configs.EtcdRoles)
	return etcdRegistry{etcd}
}

func (r etcdRegistry) sample(t *testing.T, dir, user string) string {
	t.Helper()
	r.CA.WriteFile(t, dir, "ca")
	r.CA.Client(t, user).WriteFiles(t, dir, user)
	return changed(t, configs.EtcdSample,
		"https://127.0.0.1:2379", r.Endpoints()[0],
		"cert: game.pem", "cert: "+user+".pem",
		"{file: game-key.pem}", "{file: "+user+"-key.pem}",
	)
}

func (r etcdRegistry) free() time.Duration { return ttl + time.Second }

func (r etcdRegistry) leases(t *testing.T) int {
	t.Helper()
	leases, err := r.Admin.Leases(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return len(leases.Leases)
}

// consulRegistry is a Consul with configs/consul-acl.hcl.
type consulRegistry struct {
	*harness.Consul
	tokens map[string]string // by principal
}

// startConsul runs a Consul whose access control is what configs/consul-acl.hcl
// says, letter by letter.
func startConsul(t *testing.T) consulRegistry {
	t.Helper()
	r := consulRegistry{harness.StartConsul(t, harness.ConsulOptions{}), map[string]string{}}
	for _, section := range strings.Split(configs.ConsulPolicies, "\n# policy ")[1:] {
		policy, rules, _ := strings.Cut(section, "\n")
		r.Policy(t, policy, rules)
		r.Node(t, policy)
		r.tokens[strings.TrimPrefix(policy, "skywarden-")] = r.Token(t, policy)
	}
	if len(r.tokens) == 0 {
		t.Fatal("configs/consul-acl.hcl has no policies")
	}
	return r
}

// sample gives a user whom the server does not know a token that it does not know
// either.
func (r consulRegistry) sample(t *testing.T, dir, user string) string {
	t.Helper()
	r.CA.WriteFile(t, dir, "ca")
	r.CA.Client(t, "game").WriteFiles(t, dir, "game") // which the sample shows, and nobody asks for
	token, known := r.tokens[user]
	if !known {
		token = "7a1cc4a0-0000-4000-8000-000000000000"
	}
	if err := os.WriteFile(filepath.Join(dir, user+".token"), []byte(token+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return changed(t, configs.ConsulSample,
		"https://127.0.0.1:8501", r.Addresses()[0],
		"principal: game", "principal: "+user,
		"{file: game.token}", "{file: "+user+".token}",
		"node: skywarden-game", "node: skywarden-"+user,
		"session_ttl_min: 10s", "session_ttl_min: 3s",
		"ttl: 10s", "ttl: "+ttl.String(),
	)
}

// free has Consul's own rule, twice the TTL since the last renewal.
func (r consulRegistry) free() time.Duration { return 2*ttl + time.Second }

func (r consulRegistry) leases(t *testing.T) int {
	t.Helper()
	sessions, _, err := r.Admin.Session().List(nil)
	if err != nil {
		t.Fatal(err)
	}
	return len(sessions)
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
