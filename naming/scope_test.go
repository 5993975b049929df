package naming_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/seed-6593ebad/skywarden/naming"
)

func parse(t *testing.T, s string) naming.Name {
	t.Helper()
	n, err := naming.ParseName(s)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestScopes(t *testing.T) {
	for s, c := range map[string]struct{ in, out []string }{
		"":         {[]string{"a", "game.lobby"}, nil},
		"game":     {[]string{"game"}, []string{"games", "gam", "game.lobby", "game-x"}},
		"GAME":     {[]string{"game"}, []string{"games"}},
		"game.":    {[]string{"game.lobby", "game.eu.lobby"}, []string{"game", "games", "games.x", "game-x", "game-x.y", "xgame.y"}},
		"Game.Eu.": {[]string{"game.eu.lobby", "game.eu.a.b"}, []string{"game.eu", "game.europe", "game.lobby", "eu.game.x"}},
	} {
		sc, err := naming.ParseScope(s)
		if err != nil {
			t.Errorf("%q: %v", s, err)
			continue
		}
		for _, n := range c.in {
			if !sc.Contains(parse(t, n)) {
				t.Errorf("scope %q does not hold %q", s, n)
			}
		}
		for _, n := range c.out {
			if sc.Contains(parse(t, n)) {
				t.Errorf("scope %q holds %q", s, n)
			}
		}
		if sc.Contains(naming.Name{}) || sc.IsZero() {
			t.Errorf("scope %q: zero %v, holds the zero Name: %v", s, sc.IsZero(), sc.Contains(naming.Name{}))
		}
		if sc.String() != strings.ToLower(s) {
			t.Errorf("scope %q is written %q", s, sc)
		}
	}
}

func TestScopeKinds(t *testing.T) {
	name := parse(t, "game.lobby")
	only, all := naming.Only(name), naming.All()
	family, err := naming.ParseFamily("game.eu.")
	if err != nil {
		t.Fatal(err)
	}
	if n, ok := only.Name(); !ok || n != name {
		t.Errorf("Only gives %q, %v", n, ok)
	}
	if labels, ok := family.Family(); !ok || !slices.Equal(labels, []string{"game", "eu"}) {
		t.Errorf("the family has %q, %v", labels, ok)
	}
	if !all.IsAll() || only.IsAll() || family.IsAll() {
		t.Error("IsAll is wrong")
	}
	for _, sc := range []naming.Scope{family, all, {}} {
		if n, ok := sc.Name(); ok || !n.IsZero() {
			t.Errorf("scope %q gives the name %q, %v", sc, n, ok)
		}
	}
	for _, sc := range []naming.Scope{only, all, {}} {
		if labels, ok := sc.Family(); ok || labels != nil {
			t.Errorf("scope %q gives the family %q, %v", sc, labels, ok)
		}
	}
	var zero naming.Scope
	if !zero.IsZero() || zero.Contains(name) || zero.String() != "(none)" || naming.Only(naming.Name{}) != zero {
		t.Errorf("the zero Scope %q is zero: %v, holds a name: %v", zero, zero.IsZero(), zero.Contains(name))
	}
}

func TestFamiliesThatAreRefused(t *testing.T) {
	for s, want := range map[string]string{
		"":                 "does not end in a dot",
		"game":             "does not end in a dot",
		".":                "is empty",
		"game..":           "empty label",
		".game.":           "empty label",
		"game/.":           `has "/" at byte 4`,
		"1.2.3.4.5.6.7.8.": "has 8 labels, so no name has room below it",
	} {
		sc, err := naming.ParseFamily(s)
		wantRefused(t, s, err, naming.ErrNameInvalid)
		if err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%q: the error is %q, want it to contain %q", s, err, want)
		}
		if !sc.IsZero() {
			t.Errorf("%q was refused and is %q", s, sc)
		}
	}
	for _, s := range []string{".x", "a b", "a..", "*", "game.*"} {
		sc, err := naming.ParseScope(s)
		wantRefused(t, s, err, naming.ErrNameInvalid)
		if !sc.IsZero() {
			t.Errorf("%q was refused and is %q", s, sc)
		}
	}
}

func FuzzParseScope(f *testing.F) {
	f.Add("", "a")
	f.Add("game.", "game.lobby")
	f.Add("game", "game")
	f.Add("bank", "bank2")
	f.Add("1.2.3.4.5.6.7.8.", "1.2.3.4.5.6.7.8")
	f.Fuzz(func(t *testing.T, s, in string) {
		sc, err := naming.ParseScope(s)
		if err != nil {
			wantRefused(t, s, err, naming.ErrNameInvalid)
			if !sc.IsZero() {
				t.Errorf("%q was refused and is %q", s, sc)
			}
			return
		}
		if again, err := naming.ParseScope(sc.String()); err != nil || again != sc {
			t.Errorf("%q: %q is parsed to %q, %v", s, sc, again, err)
		}
		n, err := naming.ParseName(in)
		if err != nil {
			return
		}
		lower := strings.ToLower(s)
		want := lower == "" || lower == n.String() || strings.HasSuffix(lower, ".") && strings.HasPrefix(n.String(), lower)
		if sc.Contains(n) != want {
			t.Errorf("scope %q holds %q: %v, want %v", s, n, sc.Contains(n), want)
		}
	})
}
