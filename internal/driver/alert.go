package driver

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"slices"

	"github.com/seed-6593ebad/skywarden/naming"
)

// IsRemoteAlert says whether err is an alert that the other side of a TLS
// connection sent.
func IsRemoteAlert(err error) bool {
	op, ok := errors.AsType[*net.OpError](err)
	return ok && op.Op == "remote error"
}

// RefusedCertificate gives what it means that err is an alert by which a server
// refuses a client's certificate, or that there is none: an error that wraps
// ErrUnauthenticated. It is nil for any other err. The type of alerts is not
// exported by crypto/tls; their texts are.
func RefusedCertificate(err error) error {
	op, ok := errors.AsType[*net.OpError](err)
	switch {
	case !ok || op.Op != "remote error" || !slices.Contains(certificateAlerts, op.Err.Error()):
		return nil
	case op.Err.Error() == certificateRequired:
		return fmt.Errorf("%w: the server demands a client certificate of everybody, and none is given: %w", naming.ErrUnauthenticated, err)
	}
	return fmt.Errorf("%w: the server does not accept the certificate: %w", naming.ErrUnauthenticated, err)
}

var certificateAlerts = []string{ // RFC 8446, section 6.2
	tls.AlertError(42).Error(), // bad_certificate
	tls.AlertError(43).Error(), // unsupported_certificate
	tls.AlertError(44).Error(), // certificate_revoked
	tls.AlertError(45).Error(), // certificate_expired
	tls.AlertError(46).Error(), // certificate_unknown
	tls.AlertError(48).Error(), // unknown_ca
	tls.AlertError(49).Error(), // access_denied
	certificateRequired,
}

var certificateRequired = tls.AlertError(116).Error()
