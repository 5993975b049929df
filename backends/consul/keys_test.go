package consul

import (
	"strings"
	"testing"

	"github.com/seed-6593ebad/skywarden/naming"
)

func TestNewKeys(t *testing.T) {
	for root, want := range map[string]string{
		"": "skywarden/names/", "skywarden": "skywarden/names/", "prod/sky-1_a": "prod/sky-1_a/names/",
		"/": "", "/skywarden": "", "skywarden/": "", "a//b": "", "a/../b": "", "a/.": "", "a.b": "", "a b": "", "a%2fb": "", "ä": "", "a\x00": "", "a\n": "",
	} {
		k, err := newKeys(root)
		if k.prefix != want || (err == nil) != (want != "") {
			t.Errorf("root %q: prefix %q, %v, want %q", root, k.prefix, err, want)
		}
	}
}

func mustKeys(tb testing.TB) keys {
	tb.Helper()
	k, err := newKeys("")
	if err != nil {
		tb.Fatal(err)
	}
	return k
}

func mustName(tb testing.TB, s string) naming.Name {
	tb.Helper()
	name, err := naming.ParseName(s)
	if err != nil {
		tb.Fatal(err)
	}
	return name
}

func TestFamily(t *testing.T) {
	k := mustKeys(t)
	for scope, want := range map[string]string{
		"": "skywarden/names/", "game.": "skywarden/names/game/", "game.eu.": "skywarden/names/game/eu/",
	} {
		sc, err := naming.ParseScope(scope)
		if err != nil {
			t.Fatal(err)
		}
		if got := k.family(sc); got != want || !strings.HasSuffix(got, "/") {
			t.Errorf("scope %q: prefix %q, want %q", scope, got, want)
		}
	}
}

// Seen elsewhere: a prefix without its last slash holds "bank2" too.
func TestPeersMistakePrefixBleed(t *testing.T) {
	k := mustKeys(t)
	family, err := naming.ParseScope("bank.")
	if err != nil {
		t.Fatal(err)
	}
	prefix := k.family(family)
	for s, want := range map[string]bool{"bank": false, "bank2": false, "bank-x": false, "bank_x.y": false, "bank.a": true, "bank.a.b": true, "ban.k": false} {
		if in := strings.HasPrefix(k.of(mustName(t, s)), prefix); in != want {
			t.Errorf("%s is below the prefix of bank.: %v, want %v", s, in, want)
		}
	}
}

// Seen elsewhere: a/b and a-b have one key.
func TestPeersMistakeTwoNamesOneKey(t *testing.T) {
	k := mustKeys(t)
	seen := map[string]string{}
	for _, s := range []string{"a.b", "a-b", "a_b", "ab", "a.b.c", "a.b-c", "a-b.c", "a_b.c", "a.b_c"} {
		key := k.of(mustName(t, s))
		if other, ok := seen[key]; ok {
			t.Errorf("%s and %s have one key: %q", s, other, key)
		}
		seen[key] = s
	}
}

// foreignKeys look like keys of names and are none.
var foreignKeys = []string{
	"", "/", "skywarden/names/", "skywarden/names", "skywarden/other/a", "other/names/a", "/skywarden/names/a", "skywarden/namesake/a",
	"skywarden/names/A", "skywarden/names/a.b", "skywarden/names/a//b", "skywarden/names//a", "skywarden/names/a/", "skywarden/names/a%2fb",
	"skywarden/names/../a", "skywarden/names/a/../b", "skywarden/names/./a", "skywarden/names/a\x00", "skywarden/names/ä", "skywarden/names/-a",
	"skywarden/names/a\xff", "skywarden/names/a ", "SKYWARDEN/names/a", "skywarden/names/1/2/3/4/5/6/7/8/9",
}

func TestForeignKeys(t *testing.T) {
	k := mustKeys(t)
	for _, key := range foreignKeys {
		if name, err := k.name(key); err == nil {
			t.Errorf("key %q is the name %q, want none", key, name)
		}
	}
}

// Who shares a node can end the other's sessions.
func TestPrincipalsOfOneRootHaveNodesOfTheirOwn(t *testing.T) {
	for _, root := range []string{"", "prod/sky-1"} {
		k, err := newKeys(root)
		if err != nil {
			t.Fatal(err)
		}
		seen := map[string]string{}
		for _, who := range []string{"a", "b", "a-b", "a_b", "b-a", "A"} {
			node := k.node(who)
			if other, ok := seen[node]; ok || !nodePattern.MatchString(node) {
				t.Errorf("%q: node %q, which is also that of %q", who, node, other)
			}
			seen[node] = who
		}
	}
}

func FuzzKeys(f *testing.F) {
	for _, seed := range append([]string{"a", "game.lobby", "a-b", "a.b", "A.B", "a/b", "skywarden/names/a/b"}, foreignKeys...) {
		f.Add(seed)
	}
	k := mustKeys(f)
	f.Fuzz(func(t *testing.T, s string) {
		// Every name has one key, and it is that name's alone.
		if name, err := naming.ParseName(s); err == nil {
			key := k.of(name)
			back, err := k.name(key)
			if err != nil || back != name || !strings.HasPrefix(key, k.prefix) {
				t.Errorf("%q has the key %q, which is %q, %v", name, key, back, err)
			}
		}
		// Every key of a name is the one that the name has.
		if name, err := k.name(s); err == nil && k.of(name) != s {
			t.Errorf("key %q is the name %q, whose key is %q", s, name, k.of(name))
		}
		// Every family is a prefix that ends at a label, and holds what it says.
		if scope, err := naming.ParseScope(s); err == nil {
			if _, only := scope.Name(); !only && !strings.HasSuffix(k.family(scope), "/") {
				t.Errorf("scope %q has the prefix %q", s, k.family(scope))
			}
		}
	})
}
