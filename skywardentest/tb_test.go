package skywardentest_test

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"testing"
)

// A recorder is a testing.TB for tests that are to fail, and for examples, which
// have none.
type recorder struct {
	testing.TB // what is not below is not used

	ctx      context.Context
	cleanups []func()
	failures []string
}

// record runs a test, with its cleanups, and gives what it failed with.
func record(ctx context.Context, test func(testing.TB)) []string {
	ctx, cancel := context.WithCancel(ctx)
	r := &recorder{ctx: ctx}
	inGoroutine(func() { test(r) })
	cancel()
	for _, cleanup := range slices.Backward(r.cleanups) {
		inGoroutine(cleanup)
	}
	return r.failures
}

// inGoroutine lets f end by Goexit.
func inGoroutine(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	<-done
}

func (r *recorder) Helper()                  {}
func (r *recorder) Logf(string, ...any)      {}
func (r *recorder) Context() context.Context { return r.ctx }
func (r *recorder) Cleanup(f func())         { r.cleanups = append(r.cleanups, f) }

func (r *recorder) Errorf(format string, args ...any) {
	r.failures = append(r.failures, fmt.Sprintf(format, args...))
}

func (r *recorder) Fatalf(format string, args ...any) {
	r.Errorf(format, args...)
	runtime.Goexit()
}
