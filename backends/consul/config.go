package consul

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/rs/zerolog"

	"github.com/seed-6593ebad/skywarden/internal/driver"
	"github.com/seed-6593ebad/skywarden/internal/secretfile"
	"github.com/seed-6593ebad/skywarden/internal/tlsfile"
	"github.com/seed-6593ebad/skywarden/naming"
)

// Config says how to reach Consul and as whom. Addresses, Principal, one of
// Token, TokenFile and TokenFunc, and TLS or TLSConfig are required.
type Config struct {
	// Addresses are the HTTP APIs of servers or agents, each https://HOST:PORT. With
	// several, a call goes to the next one where one does not answer.
	Addresses []string
	// TLS names the files by which the servers are known, and our certificate
	// where they ask for one. The files are followed when they change.
	TLS TLS
	// TLSConfig is used instead of TLS. It must verify the server, and means TLS 1.3
	// unless its MinVersion says 1.2. It is copied.
	TLSConfig *tls.Config

	// Principal is who we are: the allow-list knows us by it, and Node is called
	// after it. Letters, digits, "_" and "-". What we may do is said by the token.
	Principal string
	// Token is the secret of our ACL token. It goes with every request.
	Token Secret
	// TokenFile holds the secret. It is read again when it changes, so that a token
	// can be replaced while leases live. On Unix nobody but the file's owner may
	// have any access to it.
	TokenFile string
	// TokenFunc gives the secret: asked before every request, it must return soon
	// and be safe for concurrent use. Its error is ErrUnavailable, the zero Secret
	// ErrUnauthenticated: nothing is sent without a token.
	TokenFunc func(context.Context) (Secret, error)

	// Root is where all keys are, "skywarden" if empty: letters, digits, "_" and "-"
	// between slashes. The names are below Root/names/.
	Root string
	// Node is the catalog node on which our sessions are opened: Root-Principal if
	// empty, with "-" for slashes. It must exist, and no other principal may write
	// sessions on it.
	Node string
	// Datacenter is where the names are, "" for that of the servers asked.
	Datacenter string

	// DefaultTTL is what Lease(ctx, 0) asks for: 10 s, or MinTTL if that is more.
	DefaultTTL time.Duration
	// MinTTL is the servers' session_ttl_min: 10 s if 0, as is theirs; 3 s at least.
	MinTTL time.Duration

	// Logger gets outages, refusals and lost leases. The zero Logger is silent.
	Logger zerolog.Logger

	// InsecureDevelopmentOnly accepts addresses that begin with http://, and servers
	// whose ACLs are off or allow by default: whoever reaches such a server takes
	// every name and reads every entry. Each Open logs an alarm.
	InsecureDevelopmentOnly bool
}

// TLS names PEM files. CAFile is required. CertFile and a key are for servers
// that ask for a certificate; who we are is said by the token alone.
type TLS struct {
	// CertFile is our certificate, followed by intermediate ones if any.
	CertFile string
	// KeyFile is its private key. On Unix nobody but the file's owner may have any
	// access to it. On Windows permissions are not looked at.
	KeyFile string
	// Key is the private key's PEM itself, instead of KeyFile.
	Key Secret
	// CAFile holds the certificates of the authorities that the servers'
	// certificates must come from. The system's authorities are not asked.
	CAFile string
	// ServerName is the name that the servers' certificates must have; "" means the
	// host of each address.
	ServerName string
	// AllowTLS12 accepts TLS 1.2 beside 1.3.
	AllowTLS12 bool
}

// A Secret is a text that is printed as "[redacted]" everywhere: by fmt with
// every verb, in JSON and by loggers. The zero Secret is none.
type Secret = secretfile.Secret

// NewSecret hides text. An empty text is no Secret: the zero one.
func NewSecret(text string) Secret { return secretfile.NewSecret(text) }

// Limits and defaults of leases.
const (
	// LeastTTL is the least that Config.MinTTL may be.
	LeastTTL = 3 * time.Second
	// MaxTTL is the longest lease there is.
	MaxTTL = 24 * time.Hour

	defaultTTL = 10 * time.Second // also the least that servers take, unless their session_ttl_min says otherwise
)

// settings are a Config that was checked.
type settings struct {
	Config
	keys   keys
	scheme string
	hosts  []string           // HOST:PORT of each address
	tls    func() *tls.Config // for each connection; nil: plaintext
	token  func(context.Context) (Secret, error)
}

