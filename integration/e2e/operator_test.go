//go:build unix

package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/seed-6593ebad/skywarden/integration/harness"
)

// administrator gives the flags of one.
func administrator(t *testing.T, etcd *harness.Etcd) []string {
	t.Helper()
	files := etcd.ClientFiles(t, "root")
	return []string{"--admin-cert", files.Cert, "--admin-key", files.Key}
}

// found is one line of check --json.
type found struct{ Level, Check, Detail, Do string }

// check runs the command and gives its findings by what was looked at.
func check(t *testing.T, code int, file string) map[string][]found {
	t.Helper()
	out, _ := skywarden(t, code, "check", "--json", "-c", file)
	all := map[string][]found{}
	for line := range strings.Lines(out) {
		var f found
		if err := json.Unmarshal([]byte(line), &f); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		all[f.Check] = append(all[f.Check], f)
	}
	return all
}

// TestOperator is the way of somebody who brings a new server into use.
func TestOperator(t *testing.T) {
	etcd := harness.StartEtcd(t, harness.EtcdOptions{NoAuth: true})
	game, billing := &sample{}, &sample{node: "billing-1", user: "billing", service: "billing"}
	file := game.write(t, etcd)
	provision := append([]string{"provision", "--to", "etcd", "-c", file}, administrator(t, etcd)...)

	// Before: the server lets everybody do everything.
	f := check(t, 1, file)
	wantFound(t, f, "access control", "fail", "access control is off")
	wantFound(t, f, "claim what is not ours", "warn", "not checked")

	out, errs := skywarden(t, 5, append(provision, "--plan")...)
	wants(t, out, "create role skywarden:game: readwrite /skywarden/names/game/*, read /skywarden/names/*", "create user billing: ", "change access control: turn it on")
	wants(t, errs, "6 changes pending", "hint: without --plan")
	wantFound(t, check(t, 1, file), "access control", "fail", "access control is off") // nothing was changed

	out, _ = skywarden(t, 0, provision...)
	wants(t, out, "6 changes made: the server gives 2 principals what the allow-list says")
	for _, again := range [][]string{provision, append(provision, "--plan"), append(provision, "--prune", "--plan")} {
		out, _ = skywarden(t, 0, again...)
		if want := "nothing to change: the server gives 2 principals what the allow-list says\n"; out != want {
			t.Errorf("again: %s", out)
		}
	}
	// Who is no administrator is told whose credential is needed.
	_, errs = skywarden(t, 4, "provision", "-c", file)
	wants(t, errs, "permission denied", "hint: give an administrator's credential: --admin-cert")

	// After.
	f = check(t, 0, file)
	for what, detail := range map[string]string{
		"identity": `"game"`, "services": "1 service", "claim what is ours": "game.", "claim what is not ours": "billing",
		"look up what we may": "billing", "server version": "3.7.3", "access control": "on", "gateway": "off", "clock": "clock",
	} {
		wantFound(t, f, what, "ok", detail)
	}
	wantFound(t, check(t, 0, billing.write(t, etcd)), "claim what is ours", "ok", "billing")

	t.Run("leaves nothing behind and disturbs nobody", func(t *testing.T) {
		owner := start(t, "node", "-c", file)
		owner.await(t, 10*time.Second, `"event":"register","result":"ok","name":"game.lobby"`)
		watch := start(t, "watch", "-c", file)
		watch.await(t, 10*time.Second, `"event":"put","name":"game.lobby"`)
		watch.await(t, 10*time.Second, `"event":"synced"`)
		before := serverState(t, etcd)
		check(t, 0, file)
		check(t, 0, billing.write(t, etcd))
		if after := serverState(t, etcd); after != before {
			t.Errorf("before %+v, after %+v", before, after)
		}
		owner.end(t)
		// The next that the watch sees is the release.
		l := watch.await(t, 10*time.Second, "{")
		if !strings.Contains(l.text, `"event":"delete","name":"game.lobby"`) {
			t.Errorf("the watch saw %s", l.text)
		}
		watch.signal(t, syscall.SIGINT)
		<-watch.exited
		if code := watch.cmd.ProcessState.ExitCode(); code != 0 {
			t.Errorf("watch: exit code %d after SIGINT, want 0", code)
		}
	})

	t.Run("drift", func(t *testing.T) {
		etcd.SetRole(t, "skywarden:game", harness.ReadWrite("/skywarden/names/billing"))
		etcd.RevokeGrants(t, "skywarden:game", harness.ReadWritePrefix("/skywarden/names/game/"))
		etcd.SetRole(t, "one-key", harness.ReadWritePrefix("/skywarden/names/game/x"))
		etcd.SetUser(t, "mallory", "one-key")
		f := check(t, 1, file)
		wantFound(t, f, "claim what is ours", "fail", "game.", "the server refuses it")
		wantFound(t, f, "claim what is not ours", "fail", "billing (rule billing", "the server would let us have it")
		out, _ := skywarden(t, 5, append(provision, "--plan")...)
		wants(t, out,
			"change role skywarden:game: give readwrite /skywarden/names/game/*, which is missing\n",
			"change role skywarden:game: take readwrite /skywarden/names/billing, which is too much\n",
			"only with --prune: change user mallory: take the role one-key: it gives readwrite /skywarden/names/game/x*",
		)
		out, _ = skywarden(t, 0, append(provision, "--prune")...)
		wants(t, out, "3 changes made")
		skywarden(t, 0, append(provision, "--prune", "--plan")...)
		check(t, 0, file)
	})
	t.Run("a pattern that is too wide", func(t *testing.T) {
		// Without its last slash a prefix gives away what is beside the family.
		etcd.SetRole(t, "skywarden:game", harness.ReadWritePrefix("/skywarden/names/game"))
		f := check(t, 1, file)
		wantFound(t, f, "claim what is not ours", "fail", "it is beside rule game.", "the server would let us have it")
		wantFound(t, f, "claim what is ours", "ok", "")
		skywarden(t, 0, provision...)
		check(t, 0, file)
	})
	t.Run("names that are hidden", func(t *testing.T) {
		hiding := &sample{change: []string{"readers: [billing, game]", "readers: [billing]"}}
		hidden := hiding.write(t, etcd)
		wantFound(t, check(t, 1, hidden), "look up what we may not", "fail", "billing (rule billing", "the server lets us see it")
		skywarden(t, 0, append([]string{"provision", "-c", hidden}, administrator(t, etcd)...)...)
		wantFound(t, check(t, 0, hidden), "look up what we may not", "ok", "billing")
		wantFound(t, check(t, 1, file), "look up what we may", "fail", "billing (rule billing", "the server refuses it")
		skywarden(t, 0, provision...)
	})
	t.Run("readers", func(t *testing.T) {
		skywarden(t, 0, append(provision, "--reader", "dashboard")...)
		reader := &sample{user: "dashboard"}
		f := check(t, 1, reader.write(t, etcd)) // its services are not its own
		wantFound(t, f, "services", "fail", `does not list principal "dashboard"`)
		wantFound(t, f, "claim what is ours", "ok", "nothing to claim")
		wantFound(t, f, "look up what we may", "ok", "game.")
		wantFound(t, f, "look up what we may not", "ok", "billing")
		out, _ := skywarden(t, 0, append(provision, "--prune")...)
		wants(t, out, "delete user dashboard", "delete role skywarden:dashboard")
		wantFound(t, check(t, 1, reader.write(t, etcd)), "identity", "fail", "")
	})
	t.Run("a server that is away, and one that is another", func(t *testing.T) {
		etcd.Pause(t)
		f := check(t, 1, file)
		wantFound(t, f, "connection", "fail", "unavailable")
		wantFound(t, f, "identity", "warn", "not checked")
		etcd.Unpause(t)
		other := harness.StartEtcd(t, harness.EtcdOptions{})
		elsewhere := &sample{change: []string{etcd.Endpoints()[0], other.Endpoints()[0]}}
		wantFound(t, check(t, 1, elsewhere.write(t, etcd)), "tls", "fail", "certificate")
	})
	t.Run("text", func(t *testing.T) {
		out, _ := skywarden(t, 0, "check", "-c", file)
		wants(t, out, "ok    identity: the server takes us for \"game\"\n", "warn  compaction: ", "      → run the server with --auto-compaction-mode", " ok, 1 warning, 0 failures\n")
	})
}

