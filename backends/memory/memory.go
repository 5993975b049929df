// Package memory is the built-in name server: it runs inside the process, and
// gives the same guarantees as the others do: exclusive claims, leases that
// expire, ordered watches, and principals with what each may claim and read.
//
// It is for programs that live in one process, for trying Skywarden without a
// server, and for tests: a Server has levers that break it on purpose, and runs
// inside a testing/synctest bubble. It is not for names that other processes
// should see: they cannot, and nothing of it survives the process.
//
// Principals of one process are separated only as far as the code of that
// process does not reach for another's Credential.
package memory

import (
	"crypto/rand"
	"fmt"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/seed-6593ebad/skywarden/naming"
)

// LocalPrincipal is whom Open speaks for.
const LocalPrincipal = "local"

// A Server is a name server inside the process. The zero value is ready, and
// lets the local principal claim and read every name. It may be shared by any
// number of nodes and used from any goroutine; it must not be copied. It has no
// goroutines of its own and needs no closing.
type Server struct {
	mu sync.Mutex // guards everything below, and what backends, leases and watches say so of

	entries  map[naming.Name]*entry
	revision naming.Revision // of the last change of anything
	leases   map[*heldLease]struct{}
	watches  map[*watch]struct{}

	guarded      bool // Grant was called: the local principal has no rights any more
	principals   map[string]*principal
	byCredential map[[credentialLen]byte]*principal

	paused, killed bool
	changed        chan struct{} // closed and replaced when it is worth asking again; see ask
}

// entry is what is stored under a name.
type entry struct {
	value    []byte
	revision naming.Revision
	lease    *heldLease // nil: nobody holds it
}

// heldLease is a lease as the server knows it; Lease is its driver's side.
type heldLease struct {
	backend *Backend // that opened it
	ttl     time.Duration
	expires time.Time
	timer   *time.Timer
	names   map[naming.Name]struct{}
	ended   chan struct{} // closed when it is gone
}

// A Grant is what a principal may do: claim the names in Claim, and read those
// in Claim and Read.
type Grant struct {
	Claim []naming.Scope
	Read  []naming.Scope
}

type principal struct {
	name       string
	grant      Grant
	credential Credential
}

// Open gives a Backend that speaks for the local principal. It may claim and
// read every name until somebody is granted something with Grant: from then on
// everything is ErrDenied to it, so that a program cannot go round the
// principals that it set up.
func (s *Server) Open() *Backend { return newBackend(s, Credential{}, true) }

// OpenAs gives a Backend that speaks for the principal whose credential c is.
// If c is not one of this server, each call says so with ErrUnauthenticated.
func (s *Server) OpenAs(c Credential) *Backend { return newBackend(s, c, false) }

// Grant makes principal known, with what it may do, and gives its credential.
// For a principal that is known already it replaces what it may do, from now
// on; the credential stays the same. A lease which holds a name that its
// principal may not claim any more is not renewed, and ends after its TTL; a
// watch over names that it may not read any more ends with ErrDenied.
//
// A scope that holds no name is ErrNameInvalid; a principal that is empty,
// longer than 128 bytes, not printable or LocalPrincipal is ErrInsecureConfig.
func (s *Server) Grant(principalName string, g Grant) (Credential, error) {
	fail := func(err error) (Credential, error) {
		return Credential{}, &naming.Error{Op: "grant", Backend: driver, Err: err}
	}
	if principalName == LocalPrincipal {
		return fail(fmt.Errorf("%w: %q is the principal of Open and cannot be granted anything", naming.ErrInsecureConfig, LocalPrincipal))
	}
	if principalName == "" || len(principalName) > naming.MaxNameLen || strings.ContainsFunc(principalName, func(r rune) bool { return !unicode.IsPrint(r) || r == unicode.ReplacementChar }) {
		return fail(fmt.Errorf("%w: principal %q: give 1 to %d printable bytes", naming.ErrInsecureConfig, principalName, naming.MaxNameLen))
	}
	for _, sc := range append(append([]naming.Scope(nil), g.Claim...), g.Read...) {
		if sc.IsZero() {
			return fail(fmt.Errorf("%w: principal %q is granted a scope that holds no name", naming.ErrNameInvalid, principalName))
		}
	}
	g = Grant{Claim: append([]naming.Scope(nil), g.Claim...), Read: append([]naming.Scope(nil), g.Read...)}

	var secret [credentialLen]byte
	_, _ = rand.Read(secret[:]) // never fails: see its documentation

	s.mu.Lock()
	defer s.mu.Unlock()
	s.guarded = true
	defer s.broadcast()
	if p := s.principals[principalName]; p != nil {
		p.grant = g
		return p.credential, nil
	}
	if s.principals == nil {
		s.principals = make(map[string]*principal)
		s.byCredential = make(map[[credentialLen]byte]*principal)
	}
	p := &principal{principalName, g, Credential{&secret}}
	s.principals[principalName] = p
	s.byCredential[secret] = p
	return p.credential, nil
}

// Revoke makes the credential of principal worthless at once: calls with it
// are ErrUnauthenticated, watches end with that error, and leases end after
// their TTL, because they are not renewed. Granting the principal something
// again gives a new credential. It says whether the principal was known.
func (s *Server) Revoke(principalName string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.principals[principalName]
	if p == nil {
		return false
	}
	delete(s.principals, principalName)
	delete(s.byCredential, *p.credential.secret)
	s.broadcast()
	return true
}

