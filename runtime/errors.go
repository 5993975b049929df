package runtime

import (
	"errors"
	"fmt"

	"github.com/seed-6593ebad/skywarden/naming"
)

// The kinds of errors that package naming does not have. Test for them with
// errors.Is.
var (
	// ErrServiceGone: the service exited, was killed or panicked, or its node
	// closed, before it handled the message or before it answered.
	ErrServiceGone = errors.New("service gone")
	// ErrPanicked: the handler panicked. An error that is ErrPanicked is
	// ErrServiceGone too: a service that panicked is stopped, because nobody knows
	// what state it is in.
	ErrPanicked = errors.New("service panicked")
	// ErrNoReply: the handler of a call returned nil and had neither replied nor
	// kept the call by Context.Defer.
	ErrNoReply = errors.New("no reply")
	// ErrWrongType: a service was sent a message of a type that it does not take,
	// or a caller got an answer of a type that it did not ask for.
	ErrWrongType = errors.New("wrong type")
	// ErrSelf: a service would have waited for itself, for ever: it called itself,
	// or sent to itself while its own mailbox was full.
	ErrSelf = errors.New("service would wait for itself")
)

// fenced is the refusal of a message to name, for the reason that the format
// gives.
func fenced(name naming.Name, format string, args ...any) error {
	return fmt.Errorf("%w: %s: %w", naming.ErrFenced, name, fmt.Errorf(format, args...))
}