// wantFound demands that one of the findings of a check has the level and the
// words.
func wantFound(t *testing.T, all map[string][]found, what, level string, words ...string) {
	t.Helper()
	for _, f := range all[what] {
		if f.Level == level && hasAll(f.Detail, words) {
			return
		}
	}
	t.Errorf("%s: got %+v, want %s with %q", what, all[what], level, words)
}

type state struct {
	keys, leases, revision int64
}

func serverState(t *testing.T, etcd *harness.Etcd) state {
	t.Helper()
	keys, err := etcd.Admin.Get(t.Context(), "", clientv3.WithPrefix(), clientv3.WithCountOnly())
	if err != nil {
		t.Fatal(err)
	}
	leases, err := etcd.Admin.Leases(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return state{keys.Count, int64(len(leases.Leases)), keys.Header.Revision}
}

// A server with known holes fails, whatever its roles say; one with an open
// gateway is warned of.
func TestCheckServers(t *testing.T) {
	old := harness.StartEtcd(t, harness.EtcdOptions{Version: "3.6.5"})
	old.SetUser(t, "game")
	f := check(t, 1, (&sample{}).write(t, old))
	wantFound(t, f, "server version", "fail", "CVE-2026-33343", "3.7.1")
	wantFound(t, f, "claim what is not ours", "warn", "not checked")

	open := harness.StartEtcd(t, harness.EtcdOptions{NoAuth: true, Args: []string{"--enable-grpc-gateway=true"}})
	file := (&sample{}).write(t, open)
	skywarden(t, 0, append([]string{"provision", "-c", file}, administrator(t, open)...)...)
	wantFound(t, check(t, 0, file), "gateway", "warn", "the JSON gateway is on")
}

// What render writes does the same as provision, letter by letter.
func TestRender(t *testing.T) {
	etcd := harness.StartEtcd(t, harness.EtcdOptions{NoAuth: true})
	hiding := &sample{change: []string{"readers: [billing, game]", "readers: [billing]"}}
	file := hiding.write(t, etcd)
	dir := t.TempDir()
	out, _ := skywarden(t, 0, "render", "--to", "etcd", "--out", dir, "--reader", "dashboard", "-c", file)
	path := filepath.Join(dir, "etcd-roles.txt")
	if out != path+"\n" {
		t.Errorf("got %q, want %s", out, path)
	}
	commands, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	applyRoles(t, etcd, string(commands))
	out, _ = skywarden(t, 0, append([]string{"provision", "--plan", "--prune", "--reader", "dashboard", "-c", file}, administrator(t, etcd)...)...)
	wants(t, out, "nothing to change")
	check(t, 0, file)
}

// watch tells a claim and a release as they happen.
func TestWatch(t *testing.T) {
	etcd := startEtcd(t)
	one := &sample{}
	file := one.write(t, etcd)
	watch := start(t, "watch", "-c", file, "game.")
	watch.await(t, 10*time.Second, `"event":"synced"`)
	owner := start(t, "node", "-c", file)
	l := watch.await(t, 10*time.Second, `"event":"put","name":"game.lobby","node":"game-1","endpoint":"`+one.address()+`"`, `"held":true`)
	if !strings.HasPrefix(l.text, `{"time":"20`) {
		t.Errorf("got %s", l.text)
	}
	owner.end(t)
	watch.await(t, 10*time.Second, `"event":"delete","name":"game.lobby"`)
	etcd.Pause(t)
	watch.await(t, 20*time.Second, `"event":"down"`, `"reason":"`)
	etcd.Unpause(t)
	watch.await(t, 20*time.Second, `"event":"synced"`)
	watch.end(t)
}
