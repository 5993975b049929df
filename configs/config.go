package configs

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/rs/zerolog"

	"github.com/seed-6593ebad/skywarden/adapter"
	"github.com/seed-6593ebad/skywarden/backends/consul"
	"github.com/seed-6593ebad/skywarden/backends/etcd"
	"github.com/seed-6593ebad/skywarden/backends/memory"
	"github.com/seed-6593ebad/skywarden/internal/secretfile"
	"github.com/seed-6593ebad/skywarden/internal/tlsfile"
	"github.com/seed-6593ebad/skywarden/naming"
)

// A Config is what a file says, checked.
type Config struct {
	Node      naming.NodeID
	Listen    netip.AddrPort // may be an unspecified address: all of the machine's
	Advertise netip.AddrPort // where other nodes find this one; Listen, if the file has none
	Memory    *Memory        // exactly one of Memory, Etcd and Consul is there
	Etcd      *etcd.Config
	Consul    *consul.Config
	TTL       time.Duration      // 0: the backend's default
	MaxStale  time.Duration      // 0: the adapter's default
	Allow     *adapter.AllowList // nil: the file has none
	Services  []Service
	Log       Log

	file string
}

// Memory is the built-in name server in this process. There is nothing to set.
type Memory struct{}

// A Service is one that the skywarden command shall run.
type Service struct {
	Name    naming.Name
	Kind    string
	Standby bool // wait until the name is free, instead of failing
}

// Log says what is logged, and how.
type Log struct {
	Level   zerolog.Level
	Console bool // for people; otherwise one JSON object per line
}

// readConfig reads the whole file. What it does not report is valid.
func (r *reader) readConfig(root value, kinds []string) *Config {
	c := &Config{file: r.file, Log: Log{Level: zerolog.InfoLevel}}
	doc, ok := root.object("node: game-1", "node", "listen", "advertise", "backend", "ttl", "max_stale", "allow", "services", "log")
	if !ok {
		return c
	}
	doc.required("node", "game-1")
	text(doc, "node", "game-1", &c.Node, naming.ParseNodeID)

	doc.required("listen", "10.0.0.5:7000")
	text(doc, "listen", "10.0.0.5:7000", &c.Listen, parseListen)
	text(doc, "advertise", "10.0.0.5:7000", &c.Advertise, naming.ParseEndpoint)
	if !doc.has("advertise") && c.Listen.IsValid() {
		c.Advertise = c.Listen
		if c.Listen.Addr().IsUnspecified() {
			doc.fields["listen"].report("%s is every address of this machine, and none that others could call (add advertise: IP:PORT)", show(c.Listen.String()))
		}
	}

	doc.required("backend", "{memory: {}}")
	if v, ok := doc.fields["backend"]; ok {
		readBackend(v, c)
	}
	text(doc, "ttl", "5s", &c.TTL, c.parseTTL)
	text(doc, "max_stale", "10m", &c.MaxStale, parseDuration)

	if v, ok := doc.fields["allow"]; ok {
		c.Allow = readAllow(v)
	} else if c.Etcd != nil || c.Consul != nil {
		doc.insecure("allow is missing (list who may own which name; without it nobody may, and only the memory backend goes without)")
	}
	if v, ok := doc.fields["services"]; ok {
		c.Services = readServices(v, kinds)
	}
	if v, ok := doc.fields["log"]; ok {
		readLog(v, &c.Log)
	}
	return c
}

func readBackend(v value, c *Config) {
	backends := []string{"memory", "etcd", "consul"}
	b, ok := v.object("{memory: {}}", backends...)
	if !ok {
		return
	}
	given := slices.DeleteFunc(slices.Clone(backends), func(name string) bool { return !b.has(name) })
	switch {
	case len(given) > 1:
		b.report("has %s (keep one: a node uses one backend)", strings.Join(given, " and "))
	case b.has("memory"):
		c.Memory = &Memory{}
		b.fields["memory"].object("memory: {}")
	case b.has("etcd"):
		c.Etcd = &etcd.Config{}
		readEtcd(b.fields["etcd"], c.Etcd)
	case b.has("consul"):
		c.Consul = &consul.Config{}
		readConsul(b.fields["consul"], c.Consul)
	case len(b.node.Content) == 0:
		b.report("names no backend (write one of %s)", strings.Join(backends, ", "))
	}
}

