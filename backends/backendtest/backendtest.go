// Package backendtest checks a naming.Backend against the contract in package
// naming: values and error kinds, with a healthy server and with a broken one.
// It is for the tests of drivers; write a Harness for yours and call Run:
//
//	func TestConformance(t *testing.T) {
//		backendtest.Run(t, backendtest.Harness{Open: …, TTL: 5 * time.Second, …})
//	}
//
// It also has Faulty, which wraps any Backend and injects faults, for the tests
// of everything that uses backends. Nothing here belongs into a running program.
package backendtest
