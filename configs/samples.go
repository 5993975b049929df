package configs

import _ "embed"

// The sample files.
var (
	// MemorySample is memory.yaml: a node on the built-in name server.
	//go:embed memory.yaml
	MemorySample string

	// EtcdSample is etcd.yaml: a node on etcd, with every key that there is.
	//go:embed etcd.yaml
	EtcdSample string

	// EtcdRoles is etcd-roles.txt: what EtcdSample needs on the server, as Render
	// gives it: arguments of etcdctl, one command in each line. Lines that begin with
	// # are comments.
	//go:embed etcd-roles.txt
	EtcdRoles string

	// ConsulSample is consul.yaml: a node on Consul, with every key that there is.
	//go:embed consul.yaml
	ConsulSample string

	// ConsulPolicies is consul-acl.hcl: the ACL policies that ConsulSample needs, in
	// HCL. Each begins with a line "# policy NAME".
	//go:embed consul-acl.hcl
	ConsulPolicies string
)
