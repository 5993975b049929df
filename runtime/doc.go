// Package runtime runs services as actors: each has one mailbox and handles one
// message at a time. A Node hosts services, gives them handles and names, and
// carries messages between them.
//
// It knows no backend. Cluster-wide names go through a Registry, which package
// adapter implements, and messages to other nodes through a Transport. Both are
// declared here, in the terms of package naming.
//
// Most programs use package skywarden, which wires this package to an adapter
// and a backend and re-exports what a user needs.
package runtime
