package driver

import (
	"crypto/tls"
	"errors"
	"net"
	"slices"
)

// IsRemoteAlert says whether err is an alert that the other side of a TLS
// connection sent.
func IsRemoteAlert(err error) bool {
	op, ok := errors.AsType[*net.OpError](err)
	return ok && op.Op == "remote error"
}

// IsCertificateAlert says whether err is an alert by which a server refuses a
// client's certificate, or that there is none. The type of alerts is not
// exported by crypto/tls; their texts are.
func IsCertificateAlert(err error) bool {
	op, ok := errors.AsType[*net.OpError](err)
	return ok && op.Op == "remote error" && slices.Contains(certificateAlerts, op.Err.Error())
}

var certificateAlerts = []string{ // RFC 8446, section 6.2
	tls.AlertError(42).Error(),  // bad_certificate
	tls.AlertError(43).Error(),  // unsupported_certificate
	tls.AlertError(44).Error(),  // certificate_revoked
	tls.AlertError(45).Error(),  // certificate_expired
	tls.AlertError(46).Error(),  // certificate_unknown
	tls.AlertError(48).Error(),  // unknown_ca
	tls.AlertError(49).Error(),  // access_denied
	tls.AlertError(116).Error(), // certificate_required
}
