package backendtest_test

import (
	"context"
	"errors"
	"iter"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/seed-6593ebad/skywarden/backends/backendtest"
	"github.com/seed-6593ebad/skywarden/backends/memory"
	"github.com/seed-6593ebad/skywarden/naming"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// breakEnv names the breakage that TestSuite is to suffer from; without it, the
// driver and the harness are in order.
const breakEnv = "BACKENDTEST_BREAK"

func TestSuite(t *testing.T) {
	intact := func(*memory.Server, naming.Backend) naming.Backend { return nil }
	kind := os.Getenv(breakEnv)
	if b, known := breakages[kind]; known {
		backendtest.Run(t, harness(t, b.how))
		return
	}
	h := harness(t, intact)
	switch kind {
	case "":
	case lacksSilently:
		h.Revoke = nil
	case lacksAndSaysSo:
		h.Revoke = nil
		h.Lacks = map[backendtest.Ability]string{backendtest.CanRevoke: "it is only an example"}
	case lacksWhatItHas:
		h.Lacks = map[backendtest.Ability]string{backendtest.CanRevoke: "it is only an example"}
	case lacksNonsense:
		h.Lacks = map[backendtest.Ability]string{"Tea": "it is only an example"}
	default:
		t.Fatalf("%s=%s: there is no such breakage", breakEnv, kind)
	}
	backendtest.Run(t, h)
}

const (
	lacksSilently  = "harness lacks an ability silently"
	lacksAndSaysSo = "harness lacks an ability and says so"
	lacksWhatItHas = "harness denies what it has"
	lacksNonsense  = "harness lacks what nobody knows"
)

// runSuite runs TestSuite, or the check of it that is named, in a process of its
// own, and says whether it was green.
func runSuite(t *testing.T, kind, check string) (green bool, output string) {
	t.Helper()
	program, err := os.Executable()
	if err != nil {
		t.Errorf("find this program: %v", err)
		return false, ""
	}
	pattern := "^TestSuite$"
	for part := range strings.SplitSeq(check, "/") {
		if part != "" {
			pattern += "/^" + part + "$"
		}
	}
	cmd := exec.CommandContext(t.Context(), program, "-test.run="+pattern, "-test.v", "-test.timeout=1m")
	cmd.Env = append(os.Environ(), breakEnv+"="+kind)
	out, err := cmd.CombinedOutput()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		t.Errorf("run the suite: %v", err)
	}
	if strings.Contains(string(out), "panic:") {
		t.Errorf("the suite panicked on a driver that %s\n%s", kind, out)
	}
	return err == nil, string(out)
}

// TestSuiteFindsWhatIsBroken breaks a driver in one way after the other, and
// wants the suite to go red where that way is looked for.
func TestSuiteFindsWhatIsBroken(t *testing.T) {
	// The suite waits most of the time, so more run at once than there are cores.
	const atOnce = 12
	slots := make(chan struct{}, atOnce)
	var all sync.WaitGroup
	for kind, b := range breakages {
		all.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			switch green, out := runSuite(t, kind, b.foundBy); {
			case green:
				t.Errorf("the suite is green on a driver that %s\n%s", kind, out)
			case !strings.Contains(out, "--- FAIL: TestSuite/"+b.foundBy+" "):
				t.Errorf("on a driver that %s the suite failed elsewhere than in %s\n%s", kind, b.foundBy, out)
			}
		})
	}
	all.Wait()
}

func TestHarnessMustSayWhatItLacks(t *testing.T) {
	const check = "Healthy/Rights/Revoked"
	for kind, c := range map[string]struct {
		green bool
		want  []string
	}{
		lacksSilently:  {false, []string{"the Harness has no Revoke: give it, or say in Lacks why not"}},
		lacksWhatItHas: {false, []string{"the Harness has Revoke, and Lacks denies it"}},
		lacksNonsense:  {false, []string{`Lacks names "Tea"`}},
		lacksAndSaysSo: {true, []string{"--- SKIP: TestSuite/" + check, "\nbackendtest: NOT CHECKED: TestSuite/" + check + ": the harness lacks Revoke: it is only an example"}},
	} {
		green, out := runSuite(t, kind, check)
		if green != c.green {
			t.Errorf("%s: green is %v, want %v\n%s", kind, green, c.green, out)
		}
		for _, want := range c.want {
			if !strings.Contains(out, want) {
				t.Errorf("%s: the output lacks %q:\n%s", kind, want, out)
			}
		}
	}
}