// Stats counts what lies on the server.
type Stats struct {
	Entries int // held or not
	Leases  int
	Watches int // range statements that are running
}

// Stats counts what lies on the server now.
func (s *Server) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	return Stats{Entries: len(s.entries), Leases: len(s.leases), Watches: len(s.watches)}
}

// ask runs f as b's principal, under the lock, if b can reach the server. Where
// it cannot, answered is false, and changed is closed when that may be
// different.
func (s *Server) ask(b *Backend, f func(*principal) error) (answered bool, changed <-chan struct{}, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if b.closed {
		return true, nil, naming.ErrClosed
	}
	if !s.reachedBy(b) {
		return false, s.whenChanged(), nil
	}
	p, err := s.authenticate(b)
	if err != nil {
		return true, s.whenChanged(), err
	}
	return true, s.whenChanged(), f(p)
}

func (s *Server) reachedBy(b *Backend) bool { return !s.paused && !s.killed && !b.cut }

// whenChanged gives a channel that is closed when the server's reachability or
// somebody's rights change.
func (s *Server) whenChanged() <-chan struct{} {
	if s.changed == nil {
		s.changed = make(chan struct{})
	}
	return s.changed
}

func (s *Server) broadcast() {
	if s.changed != nil {
		close(s.changed)
		s.changed = nil
	}
}

var local = &principal{name: LocalPrincipal, grant: Grant{Claim: []naming.Scope{naming.All()}}}

func (s *Server) authenticate(b *Backend) (*principal, error) {
	switch {
	case b.local && s.guarded:
		return nil, fmt.Errorf("%w: this server has principals with rights of their own, so the local principal has none: open it with OpenAs", naming.ErrDenied)
	case b.local:
		return local, nil
	case b.credential.secret != nil:
		if p := s.byCredential[*b.credential.secret]; p != nil {
			return p, nil
		}
	}
	return nil, fmt.Errorf("%w: the server does not know this credential, or it was revoked", naming.ErrUnauthenticated)
}

func (p *principal) mayClaim(name naming.Name) error {
	for _, sc := range p.grant.Claim {
		if sc.Contains(name) {
			return nil
		}
	}
	return fmt.Errorf("%w: principal %q may not claim this name", naming.ErrDenied, p.name)
}

// mayRead says whether one grant covers scope wholly.
func (p *principal) mayRead(scope naming.Scope) error {
	for _, granted := range [][]naming.Scope{p.grant.Claim, p.grant.Read} {
		for _, g := range granted {
			if covers(g, scope) {
				return nil
			}
		}
	}
	return fmt.Errorf("%w: principal %q may not read all of the scope %q", naming.ErrDenied, p.name, scope)
}

func covers(outer, inner naming.Scope) bool {
	if name, one := inner.Name(); one {
		return outer.Contains(name)
	}
	if _, family := outer.Family(); family && !inner.IsAll() {
		return strings.HasPrefix(inner.String(), outer.String())
	}
	return outer.IsAll()
}

// put stores an entry, tied to lease unless that is nil, and tells the watches.
func (s *Server) put(name naming.Name, value []byte, lease *heldLease) naming.Revision {
	if old := s.entries[name]; old != nil && old.lease != nil {
		delete(old.lease.names, name)
	}
	if s.entries == nil {
		s.entries = make(map[naming.Name]*entry)
	}
	s.revision++
	s.entries[name] = &entry{value: append([]byte(nil), value...), revision: s.revision, lease: lease}
	if lease != nil {
		lease.names[name] = struct{}{}
	}
	s.tell(name)
	return s.revision
}

func (s *Server) remove(name naming.Name) {
	e := s.entries[name]
	if e == nil {
		return
	}
	if e.lease != nil {
		delete(e.lease.names, name)
	}
	delete(s.entries, name)
	s.revision++
	s.tell(name)
}

func (s *Server) tell(name naming.Name) {
	for w := range s.watches {
		w.mark(name, s.revision)
	}
}

// look gives what is under name: an Entry with revision 0 when nothing is.
func (s *Server) look(name naming.Name) naming.Entry {
	e := s.entries[name]
	if e == nil {
		return naming.Entry{Name: name}
	}
	return naming.Entry{Name: name, Value: e.value, Revision: e.revision, Held: e.lease != nil}
}

func (s *Server) openLease(b *Backend, ttl time.Duration) *heldLease {
	h := &heldLease{backend: b, ttl: ttl, expires: time.Now().Add(ttl), names: make(map[naming.Name]struct{}), ended: make(chan struct{})}
	h.timer = time.AfterFunc(ttl, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		// A renewal or a restart may have come between the timer and the lock.
		if !s.killed && !time.Now().Before(h.expires) {
			s.endLease(h)
		}
	})
	if s.leases == nil {
		s.leases = make(map[*heldLease]struct{})
	}
	s.leases[h] = struct{}{}
	return h
}

func (s *Server) renewLease(h *heldLease) {
	h.expires = time.Now().Add(h.ttl)
	h.timer.Reset(h.ttl)
}

// endLease deletes all that the lease holds. It may be repeated.
func (s *Server) endLease(h *heldLease) {
	if _, lives := s.leases[h]; !lives {
		return
	}
	delete(s.leases, h)
	h.timer.Stop()
	for name := range h.names {
		s.remove(name)
	}
	close(h.ended)
}
