package etcd_test

import (
	"strings"
	"testing"

	"github.com/seed-6593ebad/skywarden/backends/etcd"
	"github.com/seed-6593ebad/skywarden/integration/harness"
	"github.com/seed-6593ebad/skywarden/naming"
)

// An administrator and principals with passwords: users that are there keep
// theirs.
func TestProvisionWithPasswords(t *testing.T) {
	server := startPasswords(t)
	server.SetPassword(t, "root", canary)
	file, log := newSecretFile(t, canary), newJournal(t)
	cfg := func(server *harness.Etcd, user string) etcd.Config {
		return passwordConfig(t, server, user, file, log.logger())
	}
	a, err := etcd.OpenAdmin(t.Context(), etcd.AdminConfig{Config: cfg(server, "root")})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	grants := []naming.Grant{harness.GrantOf(t, "alice", "read ", "claim a."), harness.GrantOf(t, "dora", "claim d")}
	changes := harness.Plan(t, a, false, grants...)
	for _, c := range changes {
		if c.Object == "user dora" && !strings.Contains(c.Detail, "etcdctl user add dora") {
			t.Errorf("got %s", c.Detail)
		}
	}
	harness.Apply(t, changes)
	harness.WantPlan(t, harness.Plan(t, a, false, grants...))
	alice := open(t, cfg(server, "alice"))
	claim(t, lease(t, alice), "a.x", "1")
	found := inspect(t, alice)
	for check, want := range map[string]naming.Level{"server version": naming.LevelOK, "access control": naming.LevelOK, "gateway": naming.LevelOK, "client certificate": naming.LevelWarn} {
		if got := found[check].Level; got != want {
			t.Errorf("%s: %s, want %s", check, got, want)
		}
	}

	off := harness.StartEtcd(t, harness.EtcdOptions{Passwords: true, NoAuth: true})
	b, err := etcd.OpenAdmin(t.Context(), etcd.AdminConfig{Config: cfg(off, "root")})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	_, err = b.Plan(t.Context(), grants, false)
	mustBe(t, err, naming.ErrInsecureConfig)
}
