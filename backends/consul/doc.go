// Package consul is the driver for Consul: a naming.Backend on the KV store of
// servers whose ACLs say who may take which name.
package consul
