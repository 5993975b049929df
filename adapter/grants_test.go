package adapter_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/seed-6593ebad/skywarden/adapter"
	"github.com/seed-6593ebad/skywarden/naming"
)

// What a registry is told must be what the allow-list itself says, for every
// name and every principal.
func TestGrantsSayWhatTheListSays(t *testing.T) {
	anywhere := []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}
	var rules []adapter.Rule
	for _, r := range []struct{ scope, owners, readers string }{
		{"game.", "game lobby", ""},
		{"game.eu.", "eu", "eu game"},
		{"game.eu.lobby", "lobby", ""},
		{"billing", "billing", "billing game"},
		{"billing.", "billing", ""},
	} {
		scope, err := naming.ParseScope(r.scope)
		if err != nil {
			t.Fatal(err)
		}
		rules = append(rules, adapter.Rule{Scope: scope, Owners: strings.Fields(r.owners), Readers: strings.Fields(r.readers), Addresses: anywhere})
	}
	list, err := adapter.NewAllowList(rules)
	if err != nil {
		t.Fatal(err)
	}
	grants := list.Grants("dashboard")
	var principals []string
	for _, g := range grants {
		principals = append(principals, g.Principal)
		for _, s := range []string{"game.x", "game.eu.x", "game.eu.lobby", "game.eu.lobby.x", "billing", "billing.x"} {
			name, err := naming.ParseName(s)
			if err != nil {
				t.Fatal(err)
			}
			want := naming.NoAccess
			switch {
			case list.MayOwn(name, g.Principal, netip.MustParseAddrPort("10.0.0.5:7000")) == nil:
				want = naming.MayClaim
			case list.MayLookUp(name, g.Principal) == nil:
				want = naming.MayRead
			}
			if got := g.Access(name); got != want {
				t.Errorf("%s on %s: the grant says %v, the list says %v", g.Principal, s, got, want)
			}
		}
	}
	if got, want := fmt.Sprint(principals), "[billing dashboard eu game lobby]"; got != want {
		t.Errorf("there are grants for %s, want %s", got, want)
	}
	if none, _ := adapter.NewAllowList(nil); len(none.Grants()) != 0 {
		t.Error("an empty list grants something")
	}
}
