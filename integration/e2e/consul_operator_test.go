//go:build unix

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/seed-6593ebad/skywarden/configs"
	"github.com/seed-6593ebad/skywarden/integration/harness"
)

// consulSample writes configs/consul.yaml as it is, but for addresses, and with
// no token beside it, for the principal game or another one.
func consulSample(t *testing.T, consul *harness.Consul, dir, principal string) string {
	t.Helper()
	text := configs.ConsulSample
	address := fmt.Sprintf("127.0.0.1:%d", freePort(t))
	for _, change := range [][2]string{
		{"https://127.0.0.1:8501", consul.Addresses()[0]},
		{"listen: 127.0.0.1:7000", "listen: " + address},
		{"advertise: 127.0.0.1:7000", "advertise: " + address},
		{"principal: game", "principal: " + principal},
		{"{file: game.token}", "{file: " + principal + ".token}"},
		{"node: skywarden-game", "node: skywarden-" + principal},
		{"name: game.lobby", "name: " + map[string]string{"game": "game.lobby", "billing": "billing", "dashboard": "game.lobby"}[principal]},
	} {
		if !strings.Contains(text, change[0]) {
			t.Fatalf("configs/consul.yaml does not say %q any more", change[0])
		}
		text = strings.ReplaceAll(text, change[0], change[1])
	}
	file := filepath.Join(dir, principal+".yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// TestConsulOperator is the way of somebody who brings a new Consul into use.
func TestConsulOperator(t *testing.T) {
	consul := harness.StartConsul(t, harness.ConsulOptions{})
	dir := t.TempDir()
	consul.CA.WriteFile(t, dir, "ca")
	consul.CA.Client(t, "game").WriteFiles(t, dir, "game")
	management := filepath.Join(t.TempDir(), "management.token")
	if err := os.WriteFile(management, []byte(consul.ManagementToken), 0o600); err != nil {
		t.Fatal(err)
	}
	game, billing := consulSample(t, consul, dir, "game"), consulSample(t, consul, dir, "billing")
	provision := []string{"provision", "--to", "consul", "-c", game, "--admin-token-file", management}
	var told strings.Builder
	run := func(code int, args ...string) (out, errs string) {
		t.Helper()
		out, errs = skywarden(t, code, args...)
		told.WriteString(out + errs)
		return out, errs
	}

	// Before: there is no token.
	wantFound(t, check(t, 1, game), "configuration", "fail", "game.token")
	_, errs := run(1, "provision", "-c", game)
	wants(t, errs, `game.token" cannot be opened`)

	out, errs := run(5, append(provision, "--plan")...)
	wants(t, out, `create policy skywarden-game: read key_prefix "skywarden/names/", write key_prefix "skywarden/names/game/", write session "skywarden-game"`,
		"create node skywarden-billing: ", "create token of billing: ")
	wants(t, errs, "6 changes pending", "hint: without --plan")
	if _, err := os.Stat(filepath.Join(dir, "game.token")); !os.IsNotExist(err) {
		t.Errorf("--plan wrote a token: %v", err)
	}

	out, _ = run(0, provision...)
	wants(t, out, "6 changes made: the server gives 2 principals what the allow-list says")
	for _, again := range [][]string{provision, append(provision, "--plan"), append(provision, "--prune", "--plan")} {
		out, _ = run(0, again...)
		if want := "nothing to change: the server gives 2 principals what the allow-list says\n"; out != want {
			t.Errorf("again: %s", out)
		}
	}

	// Who is no administrator is told whose credential is needed.
	_, errs = run(4, "provision", "-c", game)
	wants(t, errs, "permission denied", "hint: give an administrator's credential: ", "--admin-token-file")

	// After.
	f := check(t, 0, game)
	for what, detail := range map[string]string{
		"identity": `"game"`, "services": "1 service", "claim what is ours": "game.", "claim what is not ours": "billing",
		"look up what we may": "billing", "default policy": "denied", "anonymous": "neither", "txn": "blocked", "clock": "clock",
		"sessions": "opened and ended", "session ttl": "1s and more", "sessions of others": "may not",
	} {
		wantFound(t, f, what, "ok", detail)
	}
	wantFound(t, f, "server version", "warn", "cannot be seen")
	wantFound(t, check(t, 0, billing), "claim what is ours", "ok", "billing")
	if sessions, _, err := consul.Admin.Session().List(nil); err != nil || len(sessions) != 0 {
		t.Errorf("check left sessions behind: %v, %v", sessions, err)
	}

	// Somebody who only looks names up has no node, and needs none.
	run(0, append(provision, "--reader", "dashboard")...)
	f = check(t, 1, consulSample(t, consul, dir, "dashboard")) // the file's services are not its own
	wantFound(t, f, "claim what is ours", "ok", "nothing to claim", "no lease")
	wantFound(t, f, "claim what is not ours", "warn", "not checked")
	wantFound(t, f, "look up what we may", "ok", "game.")
	run(0, append(provision, "--prune")...)

	// A drift while an owner runs: told, repaired, and the owner goes on.
	owner := start(t, "node", "-c", game)
	owner.await(t, 10*time.Second, `"event":"register","result":"ok","name":"game.lobby"`)
	consul.Policy(t, "skywarden-game", `session_prefix "" { policy = "write" } key_prefix "skywarden/" { policy = "write" }`)
	f = check(t, 1, game)
	wantFound(t, f, "claim what is not ours", "fail", "billing (rule billing", "the server would let us have it")
	wantFound(t, f, "sessions of others", "fail", "not ours")
	out, _ = run(0, provision...)
	wants(t, out, `change policy skywarden-game: give read key_prefix "skywarden/names/", which is missing; `, `take write session_prefix "", which is too much`, "1 change made")
	check(t, 0, game)
	owner.end(t)

	for _, principal := range []string{"game", "billing"} {
		secret, err := os.ReadFile(filepath.Join(dir, principal+".token"))
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(told.String(), strings.TrimSpace(string(secret))) {
			t.Errorf("the secret of %s is told", principal)
		}
		if token, _, err := consul.Admin.ACL().TokenReadSelf(&api.QueryOptions{Token: strings.TrimSpace(string(secret))}); err != nil || len(token.Policies) != 1 {
			t.Errorf("the token of %s: %+v, %v", principal, token, err)
		}
	}
	if strings.Contains(told.String(), consul.ManagementToken) {
		t.Error("the management token is told")
	}
}
