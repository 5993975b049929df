package etcd

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"go.etcd.io/etcd/api/v3/authpb"

	"github.com/seed-6593ebad/skywarden/naming"
)

func TestPermissions(t *testing.T) {
	k := mustKeys(t)
	for _, test := range []struct {
		grant, want []string
	}{
		{nil, nil},
		{[]string{"read "}, []string{"read names/*"}},
		// What is read is one range, whatever of it may be claimed.
		{[]string{"read ", "claim game."}, []string{"readwrite names/game/*", "read names/*"}},
		{[]string{"claim game.", "none game.secret"}, []string{"readwrite [names/game/, names/game/secret)", "readwrite [names/game/secret-, names/game0)"}},
		{[]string{"claim game.", "none game.eu."}, []string{"readwrite [names/game/, names/game/eu/)", "readwrite [names/game/eu0, names/game0)"}},
		{[]string{"claim game.", "read game.secret"}, []string{
			"readwrite [names/game/, names/game/secret)", "readwrite [names/game/secret-, names/game0)", "read names/game/*",
		}},
		{[]string{"read ", "none billing"}, []string{"read [names/, names/billing)", "read [names/billing-, names0)"}},
		{[]string{"read ", "none game.", "claim game.eu.x"}, []string{"readwrite names/game/eu/x", "read [names/, names/game/)", "read [names/game0, names0)"}},
		{[]string{"claim billing", "claim billing.", "claim billing-2"}, []string{"readwrite names/billing", "readwrite names/billing-2", "readwrite names/billing/*"}},
	} {
		var got []string
		for _, p := range k.permissions(grant(t, test.grant...)) {
			got = append(got, strings.ReplaceAll(p.String(), "/skywarden/", ""))
		}
		if !slices.Equal(got, test.want) {
			t.Errorf("%q: got %q, want %q", test.grant, got, test.want)
		}
	}
}

// Whatever the grant, the ranges give every name exactly what the grant says, and
// a range over a whole family exactly where every name of it may be read.
func TestPermissionsAreExact(t *testing.T) {
	const seeds = 3000
	k := mustKeys(t)
	labels := []string{"a", "b", "a-b", "a0", "a_z", "aa", "0", "z"}
	for seed := range uint64(seeds) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		random := func(most int) string {
			var all []string
			for range 1 + rnd.IntN(most) {
				all = append(all, labels[rnd.IntN(len(labels))])
			}
			return strings.Join(all, ".")
		}
		byScope := map[naming.Scope]naming.Access{}
		var names []naming.Name
		for range rnd.IntN(9) {
			text := random(3)
			switch rnd.IntN(5) {
			case 0:
				text = ""
			case 1, 2:
				text += "."
			}
			sc, err := naming.ParseScope(text)
			if err != nil {
				t.Fatal(err)
			}
			byScope[sc] = naming.Access(rnd.IntN(3))
			if n, ok := sc.Name(); ok {
				names = append(names, n)
			}
		}
		var g naming.Grant
		for sc, access := range byScope {
			g.Permissions = append(g.Permissions, naming.Permission{Scope: sc, Access: access})
		}
		for range 60 {
			n, err := naming.ParseName(random(4))
			if err != nil {
				t.Fatal(err)
			}
			names = append(names, n)
		}
		has := k.permissions(g)
		for _, n := range names {
			want := g.Access(n)
			read := covered(has, authpb.Permission_READ, k.of(n), "")
			write := covered(has, authpb.Permission_READWRITE, k.of(n), "")
			if read != (want >= naming.MayRead) || write != (want == naming.MayClaim) {
				t.Fatalf("seed %d: %v: %s: read %v, write %v, want %v, by %v", seed, g, n, read, write, want, has)
			}
		}
		scopes := []naming.Scope{naming.All()}
		for range 10 {
			sc, err := naming.ParseFamily(random(2) + ".")
			if err != nil {
				t.Fatal(err)
			}
			scopes = append(scopes, sc)
		}
		for _, sc := range scopes {
			key, end := k.scope(sc)
			want := readAll(g, sc)
			if got := covered(has, authpb.Permission_READ, key, end); got != want {
				t.Fatalf("seed %d: %v: the range of %q: %v, want %v, by %v", seed, g, sc, got, want, has)
			}
		}
	}
}

// readAll says whether a grant lets every name of a scope be read.
func readAll(g naming.Grant, sc naming.Scope) bool {
	around := naming.NoAccess
	closest := naming.Scope{}
	for _, p := range g.Permissions {
		switch {
		case sc.Encloses(p.Scope):
			if p.Access == naming.NoAccess {
				return false
			}
		case p.Scope == sc || p.Scope.Encloses(sc):
			if closest.IsZero() || closest.Encloses(p.Scope) {
				closest, around = p.Scope, p.Access
			}
		}
	}
	return around >= naming.MayRead
}

