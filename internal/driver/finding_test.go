package driver

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/seed-6593ebad/skywarden/naming"
)

func TestClock(t *testing.T) {
	now := time.Date(2026, 8, 1, 12, 0, 0, 500_000_000, time.UTC)
	for ahead, want := range map[time.Duration]naming.Level{
		0: naming.LevelOK, time.Second: naming.LevelOK, -time.Second: naming.LevelOK,
		2 * time.Second: naming.LevelWarn, -2 * time.Second: naming.LevelWarn,
		3 * time.Second: naming.LevelFail, -3 * time.Second: naming.LevelFail, time.Hour: naming.LevelFail,
	} {
		// A server that is so much ahead, and tells it half a second later than it is.
		date := now.Add(ahead).Add(-500 * time.Millisecond).Format(http.TimeFormat)
		got := Clock("clock", "a:1", date, now.Add(-10*time.Millisecond), now.Add(10*time.Millisecond))
		if got.Level != want || (got.Do == "") != (want == naming.LevelOK) || !strings.HasPrefix(got.Detail, "a:1: ") {
			t.Errorf("%v ahead: got %+v, want %v", ahead, got, want)
		}
		if ahead < 0 != strings.Contains(got.Detail, "behind") {
			t.Errorf("%v ahead: %s", ahead, got.Detail)
		}
	}
	if got := Clock("clock", "a:1", "today", now, now); got.Level != naming.LevelWarn || !strings.Contains(got.Detail, "cannot be seen: a:1: ") {
		t.Errorf("without a date: %+v", got)
	}
}
