package main

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/seed-6593ebad/skywarden/adapter"
	"github.com/seed-6593ebad/skywarden/configs"
	"github.com/seed-6593ebad/skywarden/naming"
)

type checkCommand struct {
	configFlag
	JSON    bool          `name:"json" help:"Print one JSON object per line: level (ok, warn or fail), check, detail, do."`
	Timeout time.Duration `default:"30s" help:"How long all of it may take."`
}

// Run looks at one thing after the other, from the file to the server's clock,
// and says of each how it is and what to do about it. It fails if one of them
// fails; a warning is none. On the server it leaves nothing behind, and nobody
// notices it: what it writes are claims that cannot succeed.
func (cmd *checkCommand) Run(ctx context.Context, c *console) error {
	ctx, cancel := context.WithTimeout(ctx, cmd.Timeout)
	defer cancel()
	u := &checkup{console: c, lines: cmd.JSON, file: cmd.Config, count: map[naming.Level]int{}}
	u.run(ctx, cmd.configFlag)
	if !cmd.JSON {
		c.printf("%d ok, %s, %s\n", u.count[naming.LevelOK], plural(u.count[naming.LevelWarn], "warning"), plural(u.count[naming.LevelFail], "failure"))
	}
	if failed := u.count[naming.LevelFail]; failed > 0 {
		return hintedError{fmt.Errorf("%s of %s failed", plural(failed, "check"), cmd.Config), "each says what to do"}
	}
	return nil
}

// What is looked at, in this order. The server's own settings come last; what is
// looked at there is its driver's business.
const (
	checkFile     = "configuration"
	checkLink     = "connection"
	checkTLS      = "tls"
	checkIdentity = "identity"
	checkServices = "services"
	checkClaim    = "claim what is ours"
	checkRefused  = "claim what is not ours"
	checkRead     = "look up what we may"
	checkHidden   = "look up what we may not"
	checkServer   = "server"
)

var checks = []string{
	checkFile, checkLink, checkTLS, checkIdentity, checkServices, checkClaim, checkRefused, checkRead, checkHidden, checkServer,
}

// A checkup is a check under way.
type checkup struct {
	*console
	lines bool // of JSON
	file  string
	count map[naming.Level]int
	seen  []string // the checks that were reported
}

func (u *checkup) run(ctx context.Context, f configFlag) {
	cfg, err := f.load()
	if err != nil {
		for line := range strings.Lines(err.Error()) {
			u.fail(checkFile, line, hintOr(err, "mend the file"))
		}
		u.notChecked("the file has to be right first")
		return
	}
	rules := 0
	if cfg.Allow != nil {
		rules = len(cfg.Allow.Rules())
	}
	u.ok(checkFile, "%s: node %s on %s, %s, %s", u.file, cfg.Node, cfg.Driver(), plural(rules, "rule"), plural(len(cfg.Services), "service"))
	if cfg.Memory != nil {
		u.ok(checkServer, "the memory backend is inside this process: there is nothing to check beyond the file")
		return
	}
	backend, err := cfg.OpenBackend(ctx, cfg.Logger(u.err))
	if err != nil {
		u.unreachable(err)
		return
	}
	defer func() {
		if err := backend.Close(); err != nil {
			u.warn("end", err.Error(), "what is left on the server goes with its lease")
		}
	}()
	who, err := whoAmI(ctx, backend)
	if err != nil {
		u.unreachable(err)
		return
	}
	u.ok(checkLink, "%s answers", cfg.Driver())
	u.ok(checkTLS, "the server's certificate is that of one whom we trust")
	u.ok(checkIdentity, "the server takes us for %q", who)
	u.services(cfg, who)
	u.rights(ctx, cfg.Allow, cfg.TTL, backend, who)
	u.server(ctx, backend)
}

// hintOr is the hint for err, or another.
func hintOr(err error, other string) string {
	if hint := hintFor(err); hint != "" {
		return hint
	}
	return other
}

func whoAmI(ctx context.Context, backend naming.Backend) (string, error) {
	identifier, ok := backend.(naming.Identifier)
	if !ok {
		return "", errors.New("this driver does not know as whom the server sees us")
	}
	return identifier.WhoAmI(ctx)
}

// unreachable reports an error that came before anything could be asked. What
// must have gone well before it is ok.
func (u *checkup) unreachable(err error) {
	reached := func(steps ...string) {
		for _, step := range steps {
			u.ok(step, "a server answers")
		}
	}
	var verification *tls.CertificateVerificationError
	switch code := naming.Code(err); {
	case errors.As(err, &verification):
		reached(checkLink)
		u.fail(checkTLS, err.Error(), "is this the server that is meant, and the authority that signed its certificate the one in the file?")
	case code == "unauthenticated", code == "denied":
		reached(checkLink, checkTLS)
		u.fail(checkIdentity, err.Error(), "give the node a credential that the server knows: "+u.provision())
	case code == "insecure_backend_version":
		reached(checkLink, checkTLS)
		u.fail("server version", err.Error(), "upgrade the server: until then nobody can rely on its access control")
	case code == "insecure_config":
		reached(checkLink, checkTLS)
		u.fail("access control", err.Error(), u.provision())
	default:
		u.fail(checkLink, err.Error(), hintOr(err, "see the error"))
	}
	u.notChecked("the server has to be usable first")
}

