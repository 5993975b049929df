package etcd

import (
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/seed-6593ebad/skywarden/naming"
)

func TestClockFinding(t *testing.T) {
	now := time.Date(2026, 8, 1, 12, 0, 0, 500_000_000, time.UTC)
	for ahead, want := range map[time.Duration]naming.Level{
		0: naming.LevelOK, time.Second: naming.LevelOK, -time.Second: naming.LevelOK,
		1200 * time.Millisecond: naming.LevelWarn, -1200 * time.Millisecond: naming.LevelWarn, 2 * time.Second: naming.LevelWarn,
		2200 * time.Millisecond: naming.LevelFail, -2200 * time.Millisecond: naming.LevelFail, time.Hour: naming.LevelFail,
	} {
		// A server that is so much ahead, and tells it half a second later than it is.
		date := now.Add(ahead).Add(-500 * time.Millisecond)
		got := clockFinding("clock", "e", date, now.Add(-10*time.Millisecond), now.Add(10*time.Millisecond))
		if got.Level != want || (got.Do == "") != (want == naming.LevelOK) {
			t.Errorf("%v ahead: got %+v, want %v", ahead, got, want)
		}
		if ahead < 0 != strings.Contains(got.Detail, "behind") {
			t.Errorf("%v ahead: %s", ahead, got.Detail)
		}
	}
}

func TestSpaceFinding(t *testing.T) {
	for _, test := range []struct {
		status *pb.StatusResponse
		level  naming.Level
		want   string
	}{
		{&pb.StatusResponse{DbSize: 20e6, DbSizeQuota: 2e9}, naming.LevelOK, "20.0 MB of 2000.0 MB"},
		{&pb.StatusResponse{DbSize: 1.7e9, DbSizeQuota: 2e9}, naming.LevelWarn, "refuses writes"},
		{&pb.StatusResponse{DbSize: 20e6}, naming.LevelWarn, "does not tell its quota"},
		{&pb.StatusResponse{DbSize: 20e6, DbSizeQuota: 2e9, Errors: []string{"memberID:1 alarm:NOSPACE "}}, naming.LevelFail, "NOSPACE"},
		{&pb.StatusResponse{DbSize: 20e6, DbSizeQuota: 2e9, Errors: []string{"memberID:1 alarm:CORRUPT "}}, naming.LevelFail, "CORRUPT"},
	} {
		if got := spaceFinding("e", test.status); got.Level != test.level || !strings.Contains(got.Detail, test.want) {
			t.Errorf("got %+v, want %v with %q", got, test.level, test.want)
		}
	}
}

func TestLeaderFinding(t *testing.T) {
	for level, status := range map[naming.Level]*pb.StatusResponse{
		naming.LevelOK: {Leader: 1}, naming.LevelWarn: {Leader: 1, IsLearner: true}, naming.LevelFail: {},
	} {
		if got := leaderFinding("e", status); got.Level != level {
			t.Errorf("got %+v, want %v", got, level)
		}
	}
}

func TestVersionFinding(t *testing.T) {
	for version, level := range map[string]naming.Level{"3.7.3": naming.LevelOK, "3.6.5": naming.LevelFail, "?": naming.LevelFail} {
		if got := versionFinding("e", version); got.Level != level {
			t.Errorf("%s: got %+v, want %v", version, got, level)
		}
	}
}
