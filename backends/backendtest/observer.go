package backendtest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/seed-6593ebad/skywarden/naming"
)

// maxSilence is the longest time between two events of a healthy watch.
const maxSilence = 5 * time.Second

// An observer runs a watch, checks each event against the contract, and
// remembers what the watch says there is.
type observer struct {
	t        *testing.T
	scope    naming.Scope
	cancel   context.CancelFunc
	ended    chan struct{}
	err      error           // why it ended; to be read after ended
	downIsOK atomic.Bool     // somebody breaks the server, or faults are injected
	gate     <-chan struct{} // the reader is stuck until it is closed; nil: it is not

	mu      sync.Mutex
	entries map[naming.Name]naming.Entry
	latest  map[naming.Name]naming.Revision // of a name's events
	events  int
	deletes map[naming.Name]int
	initial map[naming.Name]naming.Entry // what was there at the first Synced
	isDown  bool                         // Down came, and Synced did not since
	downs   int
	synceds int
	alives  int
	last    time.Time
	news    chan struct{} // closed and replaced at each event
}

// observe starts a watch that ends with the test.
func (s *suite) observe(b naming.Backend, scope naming.Scope) *observer {
	s.t.Helper()
	return s.observeFrom(b, scope, nil)
}

// observeFrom is observe with a reader who is stuck until gate is closed.
func (s *suite) observeFrom(b naming.Backend, scope naming.Scope, gate <-chan struct{}) *observer {
	t := s.t
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	o := &observer{
		t: t, scope: scope, gate: gate, cancel: cancel, ended: make(chan struct{}), last: time.Now(), news: make(chan struct{}),
		entries: make(map[naming.Name]naming.Entry), latest: make(map[naming.Name]naming.Revision), deletes: make(map[naming.Name]int),
	}
	o.downIsOK.Store(s.Injected)
	go func() {
		defer close(o.ended)
		for ev, err := range b.Watch(ctx, scope) {
			if err != nil {
				o.err = err
				continue // and so see whether something comes after the last pair
			}
			if gate != nil {
				<-gate
			}
			o.event(ev)
		}
	}()
	t.Cleanup(func() {
		cancel()
		<-o.ended
	})
	return o
}

func (o *observer) event(ev naming.Event) {
	o.mu.Lock()
	defer o.mu.Unlock()
	wrong := func(format string, args ...any) {
		o.t.Errorf("watch %q: %v %v at revision %d: %s", o.scope, ev.Kind, ev.Entry.Name, ev.Entry.Revision, fmt.Sprintf(format, args...))
	}
	now := time.Now()
	if silent := now.Sub(o.last); silent > maxSilence+slack && o.synceds > 0 && !o.isDown && o.gate == nil && !o.downIsOK.Load() {
		wrong("nothing was heard for %v before", silent)
	}
	o.last = now
	o.events++

	e, known := o.entries[ev.Entry.Name]
	switch ev.Kind {
	case naming.Put, naming.Delete:
		if !o.scope.Contains(ev.Entry.Name) {
			wrong("the name is not in scope")
		}
	default:
		if ev.Entry.Revision != 0 || !ev.Entry.Name.IsZero() {
			wrong("it carries an entry")
		}
	}
	if (ev.Kind == naming.Down) != (ev.Err != nil) {
		wrong("its Err is %v", ev.Err)
	}
	switch ev.Kind {
	case naming.Put:
		if ev.Entry.Revision <= o.latest[ev.Entry.Name] {
			wrong("revision %d of the same name came before", o.latest[ev.Entry.Name])
		}
		o.entries[ev.Entry.Name] = ev.Entry
		o.latest[ev.Entry.Name] = ev.Entry.Revision
	case naming.Delete:
		if !known {
			wrong("there was no entry to be deleted")
		}
		if ev.Entry.Revision < e.Revision {
			wrong("the entry had revision %d", e.Revision)
		}
		delete(o.entries, ev.Entry.Name)
		o.latest[ev.Entry.Name] = ev.Entry.Revision
		o.deletes[ev.Entry.Name]++
	case naming.Synced:
		if o.synceds > 0 && !o.isDown {
			wrong("it is number %d, and no Down came since the last", o.synceds+1)
		}
		if o.synceds == 0 {
			o.initial = maps.Clone(o.entries)
		}
		o.synceds++
		o.isDown = false
	case naming.Down:
		if !o.downIsOK.Load() {
			wrong("the server is healthy: %v", ev.Err)
		}
		if o.isDown {
			wrong("there was no Synced since the last Down")
		}
		o.downs++
		o.isDown = true
	case naming.Alive:
		o.alives++
	default:
		wrong("there is no such kind")
	}
	close(o.news)
	o.news = make(chan struct{})
}

// until waits until ok holds of what the watch said, and fails the test if it
// does not within the time.
func (o *observer) until(within time.Duration, what string, ok func(o *observer) bool) {
	o.t.Helper()
	timeout := time.NewTimer(within)
	defer timeout.Stop()
	for {
		o.mu.Lock()
		good, news, state := ok(o), o.news, o.state()
		o.mu.Unlock()
		if good {
			return
		}
		select {
		case <-news:
		case <-o.ended:
			o.t.Fatalf("watch %q: ended with %v while waiting until %s; %s", o.scope, o.err, what, state)
		case <-timeout.C:
			o.t.Fatalf("watch %q: after %v not yet: %s; %s", o.scope, within, what, state)
		}
	}
}

func (o *observer) state() string {
	var b strings.Builder
	fmt.Fprintf(&b, "it said synced %d times, down %d, alive %d, and that there is", o.synceds, o.downs, o.alives)
	for name, e := range o.entries {
		fmt.Fprintf(&b, " %v@%d=%.20q", name, e.Revision, e.Value)
	}
	return b.String()
}

func (o *observer) untilSynced(within time.Duration) {
	o.t.Helper()
	o.until(within, "it is synced", inSync)
}

func inSync(o *observer) bool { return o.synceds > 0 && !o.isDown }

// untilThere waits until the watch says that exactly want is there: values by
// name.
func (o *observer) untilThere(want map[naming.Name]string) {
	o.t.Helper()
	o.until(soon, fmt.Sprintf("exactly %q is there", want), func(o *observer) bool {
		there := make(map[naming.Name]string)
		for name, e := range o.entries {
			there[name] = string(e.Value)
		}
		return maps.Equal(there, want)
	})
}

// untilGone waits until the watch said Delete of name, n times in all.
func (o *observer) untilGone(within time.Duration, name naming.Name) {
	o.t.Helper()
	o.until(within, fmt.Sprintf("%v was deleted", name), func(o *observer) bool {
		_, there := o.entries[name]
		return !there && o.deletes[name] > 0
	})
}

// untilItAgrees waits until the watch says of each name what Get says.
func (o *observer) untilItAgrees(within time.Duration, b naming.Backend, names []naming.Name) {
	o.t.Helper()
	eventually(o.t, within, "the watch agrees with Get", func() error {
		for _, name := range names {
			want, err := b.Get(o.t.Context(), name)
			if err != nil && !errors.Is(err, naming.ErrNotFound) {
				return err
			}
			o.mu.Lock()
			got := o.entries[name]
			o.mu.Unlock()
			if want.Revision == 0 && got.Revision == 0 {
				continue
			}
			if diff := differ(got, want); diff != "" {
				return errors.New(diff)
			}
		}
		return nil
	})
}
