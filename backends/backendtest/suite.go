package backendtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/seed-6593ebad/skywarden/naming"
)

// slack is added to every bound in time, for the scheduler and for slow
// machines.
const slack = 750 * time.Millisecond

// soon bounds what needs no waiting, on a server that is healthy.
const soon = 5 * time.Second

// Run runs the suite. First come the checks that leave the server healthy, in
// parallel, then one by one those that break it. It needs about ten times the
// TTL.
func Run(t *testing.T, h Harness) {
	t.Helper()
	s := newSuite(t, h)
	t.Run("Healthy", func(t *testing.T) {
		for _, c := range healthy {
			t.Run(c.name, func(t *testing.T) {
				t.Parallel()
				s.run(t, c)
			})
		}
	})
	t.Run("Broken", func(t *testing.T) {
		for _, c := range broken {
			t.Run(c.name, func(t *testing.T) { s.run(t, c) })
		}
	})
	t.Run(leaks.name, func(t *testing.T) { s.run(t, leaks) })
}

type check struct {
	name  string
	run   func(s *suite)
	needs []Ability
}

// healthy may run at the same time.
var healthy = []check{
	{"Claim/StoresWhatItIsGiven", storesWhatItIsGiven, nil},
	{"Claim/IsExclusive", isExclusive, nil},
	{"Claim/ReplacesExactlyTheNamedRevision", replacesExactly, nil},
	{"Claim/ReplacesWhatNobodyHolds", replacesUnheld, []Ability{CanPutUnheld}},
	{"Claim/RefusesBadInput", refusesBadInput, nil},
	{"Claim/IsUndoneWhenCancelled", isUndoneWhenCancelled, nil},
	{"Update/IsGuarded", updateIsGuarded, nil},
	{"Update/IsUndoneWhenCancelled", updateIsUndone, nil},
	{"Release/LeavesForeignEntriesAlone", releaseLeavesForeign, nil},
	{"Release/HandsOver", handsOver, nil},
	{"Lease/CloseFreesAllItsNames", closeFreesAll, nil},
	{"Lease/DeadlineMovesForward", deadlineMoves, nil},
	{"Lease/RefusesBadTTLs", refusesBadTTLs, nil},
	{"Lease/EndedByTheAdministrator", endedByAdministrator, []Ability{CanExpireLease}},
	{"Backend/SaysWhatItIs", saysWhatItIs, nil},
	{"Backend/Close", backendClose, nil},
	{"Backend/CancelledContext", cancelledContext, nil},
	{"Watch/TellsWhatIsThereAndWhatChanges", tellsChanges, nil},
	{"Watch/NeverShowsForeignNames", neverForeign, nil},
	{"Watch/LosesNothingUnderLoad", losesNothing, nil},
	{"Watch/IsAliveWhileNothingHappens", isAlive, nil},
	{"Watch/EndsWithItsReader", endsWithReader, nil},
	{"Rights/DeniedIsNeitherTakenNorNotFound", deniedIsDenied, nil},
	{"Rights/OneDeniedNameDoesNotSpoilOthers", deniedAlone, nil},
	{"Rights/WrongCredential", wrongCredential, nil},
	{"Rights/Revoked", revoked, []Ability{CanRevoke}},
}

// broken must run one after the other. The numbers are those of the promises
// that they check.
var broken = []check{
	{"L5S5Paused", paused, []Ability{CanPause}},
	{"L1S5KilledAndRestarted", killedAndRestarted, []Ability{CanKill}},
	{"L3GapUnderLoad", gapUnderLoad, []Ability{CanKill}},
}

// leaks comes last, when nobody else uses the server.
var leaks = check{"L4Leaks", leavesNothingBehind, []Ability{CanCount}}

// suite is what a check works with.
type suite struct {
	Harness
	t     *testing.T    // of the check
	names *atomic.Int64 // how many were given out
}

func newSuite(t *testing.T, h Harness) *suite {
	t.Helper()
	if h.Open == nil {
		t.Fatal("backendtest: the Harness has no Open")
	}
	has := map[Ability]bool{
		CanPause:       h.Pause != nil && h.Resume != nil,
		CanKill:        h.Kill != nil && h.Restart != nil,
		CanExpireLease: h.ExpireLease != nil,
		CanRevoke:      h.Revoke != nil,
		CanPutUnheld:   h.PutUnheld != nil,
		CanCount:       h.Count != nil,
	}
	for ability, there := range has {
		_, lacks := h.Lacks[ability]
		switch {
		case !there && !lacks:
			t.Errorf("backendtest: the Harness has no %s: give it, or say in Lacks why not", ability)
		case there && lacks:
			t.Errorf("backendtest: the Harness has %s, and Lacks denies it", ability)
		}
	}
	for ability := range h.Lacks {
		if _, known := has[ability]; !known {
			t.Errorf("backendtest: Lacks names %q, which is no Ability", ability)
		}
	}
	if t.Failed() {
		t.FailNow()
	}
	s := &suite{Harness: h, t: t, names: new(atomic.Int64)}
	if s.TTL == 0 {
		b := s.open(OwnerA)
		if s.TTL = naming.Describe(b.Backend).DefaultTTL; s.TTL <= 0 {
			t.Fatal("backendtest: neither Harness.TTL nor the driver's Description says a TTL")
		}
	}
	if s.FreeWithin == 0 {
		s.FreeWithin = s.TTL + time.Second
	}
	if s.FreeWithinRestart == 0 {
		s.FreeWithinRestart = 2*s.TTL + 4*time.Second
	}
	return s
}

