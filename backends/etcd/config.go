package etcd

import (
	"crypto/tls"
	"errors"
	"fmt"
	"time"

	"github.com/rs/zerolog"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/seed-6593ebad/skywarden/internal/driver"
	"github.com/seed-6593ebad/skywarden/internal/secretfile"
	"github.com/seed-6593ebad/skywarden/internal/tlsfile"
	"github.com/seed-6593ebad/skywarden/naming"
)

// Config says how to reach etcd and as whom. Either Endpoints with TLS or
// TLSConfig is required, or Client.
type Config struct {
	// Endpoints are the members of the cluster, each https://HOST:PORT.
	Endpoints []string
	// TLS names the files of the client's certificate, which is the identity: its
	// common name is the etcd user. The files are followed when they change.
	TLS TLS
	// TLSConfig is used instead of TLS. It must have a client certificate, must
	// verify the server, and means TLS 1.3 unless its MinVersion says 1.2. It is
	// copied.
	TLSConfig *tls.Config

	// User is the etcd user where there are no client certificates: then TLS names
	// nothing but the servers' CA, and exactly one of PasswordFile and Password is
	// required. A certificate beside it is refused, because it is the token that
	// counts for the server. See the package's documentation for when not to.
	User string
	// PasswordFile holds the password of User, on one line. On Unix nobody but the
	// file's owner may have any access to it. On Windows permissions are not looked
	// at. It is followed when it changes: write the new password there first, then
	// tell the server, within the TTL of the leases.
	PasswordFile string
	// Password is the password itself, instead of PasswordFile. It stays as it is.
	Password Secret

	// Client is used instead of Endpoints and TLS, for everything that this Config
	// has no field for. It is not closed. It must use TLS. Its servers are
	// examined by Open and before each new watch stream, not at each connection.
	// Give it short backoffs: recovery can only be as fast as they are.
	Client *clientv3.Client
	// Principal is as whom Client authenticates. It is needed only where Client has
	// no Username, and refused where there is a certificate to read it from.
	Principal string

	// Root is where all keys are, "/skywarden" if empty: slashes with letters,
	// digits, "_" and "-" between them. The names are below Root/names/.
	Root string
	// DefaultTTL is what Lease(ctx, 0) asks for: 5 s if 0, MinTTL at least.
	DefaultTTL time.Duration
	// ReauthorizeEvery is how often, on average, a running watch asks the server
	// whether it may still read: 45 s if 0, 50 s at most, so that with its jitter
	// of a fifth a permission that was taken away ends a watch within 60 s. The
	// server itself never looks again.
	ReauthorizeEvery time.Duration

	// Logger gets outages, refusals and lost leases. The zero Logger is silent.
	Logger zerolog.Logger

	// InsecureDevelopmentOnly accepts endpoints that begin with http://, and servers
	// whose access control is off: whoever reaches such a server takes every name
	// and reads every entry. Each Open logs an alarm.
	InsecureDevelopmentOnly bool
	// InsecureAcceptVulnerableServer accepts servers with known holes that defeat
	// their access control. Each Open logs an alarm.
	InsecureAcceptVulnerableServer bool
}

// TLS names PEM files. CertFile and CAFile are required, and exactly one of
// KeyFile and Key; with Config.User only CAFile is. See Config.TLS.
type TLS struct {
	// CertFile is the client's certificate, followed by intermediate ones if any.
	CertFile string
	// KeyFile is its private key. On Unix nobody but the file's owner may have any
	// access to it. On Windows permissions are not looked at.
	KeyFile string
	// Key is the private key's PEM itself, instead of KeyFile. It stays as it is:
	// only the other files are followed, and a certificate that is renewed must be
	// one for the same key.
	Key Secret
	// CAFile holds the certificates of the authorities that the servers'
	// certificates must come from. The system's authorities are not asked.
	CAFile string
	// ServerName is the name that the servers' certificates must have; "" means the
	// host of each endpoint.
	ServerName string
	// AllowTLS12 accepts TLS 1.2 beside 1.3.
	AllowTLS12 bool
}

// A Secret is a text that is printed as "[redacted]" everywhere: by fmt with
// every verb, in JSON and by loggers. The zero Secret is none.
type Secret = secretfile.Secret

// NewSecret hides text. An empty text is no Secret: the zero one.
func NewSecret(text string) Secret { return secretfile.NewSecret(text) }

// MinTTL is the shortest lease there is; the server's own minimum is 2 s. There
// is no longest one.
const MinTTL = 3 * time.Second

// Limits and defaults of leases and watches.
const (
	defaultTTL       = 5 * time.Second
	namesPerLease    = 200 // a renewal checks the permission for every key: 1.1 ms for 100
	defaultReauthor  = 45 * time.Second
	maxReauthorize   = 50 * time.Second
	developmentsName = "development" // whom WhoAmI names where nobody is authenticated
)

// settings are a Config that was checked.
type settings struct {
	Config
	keys      keys
	hosts     []string           // HOST:PORT of each endpoint
	tls       func() *tls.Config // for each connection; nil: plaintext, or Client
	principal func() (string, error)
	password  func() Secret // nil: users are known by certificate
}

