package naming_test

import (
	"fmt"
	"testing"

	"github.com/seed-6593ebad/skywarden/naming"
)

func permission(t *testing.T, scope string, access naming.Access) naming.Permission {
	t.Helper()
	sc, err := naming.ParseScope(scope)
	if err != nil {
		t.Fatal(err)
	}
	return naming.Permission{Scope: sc, Access: access}
}

// Of several permissions the closest counts, in whatever order they are.
func TestClosestPermissionCounts(t *testing.T) {
	all := []naming.Permission{
		permission(t, "", naming.MayRead),
		permission(t, "game.", naming.MayClaim),
		permission(t, "game.eu.", naming.NoAccess),
		permission(t, "game.eu.lobby", naming.MayRead),
		permission(t, "billing", naming.NoAccess),
	}
	for range all {
		all = append(all[1:], all[0])
		g := naming.Grant{Principal: "game", Permissions: all}
		for s, want := range map[string]naming.Access{
			"other": naming.MayRead, "game": naming.MayRead, "games.x": naming.MayRead, "game.x": naming.MayClaim,
			"game.eu": naming.MayClaim, "game.eu.x": naming.NoAccess, "game.eu.lobby": naming.MayRead,
			"game.eu.lobby.x": naming.NoAccess, "billing": naming.NoAccess, "billing.x": naming.MayRead,
		} {
			name, err := naming.ParseName(s)
			if err != nil {
				t.Fatal(err)
			}
			if got := g.Access(name); got != want {
				t.Errorf("%s: got %v, want %v", s, got, want)
			}
			if got := g.Simplify().Access(name); got != want {
				t.Errorf("%s: simplified %v, want %v", s, got, want)
			}
		}
	}
}

func TestSimplify(t *testing.T) {
	g := naming.Grant{Principal: "game", Permissions: []naming.Permission{
		permission(t, "game.eu.", naming.MayClaim),
		permission(t, "billing", naming.MayRead),
		permission(t, "game.", naming.MayClaim),
		permission(t, "game.eu.lobby", naming.MayRead),
		permission(t, "game.eu.x.", naming.MayClaim),
		permission(t, "", naming.MayRead),
	}}
	got := fmt.Sprintf("%q", g.Simplify().Permissions)
	want := fmt.Sprintf("%q", []naming.Permission{
		permission(t, "", naming.MayRead), permission(t, "game.", naming.MayClaim), permission(t, "game.eu.lobby", naming.MayRead),
	})
	if got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	none := naming.Grant{Permissions: []naming.Permission{permission(t, "a", naming.NoAccess)}}
	if left := none.Simplify().Permissions; len(left) != 0 {
		t.Errorf("what gives nothing is left: %v", left)
	}
}

func TestEncloses(t *testing.T) {
	for pair, want := range map[[2]string]bool{
		{"", "a"}: true, {"", "a."}: true, {"", ""}: false, {"a.", "a.b"}: true, {"a.", "a.b."}: true,
		{"a.", "a."}: false, {"a.", "a"}: false, {"a.", "ab"}: false, {"a.b.", "a."}: false, {"a", "a"}: false, {"a.", ""}: false,
	} {
		outer, inner := permission(t, pair[0], 0).Scope, permission(t, pair[1], 0).Scope
		if got := outer.Encloses(inner); got != want {
			t.Errorf("%q encloses %q: got %v, want %v", outer, inner, got, want)
		}
	}
	var zero naming.Scope
	if naming.All().Encloses(zero) || zero.Encloses(naming.All()) {
		t.Error("the zero Scope encloses or is enclosed")
	}
}
