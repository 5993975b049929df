package driver

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/seed-6593ebad/skywarden/naming"
)

// A Life is that of one Backend: what it has running, and its end. It is safe for
// concurrent use.
type Life struct {
	driver string
	log    zerolog.Logger
	ctx    context.Context
	end    context.CancelFunc

	mu     sync.Mutex
	closed bool
	leases map[*Lease]struct{}
	tasks  sync.WaitGroup // every goroutine of the Backend

	closeOnce sync.Once
	closeErr  error
}

// NewLife begins a life that does not end with ctx, which bounds the opening of a
// Backend only. driver is the name in its errors.
func NewLife(ctx context.Context, driver string, log zerolog.Logger) *Life {
	l := &Life{driver: driver, log: log, leases: map[*Lease]struct{}{}}
	l.ctx, l.end = context.WithCancel(context.WithoutCancel(ctx))
	return l
}

// Context ends with the life.
func (l *Life) Context() context.Context { return l.ctx }

// Start runs f in a goroutine that Close waits for. f must end soon after the
// life's context. The error is ErrClosed.
func (l *Life) Start(f func()) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return naming.ErrClosed
	}
	l.tasks.Go(f)
	return nil
}

// Closed says whether Close was called.
func (l *Life) Closed() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.closed
}

// Bound gives a context that ends with ctx, after d, and with the life.
func (l *Life) Bound(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(ctx, d)
	stop := context.AfterFunc(l.ctx, cancel)
	return ctx, func() { stop(); cancel() }
}

// Explain gives what ended a call of the caller's ctx that failed with err.
func (l *Life) Explain(ctx context.Context, err error) error {
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case l.Closed():
		return naming.ErrClosed
	}
	return err
}

// Fail gives every error that leaves the Backend its form.
func (l *Life) Fail(op string, name naming.Name, err error) error {
	return Fail(l.driver, op, name, err)
}

// Close ends every lease within the time, then the life, and waits for its
// goroutines. The error says which leases could not be ended: their names are
// free after their TTL. It may be repeated.
func (l *Life) Close(within time.Duration) error {
	l.closeOnce.Do(func() { l.closeErr = l.close(within) })
	return l.closeErr
}

func (l *Life) close(within time.Duration) error {
	l.mu.Lock()
	l.closed = true // no goroutine starts from here on
	var leases []*Lease
	for lease := range l.leases {
		leases = append(leases, lease)
	}
	l.mu.Unlock()

	ctx, cancel := context.WithTimeout(l.ctx, within)
	errs := make([]error, len(leases))
	var wg sync.WaitGroup
	for i, lease := range leases {
		lease.finish(naming.ErrClosed)
		wg.Go(func() { errs[i] = lease.revoke(ctx) })
	}
	wg.Wait()
	cancel()
	l.end()
	l.tasks.Wait()
	return l.Fail("close", naming.Name{}, errors.Join(errs...))
}

// Fail gives every error that leaves a driver its form.
func Fail(driver, op string, name naming.Name, err error) error {
	var done *naming.Error
	if err == nil || errors.As(err, &done) {
		return err
	}
	return &naming.Error{Op: op, Name: name, Backend: driver, Err: err}
}

// ErrZeroName is about the zero Name, ErrZeroScope about the zero Scope.
var (
	ErrZeroName  = fmt.Errorf("%w: the zero Name is no name", naming.ErrNameInvalid)
	ErrZeroScope = fmt.Errorf("%w: the zero Scope holds no name", naming.ErrNameInvalid)
)

// Pause waits for d, or gives ctx's error.
func Pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