type breakage struct {
	foundBy string // the check that must find it
	how     func(*memory.Server, naming.Backend) naming.Backend
}

var breakages = map[string]breakage{
	"puts blindly": {"Healthy/Claim/IsExclusive", func(_ *memory.Server, b naming.Backend) naming.Backend {
		return backend{Backend: b, lease: lease{claim: func(ctx context.Context, l naming.Lease, n naming.Name, v []byte, over naming.Revision) (naming.Revision, error) {
			return claimOverAnything(ctx, l, n, v, over, over == 0)
		}}}
	}},
	"ignores the revision to claim over": {"Healthy/Claim/ReplacesExactlyTheNamedRevision", func(_ *memory.Server, b naming.Backend) naming.Backend {
		return backend{Backend: b, lease: lease{claim: func(ctx context.Context, l naming.Lease, n naming.Name, v []byte, over naming.Revision) (naming.Revision, error) {
			return claimOverAnything(ctx, l, n, v, over, over != 0)
		}}}
	}},
	"claims over an absent entry": {"Healthy/Claim/ReplacesExactlyTheNamedRevision", func(_ *memory.Server, b naming.Backend) naming.Backend {
		return backend{Backend: b, lease: lease{claim: func(ctx context.Context, l naming.Lease, n naming.Name, v []byte, over naming.Revision) (naming.Revision, error) {
			rev, err := l.Claim(ctx, n, v, over)
			if taken := (*naming.TakenError)(nil); errors.As(err, &taken) && taken.Entry.Revision == 0 {
				return l.Claim(ctx, n, v, 0)
			}
			return rev, err
		}}}
	}},
	"updates from any revision": {"Healthy/Update/IsGuarded", func(_ *memory.Server, b naming.Backend) naming.Backend {
		return backend{Backend: b, lease: lease{update: func(ctx context.Context, l naming.Lease, n naming.Name, v []byte, prev naming.Revision) (naming.Revision, error) {
			return claimOverAnything(ctx, l, n, v, max(prev, 1), true)
		}}}
	}},
	"releases what is not its own": {"Healthy/Release/LeavesForeignEntriesAlone", func(s *memory.Server, b naming.Backend) naming.Backend {
		return backend{Backend: b, lease: lease{release: func(ctx context.Context, l naming.Lease, n naming.Name) error {
			err := l.Release(ctx, n)
			if err == nil {
				s.Levers().Delete(n)
			}
			return err
		}}}
	}},
	"does not undo cancelled claims": {"Healthy/Claim/IsUndoneWhenCancelled", func(_ *memory.Server, b naming.Backend) naming.Backend {
		return backend{Backend: b, lease: lease{claim: func(ctx context.Context, l naming.Lease, n naming.Name, v []byte, over naming.Revision) (naming.Revision, error) {
			rev, err := l.Claim(context.WithoutCancel(ctx), n, v, over)
			select {
			case <-ctx.Done():
				return 0, &naming.Error{Op: "claim", Err: ctx.Err()}
			case <-time.After(time.Millisecond):
				return rev, err
			}
		}}}
	}},
	"goes on when it is cancelled": {"Healthy/Backend/CancelledContext", func(_ *memory.Server, b naming.Backend) naming.Backend {
		return backend{Backend: b, get: func(ctx context.Context, n naming.Name) (naming.Entry, error) {
			return b.Get(context.WithoutCancel(ctx), n)
		}}
	}},
	"stores what is too large": {"Healthy/Claim/RefusesBadInput", func(_ *memory.Server, b naming.Backend) naming.Backend {
		return backend{Backend: b, lease: lease{claim: func(ctx context.Context, l naming.Lease, n naming.Name, v []byte, over naming.Revision) (naming.Revision, error) {
			return l.Claim(ctx, n, v[:min(len(v), naming.MaxValueLen)], over)
		}}}
	}},
	"loses the last byte": {"Healthy/Claim/StoresWhatItIsGiven", func(_ *memory.Server, b naming.Backend) naming.Backend {
		return backend{Backend: b, lease: lease{claim: func(ctx context.Context, l naming.Lease, n naming.Name, v []byte, over naming.Revision) (naming.Revision, error) {
			return l.Claim(ctx, n, v[:max(len(v)-1, 0)], over)
		}}}
	}},
	"reads from a cache": {"Healthy/Claim/StoresWhatItIsGiven", func(_ *memory.Server, b naming.Backend) naming.Backend {
		var cached naming.Entry
		return backend{Backend: b, get: func(ctx context.Context, n naming.Name) (e naming.Entry, err error) {
			if cached.Name != n {
				if cached, err = b.Get(ctx, n); err != nil {
					return naming.Entry{}, err
				}
			}
			return cached, nil
		}}
	}},
	"calls every error not found": {"Healthy/Rights/DeniedIsNeitherTakenNorNotFound", notFound},
	"calls an outage not found":   {"Broken/L1S5KilledAndRestarted", notFound},
	"calls a wrong credential unavailable": {"Healthy/Rights/WrongCredential", func(_ *memory.Server, b naming.Backend) naming.Backend {
		return backend{Backend: b, get: func(ctx context.Context, n naming.Name) (naming.Entry, error) {
			e, err := b.Get(ctx, n)
			if errors.Is(err, naming.ErrUnauthenticated) {
				err = &naming.Error{Op: "get", Name: n, Err: naming.ErrUnavailable}
			}
			return e, err
		}}
	}},
	"says taken before denied": {"Healthy/Rights/DeniedIsNeitherTakenNorNotFound", func(s *memory.Server, b naming.Backend) naming.Backend {
		all, _ := s.Grant("administrator", memory.Grant{Read: []naming.Scope{naming.All()}})
		return backend{Backend: b, lease: lease{claim: func(ctx context.Context, l naming.Lease, n naming.Name, v []byte, over naming.Revision) (naming.Revision, error) {
			if there, err := s.OpenAs(all).Get(ctx, n); err == nil && over == 0 {
				return 0, &naming.Error{Op: "claim", Name: n, Err: &naming.TakenError{Entry: there}}
			}
			return l.Claim(ctx, n, v, over)
		}}}
	}},
	"gives bare errors": {"Healthy/Rights/WrongCredential", func(_ *memory.Server, b naming.Backend) naming.Backend {
		return backend{Backend: b, get: func(ctx context.Context, n naming.Name) (naming.Entry, error) {
			e, err := b.Get(ctx, n)
			return e, errors.Unwrap(err)
		}}
	}},
	"leaves leases open": {"Healthy/Lease/CloseFreesAllItsNames", func(_ *memory.Server, b naming.Backend) naming.Backend {
		return backend{Backend: b, lease: lease{close: func(context.Context, naming.Lease) error { return nil }}}
	}},
	"leaves leases on the server": {"L4Leaks", func(_ *memory.Server, b naming.Backend) naming.Backend {
		return backend{Backend: b, lease: lease{close: func(ctx context.Context, l naming.Lease) error {
			if _, err := b.Lease(ctx, time.Hour); err != nil {
				return err
			}
			return l.Close(ctx)
		}}}
	}},
	"has a deadline that stands still": {"Healthy/Lease/DeadlineMovesForward", func(_ *memory.Server, b naming.Backend) naming.Backend {
		start := time.Now()
		return backend{Backend: b, lease: lease{deadline: func(naming.Lease) time.Time { return start.Add(time.Second) }}}
	}},
	"promises more than was granted": {"Healthy/Lease/DeadlineMovesForward", func(_ *memory.Server, b naming.Backend) naming.Backend {
		return backend{Backend: b, lease: lease{deadline: func(l naming.Lease) time.Time { return l.Deadline().Add(time.Second) }}}
	}},
	"does not know that its lease is lost": {"Broken/L5S5Paused", func(_ *memory.Server, b naming.Backend) naming.Backend {
		return backend{Backend: b, lease: lease{done: func(naming.Lease) <-chan struct{} { return nil }}}
	}},
	"closes slowly in an outage": {"Broken/L5S5Paused", func(_ *memory.Server, b naming.Backend) naming.Backend {
		return backend{Backend: b, close: func() error {
			err := b.Close()
			if err != nil {
				<-time.After(3 * time.Second)
			}
			return err
		}}
	}},
	"does not notice an outage": {"Broken/L5S5Paused", func(_ *memory.Server, b naming.Backend) naming.Backend {
		return backend{Backend: b, events: func() func(naming.Event) []naming.Event {
			synced := false
			return func(ev naming.Event) []naming.Event {
				if ev.Kind == naming.Down || ev.Kind == naming.Synced && synced {
					return nil
				}
				synced = synced || ev.Kind == naming.Synced
				return []naming.Event{ev}
			}
		}}
	}},
	"loses what was deleted in an outage": {"Broken/L5S5Paused", func(_ *memory.Server, b naming.Backend) naming.Backend {
		return backend{Backend: b, events: func() func(naming.Event) []naming.Event {
			down := false
			return func(ev naming.Event) []naming.Event {
				down = ev.Kind == naming.Down || down && ev.Kind != naming.Synced
				if down && ev.Kind == naming.Delete {
					return nil
				}
				return []naming.Event{ev}
			}
		}}
	}},
	"is deaf after an outage": {"Broken/L3GapUnderLoad", func(_ *memory.Server, b naming.Backend) naming.Backend {
		return backend{Backend: b, events: func() func(naming.Event) []naming.Event {
			wasDown := false
			return func(ev naming.Event) []naming.Event {
				wasDown = wasDown || ev.Kind == naming.Down
				if wasDown && (ev.Kind == naming.Put || ev.Kind == naming.Delete) {
					return nil
				}
				return []naming.Event{ev}
			}
		}}
	}},
	"says down twice": {"Broken/L5S5Paused", func(_ *memory.Server, b naming.Backend) naming.Backend {
		return backend{Backend: b, events: func() func(naming.Event) []naming.Event {
			return func(ev naming.Event) []naming.Event {
				if ev.Kind == naming.Down {
					return []naming.Event{ev, ev}
				}
				return []naming.Event{ev}
			}
		}}
	}},
	"says synced too early": {"Healthy/Watch/TellsWhatIsThereAndWhatChanges", func(_ *memory.Server, b naming.Backend) naming.Backend {
		return backend{Backend: b, events: func() func(naming.Event) []naming.Event {
			first := true
			return func(ev naming.Event) []naming.Event {
				out := []naming.Event{ev}
				if first {
					out = []naming.Event{{Kind: naming.Synced}, ev}
				}
				if first = false; ev.Kind == naming.Synced {
					out = out[:len(out)-1]
				}
				return out
			}
		}}
	}},
	"shows states out of order": {"Healthy/Watch/LosesNothingUnderLoad", func(_ *memory.Server, b naming.Backend) naming.Backend {
		return backend{Backend: b, events: func() func(naming.Event) []naming.Event {
			var before naming.Event
			return func(ev naming.Event) []naming.Event {
				old := before
				if before = ev; old.Kind == naming.Put && ev.Kind == naming.Put {
					return []naming.Event{ev, old}
				}
				return []naming.Event{ev}
			}
		}}
	}},
	"is never alive": {"Healthy/Watch/IsAliveWhileNothingHappens", func(_ *memory.Server, b naming.Backend) naming.Backend {
		return backend{Backend: b, events: func() func(naming.Event) []naming.Event {
			return func(ev naming.Event) []naming.Event {
				if ev.Kind == naming.Alive {
					return nil
				}
				return []naming.Event{ev}
			}
		}}
	}},
	"takes a family for any prefix": {"Healthy/Watch/NeverShowsForeignNames", func(_ *memory.Server, b naming.Backend) naming.Backend {
		return backend{Backend: b, watch: func(ctx context.Context, sc naming.Scope) iter.Seq2[naming.Event, error] {
			if _, family := sc.Family(); !family {
				return b.Watch(ctx, sc)
			}
			prefix := strings.TrimSuffix(sc.String(), ".")
			return func(yield func(naming.Event, error) bool) {
				for ev, err := range b.Watch(ctx, naming.All()) {
					if foreign := !ev.Entry.Name.IsZero() && !strings.HasPrefix(ev.Entry.Name.String(), prefix); !foreign && !yield(ev, err) {
						return
					}
				}
			}
		}}
	}},
	"ends a watch at an outage": {"Broken/L5S5Paused", func(_ *memory.Server, b naming.Backend) naming.Backend {
		return backend{Backend: b, watch: func(ctx context.Context, sc naming.Scope) iter.Seq2[naming.Event, error] {
			return func(yield func(naming.Event, error) bool) {
				for ev, err := range b.Watch(ctx, sc) {
					if ev.Kind == naming.Down {
						yield(naming.Event{}, ev.Err)
						return
					}
					if !yield(ev, err) {
						return
					}
				}
			}
		}}
	}},
	"leaves a goroutine for each watch": {"L4Leaks", func(_ *memory.Server, b naming.Backend) naming.Backend {
		closed := make(chan struct{})
		return backend{
			Backend: b,
			close: func() error {
				select {
				case <-closed:
				default:
					close(closed)
				}
				return b.Close()
			},
			watch: func(ctx context.Context, sc naming.Scope) iter.Seq2[naming.Event, error] {
				go func() { <-closed }()
				return b.Watch(ctx, sc)
			},
		}
	}},
	"accepts every TTL": {"Healthy/Lease/RefusesBadTTLs", func(_ *memory.Server, b naming.Backend) naming.Backend {
		return backend{Backend: b, ttl: func(ttl time.Duration) time.Duration {
			if d := naming.Describe(b); ttl < d.MinTTL {
				return d.MinTTL
			}
			return ttl
		}}
	}},
	"has leases of another length": {"Healthy/Lease/DeadlineMovesForward", func(_ *memory.Server, b naming.Backend) naming.Backend {
		return backend{Backend: b, ttl: func(ttl time.Duration) time.Duration { return 2 * ttl }}
	}},
	"goes on after Close": {"Healthy/Backend/Close", func(_ *memory.Server, b naming.Backend) naming.Backend {
		return backend{Backend: b, close: func() error { return nil }}
	}},
}

