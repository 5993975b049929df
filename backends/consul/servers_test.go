package consul

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/seed-6593ebad/skywarden/internal/testca"
	"github.com/seed-6593ebad/skywarden/naming"
)

// A proxy that the environment names would get our token where a server is
// reached without TLS, and is nobody's business elsewhere. (net/http never uses
// one for addresses of this machine, hence the name.)
func TestNoProxyOfTheEnvironment(t *testing.T) {
	proxy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	asked := make(chan struct{}, 1)
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := proxy.Accept()
			if err != nil {
				return
			}
			asked <- struct{}{}
			conn.Close()
		}
	})
	defer func() { proxy.Close(); serving.Wait() }()
	for _, variable := range []string{"HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY"} {
		t.Setenv(variable, "http://"+proxy.Addr().String())
	}
	t.Setenv("NO_PROXY", "")
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	b, err := Open(ctx, Config{
		Addresses: []string{"https://consul.invalid:8501"}, Principal: "alice", Token: NewSecret("secret"),
		TLS: TLS{CAFile: testca.New(t).WriteFile(t, t.TempDir(), "ca")}, Logger: zerolog.New(zerolog.NewTestWriter(t)),
	})
	if err == nil {
		b.Close()
	}
	select {
	case <-asked:
		t.Error("the proxy was asked")
	default:
	}
}

// Nothing is sent without a token: nobody's would go instead of ours.
func TestTokensThatCannotBeSent(t *testing.T) {
	for text, want := range map[string]error{
		"":          naming.ErrUnauthenticated,
		"two words": naming.ErrUnauthenticated,
		"a\nb":      naming.ErrUnauthenticated,
		"ä":         naming.ErrUnauthenticated,
		"good":      nil,
	} {
		s := &settings{token: func(context.Context) (Secret, error) { return NewSecret(text), nil }}
		got, err := s.secret(t.Context())
		if !errors.Is(err, want) || (err == nil) != (got == text && text == "good") {
			t.Errorf("%q: %q, %v, want %v", text, got, err, want)
		}
		if err != nil && text != "" && strings.Contains(err.Error(), text) {
			t.Errorf("the error has the secret in it: %v", err)
		}
	}
	// An error of the user's function is not an answer of the server, nor an end of
	// the caller's context.
	for _, cause := range []error{errors.New("the vault is sealed"), context.DeadlineExceeded, context.Canceled, naming.ErrDenied} {
		s := &settings{token: func(context.Context) (Secret, error) { return Secret{}, cause }}
		_, err := s.secret(t.Context())
		if naming.Code(translate(err)) != "unavailable" || errors.Is(translate(err), cause) || !strings.Contains(err.Error(), cause.Error()) {
			t.Errorf("%v becomes %v", cause, err)
		}
	}
	s := &settings{Config: Config{InsecureDevelopmentOnly: true}, token: func(context.Context) (Secret, error) { return Secret{}, nil }}
	if _, err := s.secret(t.Context()); err != nil {
		t.Errorf("for development: %v", err)
	}
}

// What errors quote of an answer is short, and has no token in it.
func TestQuotable(t *testing.T) {
	response := &http.Response{Body: io.NopCloser(strings.NewReader("you sent canary, canary and " + strings.Repeat("x", 1<<20)))}
	if err := quotable(response, "canary"); err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(response.Body)
	if err != nil || strings.Contains(string(body), "canary") || !strings.HasPrefix(string(body), "you sent [redacted], [redacted] and x") || len(body) > maxQuote+100 {
		t.Errorf("%d bytes: %.80s, %v", len(body), body, err)
	}
	cause := errors.New("malformed: canary")
	if got := withoutToken(cause, "canary").Error(); got != "malformed: [redacted]" {
		t.Errorf("%q", got)
	}
	if got := withoutToken(cause, ""); !errors.Is(got, cause) {
		t.Errorf("%q: an error without a token in it is another one", got)
	}
}
