package etcd

import (
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/seed-6593ebad/skywarden/naming"
)

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
