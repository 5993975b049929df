package driver

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"

	"github.com/seed-6593ebad/skywarden/naming"
)

// Endpoints checks URLs of servers, each https://HOST:PORT, and gives HOST:PORT
// of each. plain says that they are http://, all of them, which is an error that
// wraps ErrInsecureConfig unless acceptPlain. What is wrong is joined. field is
// what the list is called in errors, such as "Endpoints"; example one of it.
func Endpoints(field, example string, urls []string, acceptPlain bool) (hosts []string, plain bool, err error) {
	var problems []error
	if len(urls) == 0 {
		problems = append(problems, fmt.Errorf("no %s: give at least one, such as %s", field, example))
	}
	var secure bool
	for _, endpoint := range urls {
		host, scheme, err := parseEndpoint(endpoint)
		switch {
		case err != nil:
			problems = append(problems, err)
		case slices.Contains(hosts, host):
			problems = append(problems, fmt.Errorf("endpoint %q is there twice", endpoint))
		case scheme == "http" && !acceptPlain:
			problems = append(problems, fmt.Errorf("endpoint %q: %w: without TLS everybody on the way reads and changes what is said: use https", endpoint, naming.ErrInsecureConfig))
		}
		hosts = append(hosts, host)
		plain, secure = plain || scheme == "http", secure || scheme == "https"
	}
	if plain && secure {
		problems = append(problems, fmt.Errorf("some %s are http and some https: make all of them https", field))
	}
	return hosts, plain, errors.Join(problems...)
}

// parseEndpoint gives HOST:PORT and the scheme, http or https.
func parseEndpoint(endpoint string) (host, scheme string, err error) {
	u, err := url.Parse(endpoint)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Hostname() == "" || endpoint != u.Scheme+"://"+u.Host {
		return "", "", fmt.Errorf("endpoint %q is not https://HOST:PORT", endpoint)
	}
	if port, err := strconv.ParseUint(u.Port(), 10, 16); err != nil || port == 0 {
		return "", "", fmt.Errorf("endpoint %q has no port from 1 to 65535", endpoint)
	}
	return u.Host, u.Scheme, nil
}

// OwnTLS checks a TLS configuration that the user made, and gives a copy that
// means TLS 1.3 unless it says 1.2. The error wraps ErrInsecureConfig.
func OwnTLS(own *tls.Config) (*tls.Config, error) {
	own = own.Clone()
	var problems []error
	if own.InsecureSkipVerify {
		problems = append(problems, fmt.Errorf("TLSConfig.InsecureSkipVerify: %w: anybody could pass for the server: give RootCAs instead", naming.ErrInsecureConfig))
	}
	switch {
	case own.MinVersion == 0:
		own.MinVersion = tls.VersionTLS13
	case own.MinVersion < tls.VersionTLS12:
		problems = append(problems, fmt.Errorf("TLSConfig.MinVersion: %w: TLS 1.2 at least, better 1.3", naming.ErrInsecureConfig))
	}
	return own, errors.Join(problems...)
}
