package etcd

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"

	"github.com/seed-6593ebad/skywarden/internal/driver"
	"github.com/seed-6593ebad/skywarden/naming"
)

var _ naming.Inspector = (*Backend)(nil)

// Limits of findings.
const (
	inspectTimeout = 2 * time.Second // of one question
	quotaWarning   = 80              // percent of the quota
	oldRevisions   = 10_000          // after so many, some history should be gone
	skewWarning    = time.Second     // between two clocks
	skewLimit      = 2 * time.Second // what TTLs and fences reckon with
)

// Inspect implements naming.Inspector. It looks at every endpoint: version,
// leader, space, clock, and what is open beside the protocol; and once at what
// the cluster has in common: access control, and whether the history is
// compacted. With Config.Client it does not see what is not told by the protocol.
func (b *Backend) Inspect(ctx context.Context) ([]naming.Finding, error) {
	findings := []naming.Finding{b.inspectAccess(ctx), b.inspectHistory(ctx)}
	versions, away := map[string]bool{}, map[string]error{}
	for _, endpoint := range b.client.Endpoints() {
		status, err := b.status(ctx, endpoint)
		if err != nil {
			away[endpoint] = err
			continue
		}
		versions[status.Version] = true
		findings = append(findings, versionFinding(endpoint, status.Version), leaderFinding(endpoint, status), spaceFinding(endpoint, status))
		findings = append(findings, b.inspectHTTP(ctx, endpoint)...)
	}
	for _, endpoint := range slices.Sorted(maps.Keys(away)) {
		findings = append(findings, awayFinding(endpoint, away[endpoint], len(versions) > 0))
	}
	if len(versions) > 1 {
		findings = append(findings, warn("server versions", "the members have different ones", "finish the upgrade"))
	}
	if err := b.life.Explain(ctx, nil); err != nil {
		return nil, b.life.Fail("inspect", naming.Name{}, err)
	}
	return findings, nil
}

func good(check, format string, args ...any) naming.Finding {
	return naming.Finding{Level: naming.LevelOK, Check: check, Detail: fmt.Sprintf(format, args...)}
}

func warn(check, detail, do string) naming.Finding {
	return naming.Finding{Level: naming.LevelWarn, Check: check, Detail: detail, Do: do}
}

func bad(check, detail, do string) naming.Finding {
	return naming.Finding{Level: naming.LevelFail, Check: check, Detail: detail, Do: do}
}

// unseen is about what could not be looked at.
func unseen(check string, err error, do string) naming.Finding {
	return warn(check, "cannot be seen: "+err.Error(), do)
}

func (b *Backend) inspectAccess(ctx context.Context) naming.Finding {
	const check = "access control"
	enabled := true
	err := b.ask(ctx, whoTimeout, grantTry, func(ctx context.Context) error {
		resp, err := b.auth.AuthStatus(ctx, &pb.AuthStatusRequest{}, callOptions...)
		if isEtcd(err, rpctypes.ErrPermissionDenied) {
			return nil // 3.5 and 3.6 tell it to root alone; where it is off everybody is root
		}
		enabled = resp.GetEnabled()
		return err
	})
	switch {
	case err != nil:
		return unseen(check, err, "try again when the server answers")
	case !enabled:
		return bad(check, "it is off: anybody may take any name", "skywarden provision gives users and roles and turns it on")
	}
	return good(check, "it is on")
}

// inspectHistory looks whether the server forgets what was there long ago. It
// does not tell how it is set up.
func (b *Backend) inspectHistory(ctx context.Context) naming.Finding {
	const check = "compaction"
	const do = "run the server with --auto-compaction-mode=periodic --auto-compaction-retention=1h, or its database grows until it refuses writes"
	key, end := b.settings.keys.scope(naming.All())
	var now int64
	compacted := false
	err := b.ask(ctx, inspectTimeout, inspectTimeout, func(ctx context.Context) error {
		resp, err := b.kv.Range(ctx, &pb.RangeRequest{Key: []byte(key), RangeEnd: []byte(end), CountOnly: true}, callOptions...)
		if err != nil {
			return err
		}
		now = resp.GetHeader().GetRevision()
		_, err = b.kv.Range(ctx, &pb.RangeRequest{Key: []byte(key), RangeEnd: []byte(end), Limit: 1, KeysOnly: true, Revision: 1}, callOptions...)
		compacted = isEtcd(err, rpctypes.ErrCompacted)
		return unless(err, rpctypes.ErrCompacted)
	})
	switch {
	case errors.Is(err, naming.ErrDenied):
		return warn(check, "cannot be seen: this principal may not read all names", do)
	case err != nil:
		return unseen(check, err, do)
	case compacted:
		return good(check, "the first revision is gone, the newest is %d", now)
	case now > oldRevisions:
		return warn(check, fmt.Sprintf("all of %d revisions are still there", now), do)
	}
	return warn(check, fmt.Sprintf("cannot be seen yet: the newest revision is %d, and all before it are still there", now), do)
}

