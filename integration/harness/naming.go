package harness

import (
	"errors"
	"strings"
	"testing"

	"github.com/seed-6593ebad/skywarden/naming"
)

// Name parses a name.
func Name(tb testing.TB, s string) naming.Name {
	tb.Helper()
	n, err := naming.ParseName(s)
	if err != nil {
		tb.Fatal(err)
	}
	return n
}

// Scope parses a name, a family, or "" for all names.
func Scope(tb testing.TB, s string) naming.Scope {
	tb.Helper()
	sc, err := naming.ParseScope(s)
	if err != nil {
		tb.Fatal(err)
	}
	return sc
}

// MustBe demands an error of a kind, in the form that a driver gives errors.
func MustBe(tb testing.TB, err, kind error) {
	tb.Helper()
	if !errors.Is(err, kind) {
		tb.Errorf("error %v, want %v", err, kind)
	}
	var form *naming.Error
	if err != nil && !errors.As(err, &form) {
		tb.Errorf("the error %v is no *naming.Error", err)
	}
}

// GrantOf reads "claim game.", "none game.secret", "read ".
func GrantOf(tb testing.TB, principal string, permissions ...string) naming.Grant {
	tb.Helper()
	g := naming.Grant{Principal: principal}
	for _, p := range permissions {
		word, text, _ := strings.Cut(p, " ")
		access := map[string]naming.Access{"none": naming.NoAccess, "read": naming.MayRead, "claim": naming.MayClaim}[word]
		g.Permissions = append(g.Permissions, naming.Permission{Scope: Scope(tb, text), Access: access})
	}
	return g
}

// Plan asks an administrator for changes, and logs them.
func Plan(tb testing.TB, a naming.Provisioner, prune bool, grants ...naming.Grant) []naming.Change {
	tb.Helper()
	changes, err := a.Plan(tb.Context(), grants, prune)
	if err != nil {
		tb.Fatal(err)
	}
	for _, c := range changes {
		tb.Logf("%s %s: %s", c.Do, c.Object, c.Detail)
	}
	return changes
}

// Apply makes changes.
func Apply(tb testing.TB, changes []naming.Change) {
	tb.Helper()
	for _, c := range changes {
		if err := c.Apply(tb.Context()); err != nil {
			tb.Fatalf("%s %s: %v", c.Do, c.Object, err)
		}
	}
}

// WantPlan demands changes whose words are told in this order, and no others.
func WantPlan(tb testing.TB, changes []naming.Change, want ...string) {
	tb.Helper()
	for i, c := range changes {
		got := c.Do + " " + c.Object + ": " + c.Detail
		if i < len(want) && !strings.HasPrefix(got, want[i]) {
			tb.Errorf("change %d is %q, want %q…", i, got, want[i])
		}
	}
	if len(changes) != len(want) {
		tb.Errorf("%d changes, want %d", len(changes), len(want))
	}
}
