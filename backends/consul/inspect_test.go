package consul

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/seed-6593ebad/skywarden/naming"
)

func TestClockFinding(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, int(500*time.Millisecond), time.UTC)
	for ahead, want := range map[time.Duration]struct {
		level naming.Level
		says  string
	}{
		0:                       {naming.LevelOK, "about 0s ahead"},
		time.Second:             {naming.LevelOK, "about 1s ahead"},
		-time.Second:            {naming.LevelOK, "about 1s behind"},
		2 * time.Second:         {naming.LevelWarn, "about 2s ahead"},
		-2 * time.Second:        {naming.LevelWarn, "about 2s behind"},
		3 * time.Second:         {naming.LevelFail, "about 3s ahead"},
		-3700 * time.Second:     {naming.LevelFail, "about 1h1m40s behind"},
		365 * 24 * time.Hour:    {naming.LevelFail, "ahead"},
		-50 * time.Millisecond:  {naming.LevelOK, "ahead"}, // it tells full seconds
		-600 * time.Millisecond: {naming.LevelOK, "about 1s behind"},
	} {
		status := reply{header: http.Header{"Date": {now.Add(ahead).Format(http.TimeFormat)}}}
		got := clockFinding("a:1", status, now.Add(-10*time.Millisecond), now.Add(10*time.Millisecond))
		if got.Level != want.level || !strings.Contains(got.Detail, want.says) {
			t.Errorf("%v: got %+v, want %s, %q", ahead, got, want.level, want.says)
		}
	}
	if got := clockFinding("a:1", reply{}, now, now); got.Level != naming.LevelWarn || !strings.Contains(got.Detail, "cannot be seen") {
		t.Errorf("without a date: %+v", got)
	}
}

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
