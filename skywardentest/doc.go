// Package skywardentest is for the tests of programs that use Skywarden: a
// cluster of nodes on the built-in name server, inside the test's own process,
// and levers that break it on purpose. It needs no Docker, no ports and no
// sleeps.
//
//	func TestFailover(t *testing.T) {
//		c := skywardentest.New(t, 2)
//		bank.Start(c.Node(0)) // the program under test registers "bank" …
//		bank.Start(c.Node(1)) // … and a standby
//		c.Kill(0)
//		c.AwaitOwner("bank", 1)
//		// ask it
//	}
//
// What each lever imitates, and which promises a test can check with it:
//
//	Expire, ExpireName  a lease that the server gave up                     S1, L2
//	Partition, Heal     one node cannot reach the name server               S4, S5, L2
//	Pause, Resume       the name server hangs                               S4, S5, L2, L5
//	Kill                a process dies and gives nothing up                 L1
//	Restart             a process is started again at the same place        L1
//	Server              tampering: Server().Levers().Put and Delete         S8
//
// The promises, in short: S1, a name has one owner. S4, an owner that may have
// lost its name stops answering before another can have it. S5, an outage is
// naming.ErrUnavailable or a stale answer, never naming.ErrNotFound. S8, names
// are defended against tampering. L1, a dead owner's name is free after its TTL,
// and at once for a process that is started again in its place. L2, names are
// registered again after an outage. L5, a node closes within 3 s.
//
// # Time
//
// Names live [TTL] long without their owner. Waiting for that takes no time
// inside a bubble of testing/synctest: a cluster opens no socket, so it runs
// there, if the program under test does. In a bubble synctest.Wait after a lever
// means that everything that follows from it at once has happened, and a sleep is
// the passing of time and not a guess. Elsewhere the Await methods wait for what
// is to come.
//
// # What it is not
//
// It does not test the name server: etcd and Consul are met by Skywarden's own
// tests. Messages between nodes are handed over within the process: they are not
// encoded, delayed or lost, and Partition does not stop them.
//
// There is no lever that stops one node as SIGSTOP does: goroutines of one
// process cannot be stopped apart from the others, and a node whose handlers run
// on would only look stopped. What such a node does once it goes on, it does after
// a Partition that lasted past its TTL as well: it refuses the first message to a
// name whose lease has run out.
package skywardentest
