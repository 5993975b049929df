package naming

import "context"

// A Level says how bad a Finding is.
type Level uint8

// The levels of findings.
const (
	// LevelOK: as it should be.
	LevelOK Level = iota + 1
	// LevelWarn: it works, and is not as safe or as sound as it could be. What
	// could not be looked at is a warning too, never OK.
	LevelWarn
	// LevelFail: it does not work, or is not safe.
	LevelFail
)

// String gives "ok", "warn" or "fail".
func (l Level) String() string {
	switch l {
	case LevelOK:
		return "ok"
	case LevelWarn:
		return "warn"
	case LevelFail:
		return "fail"
	}
	return "unknown"
}

// MarshalText implements encoding.TextMarshaler.
func (l Level) MarshalText() ([]byte, error) { return []byte(l.String()), nil }

// A Finding is one thing that was looked at on a server.
type Finding struct {
	Level  Level  `json:"level"`
	Check  string `json:"check"`        // what was looked at, in a few words: "server version"
	Detail string `json:"detail"`       // what was seen: "etcd 3.7.3"
	Do     string `json:"do,omitempty"` // what to do about it, where Level is not LevelOK
}

// An Inspector is a Backend that can look at how its server is set up, with the
// rights of its principal. It leaves nothing behind.
type Inspector interface {
	// Inspect looks at everything that its driver knows about: the server's
	// version and settings that matter for safety, and the difference between the
	// server's clock and ours. What cannot be seen is a Finding, not an error; the
	// error is the context's or ErrClosed.
	Inspect(ctx context.Context) ([]Finding, error)
}
