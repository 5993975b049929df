package etcd

import (
	"context"
	"errors"
	"fmt"
	"regexp"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/seed-6593ebad/skywarden/naming"
)

// driverName is in errors, logs and metrics.
const driverName = "etcd"

// kinds says what the server's own errors mean. What is not here goes by its
// gRPC code.
var kinds = map[rpctypes.EtcdError]error{
	asEtcd(rpctypes.ErrPermissionDenied): naming.ErrDenied,
	// A certificate whose user does not exist is "permission denied" for keys.
	asEtcd(rpctypes.ErrUserNotFound):     naming.ErrUnauthenticated,
	asEtcd(rpctypes.ErrUserEmpty):        naming.ErrUnauthenticated,
	asEtcd(rpctypes.ErrAuthFailed):       naming.ErrUnauthenticated,
	asEtcd(rpctypes.ErrInvalidAuthToken): naming.ErrUnauthenticated,
	asEtcd(rpctypes.ErrLeaseNotFound):    naming.ErrLeaseLost,
	asEtcd(rpctypes.ErrRequestTooLarge):  naming.ErrTooLarge,
	// The permissions changed between the request's check and its execution: the
	// server asks for a repetition, although its gRPC code says otherwise.
	asEtcd(rpctypes.ErrAuthOldRevision): naming.ErrUnavailable,
}

func asEtcd(err error) rpctypes.EtcdError {
	var e rpctypes.EtcdError
	_ = errors.As(err, &e) // the errors of rpctypes are of this type
	return e
}

// isEtcd says whether err, as a call gave it, is the server's error of that text.
func isEtcd(err, what error) bool {
	return err != nil && asEtcd(rpctypes.Error(err)) == asEtcd(what)
}

// translate wraps what a call gave round the sentinel that it means. An error
// that has a sentinel already is left alone.
func translate(err error) error {
	if err == nil || naming.Code(err) != "internal" && !isContext(err) {
		return err
	}
	if kind, known := kinds[asEtcd(rpctypes.Error(err))]; known {
		return fmt.Errorf("%w: %s", kind, message(err))
	}
	kind := naming.ErrUnavailable
	switch status.Code(err) {
	case codes.PermissionDenied:
		kind = naming.ErrDenied
	case codes.Unauthenticated:
		kind = naming.ErrUnauthenticated
	}
	return fmt.Errorf("%w: %s", kind, message(err))
}

// message is the server's text without gRPC's introduction. It is not wrapped:
// a deadline of the driver's own must not look like one of the caller's.
func message(err error) string {
	text := err.Error()
	if s, ok := status.FromError(err); ok {
		text = s.Message()
	}
	if text == context.DeadlineExceeded.Error() {
		return "the server did not answer in time"
	}
	return text
}

func isContext(err error) bool {
	code := naming.Code(err)
	return code == "canceled" || code == "timeout"
}

// An outcome says what is known of a write that failed.
type outcome uint8

const (
	refused   outcome = iota // it did not happen, and a repetition would fail too
	repeat                   // it did not happen; a repetition may succeed
	ambiguous                // it may have happened, or happen later
)

// judge says what is known of a write that reached a server and gave err.
func judge(err error) outcome {
	if e, notSent := errors.AsType[*loginError](err); notSent {
		if errors.Is(e, naming.ErrUnavailable) {
			return repeat
		}
		return refused
	}
	// All three are said before the write is proposed.
	if isEtcd(err, rpctypes.ErrNoLeader) || isEtcd(err, rpctypes.ErrTooManyRequests) || isEtcd(err, rpctypes.ErrAuthOldRevision) {
		return repeat
	}
	switch status.Code(err) {
	case codes.PermissionDenied, codes.Unauthenticated, codes.InvalidArgument, codes.FailedPrecondition,
		codes.NotFound, codes.AlreadyExists, codes.ResourceExhausted, codes.OutOfRange, codes.Unimplemented:
		return refused
	}
	return ambiguous
}

var rpcIntroduction = regexp.MustCompile(`^rpc error: code = \w+ desc = `)

// canceled makes an error of the reason for which the server ends a watch: the
// text of a gRPC error in 3.5 to 3.7.
func canceled(reason string) error {
	return status.Error(codes.Unavailable, rpcIntroduction.ReplaceAllString(reason, ""))
}