func notFound(_ *memory.Server, b naming.Backend) naming.Backend {
	return backend{Backend: b, get: func(ctx context.Context, n naming.Name) (naming.Entry, error) {
		e, err := b.Get(ctx, n)
		if err != nil {
			err = &naming.Error{Op: "get", Name: n, Err: naming.ErrNotFound}
		}
		return e, err
	}}
}

// claimOverAnything claims over whatever is there, if ignore.
func claimOverAnything(ctx context.Context, l naming.Lease, n naming.Name, v []byte, over naming.Revision, ignore bool) (naming.Revision, error) {
	rev, err := l.Claim(ctx, n, v, over)
	var taken *naming.TakenError
	if ignore && errors.As(err, &taken) && taken.Entry.Revision != 0 {
		return l.Claim(ctx, n, v, taken.Entry.Revision)
	}
	return rev, err
}

// backend is a Backend of which some methods are replaced.
type backend struct {
	naming.Backend
	get    func(context.Context, naming.Name) (naming.Entry, error)
	watch  func(context.Context, naming.Scope) iter.Seq2[naming.Event, error]
	events func() func(naming.Event) []naming.Event // what a watch tells instead
	ttl    func(time.Duration) time.Duration
	close  func() error
	lease  lease
}

func (b backend) Describe() naming.Description { return naming.Describe(b.Backend) }

