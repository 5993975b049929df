package driver

import (
	"crypto/tls"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/seed-6593ebad/skywarden/naming"
)

func TestEndpoints(t *testing.T) {
	for _, c := range []struct {
		urls     string
		plainOK  bool
		hosts    []string
		plain    bool
		problems []string
		insecure bool
	}{
		{urls: "https://10.0.0.1:8501 https://[fd00::1]:8501", hosts: []string{"10.0.0.1:8501", "[fd00::1]:8501"}},
		{urls: "http://a:1", plainOK: true, hosts: []string{"a:1"}, plain: true},
		{urls: "http://a:1", plain: true, problems: []string{"use https"}, insecure: true},
		{urls: "", problems: []string{"no Addresses: give at least one, such as X"}},
		{urls: "https://a:1 http://b:1", plainOK: true, plain: true, problems: []string{"some Addresses are http and some https"}},
		{urls: "https://a:1 https://a:1 https://a https://a:0 ftp://a:1 https://a:1/x a:1", problems: []string{
			`"https://a:1" is there twice`, `"https://a" has no port`, `"https://a:0" has no port`,
			`"ftp://a:1" is not https`, `"https://a:1/x" is not https`, `"a:1" is not https`,
		}},
	} {
		hosts, plain, err := Endpoints("Addresses", "X", strings.Fields(c.urls), c.plainOK)
		if plain != c.plain || (err == nil) != (len(c.problems) == 0) || errors.Is(err, naming.ErrInsecureConfig) != c.insecure {
			t.Errorf("%q: plain %v, error %v", c.urls, plain, err)
		}
		if err == nil && !slices.Equal(hosts, c.hosts) {
			t.Errorf("%q: hosts %q, want %q", c.urls, hosts, c.hosts)
		}
		for _, problem := range c.problems {
			if err == nil || !strings.Contains(err.Error(), problem) {
				t.Errorf("%q: the error %v does not say %q", c.urls, err, problem)
			}
		}
	}
}

func TestOwnTLS(t *testing.T) {
	own := &tls.Config{}
	got, err := OwnTLS(own)
	if err != nil || got.MinVersion != tls.VersionTLS13 || own.MinVersion != 0 {
		t.Errorf("got %v with version %x; the user's has %x", err, got.MinVersion, own.MinVersion)
	}
	if got, err = OwnTLS(&tls.Config{MinVersion: tls.VersionTLS12}); err != nil || got.MinVersion != tls.VersionTLS12 {
		t.Errorf("TLS 1.2 that was asked for: %v", err)
	}
	_, err = OwnTLS(&tls.Config{MinVersion: tls.VersionTLS11, InsecureSkipVerify: true})
	if !errors.Is(err, naming.ErrInsecureConfig) || !strings.Contains(err.Error(), "InsecureSkipVerify") || !strings.Contains(err.Error(), "MinVersion") {
		t.Errorf("got %v", err)
	}
}
