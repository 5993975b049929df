// Package tlsfile reads what a TLS client needs from PEM files (certificate,
// private key, the CA that servers must be signed by) and follows the files
// when they change.
//
// It is for clients that prove who they are with a certificate, or, with OpenCA,
// by other means over a connection to a server that is verified. It is not for
// servers, and it reads no passwords and no encrypted keys. The private key may
// also be given itself, as a Secret.
package tlsfile

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync"
	"time"

	"github.com/seed-6593ebad/skywarden/internal/secretfile"
)

// A Secret is a private key's PEM. See secretfile.
type Secret = secretfile.Secret

// NewSecret hides text. An empty text is no Secret: the zero one.
func NewSecret(text string) Secret { return secretfile.NewSecret(text) }

// Config says where the files are. CertFile and CAFile are required, and exactly
// one of KeyFile and Key.
type Config struct {
	// CertFile is the client's certificate, followed by intermediate ones if any.
	CertFile string
	// KeyFile is its private key. On Unix nobody but the file's owner may have any
	// access to it. On Windows permissions are not looked at: protect the directory.
	KeyFile string
	// Key is the private key's PEM itself, for where there is no file. It stays as it
	// is: only the other files are followed, and a certificate that is renewed must
	// be one for the same key.
	Key Secret
	// CAFile holds the certificates of the authorities that a server's certificate
	// must come from. The system's authorities are not asked.
	CAFile string
	// ServerName is the name that the server's certificate must have; "" means the
	// host that is dialled.
	ServerName string
	// AllowTLS12 accepts TLS 1.2 beside 1.3.
	AllowTLS12 bool
}

// A Source gives TLS configurations made of files. It is safe for concurrent
// use.
type Source struct {
	cfg    Config
	read   func(Config, time.Time) (material, error)
	report func(error)

	mu      sync.Mutex
	current material
	trouble string // what was reported last; "" when all is well
}

// material is what the files said when they were last good.
type material struct {
	cert  tls.Certificate
	roots *x509.CertPool
	files [3]fs.FileInfo // of the opened files: certificate, key (nil for Config.Key), CA
}

// Open reads the files and checks all of them: that they are regular files of
// PEM, that nobody else may read the key or write any of them (an error that
// wraps naming.ErrInsecureConfig), that the key belongs to the certificate,
// and that the certificate is valid now. All problems are reported, joined; no
// error has anything of the key in it.
//
// report is called when files that changed cannot be used, once per reason,
// and with nil when they can be used again. Until then the last good ones stay
// in use. It must return soon and not call the Source; nil means that nobody
// wants to know.
func Open(cfg Config, report func(error)) (*Source, error) {
	return open(cfg, read, report)
}

// OpenCA is Open for a client that has no certificate: CAFile is required, and
// CertFile, KeyFile and Key must not be given.
func OpenCA(cfg Config, report func(error)) (*Source, error) {
	return open(cfg, readCA, report)
}

func open(cfg Config, read func(Config, time.Time) (material, error), report func(error)) (*Source, error) {
	m, err := read(cfg, time.Now())
	if err != nil {
		return nil, err
	}
	if report == nil {
		report = func(error) {}
	}
	return &Source{cfg: cfg, read: read, report: report, current: m}, nil
}

// Client gives the configuration for one connection, from the files as they
// are now. Ask for a new one for each connection: the CA in it stays as it is.
// Its certificate is looked up at the handshake.
func (s *Source) Client() *tls.Config {
	m := s.refresh()
	minVersion := uint16(tls.VersionTLS13)
	if s.cfg.AllowTLS12 {
		minVersion = tls.VersionTLS12
	}
	client := &tls.Config{
		MinVersion: minVersion,
		ServerName: s.cfg.ServerName,
		RootCAs:    m.roots,
	}
	if s.cfg.CertFile != "" {
		client.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			cert := s.refresh().cert
			return &cert, nil
		}
	}
	return client
}

// CommonName is the subject of the certificate that is in use. It is not for a
// Source of OpenCA.
func (s *Source) CommonName() string { return s.refresh().cert.Leaf.Subject.CommonName }

// refresh gives the newest material that is good.
func (s *Source) refresh() material {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current.fresh(s.cfg) && s.trouble == "" {
		return s.current
	}
	m, err := s.read(s.cfg, time.Now())
	trouble := ""
	if err != nil {
		trouble = err.Error()
	} else {
		s.current = m
	}
	if trouble != s.trouble {
		s.trouble = trouble
		s.report(err)
	}
	return s.current
}

// fresh says whether the files are still those that were read.
func (m *material) fresh(cfg Config) bool {
	for i, path := range []string{cfg.CertFile, cfg.KeyFile, cfg.CAFile} {
		if path == "" {
			continue // Config.Key instead, or OpenCA
		}
		if !secretfile.Unchanged(path, m.files[i]) {
			return false
		}
	}
	return true
}

