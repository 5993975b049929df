package etcd

import (
	"context"
	"errors"
	"testing"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/seed-6593ebad/skywarden/naming"
)

// What a call may give, what it means, and what is then known of a write that
// was sent.
func TestErrors(t *testing.T) {
	tests := []struct {
		err   error
		want  error
		known outcome
	}{
		{rpctypes.ErrGRPCPermissionDenied, naming.ErrDenied, refused},
		{rpctypes.ErrGRPCUserEmpty, naming.ErrUnauthenticated, refused},
		{rpctypes.ErrGRPCUserNotFound, naming.ErrUnauthenticated, refused},
		{rpctypes.ErrGRPCInvalidAuthToken, naming.ErrUnauthenticated, refused},
		{rpctypes.ErrGRPCAuthFailed, naming.ErrUnauthenticated, refused},
		{rpctypes.ErrGRPCLeaseNotFound, naming.ErrLeaseLost, refused},
		{rpctypes.ErrGRPCRequestTooLarge, naming.ErrTooLarge, refused},
		{rpctypes.ErrGRPCNoSpace, naming.ErrUnavailable, refused},
		{rpctypes.ErrGRPCAuthOldRevision, naming.ErrUnavailable, repeat},
		{rpctypes.ErrGRPCNoLeader, naming.ErrUnavailable, repeat},
		{rpctypes.ErrGRPCRequestTooManyRequests, naming.ErrUnavailable, repeat},
		{rpctypes.ErrGRPCTimeout, naming.ErrUnavailable, ambiguous},
		{rpctypes.ErrGRPCTimeoutDueToLeaderFail, naming.ErrUnavailable, ambiguous},
		{rpctypes.ErrGRPCTimeoutDueToConnectionLost, naming.ErrUnavailable, ambiguous},
		{rpctypes.ErrGRPCLeaderChanged, naming.ErrUnavailable, ambiguous},
		{rpctypes.ErrGRPCStopped, naming.ErrUnavailable, ambiguous},
		{rpctypes.ErrGRPCUnhealthy, naming.ErrUnavailable, ambiguous},
		{status.Error(codes.Unavailable, "error reading from server: EOF"), naming.ErrUnavailable, ambiguous},
		{status.Error(codes.DeadlineExceeded, "context deadline exceeded"), naming.ErrUnavailable, ambiguous},
		{status.Error(codes.Canceled, "context canceled"), naming.ErrUnavailable, ambiguous},
		{status.Error(codes.Internal, "stream terminated by RST_STREAM"), naming.ErrUnavailable, ambiguous},
		{status.Error(codes.Unknown, "raft proposal dropped"), naming.ErrUnavailable, ambiguous},
		{status.Error(codes.PermissionDenied, "a proxy says no"), naming.ErrDenied, refused},
		{status.Error(codes.Unauthenticated, "a proxy says no"), naming.ErrUnauthenticated, refused},
		{context.DeadlineExceeded, naming.ErrUnavailable, ambiguous},
		{context.Canceled, naming.ErrUnavailable, ambiguous},
		{errors.New("whatever"), naming.ErrUnavailable, ambiguous},
		{&loginError{naming.ErrUnavailable}, naming.ErrUnavailable, repeat},
		{&loginError{naming.ErrUnauthenticated}, naming.ErrUnauthenticated, refused},
	}
	for _, test := range tests {
		got := translate(test.err)
		if !errors.Is(got, test.want) || naming.Code(got) != naming.Code(test.want) {
			t.Errorf("%v becomes %v (%s), want %v", test.err, got, naming.Code(got), test.want)
		}
		if errors.Is(got, context.DeadlineExceeded) || errors.Is(got, context.Canceled) {
			t.Errorf("%v becomes %v, which looks like the caller's own deadline", test.err, got)
		}
		if again := translate(got); again.Error() != got.Error() {
			t.Errorf("translated twice: %v, want %v", again, got)
		}
		if known := judge(test.err); known != test.known {
			t.Errorf("a write that gave %v: %v, want %v", test.err, known, test.known)
		}
	}
	if translate(nil) != nil {
		t.Error("no error becomes one")
	}
}

func TestCanceledWatches(t *testing.T) {
	for _, err := range []error{rpctypes.ErrGRPCPermissionDenied, rpctypes.ErrGRPCAuthOldRevision, rpctypes.ErrGRPCCompacted, rpctypes.ErrGRPCInvalidAuthToken} {
		// With gRPC's introduction in 3.5 to 3.7, and without it.
		for _, reason := range []string{err.Error(), status.Convert(err).Message()} {
			if !isEtcd(canceled(reason), rpctypes.Error(err)) {
				t.Errorf("the reason %q is %v, want %v", reason, canceled(reason), err)
			}
		}
	}
}
