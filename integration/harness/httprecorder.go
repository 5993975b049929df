package harness

import (
	"crypto/tls"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/seed-6593ebad/skywarden/internal/testca"
)

// HTTPRecorder stands between clients and a Consul server, reads what they say
// and answers in the server's place when it is told to. Proxy is for faults of
// the network; this one is for faults of single requests. All methods are safe
// for concurrent use.
type HTTPRecorder struct {
	address string
	forward *httputil.ReverseProxy

	mu       sync.Mutex
	closed   bool
	handlers sync.WaitGroup // only joined under mu and before closed
	requests []*RecordedRequest
	fail     func(*http.Request) (status int, body string, ok bool)
	drop     func(*http.Request) bool
}

// A RecordedRequest is one request and, as far as it has come, its answer.
type RecordedRequest struct {
	Method string
	Path   string     // as sent, escapes and dots included
	Query  url.Values // not to be changed
	Token  string     // X-Consul-Token
	Proto  string     // "HTTP/2.0" or "HTTP/1.1": between the client and the recorder
	Start  time.Time

	Status  int   // of the answer; 0: not yet, or never
	Bytes   int64 // of the answer's body so far, compressed if the client allows it
	Ended   bool  // the answer is complete, or it will never be
	Failed  bool  // answered by Fail: the server does not know of it
	Dropped bool  // by DropResponse: the server has done it, and the client does not know
}

// NewHTTPRecorder listens on 127.0.0.1 and forwards to target (IP:port) until
// the test ends. It shows clients a certificate of ca, offers them HTTP/2, and
// trusts ca in turn.
func NewHTTPRecorder(tb testing.TB, ca *testca.CA, target string) *HTTPRecorder {
	tb.Helper()
	listener, err := net.Listen("tcp", net.JoinHostPort(loopback, "0"))
	if err != nil {
		tb.Fatalf("harness: %v", err)
	}
	transport := newTransport(tb, &tls.Config{
		MinVersion:   tls.VersionTLS13,
		RootCAs:      ca.Pool(),
		Certificates: []tls.Certificate{ca.Client(tb, "recorder").TLS()},
	})
	transport.DisableCompression = true // what passes is what the client and the server agreed on
	// Whoever is told that a connection broke finds the reason in the test.
	quiet := slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	r := &HTTPRecorder{address: listener.Addr().String()}
	r.forward = &httputil.ReverseProxy{
		Rewrite: func(p *httputil.ProxyRequest) {
			p.Out.URL.Scheme, p.Out.URL.Host, p.Out.Host = "https", target, target
			p.Out.URL.RawQuery = p.In.URL.RawQuery
		},
		Transport:     transport,
		FlushInterval: -1, // at once
		ErrorLog:      quiet,
		// A server that is gone looks gone, not like one that answers 502.
		ErrorHandler: func(http.ResponseWriter, *http.Request, error) { abort() },
	}
	server := &http.Server{
		Handler:           r,
		TLSConfig:         &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{ca.Server(tb, loopback, "localhost").TLS()}},
		ReadHeaderTimeout: 10 * time.Second,
		ErrorLog:          quiet,
	}
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.ServeTLS(listener, "", "") }) // ends with Close
	tb.Cleanup(func() {
		r.mu.Lock()
		r.closed = true
		r.mu.Unlock()
		// Ends every request with its connection, and so its handler.
		if err := server.Close(); err != nil {
			tb.Errorf("harness: close the recorder: %v", err)
		}
		serving.Wait()
		r.handlers.Wait()
	})
	return r
}

// Address is where clients dial (IP:port).
func (r *HTTPRecorder) Address() string { return r.address }

// URL is https://IP:port.
func (r *HTTPRecorder) URL() string { return "https://" + r.address }

// Requests returns all requests so far in the order of their arrival, those
// included that still wait for their answer.
func (r *HTTPRecorder) Requests() []RecordedRequest {
	r.mu.Lock()
	defer r.mu.Unlock()
	requests := make([]RecordedRequest, len(r.requests))
	for i, request := range r.requests {
		requests[i] = *request
	}
	return requests
}