// covered is how etcd checks: the ranges that give the kind, together, must hold
// every key of the request. (READWRITE is among those that give READ.)
func covered(has []permission, kind authpb.Permission_Type, key, end string) bool {
	if end == "" {
		end = key + "\x00"
	}
	var give [][2]string
	for _, p := range has {
		if p.kind == kind || p.kind == authpb.Permission_READWRITE {
			to := p.end
			if to == "" {
				to = p.key + "\x00"
			}
			give = append(give, [2]string{p.key, to})
		}
	}
	slices.SortFunc(give, func(a, b [2]string) int { return strings.Compare(a[0], b[0]) })
	for _, g := range give {
		if g[0] <= key && key < g[1] {
			key = g[1]
		}
	}
	return key >= end
}

func grant(t *testing.T, permissions ...string) naming.Grant {
	t.Helper()
	g := naming.Grant{Principal: "game"}
	for _, p := range permissions {
		word, text, _ := strings.Cut(p, " ")
		sc, err := naming.ParseScope(text)
		if err != nil {
			t.Fatal(err)
		}
		access := map[string]naming.Access{"none": naming.NoAccess, "read": naming.MayRead, "claim": naming.MayClaim}[word]
		g.Permissions = append(g.Permissions, naming.Permission{Scope: sc, Access: access})
	}
	return g
}

func TestTouches(t *testing.T) {
	for p, want := range map[permission]bool{
		{key: "/s/names/a"}: true, {key: "/s/"}: true, {key: "/s"}: false, {key: "/s0"}: false, {key: "/t"}: false,
		{key: "/s/names/", end: "/s/names0"}: true, {key: "/", end: "0"}: true, {key: "\x00", end: "\x00"}: true,
		{key: "/r", end: "\x00"}: true, {key: "/t", end: "\x00"}: false, {key: "/a", end: "/s/"}: false, {key: "/a", end: "/s/a"}: true,
		{key: "/s0", end: "/t"}: false,
	} {
		if got := p.touches("/s/", "/s0"); got != want {
			t.Errorf("%q to %q: got %v, want %v", p.key, p.end, got, want)
		}
	}
}

func TestRender(t *testing.T) {
	files, err := Render("/prod/names", []naming.Grant{grant(t, "read ", "claim game.", "none game.secret")})
	if err != nil || len(files) != 1 || files[0].Name != "etcd-roles.txt" {
		t.Fatalf("got %v, %v", files, err)
	}
	var commands []string
	for line := range strings.Lines(string(files[0].Content)) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			commands = append(commands, line)
		}
	}
	want := []string{
		"user add root --no-password",
		"user grant-role root root",
		"role add prod/names:game",
		"role grant-permission prod/names:game readwrite /prod/names/names/game/ /prod/names/names/game/secret",
		"role grant-permission prod/names:game readwrite /prod/names/names/game/secret- /prod/names/names/game0",
		"role grant-permission prod/names:game read /prod/names/names/ /prod/names/names/game/secret",
		"role grant-permission prod/names:game read /prod/names/names/game/secret- /prod/names/names0",
		"user add game --no-password",
		"user grant-role game prod/names:game",
		"auth enable",
	}
	if !slices.Equal(commands, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(commands, "\n"), strings.Join(want, "\n"))
	}
	if _, err := Render("no root", nil); err == nil {
		t.Error("a root that is none is rendered")
	}
	for _, principal := range []string{"", "root", "two words", "-x", "a;b", "$(id)", "*", "a\nauth disable", "#"} {
		if _, err := Render("", []naming.Grant{{Principal: principal}}); err == nil {
			t.Errorf("principal %q is rendered", principal)
		}
	}
	if _, err := Render("", []naming.Grant{{Principal: "a"}, {Principal: "a"}}); err == nil {
		t.Error("two grants for one principal are rendered")
	}
}

func ExampleRender() {
	game, err := naming.ParseFamily("game.")
	if err != nil {
		fmt.Println(err)
		return
	}
	files, err := Render("/skywarden", []naming.Grant{{Principal: "game", Permissions: []naming.Permission{{Scope: game, Access: naming.MayClaim}}}})
	if err != nil {
		fmt.Println(err)
		return
	}
	for line := range strings.Lines(string(files[0].Content)) {
		if strings.HasPrefix(line, "role grant-permission") {
			fmt.Print(line)
		}
	}
	// Output: role grant-permission skywarden:game readwrite /skywarden/names/game/ --prefix=true
}