// check reports all problems of the Config, joined. It reads the files.
func (c Config) check() (*settings, error) {
	s := &settings{Config: c}
	var problems []error
	bad := func(err error) {
		if err != nil {
			problems = append(problems, err)
		}
	}
	var err error
	s.keys, err = newKeys(c.Root)
	bad(err)
	if s.DefaultTTL == 0 {
		s.DefaultTTL = defaultTTL
	}
	if s.DefaultTTL < MinTTL {
		bad(fmt.Errorf("DefaultTTL is %v: %v at least", c.DefaultTTL, MinTTL))
	}
	if s.ReauthorizeEvery == 0 {
		s.ReauthorizeEvery = defaultReauthor
	}
	if s.ReauthorizeEvery < 0 || s.ReauthorizeEvery > maxReauthorize {
		bad(fmt.Errorf("ReauthorizeEvery is %v: more than 0 and %v at most", c.ReauthorizeEvery, maxReauthorize))
	}
	bad(s.usePassword())
	if c.Client != nil {
		bad(s.useClient())
	} else {
		bad(s.useEndpoints())
	}
	if err := errors.Join(problems...); err != nil {
		return nil, fmt.Errorf("etcd: %w", err)
	}
	return s, nil
}

// usePassword is for a Config with a User.
func (s *settings) usePassword() error {
	given := s.PasswordFile != "" || s.Password != (Secret{})
	switch {
	case s.User == "" && given:
		return errors.New("a password is given and no User: give the name of the etcd user, too")
	case s.User == "":
		return nil
	case !given:
		return fmt.Errorf("no password of the User %q: give PasswordFile, or Password", s.User)
	case s.PasswordFile != "" && s.Password != (Secret{}):
		return errors.New("both PasswordFile and Password are given: give one")
	case s.Password != (Secret{}):
		s.password = func() Secret { return s.Password }
		return nil
	}
	source, err := secretfile.Open("password", s.PasswordFile, func(err error) {
		if err != nil {
			s.Logger.Error().Err(err).Msg("the changed file of the password cannot be used: the password before stays in use")
			return
		}
		s.Logger.Info().Msg("the file of the password can be used again")
	})
	if err != nil {
		return err
	}
	s.password = source.Get
	return nil
}

func (s *settings) useClient() error {
	var problems []error
	if s.User != "" {
		problems = append(problems, errors.New("field Client logs in by itself: give no User beside it"))
	}
	if len(s.Endpoints) > 0 || s.TLS != (TLS{}) || s.TLSConfig != nil {
		problems = append(problems, errors.New("field Client has its own endpoints and TLS: give no Endpoints, TLS and TLSConfig beside it"))
	}
	who := s.Client.Username
	if who == "" {
		who = s.Principal
	}
	if who == "" {
		problems = append(problems, errors.New("no Principal, which is needed with a Client that has no Username: the user that its certificate names"))
	}
	s.principal = func() (string, error) { return who, nil }
	return errors.Join(problems...)
}

func (s *settings) useEndpoints() error {
	var problems []error
	hosts, plain, err := driver.Endpoints("Endpoints", "https://10.0.0.1:2379", s.Endpoints, s.InsecureDevelopmentOnly)
	if err != nil {
		problems = append(problems, err)
	}
	s.hosts = hosts
	switch {
	case s.Principal != "" && s.User != "":
		problems = append(problems, errors.New("a Principal is given, but the User says who we are: leave it out"))
	case s.Principal != "" && !plain:
		problems = append(problems, errors.New("a Principal is given, but the certificate says who we are: leave it out"))
	}
	if plain {
		if s.User != "" {
			problems = append(problems, fmt.Errorf("a User is given: %w: without TLS everybody on the way reads the password: make the Endpoints https", naming.ErrInsecureConfig))
		}
		if s.TLS != (TLS{}) || s.TLSConfig != nil {
			problems = append(problems, errors.New("TLS is given for Endpoints that do not use it: make them https"))
		}
		s.principal = func() (string, error) {
			if s.Principal != "" {
				return s.Principal, nil
			}
			return developmentsName, nil
		}
		return errors.Join(problems...)
	}
	if err := s.useTLS(); err != nil {
		problems = append(problems, err)
	}
	return errors.Join(problems...)
}

func (s *settings) useTLS() error {
	if s.TLSConfig != nil {
		if s.TLS != (TLS{}) {
			return errors.New("both TLS and TLSConfig are given: give one")
		}
		return s.useTLSConfig()
	}
	open := tlsfile.Open
	if s.User != "" {
		if s.TLS.CertFile != "" || s.TLS.KeyFile != "" || s.TLS.Key != (Secret{}) {
			return errCertificateAndUser
		}
		open = tlsfile.OpenCA
	}
	source, err := open(tlsfile.Config(s.TLS), func(err error) {
		if err != nil {
			s.Logger.Error().Err(err).Msg("changed TLS files cannot be used: the ones before stay in use")
			return
		}
		s.Logger.Info().Msg("changed TLS files are in use")
	})
	if err != nil {
		return err
	}
	s.tls = source.Client
	if s.User != "" {
		s.principal = func() (string, error) { return s.User, nil }
		return nil
	}
	s.principal = func() (string, error) { return commonName(source.CommonName()) }
	_, err = s.principal()
	return err
}

var errCertificateAndUser = errors.New("both a client certificate and a User are given, and each says who we are: give one")

func (s *settings) useTLSConfig() error {
	var problems []error
	own, err := driver.OwnTLS(s.TLSConfig)
	if err != nil {
		problems = append(problems, err)
	}
	s.tls = own.Clone
	if s.User != "" {
		if own.GetClientCertificate != nil || len(own.Certificates) > 0 {
			problems = append(problems, errCertificateAndUser)
		}
		s.principal = func() (string, error) { return s.User, nil }
		return errors.Join(problems...)
	}
	s.principal = func() (string, error) {
		cert, err := clientCertificate(own)
		if err != nil {
			return "", err
		}
		return commonName(cert.Subject.CommonName)
	}
	if _, err := s.principal(); err != nil {
		problems = append(problems, err)
	}
	return errors.Join(problems...)
}

func commonName(name string) (string, error) {
	if name == "" {
		return "", fmt.Errorf("the client certificate has no common name, and that is what etcd takes for the user: %w", naming.ErrUnauthenticated)
	}
	return name, nil
}
