package etcd

import (
	"errors"
	"testing"

	"github.com/seed-6593ebad/skywarden/naming"
)

func TestCheckVersion(t *testing.T) {
	for version, safe := range map[string]bool{
		"3.4.40": false, "3.5.32": false, "3.5.33": true, "3.5.34": true,
		"3.6.0": false, "3.6.5": false, "3.6.13": false, "3.6.14": true, "3.6.16": true,
		"3.7.0": false, "3.7.1": true, "3.7.3": true, "3.8.0": true, "4.0.0": true, "2.3.8": false,
		"3.7.1-rc.0": false, "3.7.2-rc.0": true, "3.8.0-alpha.0": true,
		"": false, "3.7": false, "latest": false, "v3.7.3": false, "3.7.3.1": false, "99999999999999999999.0.0": false, "-1.0.0": false,
	} {
		err := checkVersion(version)
		if (err == nil) != safe {
			t.Errorf("%q: %v, want safe = %v", version, err, safe)
		}
		if err != nil && !errors.Is(err, naming.ErrInsecureBackendVersion) {
			t.Errorf("%q: %v is not %v", version, err, naming.ErrInsecureBackendVersion)
		}
	}
}

func FuzzCheckVersion(f *testing.F) {
	for _, seed := range []string{"3.7.3", "3.6.5", "", "3..", "3.7.3-x+y", "\x00"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, version string) {
		if err := checkVersion(version); err != nil && !errors.Is(err, naming.ErrInsecureBackendVersion) {
			t.Errorf("%q: %v", version, err)
		}
	})
}
