package etcd

import (
	"strings"
	"testing"

	"github.com/seed-6593ebad/skywarden/naming"
)

func TestNewKeys(t *testing.T) {
	for root, want := range map[string]string{
		"": "/skywarden/names/", "/skywarden": "/skywarden/names/", "/skywarden/": "/skywarden/names/", "/prod/sky-1_a": "/prod/sky-1_a/names/",
		"/": "", "skywarden": "", "//": "", "/a//b": "", "/a/../b": "", "/a/.": "", "/a b": "", "/ä": "", "/a\x00": "", "/a\n": "",
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

func TestScope(t *testing.T) {
	k := mustKeys(t)
	for scope, want := range map[string][2]string{
		"":         {"/skywarden/names/", "/skywarden/names0"}, // "0" follows "/"
		"bank":     {"/skywarden/names/bank", ""},
		"game.eu":  {"/skywarden/names/game/eu", ""},
		"game.":    {"/skywarden/names/game/", "/skywarden/names/game0"},
		"game.eu.": {"/skywarden/names/game/eu/", "/skywarden/names/game/eu0"},
	} {
		sc, err := naming.ParseScope(scope)
		if err != nil {
			t.Fatal(err)
		}
		if key, end := k.scope(sc); [2]string{key, end} != want {
			t.Errorf("scope %q: %q to %q, want %q", scope, key, end, want)
		}
	}
}

// Seen elsewhere: a prefix without its last slash holds "bank2" too, and two
// names have one key.
func TestPeersMistakePrefixBleed(t *testing.T) {
	k := mustKeys(t)
	family, err := naming.ParseScope("bank.")
	if err != nil {
		t.Fatal(err)
	}
	begin, end := k.scope(family)
	for s, want := range map[string]bool{"bank": false, "bank2": false, "bank-x": false, "bank_x.y": false, "bank.a": true, "bank.a.b": true, "ban.k": false} {
		name, err := naming.ParseName(s)
		if err != nil {
			t.Fatal(err)
		}
		key := k.of(name)
		if in := begin <= key && key < end; in != want {
			t.Errorf("%s is in the range of bank.: %v, want %v", s, in, want)
		}
	}
}

func TestForeignKeys(t *testing.T) {
	k := mustKeys(t)
	for _, key := range []string{
		"", "/", "/skywarden/names/", "/skywarden/names", "/skywarden/other/a", "/other/names/a",
		"/skywarden/names/A", "/skywarden/names/a.b", "/skywarden/names/a//b", "/skywarden/names//a", "/skywarden/names/a/",
		"/skywarden/names/../a", "/skywarden/names/a\x00", "/skywarden/names/ä", "/skywarden/names/-a",
	} {
		if name, err := k.name(key); err == nil {
			t.Errorf("key %q is the name %q, want none", key, name)
		}
	}
}

func FuzzKeys(f *testing.F) {
	for _, seed := range []string{"a", "game.lobby", "a-b", "a.b", "A.B", "a/b", "/skywarden/names/a/b", "/skywarden/names/a.b"} {
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
	})
}