// awayFinding is about a member that does not answer. Others may do its work.
func awayFinding(endpoint string, err error, others bool) naming.Finding {
	const do = "is this member up, and is its endpoint in the configuration right?"
	if others && !definite(err) {
		return warn("member", endpoint+": "+err.Error(), do)
	}
	return bad("member", endpoint+": "+err.Error(), do)
}

// status asks exactly this endpoint, through a connection of its own.
func (b *Backend) status(ctx context.Context, endpoint string) (*pb.StatusResponse, error) {
	ctx, cancel := b.life.Bound(ctx, inspectTimeout)
	defer cancel()
	if b.guard == nil {
		conn, err := b.client.Dial(endpoint)
		if err != nil {
			return nil, translate(err)
		}
		defer conn.Close()
		return statusOf(ctx, conn)
	}
	_, host, _ := strings.Cut(endpoint, "://") // as it was checked
	probe := &probe{guard: b.guard}
	conn, err := grpc.NewClient("passthrough:///"+host,
		grpc.WithTransportCredentials(probe), grpc.WithAuthority(host), grpc.WithNoProxy())
	if err != nil {
		return nil, err
	}
	defer b.login.close(conn)
	status, err := statusOf(ctx, b.login.over(conn))
	if reason := probe.reason(); err != nil && reason != nil {
		return nil, refusal(reason)
	}
	return status, err
}

func statusOf(ctx context.Context, conn grpc.ClientConnInterface) (*pb.StatusResponse, error) {
	status, err := pb.NewMaintenanceClient(conn).Status(ctx, &pb.StatusRequest{})
	if isEtcd(err, rpctypes.ErrPermissionDenied) {
		return nil, errNoVersion
	}
	return status, translate(err)
}

func versionFinding(endpoint, version string) naming.Finding {
	const check = "server version"
	if err := checkVersion(version); err != nil {
		return bad(check, endpoint+": "+err.Error(), "upgrade it to 3.5.33, 3.6.14, 3.7.1 or later")
	}
	return good(check, "%s: etcd %s", endpoint, version)
}

func leaderFinding(endpoint string, s *pb.StatusResponse) naming.Finding {
	const check = "leader"
	switch {
	case s.Leader == 0:
		return bad(check, endpoint+": the member has no leader, so nothing is written", "are more than half of the members up and connected?")
	case s.IsLearner:
		return warn(check, endpoint+": the member is a learner, which does not answer for the cluster", "promote it with etcdctl member promote, or take it out of the endpoints")
	}
	return good(check, "%s: the member has one", endpoint)
}

func spaceFinding(endpoint string, s *pb.StatusResponse) naming.Finding {
	const check = "space"
	const do = "compact and defragment (etcdctl compact, etcdctl defrag), then etcdctl alarm disarm; a larger --quota-backend-bytes gives time"
	for _, e := range s.Errors {
		if strings.Contains(e, "NOSPACE") {
			return bad(check, endpoint+": the server refuses writes, because its database is full (NOSPACE)", do)
		}
	}
	switch {
	case len(s.Errors) > 0:
		return bad(check, fmt.Sprintf("%s: the server reports %q", endpoint, s.Errors), "see the server's log and etcdctl alarm list")
	case s.DbSizeQuota <= 0:
		return warn(check, fmt.Sprintf("%s: %s in use; a server before 3.6 does not tell its quota", endpoint, megabytes(s.DbSize)), "watch the size: at --quota-backend-bytes, 2 GB if nothing else is set, the server refuses writes")
	case s.DbSize*100 >= s.DbSizeQuota*quotaWarning:
		return warn(check, fmt.Sprintf("%s: %s of %s are used: at the end the server refuses writes", endpoint, megabytes(s.DbSize), megabytes(s.DbSizeQuota)), do)
	}
	return good(check, "%s: %s of %s are used", endpoint, megabytes(s.DbSize), megabytes(s.DbSizeQuota))
}

func megabytes(n int64) string { return fmt.Sprintf("%.1f MB", float64(n)/1e6) }

// inspectHTTP looks at what a server offers on the clients' port beside the
// protocol.
func (b *Backend) inspectHTTP(ctx context.Context, endpoint string) []naming.Finding {
	const (
		client  = "client certificate"
		gateway = "gateway"
		clock   = "clock"
	)
	if b.guard == nil {
		own := errors.New("a Client of the program's own does not say how it connects")
		return []naming.Finding{
			unseen(client, own, "run the server with --client-cert-auth --trusted-ca-file"),
			unseen(gateway, own, "run the server with --enable-grpc-gateway=false"),
			unseen(clock, own, "compare the clocks by hand: they may differ by 2 s"),
		}
	}
	var cfg, anonymous *tls.Config
	if b.guard.tls != nil {
		cfg = b.guard.tls()
		anonymous = cfg.Clone()
		anonymous.Certificates, anonymous.GetClientCertificate = nil, nil
	}
	return []naming.Finding{
		b.inspectAnonymous(ctx, client, endpoint, anonymous),
		b.inspectGateway(ctx, gateway, endpoint, cfg),
		b.inspectClock(ctx, clock, endpoint, cfg),
	}
}