func (b backend) WhoAmI(ctx context.Context) (string, error) {
	return b.Backend.(naming.Identifier).WhoAmI(ctx)
}

func (b backend) Get(ctx context.Context, n naming.Name) (naming.Entry, error) {
	if b.get != nil {
		return b.get(ctx, n)
	}
	return b.Backend.Get(ctx, n)
}

func (b backend) Lease(ctx context.Context, ttl time.Duration) (naming.Lease, error) {
	if b.ttl != nil {
		ttl = b.ttl(ttl)
	}
	l, err := b.Backend.Lease(ctx, ttl)
	if err != nil {
		return nil, err
	}
	out := b.lease
	out.Lease = l
	return out, nil
}

func (b backend) Watch(ctx context.Context, sc naming.Scope) iter.Seq2[naming.Event, error] {
	switch {
	case b.watch != nil:
		return b.watch(ctx, sc)
	case b.events == nil:
		return b.Backend.Watch(ctx, sc)
	}
	return func(yield func(naming.Event, error) bool) {
		tell := b.events()
		for ev, err := range b.Backend.Watch(ctx, sc) {
			if err != nil {
				yield(ev, err)
				return
			}
			for _, ev := range tell(ev) {
				if !yield(ev, nil) {
					return
				}
			}
		}
	}
}