func readEtcd(v value, c *etcd.Config) {
	e, ok := v.object("etcd: {endpoints: […], tls: {…}}", "endpoints", "root", "tls", "user", "password")
	if !ok {
		return
	}
	e.required("endpoints", "[https://10.0.0.1:2379]")
	texts(e, "endpoints", "https://10.0.0.1:2379", &c.Endpoints, parseEndpointURL)
	if endpoints, ok := e.fields["endpoints"]; ok && endpoints.node.ShortTag() == "!!seq" {
		if len(endpoints.node.Content) == 0 {
			endpoints.report("is empty (write it like [https://10.0.0.1:2379])")
		}
		for i, endpoint := range c.Endpoints {
			if slices.Contains(c.Endpoints[:i], endpoint) {
				endpoints.report("%s is there twice (keep one)", show(endpoint))
			}
		}
	}
	text(e, "root", "/skywarden", &c.Root, parseRoot)

	byPassword := e.has("user") || e.has("password")
	if byPassword {
		readPassword(e, c)
	}
	switch {
	case e.has("tls"):
		c.TLS = readTLS(e.fields["tls"], byPassword)
	case byPassword:
		e.insecure("tls is missing (add tls with ca: without it anybody could pass for the server and get the password)")
	default:
		e.insecure("tls is missing (add tls with ca, cert and key: without them nobody knows who is who)")
	}
}

// readPassword reads who we are where that is not said by a certificate.
func readPassword(e object, c *etcd.Config) {
	e.required("user", "game")
	text(e, "user", "game", &c.User, parseUser)
	e.required("password", "{file: password}")
	v, ok := e.fields["password"]
	if !ok {
		return
	}
	c.PasswordFile, c.Password = v.secret("the password", "password")
	if c.PasswordFile != "" && !v.r.forAdmin {
		_, err := secretfile.Open("password", c.PasswordFile, nil)
		v.reportAll(err)
	}
}

// readTLS reads whom we trust and, unless that is said by a user and a password,
// what proves who we are: the common name of the certificate is our principal.
func readTLS(v value, byPassword bool) etcd.TLS {
	var c etcd.TLS
	before := len(v.r.problems)
	t, ok := v.object("tls: {ca: ca.pem, cert: node.pem, key: {file: node-key.pem}}", "ca", "cert", "key", "server_name", "min_version")
	if !ok {
		return c
	}
	t.required("ca", "ca.pem")
	text(t, "ca", "ca.pem", &c.CAFile, v.r.relative)
	open := tlsfile.Open
	if byPassword {
		open = tlsfile.OpenCA
		for _, key := range []string{"cert", "key"} {
			if v, ok := t.fields[key]; ok {
				v.report("is given beside a user and a password, and each says who we are (remove cert and key, or user and password)")
			}
		}
	} else {
		t.required("cert", "node.pem")
		text(t, "cert", "node.pem", &c.CertFile, v.r.relative)
		t.required("key", "{file: node-key.pem}")
		if key, ok := t.fields["key"]; ok {
			c.KeyFile, c.Key = key.secret("the private key in PEM", "node-key.pem")
		}
	}
	text(t, "server_name", "etcd.internal", &c.ServerName, parseHost)
	text(t, "min_version", `"1.3"`, &c.AllowTLS12, oneOf(map[string]bool{"1.3": false, "1.2": true}))
	if len(v.r.problems) == before {
		v.checkTLS(open, tlsfile.Config(c))
	}
	return c
}

// checkTLS looks at the files of c, unless they are not needed.
func (v value) checkTLS(open func(tlsfile.Config, func(error)) (*tlsfile.Source, error), c tlsfile.Config) {
	if !v.r.forAdmin {
		_, err := open(c, nil)
		v.reportAll(err)
	}
}

// readAllow reads the allow-list. It says with positions what
// adapter.NewAllowList says without.
func readAllow(v value) *adapter.AllowList {
	var rules []adapter.Rule
	before := len(v.r.problems)
	first := map[naming.Scope]value{}
	for _, item := range v.list("[{name: billing, owners: [billing], addresses: [10.0.0.0/8]}]") {
		o, ok := item.object("{name: billing, owners: [billing], addresses: [10.0.0.0/8]}", "name", "owners", "addresses", "ports", "readers")
		if !ok {
			continue
		}
		var rule adapter.Rule
		o.required("name", "billing")
		text(o, "name", "billing", &rule.Scope, parseRuleScope)
		o.notEmpty("owners", "[billing]")
		texts(o, "owners", "billing", &rule.Owners, parsePrincipal)
		o.notEmpty("addresses", "[10.0.0.0/8]")
		texts(o, "addresses", "10.0.0.0/8", &rule.Addresses, parsePrefix)
		texts(o, "ports", "7000-7999", &rule.Ports, parsePorts)
		texts(o, "readers", "billing", &rule.Readers, parsePrincipal)
		if other, twice := first[rule.Scope]; twice {
			o.fields["name"].report("there is a rule for %s already, in line %d (join the two)", rule.Scope, other.node.Line)
		} else if !rule.Scope.IsZero() {
			first[rule.Scope] = item
		}
		rules = append(rules, rule)
	}
	if len(v.r.problems) > before {
		return nil
	}
	list, err := adapter.NewAllowList(rules)
	v.reportAll(err)
	return list
}