// inspectAnonymous looks whether the server speaks to somebody who shows no
// certificate. Its version and its metrics are then everybody's: etcd serves them
// on the clients' port, also where --listen-metrics-urls says another.
func (b *Backend) inspectAnonymous(ctx context.Context, check, endpoint string, cfg *tls.Config) naming.Finding {
	do := "run the server with --client-cert-auth --trusted-ca-file"
	if b.login != nil {
		do = "that is what passwords cost: keep the port from everybody who need not reach it, or give out client certificates"
	}
	if cfg == nil {
		return bad(check, endpoint+": there is no TLS, so nobody knows who is who", do)
	}
	resp, err := b.http(ctx, cfg, http.MethodGet, endpoint+"/metrics", nil)
	switch {
	case driver.RefusedCertificate(err) != nil:
		return good(check, "%s: whoever has none is refused", endpoint)
	case err != nil:
		return unseen(check, fmt.Errorf("%s: %w", endpoint, err), do)
	}
	return warn(check, fmt.Sprintf("%s: the server speaks to those who have none: they read its metrics (status %d) and may guess passwords", endpoint, resp.status), do)
}

// inspectGateway looks for the JSON gateway, which does not know who is at the
// other end: it shows the server no client's certificate.
func (b *Backend) inspectGateway(ctx context.Context, check, endpoint string, cfg *tls.Config) naming.Finding {
	const do = "run the server with --enable-grpc-gateway=false"
	key, _ := b.settings.keys.scope(naming.All())
	body, err := json.Marshal(map[string]string{"key": base64.StdEncoding.EncodeToString([]byte(key))})
	if err != nil {
		return unseen(check, err, do)
	}
	resp, err := b.http(ctx, cfg, http.MethodPost, endpoint+"/v3/kv/range", body)
	switch {
	case err != nil:
		return unseen(check, fmt.Errorf("%s: %w", endpoint, err), do)
	case resp.status == http.StatusNotFound:
		return good(check, "%s: it is off", endpoint)
	case resp.status == http.StatusOK:
		return bad(check, endpoint+": the JSON gateway is on, and answers a request that shows no certificate", do)
	}
	return warn(check, fmt.Sprintf("%s: the JSON gateway is on (status %d): it knows no client certificates, and is one more way to the server", endpoint, resp.status), do)
}

func (b *Backend) inspectClock(ctx context.Context, check, endpoint string, cfg *tls.Config) naming.Finding {
	const do = "compare the clocks by hand: they may differ by 2 s"
	before := time.Now()
	resp, err := b.http(ctx, cfg, http.MethodGet, endpoint+"/version", nil)
	after := time.Now()
	if err != nil {
		return unseen(check, fmt.Errorf("%s: %w", endpoint, err), do)
	}
	date, err := http.ParseTime(resp.date)
	if err != nil {
		return unseen(check, fmt.Errorf("%s: its answer has no date", endpoint), do)
	}
	return clockFinding(check, endpoint, date, before, after)
}

// clockFinding compares a server's clock, which tells full seconds, with ours
// before and after it was asked.
func clockFinding(check, endpoint string, date, before, after time.Time) naming.Finding {
	const do = "let NTP set the clocks of both machines: with more than 2 s between two nodes registrations are refused"
	ours := before.Add(after.Sub(before) / 2)
	ahead := date.Add(time.Second / 2).Sub(ours).Round(100 * time.Millisecond)
	detail := fmt.Sprintf("%s: the server's clock is about %v ahead of ours (± 0.5 s)", endpoint, ahead)
	if ahead < 0 {
		detail = fmt.Sprintf("%s: the server's clock is about %v behind ours (± 0.5 s)", endpoint, -ahead)
	}
	switch ahead = ahead.Abs(); {
	case ahead > skewLimit:
		return bad(check, detail, do)
	case ahead > skewWarning:
		return warn(check, detail, do)
	}
	return good(check, "%s", detail)
}

// An answer is what is of interest of one over HTTP.
type answer struct {
	status int
	date   string
}

// http asks once, over a connection of its own that is closed afterwards.
func (b *Backend) http(ctx context.Context, cfg *tls.Config, method, url string, body []byte) (answer, error) {
	ctx, cancel := b.life.Bound(ctx, inspectTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	transport := &http.Transport{TLSClientConfig: cfg, DisableKeepAlives: true} // no proxy: as the guard
	defer transport.CloseIdleConnections()
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return answer{}, err
	}
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 1<<16)) // so that the connection ends well
	return answer{resp.StatusCode, resp.Header.Get("Date")}, resp.Body.Close()
}
