package etcd

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/seed-6593ebad/skywarden/naming"
)

// Which answers make a token void. The server's own tokens outlive a change of
// permissions, a JWT does not.
func TestRefusedTokens(t *testing.T) {
	const simple, jwt = "abcdefghijklmnop.17", "head.claims.signature"
	for _, test := range []struct {
		token string
		err   error
		want  bool
	}{
		{simple, rpctypes.ErrGRPCInvalidAuthToken, true},
		{jwt, rpctypes.ErrGRPCInvalidAuthToken, true},
		{simple, rpctypes.ErrGRPCAuthOldRevision, false},
		{jwt, rpctypes.ErrGRPCAuthOldRevision, true},
		{simple, rpctypes.ErrGRPCPermissionDenied, false},
		{simple, status.Error(codes.DeadlineExceeded, "too late"), false},
		{simple, nil, false},
	} {
		l := &login{token: test.token, since: time.Now()}
		if got := l.refused(test.token, test.err); got != test.want || (l.token == "") != test.want {
			t.Errorf("%s and %v: refused is %v and the token then %q, want %v", test.token, test.err, got, l.token, test.want)
		}
		// A call that still carried the token before says nothing of the new one.
		l = &login{token: "new", since: time.Now()}
		if l.refused(test.token, test.err); l.token != "new" {
			t.Errorf("%s and %v: the new token is gone", test.token, test.err)
		}
	}
}

func TestLoginPauses(t *testing.T) {
	l := &login{}
	for n, want := range []time.Duration{200 * time.Millisecond, 400 * time.Millisecond, 800 * time.Millisecond, 1600 * time.Millisecond, 3200 * time.Millisecond, refusedPause, refusedPause} {
		before := time.Now()
		l.pause(n, refusedPause)
		after := time.Now()
		if l.notBefore.Before(before.Add(want/2)) || l.notBefore.After(after.Add(want)) {
			t.Errorf("after %d failures: a pause of %v, want %v at most and half of it at least", n, l.notBefore.Sub(before), want)
		}
	}

	// A server that takes back each token at once is not asked for the next at once.
	l = &login{}
	for range 5 {
		l.token, l.since = "t", time.Now()
		l.drop("t")
	}
	if !time.Now().Before(l.notBefore) || !errors.Is(l.failed, naming.ErrUnavailable) {
		t.Errorf("after five tokens that did not last: no pause (%v)", l.failed)
	}
}

func TestLoginErrors(t *testing.T) {
	l := &login{user: "alice", password: func() Secret { return NewSecret("hunter2") }}
	for _, test := range []struct{ err, want error }{
		{rpctypes.ErrGRPCAuthFailed, naming.ErrUnauthenticated},
		{status.Error(codes.Unknown, "auth: authentication failed, password was given for no password user"), naming.ErrUnauthenticated},
		{rpctypes.ErrGRPCAuthNotEnabled, naming.ErrInsecureConfig},
		{rpctypes.ErrGRPCNoLeader, naming.ErrUnavailable},
		{status.Error(codes.Canceled, "context canceled"), naming.ErrUnavailable},
		{status.Error(codes.DeadlineExceeded, "context deadline exceeded"), naming.ErrUnavailable},
	} {
		got := l.explain(test.err)
		if naming.Code(got) != naming.Code(test.want) {
			t.Errorf("%v becomes %v, want %v", test.err, got, test.want)
		}
		if text := fmt.Sprintf("%v %+v", got, l.password()); strings.Contains(text, "hunter2") {
			t.Errorf("the password is in %q", text)
		}
	}
}