// Forget begins a new record. Requests that still run are not in it.
func (r *HTTPRecorder) Forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.requests = nil
}

// Fail asks answer about every further request; where it says ok, the client
// gets that status and body, and the server never sees the request. nil ends
// it. answer may be called concurrently and must leave the body alone.
func (r *HTTPRecorder) Fail(answer func(*http.Request) (status int, body string, ok bool)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.fail = answer
}

// DropResponse asks lost about every further request that Fail lets through;
// where it says yes, the server gets the request and its answer is lost: the
// connection (HTTP/1.1) or the stream (HTTP/2) breaks once the answer is
// there. nil ends it. lost may be called concurrently and must leave the body
// alone. (net/http repeats a GET by itself when an HTTP/1.1 connection breaks
// that it had used before.)
func (r *HTTPRecorder) DropResponse(lost func(*http.Request) bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.drop = lost
}

// ServeHTTP implements http.Handler.
func (r *HTTPRecorder) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	record, fail, drop := r.begin(request)
	if record == nil {
		abort()
	}
	defer r.handlers.Done()
	defer r.note(func() { record.Ended = true })

	counted := &countingWriter{ResponseWriter: w, recorder: r, record: record}
	if fail != nil {
		if status, body, ok := fail(request); ok {
			r.note(func() { record.Failed = true })
			counted.Header().Set("X-Consul-Default-ACL-Policy", "deny") // as in every answer of the server
			counted.WriteHeader(status)
			_, _ = io.WriteString(counted, body) // a client that has gone does not matter
			return
		}
	}
	if drop != nil && drop(request) {
		r.note(func() { record.Dropped = true })
		counted.ResponseWriter = &nobody{header: http.Header{}}
		r.forward.ServeHTTP(counted, request)
		abort()
	}
	r.forward.ServeHTTP(counted, request)
}

// begin records a request, or returns nil if the recorder is closed.
func (r *HTTPRecorder) begin(request *http.Request) (
	record *RecordedRequest,
	fail func(*http.Request) (int, string, bool),
	drop func(*http.Request) bool,
) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil, nil, nil
	}
	r.handlers.Add(1)
	record = &RecordedRequest{
		Method: request.Method,
		Path:   request.URL.EscapedPath(),
		Query:  request.URL.Query(),
		Token:  request.Header.Get("X-Consul-Token"),
		Proto:  request.Proto,
		Start:  time.Now(),
	}
	r.requests = append(r.requests, record)
	return record, r.fail, r.drop
}

// note changes a record, which Requests may read meanwhile.
func (r *HTTPRecorder) note(change func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change()
}

// abort ends a handler so that the client sees its connection or stream break.
func abort() {
	panic(http.ErrAbortHandler) //nolint:forbidigo // the way that net/http has for it
}

// countingWriter records what passes.
type countingWriter struct {
	http.ResponseWriter

	recorder *HTTPRecorder
	record   *RecordedRequest
}

// WriteHeader implements http.ResponseWriter.
func (w *countingWriter) WriteHeader(status int) {
	w.recorder.note(func() { w.record.Status = status })
	w.ResponseWriter.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (w *countingWriter) Write(data []byte) (int, error) {
	n, err := w.ResponseWriter.Write(data)
	w.recorder.note(func() { w.record.Bytes += int64(n) })
	return n, err
}

// Unwrap lets net/http flush the writer below.
func (w *countingWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// nobody is a client to whom nothing arrives.
type nobody struct{ header http.Header }

// Header implements http.ResponseWriter.
func (n *nobody) Header() http.Header { return n.header }

// WriteHeader implements http.ResponseWriter.
func (n *nobody) WriteHeader(int) {}

// Write implements http.ResponseWriter.
func (n *nobody) Write(data []byte) (int, error) { return len(data), nil }
