package etcd

import (
	"fmt"

	"github.com/coreos/go-semver/semver"

	"github.com/seed-6593ebad/skywarden/naming"
)

// safeSince has, for each minor release with known holes, the first patch
// without them. What is older than all of them has the holes too; what is newer
// has none that are known.
var safeSince = []semver.Version{
	{Major: 3, Minor: 5, Patch: 33},
	{Major: 3, Minor: 6, Patch: 14},
	{Major: 3, Minor: 7, Patch: 1},
}

// holes is what older servers let everybody with a credential do (all
// reproduced on 3.6.5):
//
//   - CVE-2026-33343: a nested transaction reads, writes and deletes keys of
//     others;
//   - CVE-2026-33413: anyone compacts the history, or raises the NOSPACE alarm;
//   - a transaction attaches keys to leases of others and reads previous values;
//   - GHSA-xg4h-6gfc-h4m8: a watch whose range ends in a zero byte gets all
//     later keys.
const holes = "CVE-2026-33343, CVE-2026-33413, GHSA-xg4h-6gfc-h4m8"

// checkVersion says whether a server of this version keeps its access control.
// The error wraps ErrInsecureBackendVersion; it does too where the version
// cannot be read, because then nothing is known.
func checkVersion(version string) error {
	v, err := semver.NewVersion(version)
	if err != nil {
		return fmt.Errorf("%w: the server's version %q cannot be read", naming.ErrInsecureBackendVersion, version)
	}
	for _, safe := range safeSince {
		if v.Major == safe.Major && v.Minor == safe.Minor {
			if v.LessThan(safe) {
				return tooOld(version)
			}
			return nil
		}
	}
	if v.LessThan(safeSince[len(safeSince)-1]) {
		return tooOld(version)
	}
	return nil
}

// errNoVersion is about a server that tells its version to root alone. The
// releases of safeSince tell it to every user (read in the source of 3.5.33,
// 3.6.14, 3.7.1), older ones do not (3.6.5).
var errNoVersion = fmt.Errorf("%w: the server does not tell its version to users, so it is an old one with known holes that defeat its access control (%s): upgrade it to 3.5.33, 3.6.14, 3.7.1 or later", naming.ErrInsecureBackendVersion, holes)

func tooOld(version string) error {
	return fmt.Errorf("%w: etcd %s has known holes that defeat its access control (%s): upgrade it to 3.5.33, 3.6.14, 3.7.1 or later", naming.ErrInsecureBackendVersion, version, holes)
}
