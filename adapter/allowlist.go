package adapter

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/seed-6593ebad/skywarden/naming"
)

// A PortRange is the ports First to Last, both included.
type PortRange struct{ First, Last uint16 }

// A Rule says who may own and who may look up one name or one family of names.
type Rule struct {
	// Scope is one name or one family. A rule for all names does not exist: it would
	// let whoever is in Owners answer to anything.
	Scope naming.Scope
	// Owners are the principals that may register the names. At least one.
	Owners []string
	// Addresses are the ranges in which the services must be. At least one; write
	// 0.0.0.0/0 and ::/0 for "anywhere".
	Addresses []netip.Prefix
	// Ports are the ports on which they must listen. Empty: any.
	Ports []PortRange
	// Readers are the principals that may look the names up, besides the owners.
	// Empty: everyone.
	Readers []string
}

// An AllowList says which principal may own which name from where, and which
// names may be looked up. What no rule speaks of is forbidden. Of several rules
// that hold a name only the closest counts: the exact one, else the longest
// family. It does not change once made and may be shared.
type AllowList struct {
	exact    map[naming.Name]*Rule
	families map[string]*Rule // by "game.eu."
}

// NewAllowList checks rules and reports everything that is wrong with them at
// once. An empty list is valid and forbids every name.
func NewAllowList(rules []Rule) (*AllowList, error) {
	l := &AllowList{exact: map[naming.Name]*Rule{}, families: map[string]*Rule{}}
	var errs []error
	for i, r := range rules {
		for _, problem := range checkRule(r) {
			errs = append(errs, fmt.Errorf("rule %d (%s): %s", i+1, r.Scope, problem))
		}
		r := Rule{r.Scope, slices.Clone(r.Owners), slices.Clone(r.Addresses), slices.Clone(r.Ports), slices.Clone(r.Readers)}
		var twice bool
		if name, ok := r.Scope.Name(); ok {
			twice = l.exact[name] != nil
			l.exact[name] = &r
		} else {
			twice = l.families[r.Scope.String()] != nil
			l.families[r.Scope.String()] = &r
		}
		if twice {
			errs = append(errs, fmt.Errorf("rule %d (%s): there is a rule for it already: join the two", i+1, r.Scope))
		}
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return l, nil
}

func checkRule(r Rule) (problems []string) {
	if r.Scope.IsZero() || r.Scope.IsAll() {
		problems = append(problems, "needs one name or one family")
	}
	if len(r.Owners) == 0 {
		problems = append(problems, "needs at least one owner")
	}
	if slices.Contains(r.Owners, "") || slices.Contains(r.Readers, "") {
		problems = append(problems, "has an empty principal")
	}
	if len(r.Addresses) == 0 {
		problems = append(problems, "needs at least one address range (0.0.0.0/0 and ::/0 for anywhere)")
	}
	for _, p := range r.Addresses {
		switch {
		case !p.IsValid():
			problems = append(problems, "has an invalid address range")
		case p != p.Masked():
			problems = append(problems, fmt.Sprintf("address range %s has bits beyond its length: write %s", p, p.Masked()))
		case p.Addr().Is4In6():
			problems = append(problems, fmt.Sprintf("address range %s is IPv4 written as IPv6, which no address is", p))
		}
	}
	for _, p := range r.Ports {
		if p.First == 0 || p.Last < p.First {
			problems = append(problems, fmt.Sprintf("port range %d-%d is empty or has port 0", p.First, p.Last))
		}
	}
	return problems
}

// MayOwn says whether principal may register name for a service at endpoint. The
// error wraps ErrNameNotAllowed or ErrAddressNotAllowed.
func (l *AllowList) MayOwn(name naming.Name, principal string, endpoint netip.AddrPort) error {
	r := l.rule(name)
	if r == nil {
		return fmt.Errorf("%w: no rule of the allow-list speaks of it", naming.ErrNameNotAllowed)
	}
	if !slices.Contains(r.Owners, principal) {
		return fmt.Errorf("%w: rule %s does not list principal %q as an owner", naming.ErrNameNotAllowed, r.Scope, principal)
	}
	if !slices.ContainsFunc(r.Addresses, func(p netip.Prefix) bool { return p.Contains(endpoint.Addr()) }) {
		return fmt.Errorf("%w: rule %s does not have %s in its address ranges", naming.ErrAddressNotAllowed, r.Scope, endpoint.Addr())
	}
	if len(r.Ports) > 0 && !slices.ContainsFunc(r.Ports, func(p PortRange) bool { return p.First <= endpoint.Port() && endpoint.Port() <= p.Last }) {
		return fmt.Errorf("%w: rule %s does not have port %d", naming.ErrAddressNotAllowed, r.Scope, endpoint.Port())
	}
	return nil
}

// MayLookUp says whether principal may look name up. The error wraps
// ErrNameNotAllowed.
func (l *AllowList) MayLookUp(name naming.Name, principal string) error {
	r := l.rule(name)
	if r == nil {
		return fmt.Errorf("%w: no rule of the allow-list speaks of it", naming.ErrNameNotAllowed)
	}
	if len(r.Readers) > 0 && !slices.Contains(r.Readers, principal) && !slices.Contains(r.Owners, principal) {
		return fmt.Errorf("%w: rule %s does not list principal %q as a reader", naming.ErrNameNotAllowed, r.Scope, principal)
	}
	return nil
}

// rule gives the closest rule that holds name, or nil. It looks up as many
// families as the name has dots.
func (l *AllowList) rule(name naming.Name) *Rule {
	if r := l.exact[name]; r != nil {
		return r
	}
	s := name.String()
	for {
		dot := strings.LastIndexByte(s, '.')
		if dot < 0 {
			return nil
		}
		if r := l.families[s[:dot+1]]; r != nil {
			return r
		}
		s = s[:dot]
	}
}
