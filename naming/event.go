package naming

// An EventKind says what an Event means.
type EventKind uint8

// The kinds of events that a watch gives.
const (
	// Put: Entry is there now: new, changed, or newly held or no longer held.
	Put EventKind = iota + 1
	// Delete: there is no entry under Entry.Name any more. Entry.Revision is that
	// of the deletion where the server tells it, else that of the entry last seen.
	Delete
	// Synced: every state that existed when the watch (or its recovery after a
	// Down) began has been given. It comes once at the start, and once after each
	// Down.
	Synced
	// Alive: nothing changed, and the server was heard from. At most 5 s pass
	// between two events of a healthy watch.
	Alive
	// Down: the watch lost its server; Err says why. What was given so far may be
	// out of date until the next Synced. The driver goes on trying, for ever, and
	// gives the difference between what it told before and what is there, then
	// Synced. There are no two Downs without a Synced between them.
	Down
)

// String gives the kind in lower case.
func (k EventKind) String() string {
	switch k {
	case Put:
		return "put"
	case Delete:
		return "delete"
	case Synced:
		return "synced"
	case Alive:
		return "alive"
	case Down:
		return "down"
	}
	return "unknown"
}

// An Event is one thing that a watch tells. The events of one name come in the
// order of its revisions; states between the first and the last may be merged,
// the latest is never lost.
type Event struct {
	Kind  EventKind
	Entry Entry // of Put and Delete
	Err   error // of Down
}