// nodePattern is what Consul itself asks of the name of a node, and what is safe
// in a path and a policy.
var nodePattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$`)

// check reports all problems of the Config, joined. It reads the files.
func (c Config) check() (*settings, error) {
	s := &settings{Config: c}
	var problems []error
	bad := func(err error) {
		if err != nil {
			problems = append(problems, err)
		}
	}
	bad(checkPrincipal(c.Principal))
	var err error
	s.keys, err = newKeys(c.Root)
	bad(err)
	if s.Node == "" && err == nil && len(problems) == 0 {
		s.Node = s.keys.node(c.Principal)
	}
	if s.Node != "" && !nodePattern.MatchString(s.Node) {
		bad(fmt.Errorf("node %q: 1 to 128 letters, digits, \"_\", \"-\" and dots, and first a letter or digit", s.Node))
	}
	bad(s.useTTLs())
	bad(s.useToken())
	bad(s.useAddresses())
	if err := errors.Join(problems...); err != nil {
		return nil, fmt.Errorf("consul: %w", err)
	}
	return s, nil
}

func (s *settings) useTTLs() error {
	if s.MinTTL == 0 {
		s.MinTTL = defaultTTL
	}
	if s.MinTTL < LeastTTL || s.MinTTL > MaxTTL {
		return fmt.Errorf("MinTTL is %v: %v at least and %v at most", s.MinTTL, LeastTTL, MaxTTL)
	}
	if s.DefaultTTL == 0 {
		s.DefaultTTL = max(defaultTTL, s.MinTTL)
	}
	if s.DefaultTTL < s.MinTTL || s.DefaultTTL > MaxTTL {
		return fmt.Errorf("DefaultTTL is %v: %v at least, the servers' session_ttl_min, and %v at most", s.DefaultTTL, s.MinTTL, MaxTTL)
	}
	return nil
}

func (s *settings) useToken() error {
	given := 0
	if s.Token != (Secret{}) {
		given++
		if err := checkToken(secretfile.Reveal(s.Token)); err != nil {
			return err
		}
		s.token = func(context.Context) (Secret, error) { return s.Token, nil }
	}
	if s.TokenFile != "" {
		given++
		file, err := secretfile.Open("token", s.TokenFile, func(err error) {
			if err != nil {
				s.Logger.Error().Err(err).Msg("a changed token file cannot be used: the token before stays in use")
				return
			}
			s.Logger.Info().Msg("a changed token file is in use")
		})
		if err != nil {
			return err
		}
		s.token = func(context.Context) (Secret, error) { return file.Get(), nil }
	}
	if s.TokenFunc != nil {
		given++
		s.token = s.TokenFunc
	}
	switch {
	case given > 1:
		return errors.New("more than one of Token, TokenFile and TokenFunc is given: give one")
	case given == 0 && !s.InsecureDevelopmentOnly:
		return fmt.Errorf("no token: %w: give TokenFile, Token or TokenFunc: what we may do is said by it", naming.ErrInsecureConfig)
	case given == 0:
		s.token = func(context.Context) (Secret, error) { return Secret{}, nil }
	}
	return nil
}

// secret gives the token for a request: "" only where that is insecure anyway.
func (s *settings) secret(ctx context.Context) (string, error) {
	token, err := s.token(ctx)
	if err != nil {
		// Not wrapped: it must not look like an end of the caller's context, or like
		// an answer of the server.
		return "", fmt.Errorf("%w: there is no token: %v", naming.ErrUnavailable, err) //nolint:errorlint // as above
	}
	text := secretfile.Reveal(token)
	if text == "" && s.InsecureDevelopmentOnly {
		return "", nil
	}
	if err := checkToken(text); err != nil {
		return "", fmt.Errorf("%w: %w", naming.ErrUnauthenticated, err)
	}
	return text, nil
}

// checkToken says why text cannot be sent as a token. Without one, a request would
// be anonymous, and allowed what everybody is.
func checkToken(text string) error {
	if text == "" {
		return errors.New("the token is empty")
	}
	if strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return errors.New("token with a space or a character that is not ASCII: no secret of Consul has one")
	}
	return nil
}

func (s *settings) useAddresses() error {
	var plain bool
	var problems []error
	var err error
	s.hosts, plain, err = driver.Endpoints("Addresses", "https://10.0.0.1:8501", s.Addresses, s.InsecureDevelopmentOnly)
	if err != nil {
		problems = append(problems, err)
	}
	s.scheme = "https"
	switch {
	case plain:
		s.scheme = "http"
		if s.TLS != (TLS{}) || s.TLSConfig != nil {
			problems = append(problems, errors.New("TLS is given for Addresses that do not use it: make them https"))
		}
	case s.TLSConfig != nil:
		if s.TLS != (TLS{}) {
			problems = append(problems, errors.New("both TLS and TLSConfig are given: give one"))
		}
		own, err := driver.OwnTLS(s.TLSConfig)
		if err != nil {
			problems = append(problems, err)
		}
		s.tls = own.Clone
	default:
		open := tlsfile.OpenCA
		if s.TLS.CertFile != "" || s.TLS.KeyFile != "" || s.TLS.Key != (Secret{}) {
			open = tlsfile.Open
		}
		source, err := open(tlsfile.Config(s.TLS), func(err error) {
			if err != nil {
				s.Logger.Error().Err(err).Msg("changed TLS files cannot be used: the ones before stay in use")
				return
			}
			s.Logger.Info().Msg("changed TLS files are in use")
		})
		if err != nil {
			problems = append(problems, err)
			break
		}
		s.tls = source.Client
	}
	return errors.Join(problems...)
}
