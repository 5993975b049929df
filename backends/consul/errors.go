package consul

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/hashicorp/consul/api"

	"github.com/seed-6593ebad/skywarden/internal/driver"
	"github.com/seed-6593ebad/skywarden/naming"
)

// driverName is in errors, logs and metrics.
const driverName = "consul"

// translate wraps what a call gave round the sentinel that it means. An error
// that has a sentinel already is left alone.
func translate(err error) error {
	if err == nil {
		return nil
	}
	if code := naming.Code(err); code != "internal" && code != "canceled" && code != "timeout" {
		return unwrapURL(err)
	}
	if status, ok := errors.AsType[api.StatusError](err); ok {
		return fmt.Errorf("%w: %s", kindOf(status), message(status))
	}
	if refused := driver.RefusedCertificate(unwrapURL(err)); refused != nil {
		return refused
	}
	if definite(err) {
		return fmt.Errorf("%w: %w", naming.ErrUnavailable, unwrapURL(err))
	}
	if isContext(err) {
		// Not wrapped: a deadline of the driver's own must not look like one of the
		// caller's.
		return fmt.Errorf("%w: the server did not answer in time", naming.ErrUnavailable)
	}
	return fmt.Errorf("%w: %v", naming.ErrUnavailable, unwrapURL(err)) //nolint:errorlint // as above
}

// unwrapURL leaves out the method and the path, which say nothing to the reader.
func unwrapURL(err error) error {
	if request, ok := errors.AsType[*url.Error](err); ok {
		return request.Err
	}
	return err
}

func kindOf(status api.StatusError) error {
	has := func(text string) bool { return strings.Contains(status.Body, text) }
	switch {
	case status.Code == http.StatusForbidden && has("ACL not found"):
		return naming.ErrUnauthenticated
	case status.Code == http.StatusForbidden, has("Permission denied"):
		return naming.ErrDenied
	case status.Code == http.StatusUnauthorized: // "ACL support disabled"
		return naming.ErrInsecureConfig
	case status.Code == http.StatusRequestEntityTooLarge:
		return naming.ErrTooLarge
	case has("invalid session"), status.Code == http.StatusNotFound && has("Session id"):
		return naming.ErrLeaseLost
	case has("Missing node registration"):
		return naming.ErrDenied
	case has("Invalid Session TTL"):
		return naming.ErrInsecureConfig
	}
	return naming.ErrUnavailable
}

// message says what the server means, and where its own text does not, what to
// do.
func message(status api.StatusError) string {
	body, _, _ := strings.Cut(status.Body, "\n")
	if len(body) > 300 {
		body = body[:300] + "…"
	}
	kind := kindOf(status)
	switch {
	case errors.Is(kind, naming.ErrUnauthenticated):
		return "the server does not know the token"
	case errors.Is(kind, naming.ErrLeaseLost):
		return "the server does not know the session any more"
	case status.Code == http.StatusUnauthorized:
		return "the server's ACLs are off, so anybody may take any name: set acl.enabled and acl.default_policy = \"deny\""
	case strings.Contains(body, "Missing node registration"):
		return "the node of the principal is not registered in the catalog: skywarden provision does it"
	case strings.Contains(body, "Invalid Session TTL"):
		return body + ": set session_ttl_min on the servers, or ask for a longer TTL"
	case body == "":
		return fmt.Sprintf("the server answers with status %d", status.Code)
	}
	return body
}

// An outcome says what is known of a write that failed.
type outcome uint8

const (
	refused   outcome = iota // it did not happen, and a repetition would fail too
	repeat                   // it did not happen; a repetition may succeed
	ambiguous                // it may have happened, or happen later
)

// judge says what is known of a write that was sent and gave err.
func judge(err error) outcome {
	status, answered := errors.AsType[api.StatusError](err)
	switch {
	case errors.Is(err, naming.ErrInsecureConfig):
		return refused // what the answer was does not matter
	case !answered:
		return ambiguous
	case !errors.Is(kindOf(status), naming.ErrUnavailable):
		return refused
	case status.Code == http.StatusTooManyRequests, status.Code == http.StatusServiceUnavailable:
		return repeat
	case status.Code >= 400 && status.Code < 500:
		return refused
	}
	// Said before the write is proposed; with "rpc error making call" in front it
	// comes from the server that was taken for the leader.
	for _, text := range []string{"No cluster leader", "node is not the leader", "leadership transfer in progress"} {
		if strings.Contains(status.Body, text) {
			return repeat
		}
	}
	return ambiguous
}

func isContext(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}

// definite says whether a server was reached and is not who it should be, or
// does not want us: waiting would not help.
func definite(err error) bool {
	switch naming.Code(err) {
	case "insecure_config", "unauthenticated", "denied":
		return true
	}
	var verification *tls.CertificateVerificationError
	var plaintext tls.RecordHeaderError
	return errors.As(err, &verification) || errors.As(err, &plaintext) || errors.Is(err, http.ErrSchemeMismatch) || driver.IsRemoteAlert(err)
}