func (u *checkup) provision() string {
	return "skywarden provision -c " + u.file + " --plan shows what the server lacks; without --plan it mends it"
}

// services asks the allow-list about what the file wants to run.
func (u *checkup) services(cfg *configs.Config, who string) {
	good := 0
	for _, s := range cfg.Services {
		if err := cfg.Allow.MayOwn(s.Name, who, cfg.Advertise); err != nil {
			u.fail(checkServices, fmt.Sprintf("%s: %v", s.Name, err), "see allow in "+u.file+": its owners, addresses and ports")
			continue
		}
		good++
	}
	if good == len(cfg.Services) {
		u.ok(checkServices, "the allow-list lets %s register %s at %s", who, plural(good, "service"), cfg.Advertise)
	}
}

// rights compares what the server lets us do with what the allow-list says.
func (u *checkup) rights(ctx context.Context, allow *adapter.AllowList, ttl time.Duration, backend naming.Backend, who string) {
	grants := allow.Grants(who)
	grant := grants[slices.IndexFunc(grants, func(g naming.Grant) bool { return g.Principal == who })]
	probes := probesFor(allow.Rules(), who)
	u.claims(ctx, backend, ttl, grant, probes)
	u.reads(ctx, backend, grant, probes)
}

// claims tries to claim each name over an entry that cannot be there.
func (u *checkup) claims(ctx context.Context, backend naming.Backend, ttl time.Duration, grant naming.Grant, probes []probe) {
	lease, err := backend.Lease(ctx, ttl)
	owns := slices.ContainsFunc(grant.Permissions, func(p naming.Permission) bool { return p.Access == naming.MayClaim })
	switch {
	case errors.Is(err, naming.ErrDenied) && !owns:
		u.ok(checkClaim, "no rule names us as an owner: there is nothing to claim, and the server gives us no lease")
		u.warn(checkRefused, "not checked: that needs a lease", "see what the server gives us: skywarden provision -c "+u.file+" --reader "+grant.Principal+" --plan")
		return
	case err != nil:
		u.fail(checkClaim, "no lease: "+err.Error(), u.provision())
		u.warn(checkRefused, "not checked: that needs a lease", "")
		return
	}
	defer func() {
		if err := lease.Close(ctx); err != nil {
			u.warn("end", err.Error(), "the lease, which is empty, ends after its time")
		}
	}()
	ours, refused := u.tally(checkClaim), u.tally(checkRefused)
	for _, p := range probes {
		may, err := mayClaim(ctx, lease, p.name)
		should := grant.Access(p.name) == naming.MayClaim
		t := refused
		if should {
			t = ours
		}
		switch {
		case err != nil:
			t.fail(fmt.Sprintf("%s: %v", p.name, err), hintOr(err, "see the error"))
		case should && !may:
			t.fail(fmt.Sprintf("%s (%s): the server refuses it", p.name, p.why), u.provision())
		case may && !should:
			t.fail(fmt.Sprintf("%s (%s): the server would let us have it", p.name, p.why), u.provision())
		default:
			t.good = append(t.good, p.name.String())
		}
	}
	ours.report("the server lets us", "no rule names us as an owner: there is nothing to claim")
	refused.report("the server refuses", "")
}

// impossible is a revision that no entry has.
const impossible naming.Revision = 1 << 62

// mayClaim says whether the server would let us claim a name. It changes nothing:
// the claim demands an entry that is not there.
func mayClaim(ctx context.Context, lease naming.Lease, name naming.Name) (bool, error) {
	_, err := lease.Claim(ctx, name, nil, impossible)
	switch {
	case errors.Is(err, naming.ErrTaken):
		return true, nil
	case errors.Is(err, naming.ErrDenied):
		return false, nil
	case err == nil:
		err = errors.New("the server replaced an entry that was not there")
	}
	return false, err
}

// reads looks up the names that rules speak of. Others are nobody's business.
func (u *checkup) reads(ctx context.Context, backend naming.Backend, grant naming.Grant, probes []probe) {
	may, hidden := u.tally(checkRead), u.tally(checkHidden)
	for _, p := range probes {
		if !p.ruled {
			continue
		}
		_, err := backend.Get(ctx, p.name)
		should := grant.Access(p.name) >= naming.MayRead
		t := hidden
		if should {
			t = may
		}
		switch denied := errors.Is(err, naming.ErrDenied); {
		case err != nil && !denied && !errors.Is(err, naming.ErrNotFound):
			t.fail(fmt.Sprintf("%s: %v", p.name, err), hintOr(err, "see the error"))
		case should && denied:
			t.fail(fmt.Sprintf("%s (%s): the server refuses it", p.name, p.why), u.provision())
		case !should && !denied:
			t.fail(fmt.Sprintf("%s (%s): the server lets us see it", p.name, p.why), u.provision())
		default:
			t.good = append(t.good, p.name.String())
		}
	}
	may.report("the server lets us", "no rule lets us look up anything")
	hidden.report("the server refuses", "no rule hides anything from us")
}