// notEmpty reports a list that is missing or has nothing in it.
func (o object) notEmpty(key, example string) {
	o.required(key, example)
	if v, ok := o.fields[key]; ok && len(v.node.Content) == 0 && v.node.ShortTag() == "!!seq" {
		v.report("is empty (write it like %s)", example)
	}
}

func readServices(v value, kinds []string) []Service {
	if len(kinds) == 0 {
		v.report("this program runs no services of a file (remove services, or run the file with skywarden node)")
		return nil
	}
	var services []Service
	first := map[naming.Name]value{}
	for _, item := range v.list("[{name: game.lobby, kind: " + kinds[0] + "}]") {
		o, ok := item.object("{name: game.lobby, kind: "+kinds[0]+"}", "name", "kind", "standby")
		if !ok {
			continue
		}
		var s Service
		o.required("name", "game.lobby")
		text(o, "name", "game.lobby", &s.Name, naming.ParseName)
		o.required("kind", kinds[0])
		text(o, "kind", kinds[0], &s.Kind, func(kind string) (string, error) {
			if !slices.Contains(kinds, kind) {
				return "", fmt.Errorf("%s is no kind of service (%s)", show(kind), choice(kind, kinds))
			}
			return kind, nil
		})
		o.boolean("standby", &s.Standby)
		if before, twice := first[s.Name]; twice {
			o.fields["name"].report("there is a service %s already, in line %d (one name, one service)", s.Name, before.node.Line)
		} else if !s.Name.IsZero() {
			first[s.Name] = item
		}
		services = append(services, s)
	}
	return services
}

func readLog(v value, c *Log) {
	o, ok := v.object("{level: info, format: json}", "level", "format")
	if !ok {
		return
	}
	text(o, "level", "info", &c.Level, oneOf(map[string]zerolog.Level{
		"debug": zerolog.DebugLevel, "info": zerolog.InfoLevel, "warn": zerolog.WarnLevel,
		"error": zerolog.ErrorLevel, "off": zerolog.Disabled,
	}))
	text(o, "format", "json", &c.Console, oneOf(map[string]bool{"json": false, "console": true}))
}

// The parsers below end the sentence that a position and a path begin.

// parseListen is naming.ParseEndpoint that takes 0.0.0.0 and [::] as well.
func parseListen(s string) (netip.AddrPort, error) {
	if ep, err := netip.ParseAddrPort(s); err == nil && ep.Addr().IsUnspecified() && ep.Port() != 0 {
		return ep, nil
	}
	return naming.ParseEndpoint(s)
}

func parseDuration(s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	switch _, numeric := strconv.ParseFloat(s, 64); {
	case err != nil && numeric == nil:
		return 0, fmt.Errorf("%s has no unit (write %ss, if you mean seconds)", show(s), s)
	case err != nil:
		return 0, fmt.Errorf("%s is no duration (write it like 500ms, 5s, 10m or 1h30m)", show(s))
	case d <= 0:
		return 0, fmt.Errorf("%s is not positive (write it like 5s)", show(s))
	}
	return d, nil
}

// parseTTL takes what the backend does, which must be known.
func (c *Config) parseTTL(s string) (time.Duration, error) {
	d, err := parseDuration(s)
	switch {
	case err != nil:
		return 0, err
	case c.Etcd != nil && d < etcd.MinTTL:
		return 0, fmt.Errorf("%s is too short for etcd (write %v or more)", show(s), etcd.MinTTL)
	case c.Consul != nil && d < leastTTL(c.Consul):
		return 0, fmt.Errorf("%s is too short for consul (write %v or more; to go lower, lower session_ttl_min on the servers and then here)", show(s), leastTTL(c.Consul))
	case c.Consul != nil && d > consul.MaxTTL:
		return 0, fmt.Errorf("%s is too long for consul (write %v or less)", show(s), consul.MaxTTL)
	case c.Memory != nil && d < memory.MinTTL:
		return 0, fmt.Errorf("%s is too short for memory (write %v or more)", show(s), memory.MinTTL)
	case c.Memory != nil && d > memory.MaxTTL:
		return 0, fmt.Errorf("%s is too long for memory (write %v or less)", show(s), memory.MaxTTL)
	}
	return d, nil
}

