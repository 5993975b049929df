package naming

import (
	"cmp"
	"context"
	"slices"
)

// An Access is what somebody may do with a name.
type Access uint8

// The kinds of access, each with what the one before it has.
const (
	// NoAccess: neither read nor claim.
	NoAccess Access = iota
	// MayRead: look up and watch.
	MayRead
	// MayClaim: claim, update, release, and read.
	MayClaim
)

// String gives "none", "read" or "claim".
func (a Access) String() string {
	switch a {
	case NoAccess:
		return "none"
	case MayRead:
		return "read"
	case MayClaim:
		return "claim"
	}
	return "unknown"
}

// A Permission gives access to all names of a scope.
type Permission struct {
	Scope  Scope
	Access Access
}

// A Grant is all that a registry shall let one principal do, in words that every
// registry can be told in. Of several permissions whose scopes hold a name only
// the closest counts: that of exactly this name, else that of the longest
// family, else that of all names. What no permission speaks of is NoAccess. There
// is at most one permission for a scope.
type Grant struct {
	Principal   string
	Permissions []Permission
}

// Access gives what the grant says of one name.
func (g Grant) Access(name Name) Access {
	var closest Permission
	for _, p := range g.Permissions {
		if p.Scope.Contains(name) && (closest.Scope.IsZero() || closest.Scope.Encloses(p.Scope)) {
			closest = p
		}
	}
	return closest.Access
}

// Simplify gives the same grant with its permissions from wide to narrow, and
// without those that say what the next wider one says already.
func (g Grant) Simplify() Grant {
	sorted := slices.Clone(g.Permissions)
	slices.SortFunc(sorted, func(a, b Permission) int {
		return cmp.Or(cmp.Compare(a.Scope.kind, b.Scope.kind), cmp.Compare(a.Scope.s, b.Scope.s))
	})
	simple := Grant{Principal: g.Principal}
	for _, p := range sorted {
		if simple.around(p.Scope) != p.Access {
			simple.Permissions = append(simple.Permissions, p)
		}
	}
	return simple
}

// around gives the access that the closest scope around inner has.
func (g Grant) around(inner Scope) Access {
	var closest Permission
	for _, p := range g.Permissions {
		if p.Scope.Encloses(inner) && (closest.Scope.IsZero() || closest.Scope.Encloses(p.Scope)) {
			closest = p
		}
	}
	return closest.Access
}

// A Change is one step by which a server's access control becomes what grants
// ask for. Nothing of it is secret.
type Change struct {
	Do     string // "create", "change" or "delete"
	Object string // what: "role skywarden-game", "token of game"
	Detail string // how what is there differs from what should be
	// Apply makes the change. What it does it may be told again. Errors are those
	// common to all methods of Backend.
	Apply func(context.Context) error `json:"-"`
}

// A Provisioner knows a server's access control. It speaks for an administrator.
type Provisioner interface {
	// Plan says what is missing on the server, or not as it should be, until each
	// principal of grants can do what its grant says and nothing else below the
	// driver's root. The changes must be applied in their order. No change means
	// that everything is as it should be. What belongs to principals who are not
	// in grants is a change only if prune is true.
	Plan(ctx context.Context, grants []Grant, prune bool) ([]Change, error)
	// Close ends the connection.
	Close() error
}

// A File is something that a driver writes for its administrator: a policy, or
// commands to run. It holds no secret.
type File struct {
	Name    string // relative, with slashes
	Content []byte
}
