// Package testca is a throw-away certificate authority for tests, made in
// memory: no PEM file and no private key lies in the repository.
//
// It is not for production. Its keys are never stored unless a test writes
// them into its own temporary directory, and nothing can be revoked.
//
//	ca := testca.New(t)
//	server := ca.Server(t, "127.0.0.1", "localhost")
//	alice := ca.Client(t, "alice")
//	cfg := &tls.Config{RootCAs: ca.Pool(), Certificates: []tls.Certificate{alice.TLS()}}
package testca

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// A CA issues certificates. It is safe for concurrent use.
type CA struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

// New makes a CA with an ECDSA P-256 key, valid from one hour ago for ten
// years. Two CAs trust nothing of each other.
func New(tb testing.TB) *CA {
	tb.Helper()
	key := newKey(tb)
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber:          newSerial(tb),
		Subject:               pkix.Name{CommonName: "skywarden test CA"},
		NotBefore:             now.Add(-time.Hour),
		NotAfter:              now.AddDate(10, 0, 0),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
	}
	cert := sign(tb, template, template, key, key)
	return &CA{cert: cert, key: key, pem: encode("CERTIFICATE", cert.Raw)}
}

// Request says what a certificate is for. The zero value is a certificate
// for nobody, valid from one hour ago for one day.
type Request struct {
	CommonName string   // what etcd takes as the user's name
	Hosts      []string // IP addresses and DNS names of a server

	NotBefore time.Time // zero: one hour ago
	NotAfter  time.Time // zero: in one day; in the past: an expired certificate

	Server bool // may be shown by a server
	Client bool // may be shown by a client
}

// Server issues a certificate for a server that is reached under hosts, each
// an IP address or a DNS name. It serves for client authentication as well,
// because an etcd server shows its own certificate when it dials itself.
func (ca *CA) Server(tb testing.TB, hosts ...string) Cert {
	tb.Helper()
	return ca.Issue(tb, Request{CommonName: "server", Hosts: hosts, Server: true, Client: true})
}

// Client issues a certificate for the client that commonName names.
func (ca *CA) Client(tb testing.TB, commonName string) Cert {
	tb.Helper()
	return ca.Issue(tb, Request{CommonName: commonName, Client: true})
}

// Issue issues a certificate as requested, with a key of its own.
func (ca *CA) Issue(tb testing.TB, r Request) Cert {
	tb.Helper()
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: newSerial(tb),
		Subject:      pkix.Name{CommonName: r.CommonName},
		NotBefore:    now.Add(-time.Hour),
		NotAfter:     now.Add(24 * time.Hour),
		KeyUsage:     x509.KeyUsageDigitalSignature,
	}
	if !r.NotBefore.IsZero() {
		template.NotBefore = r.NotBefore
	}
	if !r.NotAfter.IsZero() {
		template.NotAfter = r.NotAfter
	}
	for _, host := range r.Hosts {
		if ip := net.ParseIP(host); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, host)
		}
	}
	if r.Server {
		template.ExtKeyUsage = append(template.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
	}
	if r.Client {
		template.ExtKeyUsage = append(template.ExtKeyUsage, x509.ExtKeyUsageClientAuth)
	}
	key := newKey(tb)
	cert := sign(tb, template, ca.cert, key, ca.key)
	return Cert{Leaf: cert, Key: key}
}

// Pool returns a new pool that holds this CA's certificate alone.
func (ca *CA) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(ca.cert)
	return pool
}

// PEM returns this CA's certificate in PEM.
func (ca *CA) PEM() []byte { return append([]byte(nil), ca.pem...) }

// WriteFile writes this CA's certificate to dir/name.pem and returns that
// path.
func (ca *CA) WriteFile(tb testing.TB, dir, name string) string {
	tb.Helper()
	path := filepath.Join(dir, name+".pem")
	write(tb, path, ca.pem, 0o644)
	return path
}

// A Cert is a certificate with its private key.
type Cert struct {
	Leaf *x509.Certificate
	Key  *ecdsa.PrivateKey
}

// TLS returns the pair in the form that tls.Config takes.
func (c Cert) TLS() tls.Certificate {
	return tls.Certificate{Certificate: [][]byte{c.Leaf.Raw}, PrivateKey: c.Key, Leaf: c.Leaf}
}

// CertPEM returns the certificate in PEM.
func (c Cert) CertPEM() []byte { return encode("CERTIFICATE", c.Leaf.Raw) }

// KeyPEM returns the private key in PEM (PKCS #8).
func (c Cert) KeyPEM(tb testing.TB) []byte {
	tb.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(c.Key)
	if err != nil {
		tb.Fatalf("testca: encode key: %v", err)
	}
	return encode("PRIVATE KEY", der)
}

// WriteFiles writes dir/name.pem (mode 0644) and dir/name-key.pem (mode
// 0600), replacing what was there under these names, and returns the paths.
func (c Cert) WriteFiles(tb testing.TB, dir, name string) (certFile, keyFile string) {
	tb.Helper()
	certFile = filepath.Join(dir, name+".pem")
	keyFile = filepath.Join(dir, name+"-key.pem")
	write(tb, certFile, c.CertPEM(), 0o644)
	write(tb, keyFile, c.KeyPEM(tb), 0o600)
	return certFile, keyFile
}

func newKey(tb testing.TB) *ecdsa.PrivateKey {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatalf("testca: make key: %v", err)
	}
	return key
}

func newSerial(tb testing.TB) *big.Int {
	tb.Helper()
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		tb.Fatalf("testca: make serial number: %v", err)
	}
	return serial.Add(serial, big.NewInt(1))
}

func sign(tb testing.TB, template, parent *x509.Certificate, subject, signer *ecdsa.PrivateKey) *x509.Certificate {
	tb.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &subject.PublicKey, signer)
	if err != nil {
		tb.Fatalf("testca: sign certificate: %v", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		tb.Fatalf("testca: parse certificate: %v", err)
	}
	return cert
}

func encode(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

// write replaces a file whole, so that a reader which reloads certificates
// never sees half of one.
func write(tb testing.TB, path string, data []byte, mode os.FileMode) {
	tb.Helper()
	temporary := path + ".new"
	if err := os.WriteFile(temporary, data, mode); err != nil {
		tb.Fatalf("testca: %v", err)
	}
	if err := os.Rename(temporary, path); err != nil {
		tb.Fatalf("testca: %v", err)
	}
}