func (b backend) Close() error {
	if b.close != nil {
		return b.close()
	}
	return b.Backend.Close()
}

// lease is a Lease of which some methods are replaced.
type lease struct {
	naming.Lease
	claim, update func(context.Context, naming.Lease, naming.Name, []byte, naming.Revision) (naming.Revision, error)
	release       func(context.Context, naming.Lease, naming.Name) error
	deadline      func(naming.Lease) time.Time
	done          func(naming.Lease) <-chan struct{}
	close         func(context.Context, naming.Lease) error
}

func (l lease) Claim(ctx context.Context, n naming.Name, v []byte, over naming.Revision) (naming.Revision, error) {
	if l.claim != nil {
		return l.claim(ctx, l.Lease, n, v, over)
	}
	return l.Lease.Claim(ctx, n, v, over)
}

func (l lease) Update(ctx context.Context, n naming.Name, v []byte, prev naming.Revision) (naming.Revision, error) {
	if l.update != nil {
		return l.update(ctx, l.Lease, n, v, prev)
	}
	return l.Lease.Update(ctx, n, v, prev)
}

func (l lease) Release(ctx context.Context, n naming.Name) error {
	if l.release != nil {
		return l.release(ctx, l.Lease, n)
	}
	return l.Lease.Release(ctx, n)
}

