// Package consul is the driver for Consul: a naming.Backend on the KV store of
// servers whose ACLs say who may take which name. It is for names only: it never
// asks the catalog who is who, needs no /v1/txn, and administers nothing, but for
// OpenAdmin.
//
//	b, err := consul.Open(ctx, consul.Config{
//		Addresses: []string{"https://10.0.0.1:8501", "https://10.0.0.2:8501", "https://10.0.0.3:8501"},
//		TLS:       consul.TLS{CAFile: "ca.pem"},
//		Principal: "game",
//		TokenFile: "game.token",
//	})
//
// # What it needs on the server
//
// ACLs that deny by default, and HTTPS:
//
//	acl         { enabled = true, default_policy = "deny" }    # on agents too, if you go through them
//	http_config { block_endpoints = ["/v1/txn"] }              # see below
//	tls { https { … }, internal_rpc { … } }                    # with different CAs
//
// The name game.lobby is the key skywarden/names/game/lobby, and the family game.
// is the prefix skywarden/names/game/. A principal is a token with one policy, and
// a node of the catalog that is its alone:
//
//	key_prefix "skywarden/names/"      { policy = "read" }
//	key_prefix "skywarden/names/game/" { policy = "write" }    # a family; for one name: key "…/billing"
//	session    "skywarden-game"        { policy = "write" }    # the node
//
// Rights on sessions go by the node's name: two tokens that share a node can end
// each other's sessions, so never session_prefix "", and never node rights. A
// prefix always ends in a slash, or the owner of bank owns bank2 too. OpenAdmin,
// Render and the command skywarden provision make all of that.
//
// Open /v1/txn does not endanger names, but lets any token with rights on one
// service overwrite others (1.20.1); nothing here needs it.
//
// # What it promises
//
// All of package naming, with these figures (TTL 10 s, the default; 3 s is the
// least, where session_ttl_min allows it):
//
//   - a dead owner's name is free 2·TTL after its last renewal, which is Consul's
//     own rule, + 1 s; where the leader was lost in between within 4·TTL + 5 s. A
//     name that is released, and that of a process that is started again at its
//     place, is free at once. The owner itself stops after TTL;
//   - an outage is known within 1 s by Get, within 3 s by a claim that reached no
//     server, within 10 s by a watch, also where a server or the leader hangs;
//   - after an outage it works again within 2 s; a lease outlives an outage that is
//     shorter than what is left of it;
//   - a claim is one write (?acquire). Later writes name the index that this lease
//     wrote (?cas). A claim over somebody else's entry is two: it is deleted by its
//     index, and then acquired, and whoever comes between has it;
//   - a deleted token, or one that lost a right, is refused at once for writes; its
//     lease ends within TTL, its names are free within 2·TTL, and watches end within
//     60 s. A token that is replaced (TokenFile, TokenFunc) renews the session of
//     the one before it, also when that is gone;
//   - each watch of a name is one query that waits, over HTTP/2: what a change costs
//     does not depend on how many other names there are. A watch of a family or of
//     all names costs the whole prefix at each change: it is for listings.
//
// What the restore of a snapshot does: watches list again, and owners that are not
// in it claim again. A released name that it gives back belongs to the lease that
// had it, if that still lives, until that ends.
//
// That a lock is held proves nothing to anybody: whoever may write the key may
// write over a locked value. Entries are storage.
//
// # Errors
//
// Beside those of package naming: a server whose certificate does not verify is
// ErrUnavailable with the reason in its text, because the server that is meant
// cannot be reached; Open gives it at once. A server that refuses our certificate,
// or does not know our token, is ErrUnauthenticated. One that allows by default is
// ErrInsecureConfig, at every call. An answer that is none of Consul is
// ErrUnavailable, and never "not found".
//
// The SDK reads CONSUL_NAMESPACE and CONSUL_PARTITION from the environment, which
// only Consul Enterprise knows; tokens, addresses and TLS of the environment are
// not used.
package consul
