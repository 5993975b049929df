// Package naming is the contract between the parts of Skywarden: what a name,
// an address and an entry are, what a backend must do, and which errors there
// are. It imports the standard library only and talks to no server.
//
// A backend stores opaque bytes under names and says who holds them. It never
// looks into those bytes: what they mean is the business of the adapter. The
// number of methods here is a budget, because everybody who writes a backend
// pays for each: Backend has four, Lease has six. Package backendtest checks a
// backend against every sentence of this package.
package naming