func (s *suite) run(t *testing.T, c check) {
	t.Helper()
	for _, ability := range c.needs {
		if why, lacks := s.Lacks[ability]; lacks {
			msg := fmt.Sprintf("backendtest: NOT CHECKED: %s: the harness lacks %s: %s", t.Name(), ability, why)
			fmt.Fprintln(os.Stderr, msg)
			t.Skip(msg) //nolint:forbidigo // not silent: see the line before
		}
	}
	c.run(&suite{s.Harness, t, s.names})
}

// open opens the backend as p, and closes it after the test.
func (s *suite) open(p Principal) *checked {
	t := s.t
	t.Helper()
	b, err := s.Open(t, p)
	if err != nil {
		t.Fatalf("open as %s: %v", p, err)
	}
	t.Cleanup(func() { _ = b.Close() })
	return &checked{b, t, s.Injected}
}

// lease opens a lease, and ends it after the test.
func (s *suite) lease(b naming.Backend) naming.Lease {
	t := s.t
	t.Helper()
	l, err := b.Lease(t.Context(), s.TTL)
	if err != nil {
		t.Fatalf("lease of %v: %v", s.TTL, err)
	}
	t.Cleanup(func() { _ = l.Close(context.WithoutCancel(t.Context())) })
	return l
}

// name gives a name of family, such as "shared.", that nobody uses.
func (s *suite) name(family string) naming.Name {
	return name(fmt.Sprintf("%sn%d", family, s.names.Add(1)))
}

// family gives a family below "shared." that nobody uses.
func (s *suite) family() (string, naming.Scope) {
	f := fmt.Sprintf("shared.f%d.", s.names.Add(1))
	return f, scopes(f)[0]
}

func name(s string) naming.Name {
	n, _ := scopes(s)[0].Name()
	return n
}

// claim claims a free name.
func claim(t *testing.T, l naming.Lease, name naming.Name, value string) naming.Revision {
	t.Helper()
	rev, err := l.Claim(t.Context(), name, []byte(value), 0)
	if err != nil {
		t.Fatalf("claim %v: %v", name, err)
	}
	return rev
}

// wantEntry checks what is under name.
func wantEntry(t *testing.T, b naming.Backend, want naming.Entry) {
	t.Helper()
	got, err := b.Get(t.Context(), want.Name)
	if err != nil {
		t.Errorf("get %v: %v; want %q at revision %d", want.Name, err, want.Value, want.Revision)
		return
	}
	if diff := differ(got, want); diff != "" {
		t.Errorf("get %v: %s", want.Name, diff)
	}
}

func differ(got, want naming.Entry) string {
	if got.Name != want.Name || !bytes.Equal(got.Value, want.Value) || got.Revision != want.Revision || got.Held != want.Held {
		return fmt.Sprintf("got %v %.40q at revision %d (held %v), want %v %.40q at revision %d (held %v)",
			got.Name, got.Value, got.Revision, got.Held, want.Name, want.Value, want.Revision, want.Held)
	}
	return ""
}

// held is the entry of a name that somebody holds.
func held(name naming.Name, value string, rev naming.Revision) naming.Entry {
	return naming.Entry{Name: name, Value: []byte(value), Revision: rev, Held: true}
}

func wantNothing(t *testing.T, b naming.Backend, name naming.Name) {
	t.Helper()
	e, err := b.Get(t.Context(), name)
	if !errors.Is(err, naming.ErrNotFound) {
		t.Errorf("get %v: got %.40q at revision %d, error %v; want ErrNotFound", name, e.Value, e.Revision, err)
	}
}

func wantErr(t *testing.T, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: got error %v, want %q", what, err, want)
	}
}

// wantTaken checks that err is ErrTaken and carries want.
func wantTaken(t *testing.T, what string, err error, want naming.Entry) {
	t.Helper()
	var taken *naming.TakenError
	if !errors.As(err, &taken) {
		t.Errorf("%s: got error %v, want a *TakenError", what, err)
		return
	}
	if want.Revision == 0 && taken.Entry.Revision == 0 {
		return
	}
	if diff := differ(taken.Entry, want); diff != "" {
		t.Errorf("%s: the TakenError carries what is not there: %s", what, diff)
	}
}

// eventually waits until ok holds, and ends the test if that takes longer than
// within.
func eventually(t *testing.T, within time.Duration, what string, ok func() error) {
	t.Helper()
	if err := poll(t, within, ok); err != nil {
		t.Fatalf("after %v not yet: %s: %v", within, what, err)
	}
}

// poll is eventually for goroutines of a test: it gives the last error.
func poll(t *testing.T, within time.Duration, ok func() error) error {
	t.Helper()
	timeout := time.NewTimer(within)
	defer timeout.Stop()
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	for {
		err := ok()
		if err == nil {
			return nil
		}
		select {
		case <-timeout.C:
			return err
		case <-again.C:
		}
	}
}

// isFree says whether nothing is under name.
func isFree(t *testing.T, b naming.Backend, name naming.Name) error {
	t.Helper()
	e, err := b.Get(t.Context(), name)
	switch {
	case errors.Is(err, naming.ErrNotFound):
		return nil
	case err != nil:
		return err
	}
	return fmt.Errorf("under %v is %.40q at revision %d", name, e.Value, e.Revision)
}

// wantDone checks that the lease is known to be gone within the time.
func wantDone(t *testing.T, l naming.Lease, within time.Duration) {
	t.Helper()
	timeout := time.NewTimer(within)
	defer timeout.Stop()
	select {
	case <-l.Done():
	case <-timeout.C:
		t.Errorf("after %v Done is not closed", within)
	}
}

// forAll runs f for each of n numbers at once.
func forAll(n int, f func(i int)) {
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { f(i) })
	}
	wg.Wait()
}
