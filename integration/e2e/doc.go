// Package e2e runs the skywarden program, as users do: real processes, the
// sample configuration, and a real etcd with access control and mutual TLS. Its
// tests kill, stop and cut off what they started. They need signals, so they run
// on Unix alone.
package e2e
