// Package driver holds what drivers of registries on other machines have in
// common, whatever their server speaks: the life of a Backend and its
// goroutines, leases whose writes go on after their callers have gone, and
// watches that tell each change once.
//
// It speaks to no server and knows no protocol. A driver gives a Life a Session
// for each lease, which sends, and a follow function for each watch, which
// listens.
package driver
