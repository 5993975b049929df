// Package classic is INSECURE. It shows what goes wrong without protection: it
// names services the way Skynet's harbor does, and so lets anybody take
// anybody's name. It is for demonstrations, and for the unprotected side of
// tests of attacks. It must not be used for anything else, and nothing here is
// configurable from a file.
//
// What it does, as Skynet's master and slaves do:
//
//   - There is no authentication: whoever reaches the server may register any name.
//   - The master keeps the first registration of a name, and broadcasts the newest.
//     So a Backend that is open follows whoever registered last, and a Backend
//     opened later asks the master and gets the first: a lasting split view.
//   - A name is never freed: Release, the end of a lease and Close delete nothing.
//   - Leases mean nothing, and revisions are not compared: Claim and Update always
//     succeed.
//
// In everything else, such as contexts and error kinds, it keeps to package
// naming, so that the same node runs on it.
package classic

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/seed-6593ebad/skywarden/naming"
)

const (
	driver     = "classic-INSECURE"
	aliveEvery = 2 * time.Second
	// forEver is how far ahead a lease's deadline always is: nothing ends here.
	forEver = 24 * time.Hour
)

// An InsecureDemonstrationServer is the master. It has no goroutines and needs
// no closing.
type InsecureDemonstrationServer struct {
	mu       sync.Mutex // guards this and the views of all backends
	revision naming.Revision
	first    map[naming.Name]naming.Entry // what a Backend gets that asks later
	open     map[*Backend]struct{}        // who hears broadcasts
}

// NewInsecureDemonstrationServer makes a name server that protects nobody: see
// the package's comment.
func NewInsecureDemonstrationServer() *InsecureDemonstrationServer {
	return &InsecureDemonstrationServer{first: make(map[naming.Name]naming.Entry), open: make(map[*Backend]struct{})}
}

// Open gives a Backend, which is one node's slave. Nobody is asked who he is.
func (s *InsecureDemonstrationServer) Open() *Backend {
	b := &Backend{server: s, view: make(map[naming.Name]naming.Entry), changed: make(chan struct{}), closing: make(chan struct{})}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open[b] = struct{}{}
	return b
}

// register is the master's answer to a registration, whoever sends it.
func (s *InsecureDemonstrationServer) register(name naming.Name, value []byte) naming.Revision {
	s.revision++
	newest := naming.Entry{Name: name, Value: slices.Clone(value), Revision: s.revision, Held: true}
	if _, known := s.first[name]; !known {
		s.first[name] = newest
	}
	for b := range s.open {
		b.view[name] = newest
		close(b.changed)
		b.changed = make(chan struct{})
	}
	return s.revision
}

// A Backend is one slave: it remembers what it was told about each name.
type Backend struct {
	server  *InsecureDemonstrationServer
	closing chan struct{} // closed by Close

	// Guarded by server.mu.
	view    map[naming.Name]naming.Entry
	changed chan struct{} // closed and replaced at each broadcast
	leases  []*lease
}

var (
	_ naming.Backend   = (*Backend)(nil)
	_ naming.Describer = (*Backend)(nil)
)

// see gives what the slave believes of name. What it was not told it asks the
// master, once.
func (b *Backend) see(name naming.Name) (naming.Entry, bool) {
	e, known := b.view[name]
	if !known {
		if e, known = b.server.first[name]; known {
			b.view[name] = e
		}
	}
	return e, known
}

// begin locks the server for one call, which ends with done.
func (b *Backend) begin(ctx context.Context, op string, name naming.Name) (done func(), err error) {
	if err := ctx.Err(); err != nil {
		return nil, fail(op, name, err)
	}
	b.server.mu.Lock()
	select {
	case <-b.closing:
		b.server.mu.Unlock()
		return nil, fail(op, name, naming.ErrClosed)
	default:
		return b.server.mu.Unlock, nil
	}
}

func fail(op string, name naming.Name, err error) error {
	return &naming.Error{Op: op, Name: name, Backend: driver, Err: err}
}

var errZeroName = fmt.Errorf("%w: the zero Name is no name", naming.ErrNameInvalid)

// Get gives what this Backend believes, which may not be what another does.
func (b *Backend) Get(ctx context.Context, name naming.Name) (naming.Entry, error) {
	const op = "get"
	if name.IsZero() {
		return naming.Entry{}, fail(op, name, errZeroName)
	}
	done, err := b.begin(ctx, op, name)
	if err != nil {
		return naming.Entry{}, err
	}
	defer done()
	if e, known := b.see(name); known {
		return e, nil
	}
	return naming.Entry{}, fail(op, name, naming.ErrNotFound)
}

// Watch gives what this Backend believes, and each broadcast that it hears.
func (b *Backend) Watch(ctx context.Context, scope naming.Scope) iter.Seq2[naming.Event, error] {
	return func(yield func(naming.Event, error) bool) {
		const op = "watch"
		name, _ := scope.Name()
		if scope.IsZero() {
			yield(naming.Event{}, fail(op, name, fmt.Errorf("%w: the zero Scope holds no name", naming.ErrNameInvalid)))
			return
		}
		told := make(map[naming.Name]naming.Revision)
		for synced := false; ; {
			done, err := b.begin(ctx, op, name)
			if err != nil {
				yield(naming.Event{}, err)
				return
			}
			news, changed := b.news(scope, told), b.changed
			done()
			for _, e := range news {
				if told[e.Name] = e.Revision; !yield(naming.Event{Kind: naming.Put, Entry: e}, nil) {
					return
				}
			}
			quiet := naming.Event{Kind: naming.Alive}
			if !synced {
				synced = true
				quiet.Kind = naming.Synced
			} else {
				alive := time.NewTimer(aliveEvery)
				select {
				case <-changed:
					quiet.Kind = 0
				case <-ctx.Done():
					quiet.Kind = 0
				case <-b.closing:
					quiet.Kind = 0
				case <-alive.C:
				}
				alive.Stop()
			}
			if quiet.Kind != 0 && !yield(quiet, nil) {
				return
			}
		}
	}
}

// news gives what is believed and was not told, oldest first.
func (b *Backend) news(scope naming.Scope, told map[naming.Name]naming.Revision) []naming.Entry {
	for name := range b.server.first {
		b.see(name)
	}
	var out []naming.Entry
	for name, e := range b.view {
		if scope.Contains(name) && told[name] != e.Revision {
			out = append(out, e)
		}
	}
	slices.SortFunc(out, func(x, y naming.Entry) int { return strings.Compare(x.Name.String(), y.Name.String()) })
	return out
}

// Lease gives a lease that never ends by itself, whatever ttl is.
func (b *Backend) Lease(ctx context.Context, _ time.Duration) (naming.Lease, error) {
	done, err := b.begin(ctx, "lease", naming.Name{})
	if err != nil {
		return nil, err
	}
	defer done()
	l := &lease{backend: b, done: make(chan struct{})}
	b.leases = append(b.leases, l)
	return l, nil
}

// Describe implements naming.Describer.
func (b *Backend) Describe() naming.Description {
	return naming.Description{Driver: driver, InProcess: true, MirrorAll: true, DefaultTTL: forEver}
}

// Close leaves every name registered. The Backend hears no broadcast any more.
func (b *Backend) Close() error {
	b.server.mu.Lock()
	defer b.server.mu.Unlock()
	if _, open := b.server.open[b]; open {
		delete(b.server.open, b)
		close(b.closing)
		for _, l := range b.leases {
			l.end()
		}
	}
	return nil
}