func (l lease) Deadline() time.Time {
	if l.deadline != nil {
		return l.deadline(l.Lease)
	}
	return l.Lease.Deadline()
}

func (l lease) Done() <-chan struct{} {
	if l.done != nil {
		return l.done(l.Lease)
	}
	return l.Lease.Done()
}

func (l lease) Close(ctx context.Context) error {
	if l.close != nil {
		return l.close(ctx, l.Lease)
	}
	return l.Lease.Close(ctx)
}

// harness opens backends of a new server, broken by how unless that gives nil.
func harness(t *testing.T, how func(*memory.Server, naming.Backend) naming.Backend) backendtest.Harness {
	t.Helper()
	s := new(memory.Server)
	credentials := make(map[backendtest.Principal]memory.Credential)
	for p, rights := range backendtest.Plan() {
		c, err := s.Grant(string(p), memory.Grant(rights))
		if err != nil {
			t.Fatal(err)
		}
		credentials[p] = c
	}
	levers := s.Levers()
	return backendtest.Harness{
		Open: func(_ testing.TB, p backendtest.Principal) (naming.Backend, error) {
			b := s.OpenAs(credentials[p])
			if broken := how(s, b); broken != nil {
				return broken, nil
			}
			return b, nil
		},
		TTL:         time.Second,
		Pause:       func(testing.TB) { levers.Pause() },
		Resume:      func(testing.TB) { levers.Resume() },
		Kill:        func(testing.TB) { levers.Kill() },
		Restart:     func(testing.TB) { levers.Restart() },
		ExpireLease: func(_ testing.TB, n naming.Name) { levers.ExpireLease(n) },
		Revoke:      func(_ testing.TB, p backendtest.Principal) { s.Revoke(string(p)) },
		PutUnheld:   func(_ testing.TB, n naming.Name, v []byte) { levers.Put(n, v) },
		Count: func(testing.TB) backendtest.Count {
			now := s.Stats()
			return backendtest.Count{Leases: now.Leases, Entries: now.Entries}
		},
	}
}
