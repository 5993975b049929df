package backendtest

import (
	"testing"
	"time"

	"github.com/seed-6593ebad/skywarden/naming"
)

// A Principal is one of the identities as which the suite opens a backend. What
// each may do says Plan.
type Principal string

// The principals that the server must know, and one that it must not.
const (
	OwnerA   Principal = "owner-a"
	OwnerB   Principal = "owner-b"
	Reader   Principal = "reader"
	Stranger Principal = "stranger" // known to the server, without any right on names
	Fired    Principal = "fired"    // has rights until Harness.Revoke takes them
	// WrongCredential has a credential that the server does not accept: for example
	// one signed by another authority, or of a user who does not exist.
	WrongCredential Principal = "wrong-credential" //nolint:gosec // a principal's name
)

// Rights are what a principal may do. What it may claim it may also read.
type Rights struct {
	Claim []naming.Scope // exact names and families
	Read  []naming.Scope // nothing, or all names
}

// Plan gives the rights that the server must enforce while the suite runs:
//
//	owner-a   claims "shared.", "a." and the exact names a, bank, bank2, shared,
//	          shared-x and sharedx.y; reads every name
//	owner-b   claims "shared." and "b."; reads nothing else
//	reader    reads every name
//	stranger  nothing
//	fired     claims "fired."; reads nothing else
//
// WrongCredential is not in it.
func Plan() map[Principal]Rights {
	return map[Principal]Rights{
		OwnerA: {
			Claim: scopes("shared.", "a.", "a", "bank", "bank2", "shared", "shared-x", "sharedx.y"),
			Read:  []naming.Scope{naming.All()},
		},
		OwnerB:   {Claim: scopes("shared.", "b.")},
		Reader:   {Read: []naming.Scope{naming.All()}},
		Stranger: {},
		Fired:    {Claim: scopes("fired.")},
	}
}

func scopes(ss ...string) []naming.Scope {
	var out []naming.Scope
	for _, s := range ss {
		sc, _ := naming.ParseScope(s) // of the suite's own, valid texts
		out = append(out, sc)
	}
	return out
}

// A Harness gives the suite a server, with the principals of Plan, and levers
// to break it. The server must be used by nothing else while the suite runs, and
// hold no names and no leases before. The functions may be called from any goroutine; they
// call tb.Fatal where they cannot do their work, and return when it is done.
type Harness struct {
	// Open opens the backend as p. The suite closes it. For WrongCredential it may
	// give an error that wraps naming.ErrUnauthenticated instead.
	Open func(tb testing.TB, p Principal) (naming.Backend, error)

	// TTL is what the suite asks leases for: short, so that the suite is fast. 0
	// means the driver's default.
	TTL time.Duration
	// FreeWithin is how long after the last renewal a lost owner's names are free
	// at the latest; 0 means TTL + 1 s.
	FreeWithin time.Duration
	// FreeWithinRestart is the same where the server was paused or killed and came
	// back in between, counted from its return; 0 means 2·TTL + 4 s.
	FreeWithinRestart time.Duration

	// Pause makes the server fall silent without closing connections, as SIGSTOP
	// does; Resume ends that.
	Pause, Resume func(tb testing.TB)
	// Kill stops the server as SIGKILL does; Restart starts it again with its data,
	// at the same address, and returns when it serves.
	Kill, Restart func(tb testing.TB)
	// ExpireLease ends the lease that holds name, as its administrator would.
	ExpireLease func(tb testing.TB, name naming.Name)
	// Revoke takes all rights from p, or its credential. It is called for Fired.
	Revoke func(tb testing.TB, p Principal)
	// PutUnheld stores value under name without a lease, as an administrator would,
	// or an owner's lease that ended without deleting the entry.
	PutUnheld func(tb testing.TB, name naming.Name, value []byte)
	// Count says what lies on the server, whoever owns it.
	Count func(tb testing.TB) Count

	// Lacks says which of Abilities this harness does not have, and why. What is
	// not checked for this reason is said on standard error, and as skipped tests.
	// A function that is nil and not listed here fails the suite.
	Lacks map[Ability]string

	// Injected says that Open gives backends wrapped by Faulty. It relaxes exactly
	// this: a call that failed with ErrInjected and ErrUnavailable is repeated, and
	// a watch may say Down while nobody breaks the server.
	Injected bool
}

// Count is what lies on a server.
type Count struct {
	Leases  int
	Entries int
}

// An Ability is something that a Harness may be unable to do.
type Ability string

// The abilities, named after the fields of Harness.
const (
	CanPause       Ability = "Pause and Resume"
	CanKill        Ability = "Kill and Restart"
	CanExpireLease Ability = "ExpireLease"
	CanRevoke      Ability = "Revoke"
	CanPutUnheld   Ability = "PutUnheld"
	CanCount       Ability = "Count"
)
