package adapter

import (
	"time"

	"github.com/rs/zerolog"

	"github.com/seed-6593ebad/skywarden/naming"
)

// An EventKind says what an Event is about.
type EventKind string

// What observers are told. The set grows; it does not change.
const (
	// EventRegister: an attempt to register a name ended, granted (Err nil) or
	// refused.
	EventRegister EventKind = "register"
	// EventRelease: a name was given up by its owner.
	EventRelease EventKind = "release"
	// EventSuspended: an owner stopped answering as its name, because its lease is
	// gone or about to end. The name is being claimed again.
	EventSuspended EventKind = "suspended"
	// EventResumed: a suspended name is held again.
	EventResumed EventKind = "resumed"
	// EventLost: a name that was ours belongs to someone else. Final.
	EventLost EventKind = "lost"
	// EventOverwritten is an alarm: an entry of ours was overwritten or deleted by
	// someone else while our lease lived.
	EventOverwritten EventKind = "overwritten"
	// EventRestored: an overwritten entry is ours again.
	EventRestored EventKind = "restored"
	// EventMalformed: the entry under a name cannot be read. Told once for each such
	// entry, when it is looked up.
	EventMalformed EventKind = "malformed"
	// EventBackendDown and EventBackendUp: the mirror lost or found its server.
	EventBackendDown EventKind = "backend_down"
	EventBackendUp   EventKind = "backend_up"
)

// An Event is one thing that happened to a name, or to the backend.
type Event struct {
	Kind      EventKind
	Time      time.Time
	Name      naming.Name    // zero for the backend's own events, and where a refused one is no name
	Address   naming.Address // of the service that the event is about
	Principal string         // as whom the backend sees this process
	Epoch     uint64         // of the claim, where there is one
	Holder    naming.Address // who has the name instead, where that is known
	Err       error          // why; nil where it went well
}

// An Observer is told what happens. Observe is called from many goroutines, in
// the middle of the work: it must return soon and must not call the adapter.
type Observer interface {
	Observe(Event)
}

// ObserverFunc makes an Observer of a function.
type ObserverFunc func(Event)

// Observe calls f.
func (f ObserverFunc) Observe(e Event) { f(e) }

// tell logs an event and gives it to every observer. It is the last step of the
// pipeline, and the only place that does either.
func (a *Adapter) tell(e Event) {
	e.Time = time.Now()
	e.Principal = a.Principal()
	level := zerolog.InfoLevel
	switch {
	case e.Kind == EventOverwritten || e.Kind == EventLost:
		level = zerolog.ErrorLevel
	case e.Err != nil:
		level = zerolog.WarnLevel
	}
	line := a.log.WithLevel(level).Str("event", string(e.Kind)).Str("result", naming.Code(e.Err))
	if !e.Name.IsZero() {
		line = line.Stringer("name", e.Name)
	}
	line = line.Stringer("node", a.node).Str("principal", e.Principal)
	if !e.Address.IsZero() {
		line = line.Stringer("address", e.Address.Endpoint()).Uint32("handle", uint32(e.Address.Handle()))
	}
	if e.Epoch != 0 {
		line = line.Uint64("epoch", e.Epoch)
	}
	if !e.Holder.IsZero() {
		line = line.Stringer("holder", e.Holder)
	}
	if e.Err != nil {
		line = line.Str("reason", e.Err.Error())
	}
	line.Msg("naming")
	for _, o := range a.observers {
		o.Observe(e)
	}
}