// A tally joins what went well into one line. What did not has a line each.
type tally struct {
	*checkup
	check  string
	good   []string
	failed int
}

func (u *checkup) tally(check string) *tally { return &tally{checkup: u, check: check} }

func (t *tally) fail(detail, do string) {
	t.failed++
	t.checkup.fail(t.check, detail, do)
}

func (t *tally) report(verdict, nothing string) {
	const most = 5
	switch {
	case len(t.good) == 0 && t.failed == 0:
		t.ok(t.check, "%s", nothing)
	case len(t.good) > most:
		t.ok(t.check, "%s: %s and %d more", verdict, strings.Join(t.good[:most], ", "), len(t.good)-most)
	case len(t.good) > 0:
		t.ok(t.check, "%s: %s", verdict, strings.Join(t.good, ", "))
	}
}

// A probe is a name that is tried.
type probe struct {
	name  naming.Name
	why   string // what the allow-list says about it
	ruled bool   // a rule speaks of it
}

// probesFor gives a name of each rule, names beside those that are ours, which a
// careless pattern on the server would give to us, and one that no rule knows.
func probesFor(rules []adapter.Rule, who string) []probe {
	var probes []probe
	tried := map[naming.Name]bool{}
	add := func(name naming.Name, err error, why string, ruled bool) bool {
		if err != nil {
			return false // too long, for example
		}
		if !tried[name] {
			tried[name] = true
			probes = append(probes, probe{name, why, ruled})
		}
		return true
	}
	for _, r := range rules {
		why := fmt.Sprintf("rule %s, whose owners are %s", r.Scope, strings.Join(r.Owners, ", "))
		if name, only := r.Scope.Name(); only {
			add(name, nil, why, true)
			continue
		}
		for _, label := range randomLabels() {
			if name, err := naming.ParseName(r.Scope.String() + label); add(name, err, why, true) {
				break
			}
		}
	}
	for _, r := range rules {
		if !slices.Contains(r.Owners, who) {
			continue
		}
		base, isFamily := strings.CutSuffix(r.Scope.String(), ".")
		beside := []string{base + "-" + randomLabels()[1], base} // which is not in its own family
		if !isFamily {
			beside[1] = base + "." + randomLabels()[1]
		}
		for _, s := range beside {
			name, err := naming.ParseName(s)
			add(name, err, "it is beside rule "+r.Scope.String(), false)
		}
	}
	name, err := naming.ParseName(randomLabels()[0])
	add(name, err, "no rule speaks of it", false)
	return probes
}

// randomLabels gives labels that nobody uses, from long to short: the first tells
// an administrator who reads the server's log what it is.
func randomLabels() [3]string {
	random := make([]byte, 4)
	_, _ = rand.Read(random) // never fails
	s := hex.EncodeToString(random)
	return [3]string{s + "-skywarden-check", s, s[:1]}
}

// server has the driver look at how its server is set up.
func (u *checkup) server(ctx context.Context, backend naming.Backend) {
	inspector, ok := backend.(naming.Inspector)
	if !ok {
		u.warn(checkServer, "not checked: this driver does not look at its server", "see its documentation for what to set")
		return
	}
	findings, err := inspector.Inspect(ctx)
	if err != nil {
		u.fail(checkServer, err.Error(), hintOr(err, "see the error"))
	}
	for _, f := range findings {
		u.found(f)
	}
}

// notChecked reports everything that was not looked at, and why.
func (u *checkup) notChecked(why string) {
	for _, check := range checks {
		if !slices.Contains(u.seen, check) {
			u.warn(check, "not checked: "+why, "") // the reason says it
		}
	}
}

func (u *checkup) ok(check, format string, args ...any) {
	u.found(naming.Finding{Level: naming.LevelOK, Check: check, Detail: fmt.Sprintf(format, args...)})
}

func (u *checkup) warn(check, detail, do string) {
	u.found(naming.Finding{Level: naming.LevelWarn, Check: check, Detail: detail, Do: do})
}

func (u *checkup) fail(check, detail, do string) {
	u.found(naming.Finding{Level: naming.LevelFail, Check: check, Detail: detail, Do: do})
}

// found tells one finding.
func (u *checkup) found(f naming.Finding) {
	f.Detail = printable(strings.ReplaceAll(strings.TrimSpace(f.Detail), "\n", "; "))
	u.count[f.Level]++
	u.seen = append(u.seen, f.Check)
	if u.lines {
		_ = u.json(f) // a reader who has gone needs nothing more
		return
	}
	colour := map[naming.Level]string{naming.LevelOK: green, naming.LevelWarn: yellow, naming.LevelFail: red}[f.Level]
	u.printf("%s  %s: %s\n", u.paint(colour, fmt.Sprintf("%-4s", f.Level)), f.Check, f.Detail)
	if f.Do != "" {
		u.printf("      → %s\n", f.Do)
	}
}
