package configs

import (
	"cmp"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/seed-6593ebad/skywarden/backends/consul"
	"github.com/seed-6593ebad/skywarden/internal/secretfile"
	"github.com/seed-6593ebad/skywarden/internal/tlsfile"
)

func readConsul(v value, c *consul.Config) {
	o, ok := v.object("consul: {addresses: […], principal: game, token: {…}, tls: {…}}",
		"addresses", "principal", "token", "root", "node", "datacenter", "session_ttl_min", "tls")
	if !ok {
		return
	}
	o.required("addresses", "[https://10.0.0.1:8501]")
	texts(o, "addresses", "https://10.0.0.1:8501", &c.Addresses, parseConsulAddress)
	if addresses, ok := o.fields["addresses"]; ok && addresses.node.ShortTag() == "!!seq" {
		if len(addresses.node.Content) == 0 {
			addresses.report("is empty (write it like [https://10.0.0.1:8501])")
		}
		for i, address := range c.Addresses {
			if slices.Contains(c.Addresses[:i], address) {
				addresses.report("%s is there twice (keep one)", show(address))
			}
		}
	}
	o.required("principal", "game")
	text(o, "principal", "game", &c.Principal, matching(consulPrincipal, `is no principal (1 to 64 letters, digits, "_" and "-", because policies and nodes of Consul are called after it)`))
	if token, ok := o.fields["token"]; ok {
		readToken(token, c)
	} else {
		o.insecure("token is missing (add it, such as token: {file: game.token}: what we may do is said by it)")
	}
	text(o, "root", "skywarden", &c.Root, matching(consulRoot, `is no root (write it like skywarden or prod/skywarden: no slash at the ends)`))
	text(o, "node", "skywarden-game", &c.Node, matching(consulNode, `is no name of a node (1 to 128 letters, digits, "_", "-" and dots, and first a letter or digit)`))
	text(o, "datacenter", "dc1", &c.Datacenter, matching(consulDatacenter, `is no name of a datacentre (write it like dc1: small letters, digits, "_" and "-")`))
	text(o, "session_ttl_min", "10s", &c.MinTTL, parseSessionTTL)
	if tls, ok := o.fields["tls"]; ok {
		c.TLS = readConsulTLS(tls)
	} else {
		o.insecure("tls is missing (add tls with ca: without it anybody could pass for the server and get the token)")
	}
}

// readToken reads the reference to our ACL token.
func readToken(v value, c *consul.Config) {
	c.TokenFile, c.Token = v.secret("the secret of the token", "game.token")
	if c.TokenFile != "" && !v.r.forAdmin {
		_, err := secretfile.Open("token", c.TokenFile, nil)
		v.reportAll(err)
	}
	if strings.ContainsAny(secretfile.Reveal(c.Token), " \t\r\n") {
		v.report("has white space in the value of its environment variable (set it to the secret of the token alone)")
	}
}

// readConsulTLS reads whom we trust. A certificate of ours is for servers that
// ask for one; who we are is said by the token.
func readConsulTLS(v value) consul.TLS {
	var c consul.TLS
	before := len(v.r.problems)
	t, ok := v.object("tls: {ca: ca.pem}", "ca", "cert", "key", "server_name", "min_version")
	if !ok {
		return c
	}
	t.required("ca", "ca.pem")
	text(t, "ca", "ca.pem", &c.CAFile, v.r.relative)
	open := tlsfile.OpenCA
	if t.has("cert") || t.has("key") {
		open = tlsfile.Open
		t.required("cert", "node.pem")
		text(t, "cert", "node.pem", &c.CertFile, v.r.relative)
		t.required("key", "{file: node-key.pem}")
		if key, ok := t.fields["key"]; ok {
			c.KeyFile, c.Key = key.secret("the private key in PEM", "node-key.pem")
		}
	}
	text(t, "server_name", "consul.internal", &c.ServerName, parseHost)
	text(t, "min_version", `"1.3"`, &c.AllowTLS12, oneOf(map[string]bool{"1.3": false, "1.2": true}))
	if len(v.r.problems) == before {
		v.checkTLS(open, tlsfile.Config(c))
	}
	return c
}

// leastTTL is the least that the servers take, as far as the file says.
func leastTTL(c *consul.Config) time.Duration {
	return cmp.Or(c.MinTTL, consulDefaultTTL)
}

// consulDefaultTTL is what session_ttl_min is on servers where nothing else is
// set.
const consulDefaultTTL = 10 * time.Second

// What the driver takes, which says so without a position.
var (
	consulPrincipal  = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)
	consulRoot       = regexp.MustCompile(`^[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*$`)
	consulNode       = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$`)
	consulDatacenter = regexp.MustCompile(`^[a-z0-9_-]{1,64}$`)
)

// matching parses a text of a pattern. What it says otherwise ends the sentence
// that the text begins.
func matching(pattern *regexp.Regexp, otherwise string) func(string) (string, error) {
	return func(s string) (string, error) {
		if !pattern.MatchString(s) {
			return "", fmt.Errorf("%s %s", show(s), otherwise)
		}
		return s, nil
	}
}

// parseConsulAddress is parseEndpointURL, for somebody who is known by a token.
func parseConsulAddress(s string) (string, error) {
	if strings.Contains(s, "@") {
		return "", errors.New("has an @, as a user or password would (write https://HOST:PORT: who we are is said by the token)")
	}
	return parseEndpointURL(s)
}

func parseSessionTTL(s string) (time.Duration, error) {
	d, err := parseDuration(s)
	switch {
	case err != nil:
		return 0, err
	case d < consul.LeastTTL || d > consul.MaxTTL:
		return 0, fmt.Errorf("%s is not between %v and %v (write what session_ttl_min is on the servers)", show(s), consul.LeastTTL, consul.MaxTTL)
	}
	return d, nil
}
