package adapter

import (
	"maps"
	"slices"
	"strings"

	"github.com/seed-6593ebad/skywarden/naming"
)

// Rules gives the rules of the list, from families to single names.
func (l *AllowList) Rules() []Rule {
	rules := make([]Rule, 0, len(l.exact)+len(l.families))
	for _, family := range slices.Sorted(maps.Keys(l.families)) {
		rules = append(rules, *l.families[family])
	}
	for _, name := range slices.SortedFunc(maps.Keys(l.exact), func(a, b naming.Name) int { return strings.Compare(a.String(), b.String()) }) {
		rules = append(rules, *l.exact[name])
	}
	return rules
}

// Grants says in words that every registry can be told in what the list gives to
// each principal that it names, and to readers, who own nothing and look up what
// everybody may. They come in the order of the principals' names. Addresses and
// ports are not in it: no registry looks at them.
//
// A principal who may look up every rule's names is given all names, also those
// that no rule speaks of: there are none.
func (l *AllowList) Grants(readers ...string) []naming.Grant {
	rules := l.Rules()
	principals := slices.Clone(readers)
	for _, r := range rules {
		principals = append(append(principals, r.Owners...), r.Readers...)
	}
	slices.Sort(principals)
	grants := []naming.Grant{}
	for _, principal := range slices.Compact(principals) {
		g := naming.Grant{Principal: principal, Permissions: []naming.Permission{{Scope: naming.All(), Access: naming.MayRead}}}
		for _, r := range rules {
			access := naming.MayRead
			switch {
			case slices.Contains(r.Owners, principal):
				access = naming.MayClaim
			case len(r.Readers) > 0 && !slices.Contains(r.Readers, principal):
				access = naming.NoAccess
			}
			g.Permissions = append(g.Permissions, naming.Permission{Scope: r.Scope, Access: access})
		}
		grants = append(grants, g.Simplify())
	}
	return grants
}
