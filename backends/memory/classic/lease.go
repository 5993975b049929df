package classic

import (
	"context"
	"fmt"
	"time"

	"github.com/seed-6593ebad/skywarden/naming"
)

// lease holds nothing: see the package's comment.
type lease struct {
	backend *Backend
	done    chan struct{} // closed by end
	ended   bool          // guarded by server.mu
}

// Claim registers name, whoever has it. over means nothing.
func (l *lease) Claim(ctx context.Context, name naming.Name, value []byte, _ naming.Revision) (naming.Revision, error) {
	return l.register(ctx, "claim", name, value)
}

// Update does what Claim does.
func (l *lease) Update(ctx context.Context, name naming.Name, value []byte, _ naming.Revision) (naming.Revision, error) {
	return l.register(ctx, "update", name, value)
}

func (l *lease) register(ctx context.Context, op string, name naming.Name, value []byte) (naming.Revision, error) {
	if name.IsZero() {
		return 0, fail(op, name, errZeroName)
	}
	if len(value) > naming.MaxValueLen {
		return 0, fail(op, name, fmt.Errorf("%w: a value of %d bytes: %d at most", naming.ErrTooLarge, len(value), naming.MaxValueLen))
	}
	done, err := l.backend.begin(ctx, op, name)
	if err != nil {
		return 0, err
	}
	defer done()
	if l.ended {
		return 0, fail(op, name, naming.ErrClosed)
	}
	return l.backend.server.register(name, value), nil
}

// Release frees nothing.
func (l *lease) Release(ctx context.Context, name naming.Name) error {
	const op = "release"
	if name.IsZero() {
		return fail(op, name, errZeroName)
	}
	done, err := l.backend.begin(ctx, op, name)
	if err != nil {
		return err
	}
	done()
	return nil
}

// Deadline is always far away.
func (l *lease) Deadline() time.Time { return time.Now().Add(forEver) }

// Done is closed by Close only.
func (l *lease) Done() <-chan struct{} { return l.done }

// Close frees nothing.
func (l *lease) Close(context.Context) error {
	l.backend.server.mu.Lock()
	defer l.backend.server.mu.Unlock()
	l.end()
	return nil
}

// end is called under the server's lock.
func (l *lease) end() {
	if !l.ended {
		l.ended = true
		close(l.done)
	}
}
