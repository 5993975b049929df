package consul

import (
	"net/http"
	"testing"
	"time"

	"github.com/seed-6593ebad/skywarden/naming"
)

// The bounds are told in the words of Consul 1.20.1.
func TestTTLFinding(t *testing.T) {
	b := &Backend{settings: &settings{Config: Config{MinTTL: 5 * time.Second, DefaultTTL: 10 * time.Second}}}
	for body, want := range map[string]naming.Level{
		"Invalid Session TTL '1', must be between [5s=24h0m0s]":    naming.LevelOK,
		"Invalid Session TTL '1', must be between [1s=24h0m0s]":    naming.LevelOK,
		"Invalid Session TTL '1', must be between [10s=24h0m0s]":   naming.LevelFail,
		"Invalid Session TTL '1', must be between [1m0s=24h0m0s]":  naming.LevelFail,
		"Invalid Session TTL '1', must be between [often=24h0m0s]": naming.LevelWarn,
		"Invalid Session TTL": naming.LevelWarn,
	} {
		if got := b.inspectTTL(reply{status: http.StatusInternalServerError, body: body}); got.Level != want {
			t.Errorf("%s: got %+v, want %s", body, got, want)
		}
	}
}
