package consul

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/hashicorp/consul/api"

	"github.com/seed-6593ebad/skywarden/naming"
)

// What servers of 1.20.1 answer, what it means, and what is then known of a write
// that was sent.
func TestErrors(t *testing.T) {
	answer := func(code int, body string) error { return api.StatusError{Code: code, Body: body} }
	tests := []struct {
		err   error
		want  error
		known outcome
	}{
		{answer(403, "ACL not found"), naming.ErrUnauthenticated, refused},
		{answer(403, "rpc error making call: ACL not found"), naming.ErrUnauthenticated, refused},
		{answer(403, "Permission denied: token with AccessorID 'x' lacks permission 'key:write' on \"skywarden/names/a\""), naming.ErrDenied, refused},
		{answer(500, "rpc error making call: Permission denied"), naming.ErrDenied, refused},
		{answer(403, ""), naming.ErrDenied, refused},
		{answer(401, "ACL support disabled"), naming.ErrInsecureConfig, refused},
		{answer(413, "Request body(524289 bytes) too large, max size: 524288 bytes."), naming.ErrTooLarge, refused},
		{answer(500, `invalid session "93da1f5a-0e1b-4f5e-a5c0-6ef51a0b7f5f"`), naming.ErrLeaseLost, refused},
		{answer(404, "Session id '93da1f5a-0e1b-4f5e-a5c0-6ef51a0b7f5f' not found"), naming.ErrLeaseLost, refused},
		{answer(500, "Missing node registration"), naming.ErrDenied, refused},
		{answer(500, "Invalid Session TTL '3000000000', must be between [10s=24h0m0s]"), naming.ErrInsecureConfig, refused},
		{answer(500, "No cluster leader"), naming.ErrUnavailable, repeat},
		{answer(500, "rpc error making call: node is not the leader"), naming.ErrUnavailable, repeat},
		{answer(500, "rpc error making call: leadership transfer in progress"), naming.ErrUnavailable, repeat},
		{answer(429, "Your IP is issuing too many concurrent connections"), naming.ErrUnavailable, repeat},
		{answer(503, "rate limit exceeded, try again later or against a different server"), naming.ErrUnavailable, repeat},
		{answer(500, "rpc error making call: EOF"), naming.ErrUnavailable, ambiguous},
		{answer(500, "leadership lost while committing log"), naming.ErrUnavailable, ambiguous},
		{answer(500, ""), naming.ErrUnavailable, ambiguous},
		{answer(502, "<html>bad gateway</html>"), naming.ErrUnavailable, ambiguous},
		{answer(504, ""), naming.ErrUnavailable, ambiguous},
		{answer(307, ""), naming.ErrUnavailable, ambiguous},
		{answer(404, "Invalid URL path: not a recognized HTTP API endpoint"), naming.ErrUnavailable, refused},
		{answer(400, "Conflicting flags: acquire, cas"), naming.ErrUnavailable, refused},
		{errNotDeny("allow"), naming.ErrInsecureConfig, refused},
		{errNotDeny(""), naming.ErrUnavailable, ambiguous},
		{errNoIndex, naming.ErrUnavailable, ambiguous},
		{context.DeadlineExceeded, naming.ErrUnavailable, ambiguous},
		{context.Canceled, naming.ErrUnavailable, ambiguous},
		{errors.New("unexpected EOF"), naming.ErrUnavailable, ambiguous},
	}
	for _, test := range tests {
		// As the SDK's client gives it, and as net/http's, which knows the URL.
		for _, err := range []error{test.err, &url.Error{Op: "Put", URL: "https://10.0.0.1:8501/v1/kv/x", Err: test.err}} {
			got := translate(err)
			if !errors.Is(got, test.want) || naming.Code(got) != naming.Code(test.want) {
				t.Errorf("%v becomes %v (%s), want %v", err, got, naming.Code(got), test.want)
			}
			if errors.Is(got, context.DeadlineExceeded) || errors.Is(got, context.Canceled) {
				t.Errorf("%v becomes %v, which looks like the caller's own deadline", err, got)
			}
			if strings.Contains(got.Error(), "/v1/kv/") {
				t.Errorf("%v becomes %v, want it without the URL", err, got)
			}
			if again := translate(got); again.Error() != got.Error() {
				t.Errorf("translated twice: %v, want %v", again, got)
			}
			if known := judge(err); known != test.known {
				t.Errorf("a write that gave %v: %v, want %v", err, known, test.known)
			}
		}
	}
	if translate(nil) != nil {
		t.Error("no error becomes one")
	}
}

// An error says what to do, and of what the server says not more than a few
// lines' worth.
func TestErrorsSayWhatToDo(t *testing.T) {
	for body, want := range map[string]string{
		"Missing node registration":                                       "skywarden provision",
		"Invalid Session TTL '3000000000', must be between [10s=24h0m0s]": "session_ttl_min",
		"first line\nsecond line":                                         "unavailable: first line",
		"":                                                                "unavailable: the server answers with status 500",
	} {
		err := translate(api.StatusError{Code: 500, Body: body})
		if !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q becomes %q, want it to say %q", body, err, want)
		}
	}
	long := translate(fmt.Errorf("with more around it: %w", api.StatusError{Code: 500, Body: strings.Repeat("x", 1<<20)}))
	if len(long.Error()) > 400 {
		t.Errorf("an error of %d bytes", len(long.Error()))
	}
}

// What waiting does not help against makes Open fail at once.
func TestDefinite(t *testing.T) {
	for _, test := range []struct {
		err  error
		want bool
	}{
		{naming.ErrUnauthenticated, true},
		{naming.ErrDenied, true},
		{errNotDeny("allow"), true},
		{&tls.CertificateVerificationError{Err: errors.New("x509: whatever")}, true},
		{tls.RecordHeaderError{Msg: "first record does not look like a TLS handshake"}, true},
		{http.ErrSchemeMismatch, true},
		{&net.OpError{Op: "remote error", Err: tls.AlertError(70)}, true},
		{&net.OpError{Op: "dial", Err: errors.New("connection refused")}, false},
		{errNotDeny(""), false},
		{context.DeadlineExceeded, false},
		{api.StatusError{Code: 500, Body: "No cluster leader"}, false},
	} {
		err := &url.Error{Op: "Get", URL: "https://10.0.0.1:8501/", Err: test.err}
		if got := definite(err); got != test.want {
			t.Errorf("%v: %t, want %t", test.err, got, test.want)
		}
		if got := definite(translate(err)); got != test.want {
			t.Errorf("%v, translated: %t, want %t", test.err, got, test.want)
		}
	}
}
