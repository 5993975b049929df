package consul

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/seed-6593ebad/skywarden/naming"
)

var _ naming.Inspector = (*Backend)(nil)

// Limits of findings.
const (
	inspectTimeout = 2 * time.Second // of one question
	contactLimit   = 5 * time.Second // since a server heard from its leader
	skewWarning    = time.Second     // between two clocks
	skewLimit      = 2 * time.Second // what TTLs and fences reckon with
)

// Inspect implements naming.Inspector. It looks at every address: leader, what is
// allowed by default and to somebody without a token, /v1/txn, the server's own
// settings as far as the token may read them, and clock; and once at what the
// datacentre has in common: sessions on our node, on those of others, and the
// least TTL. One session is opened and ended, if the principal may; all other
// questions are such that the server refuses them whatever our rights are.
func (b *Backend) Inspect(ctx context.Context) ([]naming.Finding, error) {
	findings, away := []naming.Finding{}, map[string]error{}
	for _, host := range b.settings.hosts {
		found, err := b.inspectAddress(ctx, host)
		if err != nil {
			away[host] = err
		}
		findings = append(findings, found...)
	}
	for _, host := range b.settings.hosts {
		if err := away[host]; err != nil {
			findings = append(findings, awayFinding(host, err, len(away) < len(b.settings.hosts)))
		}
	}
	findings = append(findings, b.inspectSessions(ctx)...)
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
func unseen(check, where string, err error, do string) naming.Finding {
	return warn(check, where+": cannot be seen: "+err.Error(), do)
}

// awayFinding is about an address that does not answer. Others may do its work.
func awayFinding(host string, err error, others bool) naming.Finding {
	const do = "is this server up, and is its address in the configuration right?"
	if others && !definite(err) {
		return warn("server", host+": "+err.Error(), do)
	}
	return bad("server", host+": "+err.Error(), do)
}

// inspectAddress fails if there is no answer.
func (b *Backend) inspectAddress(ctx context.Context, host string) ([]naming.Finding, error) {
	before := time.Now()
	leader, err := b.inquire(ctx, host, http.MethodGet, "/v1/status/leader", nil, anonymous)
	after := time.Now()
	if err != nil {
		return nil, err
	}
	return append([]naming.Finding{
		b.inspectLeader(ctx, host, leader),
		b.inspectDefault(host, leader),
		b.inspectAnonymous(ctx, host),
		b.inspectTxn(ctx, host),
		clockFinding(host, leader, before, after),
	}, b.inspectSelf(ctx, host)...), nil
}

func (b *Backend) inspectLeader(ctx context.Context, host string, status reply) naming.Finding {
	const (
		check = "leader"
		do    = "are more than half of the servers up and connected?"
	)
	if strings.Trim(strings.TrimSpace(status.body), `"`) == "" {
		return bad(check, host+": the server knows no leader, so nothing is written", do)
	}
	// Asked in our name, because the answer to others says nothing of the leader.
	contact, err := b.inquire(ctx, host, http.MethodGet, "/v1/session/node/"+b.settings.Node+"?stale", nil, ours)
	if err != nil {
		return unseen(check, host, err, do)
	}
	milliseconds, err := strconv.ParseUint(contact.header.Get("X-Consul-LastContact"), 10, 32)
	if err != nil {
		return unseen(check, host, errors.New("the answer does not say when the server heard from its leader"), do)
	}
	ago := time.Duration(milliseconds) * time.Millisecond
	switch {
	case contact.header.Get("X-Consul-KnownLeader") != "true":
		return bad(check, host+": the server has lost its leader, so nothing is written", do)
	case ago > contactLimit:
		return warn(check, fmt.Sprintf("%s: the server heard from its leader %v ago", host, ago), "is it cut off from the others?")
	}
	return good(check, "%s: the server has one, and heard from it %v ago", host, ago)
}

// inspectDefault looks at what every answer says.
func (b *Backend) inspectDefault(host string, status reply) naming.Finding {
	const check = "default policy"
	if policy := status.header.Get("X-Consul-Default-ACL-Policy"); policy != "deny" {
		return bad(check, fmt.Sprintf("%s: what no policy speaks of is allowed (default_policy is %q): anybody may take any name", host, policy),
			`set acl { enabled = true, default_policy = "deny" } on servers and agents`)
	}
	return good(check, "%s: what no policy speaks of is denied", host)
}

// inspectAnonymous tries what somebody without a token may do with our names.
func (b *Backend) inspectAnonymous(ctx context.Context, host string) naming.Finding {
	const (
		check = "anonymous"
		do    = "take its policies from the anonymous token (00000000-0000-0000-0000-000000000002), and set no acl.tokens.default that has rights"
	)
	read, err := b.inquire(ctx, host, http.MethodGet, "/v1/kv/"+b.settings.keys.prefix+"skywarden-check-"+randomText(), nil, anonymous)
	if err != nil {
		return unseen(check, host, err, do)
	}
	session, err := b.inquire(ctx, host, http.MethodPut, "/v1/session/create", impossibleSession(b.settings.Node), anonymous)
	switch {
	case err != nil:
		return unseen(check, host, err, do)
	case session.takesTTL():
		return bad(check, host+": somebody without a token may open and end sessions on our node", do)
	case read.status == http.StatusOK || read.status == http.StatusNotFound:
		return warn(check, host+": somebody without a token may read names", do)
	case read.status != http.StatusForbidden || session.status != http.StatusForbidden:
		return unseen(check, host, fmt.Errorf("the server answers with %d and %d", read.status, session.status), do)
	}
	return good(check, "%s: somebody without a token may neither read names nor open sessions on our node", host)
}

// inspectTxn sends a transaction with nothing in it.
func (b *Backend) inspectTxn(ctx context.Context, host string) naming.Finding {
	const (
		check = "txn"
		do    = `set http_config { block_endpoints = ["/v1/txn"] } on servers and agents: nothing of ours needs it`
	)
	txn, err := b.inquire(ctx, host, http.MethodPut, "/v1/txn", []byte("[]"), ours)
	switch {
	case err != nil:
		return unseen(check, host, err, do)
	case txn.status == http.StatusForbidden && strings.Contains(txn.body, "blocked by agent configuration"):
		return good(check, "%s: /v1/txn is blocked", host)
	case txn.status == http.StatusOK:
		return warn(check, host+": /v1/txn is open, in which Consul before 2.0 lets one service overwrite and delete the checks of another", do)
	}
	return unseen(check, host, txn.error(), do)
}

// inspectSelf looks at the settings of the server or agent at an address, for
// which the token of a principal has no right unless somebody gave it one.
func (b *Backend) inspectSelf(ctx context.Context, host string) []naming.Finding {
	const (
		version     = "server version"
		authorities = "authorities"
		look        = "look as an administrator: consul info, and curl /v1/agent/self, DebugConfig.TLS"
		separate    = "give tls.internal_rpc an authority of its own, and set there verify_incoming and verify_server_hostname: or whoever has a certificate for HTTPS can be taken for a server"
	)
	asked, err := b.inquire(ctx, host, http.MethodGet, "/v1/agent/self", nil, ours)
	if err == nil && asked.status == http.StatusForbidden {
		err = errors.New("this principal may not read the settings of agents, and need not")
	} else if err == nil && asked.status != http.StatusOK {
		err = asked.error()
	}
	type listener struct {
		CAFile, CAPath                       string
		VerifyIncoming, VerifyServerHostname bool
	}
	var self struct {
		Config      struct{ Version string }
		DebugConfig struct {
			TLS struct{ HTTPS, InternalRPC listener }
		}
	}
	if err == nil {
		err = json.Unmarshal([]byte(asked.body), &self)
	}
	if err != nil {
		return []naming.Finding{
			unseen(version, host, err, look),
			unseen(authorities, host, err, look+": "+separate),
		}
	}
	findings := []naming.Finding{good(version, "%s: Consul %s", host, self.Config.Version)}
	https, rpc := self.DebugConfig.TLS.HTTPS, self.DebugConfig.TLS.InternalRPC
	switch {
	case rpc.CAFile == "" && rpc.CAPath == "" || !rpc.VerifyIncoming:
		return append(findings, bad(authorities, host+": servers do not demand a certificate of each other (tls.internal_rpc), so whoever reaches their port is one of them", separate))
	case !rpc.VerifyServerHostname:
		return append(findings, warn(authorities, host+": whoever has a certificate of the servers' authority is taken for a server", separate))
	case https.CAFile == rpc.CAFile && https.CAPath == rpc.CAPath:
		return append(findings, warn(authorities, host+": HTTPS and the servers among themselves trust the same authority", separate))
	}
	return append(findings, good(authorities, "%s: HTTPS and the servers among themselves trust different files of authorities", host))
}

// clockFinding compares a server's clock, which tells full seconds, with ours
// before and after it was asked.
func clockFinding(host string, status reply, before, after time.Time) naming.Finding {
	const (
		check = "clock"
		do    = "let NTP set the clocks of both machines: with more than 2 s between two nodes registrations are refused"
	)
	date, err := http.ParseTime(status.header.Get("Date"))
	if err != nil {
		return unseen(check, host, errors.New("its answer has no date"), "compare the clocks by hand: they may differ by 2 s")
	}
	ours := before.Add(after.Sub(before) / 2)
	ahead := date.Add(time.Second / 2).Sub(ours).Round(100 * time.Millisecond)
	detail := fmt.Sprintf("%s: the server's clock is about %v ahead of ours (± 0.5 s)", host, ahead)
	if ahead < 0 {
		detail = fmt.Sprintf("%s: the server's clock is about %v behind ours (± 0.5 s)", host, -ahead)
	}
	switch ahead = ahead.Abs(); {
	case ahead > skewLimit:
		return bad(check, detail, do)
	case ahead > skewWarning:
		return warn(check, detail, do)
	}
	return good(check, "%s", detail)
}

// The checks of sessions.
const (
	checkSessions = "sessions"
	checkTTL      = "session ttl"
	checkForeign  = "sessions of others"
)

// inspectSessions looks at sessions on our node, which the leader judges,
// whatever address is asked.
func (b *Backend) inspectSessions(ctx context.Context) []naming.Finding {
	own, err := b.mayOpen(ctx, b.settings.Node)
	if err != nil {
		const do = "try again when the server answers"
		return []naming.Finding{unseen(checkSessions, b.settings.Node, err, do), unseen(checkTTL, b.settings.Node, err, do), unseen(checkForeign, b.settings.Node, err, do)}
	}
	findings := []naming.Finding{b.inspectForeign(ctx)}
	if own.status == http.StatusForbidden {
		return append(findings,
			good(checkSessions, "%s: none may be opened: this principal only reads, and claims nothing", b.settings.Node),
			unseen(checkTTL, b.settings.Node, errors.New("this principal only reads"), "ask with a principal that claims names"))
	}
	return append(findings, b.inspectTTL(own), b.inspectSession(ctx))
}

// inspectSession opens a session as a lease does, and ends it.
func (b *Backend) inspectSession(ctx context.Context) naming.Finding {
	node := b.settings.Node
	id, _, err := b.create(ctx, b.settings.DefaultTTL)
	if err == nil {
		err = b.destroy(ctx, id)
	}
	switch {
	case errors.Is(err, naming.ErrUnavailable):
		return unseen(checkSessions, node, err, "try again when the server answers")
	case err != nil:
		return bad(checkSessions, node+": "+err.Error(), "skywarden provision gives the principal its node and its rights")
	}
	return good(checkSessions, "%s: one was opened and ended", node)
}

// ttlBounds is in the refusal of a TTL.
var ttlBounds = regexp.MustCompile(`between \[(\S+)=(\S+)\]`)

// inspectTTL compares the least TTL, which the server tells when it refuses one,
// with ours.
func (b *Backend) inspectTTL(refusal reply) naming.Finding {
	const do = "set session_ttl_min on all servers to what Config.MinTTL is here (session_ttl_min in the file), or raise it here"
	bounds := ttlBounds.FindStringSubmatch(refusal.body)
	if bounds == nil {
		return unseen(checkTTL, b.settings.Node, refusal.error(), do)
	}
	least, err := time.ParseDuration(bounds[1])
	switch {
	case err != nil:
		return unseen(checkTTL, b.settings.Node, err, do)
	case least > b.settings.DefaultTTL || least > b.settings.MinTTL:
		return bad(checkTTL, fmt.Sprintf("the servers take no session under %v (session_ttl_min), and ours may be %v", least, b.settings.MinTTL), do)
	case least < b.settings.MinTTL:
		return good(checkTTL, "the servers take sessions of %v and more; ours are %v and more: names are free sooner after a crash with a lower MinTTL", least, b.settings.MinTTL)
	}
	return good(checkTTL, "the servers take sessions of %v and more, as ours are", least)
}

// inspectForeign tries the node of a principal that there is not. Who may open
// sessions there may open and end them on nodes of others.
func (b *Backend) inspectForeign(ctx context.Context) naming.Finding {
	const do = "give the token no session_prefix rule: skywarden provision gives it exactly its own node"
	for _, node := range []string{b.settings.keys.node("check-" + randomText()), "skywarden-check-" + randomText()} {
		switch refusal, err := b.mayOpen(ctx, node); {
		case err != nil:
			return unseen(checkForeign, node, err, do)
		case refusal.takesTTL():
			return bad(checkForeign, node+": our token may open and end sessions on a node that is not ours", do)
		}
	}
	return good(checkForeign, "our token may not open or end sessions on nodes that are not ours")
}

// mayOpen asks for a session that cannot be, on a node: one who may have sessions
// there is told which TTLs there are.
func (b *Backend) mayOpen(ctx context.Context, node string) (refusal reply, err error) {
	for _, host := range b.fromCurrent() {
		refusal, err = b.inquire(ctx, host, http.MethodPut, "/v1/session/create", impossibleSession(node), ours)
		if err == nil && !refusal.takesTTL() && refusal.status != http.StatusForbidden {
			err = refusal.error()
		}
		if err == nil || definite(err) || ctx.Err() != nil {
			return refusal, err
		}
	}
	return refusal, err
}

// fromCurrent gives all addresses, first the one that answers.
func (b *Backend) fromCurrent() []string {
	hosts := b.settings.hosts
	at := int(b.servers.current.Load() % int64(len(hosts)))
	return slices.Concat(hosts[at:], hosts[:at])
}

// impossibleSession has a TTL that no server takes. Rights are judged before it
// (measured on 1.20.1).
func impossibleSession(node string) []byte {
	body, _ := json.Marshal(api.SessionEntry{Node: node, TTL: "1ns", NodeChecks: []string{}}) //nolint:errchkjson // only texts
	return body
}

func randomText() string { return strings.ToLower(rand.Text()[:12]) }

// A reply is what is of interest of one over HTTP.
type reply struct {
	status int
	header http.Header
	body   string
}

// takesTTL says whether the only thing that was wrong with an impossible session
// is its TTL.
func (r reply) takesTTL() bool { return strings.Contains(r.body, "Invalid Session TTL") }

func (r reply) error() error {
	body := r.body
	if len(body) > 200 {
		body = body[:200] + "…"
	}
	return fmt.Errorf("%w: the server answers with status %d: %s", naming.ErrUnavailable, r.status, strings.TrimSpace(body))
}

// In whose name an address is asked.
const (
	ours      = true
	anonymous = false
)

// maxAnswer is far above the settings of an agent.
const maxAnswer = 1 << 20

// inquire asks exactly one address, once. The error is translated.
func (b *Backend) inquire(ctx context.Context, host, method, path string, body []byte, inOurName bool) (reply, error) {
	ctx, cancel := b.life.Bound(ctx, inspectTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, method, b.settings.scheme+"://"+host+path, bytes.NewReader(body))
	if err != nil {
		return reply{}, translate(err)
	}
	if b.settings.Datacenter != "" && strings.HasPrefix(path, "/v1/session/") {
		query := request.URL.Query()
		query.Set("dc", b.settings.Datacenter)
		request.URL.RawQuery = query.Encode()
	}
	var transport http.RoundTripper = b.servers.transport
	if inOurName {
		transport = &sender{b.servers.transport, b.settings}
	}
	response, err := transport.RoundTrip(request)
	if err != nil {
		return reply{}, translate(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	if err != nil {
		return reply{}, translate(err)
	}
	return reply{response.StatusCode, response.Header, string(text)}, nil
}
