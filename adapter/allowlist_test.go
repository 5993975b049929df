package adapter_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/seed-6593ebad/skywarden/adapter"
	"github.com/seed-6593ebad/skywarden/naming"
)

func scope(t testing.TB, s string) naming.Scope {
	t.Helper()
	sc, err := naming.ParseScope(s)
	if err != nil {
		t.Fatal(err)
	}
	return sc
}

func TestAllowList(t *testing.T) {
	list, err := adapter.NewAllowList([]adapter.Rule{
		{Scope: scope(t, "bank"), Owners: []string{"bank", "bank-2"}, Addresses: prefixes("10.0.0.0/24", "fd00::/64"), Ports: []adapter.PortRange{{7000, 7002}, {80, 80}}},
		{Scope: scope(t, "game."), Owners: []string{"game"}, Addresses: prefixes("0.0.0.0/0")},
		{Scope: scope(t, "game.eu."), Owners: []string{"eu"}, Addresses: prefixes("0.0.0.0/0"), Readers: []string{"auditor"}},
		{Scope: scope(t, "game.eu.lobby"), Owners: []string{"lobby"}, Addresses: prefixes("0.0.0.0/0")},
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ name, principal, endpoint, own, look string }{
		{"bank", "bank", "10.0.0.1:7000", "ok", "ok"},
		{"bank", "bank-2", "[fd00::1]:80", "ok", "ok"},
		{"bank", "bank", "10.0.1.1:7000", "address_not_allowed", "ok"},
		{"bank", "bank", "[fd00:1::1]:7000", "address_not_allowed", "ok"},
		{"bank", "bank", "10.0.0.1:7003", "address_not_allowed", "ok"},
		{"bank", "game", "10.0.0.1:7000", "name_not_allowed", "ok"},
		{"bank", "", "10.0.0.1:7000", "name_not_allowed", "ok"},
		{"bank2", "bank", "10.0.0.1:7000", "name_not_allowed", "name_not_allowed"},
		{"bank.x", "bank", "10.0.0.1:7000", "name_not_allowed", "name_not_allowed"},
		{"game", "game", "10.0.0.1:7000", "name_not_allowed", "name_not_allowed"},
		{"games.x", "game", "10.0.0.1:7000", "name_not_allowed", "name_not_allowed"},
		{"game.x", "game", "1.2.3.4:1", "ok", "ok"},
		{"game.x.y.z", "game", "1.2.3.4:1", "ok", "ok"},
		{"game.eu.x", "game", "1.2.3.4:1", "name_not_allowed", "name_not_allowed"},
		{"game.eu.x", "eu", "1.2.3.4:1", "ok", "ok"},
		{"game.eu.x", "auditor", "1.2.3.4:1", "name_not_allowed", "ok"},
		{"game.eu.lobby", "eu", "1.2.3.4:1", "name_not_allowed", "ok"},
		{"game.eu.lobby", "lobby", "1.2.3.4:1", "ok", "ok"},
	} {
		if got := naming.Code(list.MayOwn(parse(t, c.name), c.principal, netip.MustParseAddrPort(c.endpoint))); got != c.own {
			t.Errorf("MayOwn(%s, %s, %s): %s, want %s", c.name, c.principal, c.endpoint, got, c.own)
		}
		if got := naming.Code(list.MayLookUp(parse(t, c.name), c.principal)); got != c.look {
			t.Errorf("MayLookUp(%s, %s): %s, want %s", c.name, c.principal, got, c.look)
		}
	}
}

// TestBadAllowList: everything that is wrong is reported at once.
func TestBadAllowList(t *testing.T) {
	_, err := adapter.NewAllowList([]adapter.Rule{
		{Scope: naming.All(), Owners: []string{"x"}, Addresses: prefixes("::/0")},
		{},
		{Scope: scope(t, "bank"), Owners: []string{""}, Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.0.1/8"), {}}, Ports: []adapter.PortRange{{0, 1}, {2, 1}}},
		{Scope: scope(t, "bank"), Owners: []string{"x"}, Addresses: prefixes("::ffff:10.0.0.0/104")},
	})
	if err == nil {
		t.Fatal("accepted")
	}
	want := []string{
		"rule 1 (): needs one name or one family",
		"rule 2 ((none)): needs one name or one family",
		"rule 2 ((none)): needs at least one owner",
		"rule 2 ((none)): needs at least one address range (0.0.0.0/0 and ::/0 for anywhere)",
		"rule 3 (bank): has an empty principal",
		"rule 3 (bank): address range 10.0.0.1/8 has bits beyond its length: write 10.0.0.0/8",
		"rule 3 (bank): has an invalid address range",
		"rule 3 (bank): port range 0-1 is empty or has port 0",
		"rule 3 (bank): port range 2-1 is empty or has port 0",
		"rule 4 (bank): address range ::ffff:10.0.0.0/104 is IPv4 written as IPv6, which no address is",
		"rule 4 (bank): there is a rule for it already: join the two",
	}
	wantStrings(t, "problems", strings.Split(err.Error(), "\n"), want...)
}
