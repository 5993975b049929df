package consul

import (
	"encoding/json"
	"errors"
	"maps"
	"strings"
	"testing"

	"github.com/seed-6593ebad/skywarden/naming"
)

// grantOf reads "claim game.", "none game.secret", "read ".
func grantOf(t *testing.T, principal string, permissions ...string) naming.Grant {
	t.Helper()
	g := naming.Grant{Principal: principal}
	for _, p := range permissions {
		word, text, _ := strings.Cut(p, " ")
		scope, err := naming.ParseScope(text)
		if err != nil {
			t.Fatal(err)
		}
		access := map[string]naming.Access{"none": naming.NoAccess, "read": naming.MayRead, "claim": naming.MayClaim}[word]
		g.Permissions = append(g.Permissions, naming.Permission{Scope: scope, Access: access})
	}
	return g
}

func TestRules(t *testing.T) {
	k, err := newKeys("prod/skywarden")
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		grant naming.Grant
		want  string
	}{
		{
			grantOf(t, "game", "read ", "claim game.", "none game.secret", "none game.vault.", "claim lobby", "read other"),
			`key "prod/skywarden/names/game/secret" { policy = "deny" }
key "prod/skywarden/names/lobby" { policy = "write" }
key_prefix "prod/skywarden/names/" { policy = "read" }
key_prefix "prod/skywarden/names/game/" { policy = "write" }
key_prefix "prod/skywarden/names/game/vault/" { policy = "deny" }
session "prod-skywarden-game" { policy = "write" }
`,
		},
		{grantOf(t, "reader", "read "), "key_prefix \"prod/skywarden/names/\" { policy = \"read\" }\n"},
		{grantOf(t, "nobody", "none ", "none a"), ""},
	} {
		got := k.rules(test.grant)
		if got.String() != test.want {
			t.Errorf("got\n%swant\n%s", got, test.want)
		}
		again, ok := parseRules(got.String())
		if !ok || !maps.Equal(got, again) {
			t.Errorf("%q is read as %v, %v", got, again, ok)
		}
		if differ := got.differ(got.String()); differ != "" {
			t.Errorf("%q differs from itself: %s", got, differ)
		}
	}
}

// What means the same is the same, and nothing else is.
func TestRulesDiffer(t *testing.T) {
	want := rules{{"key", "a/b"}: "write", {"key_prefix", "a/"}: "read"}
	for hcl, differ := range map[string]string{
		"# ours\nkey_prefix \"a/\" {\n  policy=\"read\" // all\n}\n\nkey \"a/b\" { policy = \"write\" }": "",
		`key "a/b" { policy = "write" }`: `give read key_prefix "a/", which is missing`,
		`key "a/b" { policy = "read" } key_prefix "a/" { policy = "read" } session "x" { policy = "write" }`: `give write key "a/b", which is read; take write session "x", which is too much`,
		``: `give write key "a/b", which is missing; give read key_prefix "a/", which is missing`,
		`key "a/b" { policy = "write" } key_prefix "a/" { policy = "read" } operator = "write"`:                                          "replaced",
		`key "a/b" { policy = "write" } key_prefix "a/" { policy = "read" } key "a/b" { policy = "write" }`:                              "replaced",
		`{"key": {"a/b": {"policy": "write"}}, "key_prefix": {"a/": {"policy": "read"}}}`:                                                "replaced",
		`key "a/b" { policy = "write" } key_prefix "a/" { policy = "read" intentions = "write" }`:                                        "replaced",
		`key "a/b" { policy = "write" } /* key_prefix "a/" { policy = "read" } */`:                                                       "replaced",
		"key \"a/b\" { policy = \"write\" }\nkey_prefix \"a/\" { policy = \"read\" }\nacl = \"write\" # key \"x\" { policy = \"read\" }": "replaced",
	} {
		got := want.differ(hcl)
		if got != differ && (differ != "replaced" || !strings.Contains(got, "replaced")) {
			t.Errorf("%s\ngot  %q\nwant %q", hcl, got, differ)
		}
	}
}

func TestMarker(t *testing.T) {
	a, b := keys{root: "skywarden"}, keys{root: "skywarden/eu"}
	if a.node("eu-a") != b.node("a") {
		t.Fatal("the names differ, so this test tests nothing")
	}
	if a.marker("eu-a") == b.marker("a") || a.accessor("eu-a") == b.accessor("a") {
		t.Error("two principals are taken for one")
	}
	if principal, root, ok := marked(b.marker("a")); !ok || principal != "a" || root != "skywarden/eu" {
		t.Errorf("got %q, %q, %v", principal, root, ok)
	}
	for _, no := range []string{"", "game", "skywarden: ", "skywarden: a b below c", "x skywarden: a below b", "skywarden: a below b\nx"} {
		if _, _, ok := marked(no); ok {
			t.Errorf("%q is taken for a marker of ours", no)
		}
	}
}

func TestRender(t *testing.T) {
	files, err := Render("", []naming.Grant{grantOf(t, "game", "read ", "claim game."), grantOf(t, "reader", "read ")})
	if err != nil {
		t.Fatal(err)
	}
	content := map[string]string{}
	var names []string
	for _, f := range files {
		names = append(names, f.Name)
		content[f.Name] = string(f.Content)
	}
	if got, want := strings.Join(names, " "), "policy-game.hcl node-game.json policy-reader.hcl consul-acl.sh"; got != want {
		t.Errorf("files %s, want %s", got, want)
	}
	var node virtualNode
	if err := json.Unmarshal([]byte(content["node-game.json"]), &node); err != nil || node.Node != "skywarden-game" || node.NodeMeta["external-node"] != "true" {
		t.Errorf("node %+v, %v", node, err)
	}
	for _, line := range []string{
		"consul acl policy create -name=skywarden-game -description='skywarden: game below skywarden' -rules=@policy-game.hcl >/dev/null\nregister node-game.json\n",
		"made=$(consul acl token create -accessor=" + keys{root: "skywarden"}.accessor("reader") + " -description='skywarden: reader below skywarden' -policy-name=skywarden-reader)\n" + `printf '%s\n' "$made" | sed -n 's/^SecretID: *//p' >reader.token` + "\n",
	} {
		if !strings.Contains(content["consul-acl.sh"], line) {
			t.Errorf("no %q in\n%s", line, content["consul-acl.sh"])
		}
	}
	if _, err := Render("a//b", nil); err == nil {
		t.Error("a root that is none is taken")
	}
	for _, grants := range [][]naming.Grant{
		{{Principal: "a b"}}, {{Principal: ""}}, {{Principal: "'; rm -rf /"}}, {{Principal: "a"}, {Principal: "a"}}, {{Principal: "a"}, {Principal: "A"}},
	} {
		if _, err := Render("", grants); !errors.Is(err, naming.ErrInsecureConfig) {
			t.Errorf("%v: got %v, want %v", grants, err, naming.ErrInsecureConfig)
		}
	}
}
