// Package etcd is the driver for etcd: a naming.Backend on a cluster whose
// access control says who may take which name. It is for names only: it stores
// nothing else, and keeps no configuration. What its administrator has to do on
// the server is done by an Admin, or written into files by Render; a Backend
// changes nothing of it.
//
//	b, err := etcd.Open(ctx, etcd.Config{
//		Endpoints: []string{"https://10.0.0.1:2379", "https://10.0.0.2:2379", "https://10.0.0.3:2379"},
//		TLS:       etcd.TLS{CertFile: "game.pem", KeyFile: "game-key.pem", CAFile: "ca.pem"},
//	})
//
// # What it needs on the server
//
// Version 3.5.33, 3.6.14 or 3.7.1 at least: older ones have holes by which any
// user defeats the access control. The driver refuses them, at every connection.
// Flags:
//
//	--client-cert-auth --trusted-ca-file=… --cert-file=… --key-file=…
//	--enable-grpc-gateway=false      (it knows no client certificates)
//	--listen-metrics-urls=…          (elsewhere than for clients)
//
// and access control that is on. The name game.lobby is the key
// /skywarden/names/game/lobby, and the family game. is the prefix
// /skywarden/names/game/. A principal is an etcd user without a password, known by
// the common name of its client certificate:
//
//	etcdctl role add skywarden:game
//	etcdctl role grant-permission skywarden:game readwrite /skywarden/names/game/ --prefix=true
//	etcdctl role grant-permission skywarden:game read /skywarden/names/ --prefix=true
//	etcdctl user add game --no-password
//	etcdctl user grant-role game skywarden:game
//	etcdctl auth enable
//
// Where there are no client certificates: see Passwords.
//
// A prefix always ends in a slash, or the owner of bank owns bank2 too. To write
// without the right to read is of no use: a claim has to look whether the name is
// free. A process that looks nothing up needs no more than that.
//
// # Passwords
//
// Config.User with a password is for those who have no client certificates:
//
//	etcd.Config{
//		Endpoints:    []string{"https://10.0.0.1:2379"},
//		TLS:          etcd.TLS{CAFile: "ca.pem"},
//		User:         "game",
//		PasswordFile: "game-password",
//	}
//
// The server runs without --client-cert-auth and --trusted-ca-file, which demand a
// certificate of everybody, and without --no-password for the user. A server is
// verified by TLS before anything is said to it, and the password is not said to
// one whose access control is off. Whether its version is safe it tells only to
// users: it learns the password, or rather the token, before it is examined, and
// nothing else.
//
// Certificates are better, because
//
//   - a login costs the server some 80 ms of a core (bcrypt). The driver logs in
//     once and again when the server refuses the token, one login at a time, and
//     after failures later and later. But a server that restarts has forgotten the
//     tokens of all clients: with 60 of them a core is busy for a TTL of 5 s, and
//     leases are lost. Give such clients certificates, or longer TTLs;
//   - whoever reads the password somewhere is the user, from everywhere, until it
//     is changed: a certificate expires;
//   - with --auth-token=jwt each change of any user or role makes all tokens void.
//
// A password that was changed on the server, or a user that was deleted, refuses
// writes at once (ErrUnauthenticated), ends leases within their TTL and watches
// within 60 s. To change a password without that, write it into the file first,
// and tell the server within the TTL. The driver looks at the file at each login.
//
// # What it promises
//
// All of package naming, with these figures (TTL 5 s, the default):
//
//   - a dead owner's name is free within TTL + 1 s, where the server's leader was
//     lost in between within 2·TTL + 4 s;
//   - an outage is known within 1 s by Get, within 3 s by a claim that reached no
//     server; a server that hangs within 10 s by a watch;
//   - after an outage it works again within 2 s; a lease outlives an outage that is
//     shorter than what is left of it;
//   - a claim is one transaction, and every later write of the entry demands that
//     the lease on it is ours;
//   - a permission that was taken away refuses writes at once, ends leases within
//     their TTL, and watches within 60 s.
//
// Concurrent claims are not merged into one transaction: each is one of its own.
//
// # Errors
//
// Beside those of package naming: a server whose certificate does not verify (an
// unknown authority, another host, expired) is ErrUnavailable with the reason in
// its text, because the server that is meant cannot be reached; Open gives it at
// once. A server that refuses our certificate is ErrUnauthenticated, and so is,
// in Open and WhoAmI, a user that the server does not know; afterwards etcd
// answers for such a user what it answers for one without rights: ErrDenied. With
// passwords a user or a password that the server does not accept is always
// ErrUnauthenticated; a claim says so after 3 s, because until then a new password
// may turn up in the file.
package etcd
