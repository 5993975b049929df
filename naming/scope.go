package naming

import (
	"fmt"
	"strings"
)

// A Scope is a set of names: exactly one name, one family, or all names. The
// zero Scope holds no name. Scopes are comparable.
type Scope struct {
	kind scopeKind
	s    string // the name, or the family with its trailing dot
}

type scopeKind uint8

const (
	scopeNone scopeKind = iota
	scopeAll            // from here on from wide to narrow
	scopeFamily
	scopeOnly
)

// Only is the scope that holds just name. Of the zero Name it is the zero Scope.
func Only(name Name) Scope {
	if name.IsZero() {
		return Scope{}
	}
	return Scope{scopeOnly, name.s}
}

// All is the scope that holds every name.
func All() Scope { return Scope{kind: scopeAll} }

// ParseFamily parses a family: labels that each end in a dot. "game." holds
// "game.lobby" and "game.eu.lobby", and neither "game" nor "games.x". The error
// wraps ErrNameInvalid.
func ParseFamily(s string) (Scope, error) {
	prefix, dotted := strings.CutSuffix(s, ".")
	if !dotted {
		return Scope{}, fmt.Errorf("%w: %s does not end in a dot, as a family does", ErrNameInvalid, quote(s))
	}
	folded, err := parseLabels(prefix)
	if err != nil {
		return Scope{}, fmt.Errorf("%w: %s %w", ErrNameInvalid, quote(s), err)
	}
	if strings.Count(folded, ".") == MaxLabels-1 {
		return Scope{}, fmt.Errorf("%w: %s has %d labels, so no name has room below it", ErrNameInvalid, quote(s), MaxLabels)
	}
	return Scope{scopeFamily, folded + "."}, nil
}

// ParseScope parses what people write for a set of names: "" for all names, a
// trailing dot for a family, anything else is one name. The error wraps
// ErrNameInvalid.
func ParseScope(s string) (Scope, error) {
	switch {
	case s == "":
		return All(), nil
	case strings.HasSuffix(s, "."):
		return ParseFamily(s)
	}
	name, err := ParseName(s)
	return Only(name), err
}

// Contains says whether name is in the scope.
func (sc Scope) Contains(name Name) bool {
	switch sc.kind {
	case scopeOnly:
		return name.s == sc.s
	case scopeFamily:
		return strings.HasPrefix(name.s, sc.s)
	case scopeAll:
		return !name.IsZero()
	}
	return false
}

// Encloses says whether every name of inner is in the scope, and the scope has
// names beyond. The zero Scope encloses nothing and is enclosed by nothing.
func (sc Scope) Encloses(inner Scope) bool {
	switch inner.kind {
	case scopeOnly:
		return sc.kind != scopeOnly && sc.Contains(Name{inner.s})
	case scopeFamily:
		return sc.kind == scopeAll || sc.kind == scopeFamily && sc.s != inner.s && strings.HasPrefix(inner.s, sc.s)
	}
	return false
}

// IsZero says whether the scope is the zero Scope, which holds no name.
func (sc Scope) IsZero() bool { return sc.kind == scopeNone }

// IsAll says whether the scope holds every name.
func (sc Scope) IsAll() bool { return sc.kind == scopeAll }

// Name gives the name of a scope made by Only.
func (sc Scope) Name() (Name, bool) {
	if sc.kind != scopeOnly {
		return Name{}, false
	}
	return Name{sc.s}, true
}

// Family gives the labels of a family: "game.eu." has "game" and "eu".
func (sc Scope) Family() ([]string, bool) {
	if sc.kind != scopeFamily {
		return nil, false
	}
	return strings.Split(strings.TrimSuffix(sc.s, "."), "."), true
}

// String gives what ParseScope parses; "(none)" for the zero Scope.
func (sc Scope) String() string {
	if sc.kind == scopeNone {
		return "(none)"
	}
	return sc.s
}
