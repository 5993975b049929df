package etcd

import (
	"net"
	"testing"
	"testing/synctest"
	"time"
)

// wire is one end of a pipe with an address.
type wire struct {
	net.Conn
	closed bool
}

type address string

func (address) Network() string  { return "tcp" }
func (a address) String() string { return string(a) }

func (*wire) RemoteAddr() net.Addr { return address("10.0.0.1:2379") }

func (w *wire) Close() error {
	w.closed = true
	return w.Conn.Close()
}

func TestLinks(t *testing.T) {
	// What happens on a connection; each step takes its time, then a call of 500 ms
	// is not answered in time.
	type step struct {
		after time.Duration
		heard bool // a byte comes while the call waits
	}
	for _, test := range []struct {
		name    string
		several bool
		steps   []step
		want    bool // the connection is closed
	}{
		{"silent for three calls", true, []step{{0, false}, {0, false}, {0, false}}, true},
		{"silent for two calls", true, []step{{0, false}, {0, false}}, false},
		{"slow, but it speaks", true, []step{{0, true}, {0, true}, {0, true}, {0, true}, {0, true}}, false},
		{"silent again after it spoke", true, []step{{0, false}, {0, false}, {0, true}, {0, false}, {0, false}}, false},
		{"idle before one slow call", true, []step{{time.Hour, false}}, false},
		{"the only server", false, []step{{0, false}, {0, false}, {0, false}, {0, false}}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ls := &links{several: test.several}
				near, far := net.Pipe()
				defer far.Close()
				w := &wire{Conn: near}
				conn := ls.add(w)
				defer near.Close()
				<-time.After(time.Second) // its connection was not made this moment
				for _, s := range test.steps {
					<-time.After(s.after)
					begin := time.Now()
					<-time.After(250 * time.Millisecond)
					if s.heard {
						go func() { _, _ = far.Write([]byte{1}) }()
						if _, err := conn.Read(make([]byte, 1)); err != nil {
							t.Fatal(err)
						}
					}
					<-time.After(250 * time.Millisecond)
					ls.unanswered(w.RemoteAddr(), begin)
				}
				if w.closed != test.want {
					t.Errorf("closed: %v, want %v", w.closed, test.want)
				}
				ls.cut(w.RemoteAddr())
				if !w.closed {
					t.Error("cut does not close")
				}
			})
		})
	}
}