// parseEndpointURL accepts https://HOST:PORT. What it refuses it repeats only
// where there is no place for a password in it.
func parseEndpointURL(s string) (string, error) {
	if strings.Contains(s, "@") {
		return "", errors.New("has an @, as a user or password would (write https://HOST:PORT: who we are is said by the certificate, or by user and password)")
	}
	u, err := url.Parse(s)
	switch {
	case strings.HasPrefix(s, "http://"):
		return "", insecureError{fmt.Errorf("%s is not encrypted (write https://)", show(s))}
	case err != nil || u.Scheme != "https" || u.Hostname() == "" || u.Port() == "" || s != "https://"+u.Host:
		return "", fmt.Errorf("%s is not https://HOST:PORT", show(s))
	}
	if port, err := strconv.ParseUint(u.Port(), 10, 16); err != nil || port == 0 {
		return "", fmt.Errorf("%s has a port that is not from 1 to 65535", show(s))
	}
	return s, nil
}

// rootPattern is what an etcd root looks like: it is written into role commands
// as it stands.
var rootPattern = regexp.MustCompile(`^(/[A-Za-z0-9_-]+)+$`)

func parseRoot(s string) (string, error) {
	if !rootPattern.MatchString(s) {
		return "", fmt.Errorf("%s is no root (write it like /skywarden or /prod/skywarden: no slash at the end)", show(s))
	}
	return s, nil
}

func parseHost(s string) (string, error) {
	if s == "" || strings.ContainsAny(s, "/: \t\n@") {
		return "", fmt.Errorf("%s is no host name (write only the name that the server's certificate has, such as server.internal)", show(s))
	}
	return s, nil
}

func parseRuleScope(s string) (naming.Scope, error) {
	if s == "" {
		return naming.Scope{}, errors.New("is empty (write one name, such as billing, or a family that ends in a dot, such as game.)")
	}
	return naming.ParseScope(s)
}

func parsePrincipal(s string) (string, error) {
	if s == "" || strings.TrimSpace(s) != s || strings.ContainsAny(s, "\n\r\t") {
		return "", fmt.Errorf("%s is no principal (write it as the backend knows it: for etcd the common name of the certificate, for consul the principal in the node's file)", show(s))
	}
	return s, nil
}

func parseUser(s string) (string, error) {
	if s == "" || strings.TrimSpace(s) != s || strings.ContainsAny(s, "\n\r\t") {
		return "", fmt.Errorf("%s is no user (write it as etcdctl user list does)", show(s))
	}
	return s, nil
}

func parsePrefix(s string) (netip.Prefix, error) {
	if addr, err := netip.ParseAddr(s); err == nil && addr.Zone() == "" {
		addr = addr.Unmap()
		return netip.Prefix{}, fmt.Errorf("%s has no length (write %s for this one address)", show(s), netip.PrefixFrom(addr, addr.BitLen()))
	}
	p, err := netip.ParsePrefix(s)
	switch {
	case err != nil:
		return netip.Prefix{}, fmt.Errorf("%s is no address range (write it like 10.0.0.0/8 or fd00::/8)", show(s))
	case p.Addr().Is4In6():
		return netip.Prefix{}, fmt.Errorf("%s is IPv4 written as IPv6, which no address is (write the IPv4 range)", show(s))
	case p != p.Masked():
		return netip.Prefix{}, fmt.Errorf("%s has bits beyond its length (write %s)", show(s), p.Masked())
	}
	return p, nil
}

func parsePorts(s string) (adapter.PortRange, error) {
	low, high, isRange := strings.Cut(s, "-")
	if !isRange {
		high = low
	}
	first, err1 := strconv.ParseUint(low, 10, 16)
	last, err2 := strconv.ParseUint(high, 10, 16)
	switch {
	case err1 != nil || err2 != nil || first == 0:
		return adapter.PortRange{}, fmt.Errorf("%s is no port and no range of ports (write it like 7000 or 7000-7999, from 1 to 65535)", show(s))
	case last < first:
		return adapter.PortRange{}, fmt.Errorf("%s ends before it begins (write %d-%d)", show(s), last, first)
	}
	return adapter.PortRange{First: uint16(first), Last: uint16(last)}, nil
}

// oneOf parses one of a few words.
func oneOf[T any](words map[string]T) func(string) (T, error) {
	return func(s string) (T, error) {
		v, ok := words[s]
		if !ok {
			known := make([]string, 0, len(words))
			for word := range words {
				known = append(known, word)
			}
			slices.Sort(known)
			return v, fmt.Errorf("%s is not known here (%s)", show(s), choice(s, known))
		}
		return v, nil
	}
}
