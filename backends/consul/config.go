package consul

import (
	"context"
	"crypto/tls"
	"time"

	"github.com/rs/zerolog"

	"github.com/seed-6593ebad/skywarden/internal/tlsfile"
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
	// and be safe for concurrent use.
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
type Secret = tlsfile.Secret

// NewSecret hides text. An empty text is no Secret: the zero one.
func NewSecret(text string) Secret { return tlsfile.NewSecret(text) }