func read(cfg Config, now time.Time) (material, error) {
	var m material
	var problems []error
	certPEM, err := m.load(0, "client certificate", cfg.CertFile, secretfile.OwnerWrites)
	problems = append(problems, err)
	keyPEM, err := m.loadKey(cfg)
	problems = append(problems, err)
	caErr := m.loadCA(cfg, now)
	if certPEM != nil && keyPEM != nil {
		m.cert, err = parsePair(cfg, certPEM, keyPEM, now)
		problems = append(problems, err)
	}
	return m, errors.Join(append(problems, caErr)...)
}

func readCA(cfg Config, now time.Time) (material, error) {
	var m material
	var problems []error
	if cfg.CertFile != "" || cfg.KeyFile != "" || cfg.Key != (Secret{}) {
		problems = append(problems, errors.New("a client certificate or key is given where none is used"))
	}
	return m, errors.Join(append(problems, m.loadCA(cfg, now))...)
}

func (m *material) loadCA(cfg Config, now time.Time) error {
	data, err := m.load(2, "CA", cfg.CAFile, secretfile.OwnerWrites)
	if err == nil {
		m.roots, err = parseRoots(cfg.CAFile, data, now)
	}
	return err
}

func (m *material) loadKey(cfg Config) ([]byte, error) {
	switch {
	case cfg.Key == Secret{}:
		return m.load(1, "private key", cfg.KeyFile, secretfile.OwnerOnly)
	case cfg.KeyFile != "":
		return nil, errors.New("private key: both KeyFile and Key are given: give one")
	}
	return []byte(secretfile.Reveal(cfg.Key)), nil
}

// key begins a sentence about the private key.
func (c Config) key() string {
	if c.Key != (Secret{}) {
		return "the given private key"
	}
	return fmt.Sprintf("private key %q", c.KeyFile)
}

// maxFile is far above the size of any bundle of certificates.
const maxFile = 1 << 20

func (m *material) load(i int, what, path string, access secretfile.Access) (data []byte, err error) {
	data, m.files[i], err = secretfile.Read(what, path, access, maxFile)
	return data, err
}

func parsePair(cfg Config, certPEM, keyPEM []byte, now time.Time) (tls.Certificate, error) {
	var problems []error
	if _, err := certificates(certPEM); err != nil {
		problems = append(problems, fmt.Errorf("client certificate %q %w", cfg.CertFile, err))
	}
	if err := checkKey(keyPEM); err != nil {
		problems = append(problems, fmt.Errorf("%s %w", cfg.key(), err))
	}
	if problems != nil {
		return tls.Certificate{}, errors.Join(problems...)
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("%s is of no use for the certificate in %q: %s", cfg.key(), cfg.CertFile, strings.TrimPrefix(err.Error(), "tls: "))
	}
	if err := valid(pair.Leaf, now); err != nil {
		return tls.Certificate{}, fmt.Errorf("client certificate %q %w", cfg.CertFile, err)
	}
	return pair, nil
}

func checkKey(data []byte) error {
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		switch {
		case strings.Contains(block.Type, "ENCRYPTED"), block.Headers["DEK-Info"] != "":
			return errors.New("is encrypted: store it decrypted, readable by its owner alone")
		// As in tls.X509KeyPair, which repeats the types of blocks that it skips.
		case block.Type == "PRIVATE KEY", strings.HasSuffix(block.Type, " PRIVATE KEY"):
			return nil
		}
	}
	return errors.New("has no private key in PEM (a line -----BEGIN PRIVATE KEY-----)")
}

func parseRoots(path string, data []byte, now time.Time) (*x509.CertPool, error) {
	certs, err := certificates(data)
	if err != nil {
		return nil, fmt.Errorf("CA %q %w", path, err)
	}
	pool := x509.NewCertPool()
	var usable bool
	for _, cert := range certs {
		if err = valid(cert, now); err == nil {
			usable = true
		}
		pool.AddCert(cert)
	}
	if !usable {
		return nil, fmt.Errorf("CA %q %w", path, err)
	}
	return pool, nil
}

// certificates parses every certificate of a PEM file. Its error continues a
// sentence that begins with the file.
func certificates(data []byte) ([]*x509.Certificate, error) {
	if len(bytes.TrimSpace(data)) == 0 {
		return nil, errors.New("is empty")
	}
	var certs []*x509.Certificate
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("has a certificate that cannot be parsed: %w", err)
		}
		certs = append(certs, cert)
	}
	if certs == nil {
		return nil, errors.New("has no certificate in PEM (a line -----BEGIN CERTIFICATE-----)")
	}
	return certs, nil
}

func valid(cert *x509.Certificate, now time.Time) error {
	switch {
	case now.After(cert.NotAfter):
		return fmt.Errorf("expired on %s: have a new one issued", cert.NotAfter.UTC().Format(time.RFC3339))
	case now.Before(cert.NotBefore):
		return fmt.Errorf("is not valid before %s: check this machine's clock", cert.NotBefore.UTC().Format(time.RFC3339))
	}
	return nil
}
