package harness_test

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/seed-6593ebad/skywarden/integration/harness"
)

func TestHTTPRecorder(t *testing.T) {
	consul := harness.StartConsul(t, harness.ConsulOptions{})
	recorder := harness.NewHTTPRecorder(t, consul.CA, consul.Address)
	client := through(t, recorder, consul, true)

	mustWrite(t, client, "a/b", "v")
	if got := mustRead(t, client, "a/b"); got != "v" {
		t.Errorf("the key says %q, want v", got)
	}
	requests := recorder.Requests()
	if len(requests) != 2 {
		t.Fatalf("%d requests, want 2: %+v", len(requests), requests)
	}
	for i, want := range []string{"PUT", "GET"} {
		got := requests[i]
		if got.Method != want || got.Path != "/v1/kv/a/b" || got.Token != consul.ManagementToken ||
			got.Proto != "HTTP/2.0" || got.Status != http.StatusOK || got.Bytes == 0 {
			t.Errorf("request %d: %+v, want %s of /v1/kv/a/b with the token by HTTP/2, and its answer", i, got, want)
		}
	}
	if !requests[1].Query.Has("consistent") {
		t.Errorf("query %v, want consistent in it", requests[1].Query)
	}

	recorder.Forget()
	if _, err := read(t, through(t, recorder, consul, false), "a/b"); err != nil {
		t.Error(err)
	}
	if got := recorder.Requests(); len(got) != 1 || got[0].Proto != "HTTP/1.1" {
		t.Errorf("the record after a new beginning: %+v, want one request by HTTP/1.1", got)
	}
}

func TestHTTPRecorderFails(t *testing.T) {
	consul := harness.StartConsul(t, harness.ConsulOptions{})
	recorder := harness.NewHTTPRecorder(t, consul.CA, consul.Address)
	for _, http2 := range []bool{true, false} {
		t.Run(fmt.Sprintf("http2 %t", http2), func(t *testing.T) {
			client := through(t, recorder, consul, http2)
			recorder.Forget()

			recorder.Fail(func(request *http.Request) (int, string, bool) {
				return http.StatusInternalServerError, "No cluster leader", request.Method == http.MethodPut
			})
			if err := write(t, client, "failed", "v"); err == nil || !strings.Contains(err.Error(), "500 (No cluster leader)") {
				t.Errorf("a write that fails: %v, want the recorder's answer", err)
			}
			if _, err := read(t, client, "failed"); !errors.Is(err, errNoKey) {
				t.Errorf("the key of the write that failed: %v, want that there is none", err)
			}
			recorder.Fail(nil)

			recorder.DropResponse(func(request *http.Request) bool { return request.Method == http.MethodPut })
			if err := write(t, client, "dropped", fmt.Sprint(http2)); err == nil {
				t.Error("a write whose answer is lost succeeds, want an error")
			}
			if got := mustRead(t, client, "dropped"); got != fmt.Sprint(http2) {
				t.Errorf("after the lost answer the key says %q, want %t", got, http2)
			}
			recorder.DropResponse(nil)
			mustWrite(t, client, "dropped", "whole")

			requests := recorder.Requests()
			if got := requests[0]; !got.Failed || got.Dropped || got.Status != http.StatusInternalServerError {
				t.Errorf("the write that failed: %+v", got)
			}
			if got := requests[2]; got.Failed || !got.Dropped || got.Status != http.StatusOK || !got.Ended {
				t.Errorf("the write whose answer was lost: %+v", got)
			}
		})
	}
}

func TestHTTPRecorderOfWatches(t *testing.T) {
	consul := harness.StartConsul(t, harness.ConsulOptions{})
	recorder := harness.NewHTTPRecorder(t, consul.CA, consul.Address)
	client := through(t, recorder, consul, true)
	mustWrite(t, consul.Admin, "k", "before")
	pair, _, err := consul.Admin.KV().Get("k", nil)
	if err != nil {
		t.Fatal(err)
	}

	const watchers = 20
	var watching sync.WaitGroup
	for range watchers {
		watching.Go(func() {
			query := (&api.QueryOptions{WaitIndex: pair.ModifyIndex, WaitTime: time.Minute}).WithContext(t.Context())
			if got, _, err := client.KV().Get("k", query); err != nil || string(got.Value) != "after" {
				t.Errorf("a watch: %v %v, want after", got, err)
			}
		})
	}
	await(t, func() bool { return len(recorder.Requests()) == watchers })
	for _, request := range recorder.Requests() {
		if request.Ended || request.Status != 0 || request.Token == "" || !request.Query.Has("index") {
			t.Errorf("a watch that waits: %+v, want a token, an index, and no answer", request)
		}
	}
	mustWrite(t, consul.Admin, "k", "after")
	watching.Wait()

	// When the server goes, its clients see a broken connection, no answer.
	consul.Kill(t)
	if _, err := read(t, client, "k"); err == nil || strings.Contains(err.Error(), "502") {
		t.Errorf("read when the server is gone: %v, want a broken connection", err)
	}
}

// TestHTTPRecorderEndsWithWatches is about what Main would find: a watch that
// nobody has ended.
func TestHTTPRecorderEndsWithWatches(t *testing.T) {
	consul := harness.StartConsul(t, harness.ConsulOptions{})
	mustWrite(t, consul.Admin, "k", "v")
	for _, http2 := range []bool{true, false} {
		ended := make(chan error, 1)
		t.Run(fmt.Sprintf("http2 %t", http2), func(t *testing.T) {
			recorder := harness.NewHTTPRecorder(t, consul.CA, consul.Address)
			client := through(t, recorder, consul, http2)
			pair, _, err := client.KV().Get("k", nil)
			if err != nil {
				t.Fatal(err)
			}
			go func() {
				_, _, err := client.KV().Get("k", &api.QueryOptions{WaitIndex: pair.ModifyIndex, WaitTime: time.Minute})
				ended <- err
			}()
			await(t, func() bool { return len(recorder.Requests()) == 2 })
		})
		if err := <-ended; err == nil {
			t.Error("the watch has an answer, want a broken connection")
		}
	}
}

// through is a client of the administrator that passes the recorder.
func through(t *testing.T, recorder *harness.HTTPRecorder, consul *harness.Consul, http2 bool) *api.Client {
	t.Helper()
	transport := &http.Transport{TLSClientConfig: consul.ClientTLS(t), ForceAttemptHTTP2: http2}
	t.Cleanup(transport.CloseIdleConnections)
	client, err := api.NewClient(&api.Config{
		Address: recorder.URL(), Token: consul.ManagementToken, HttpClient: &http.Client{Transport: transport},
	})
	if err != nil {
		t.Fatal(err)
	}
	return client
}
