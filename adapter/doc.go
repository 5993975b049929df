// Package adapter is the bridge between the runtime and a naming backend. It
// implements runtime.Registry: every naming call of every service goes through
// the pipeline in pipeline.go, in one order that no configuration changes:
// grammar, allow-list, claim or look-up, log and observers.
//
// Behind the pipeline stand the keeper, which holds leases, renews claims,
// stops serving in time and claims again, and the mirror, from which look-ups
// are answered without asking the backend.
//
// It knows the contract of package naming and no particular backend.
package adapter
