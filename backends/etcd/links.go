package etcd

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

// hangsAfter is how long a server may leave calls unanswered, without a byte on
// its connection, before the connection is given up.
const hangsAfter = 1500 * time.Millisecond

// links cuts connections to servers that hang. gRPC goes on giving such a server
// its share of the calls, and watches, until its keepalive finds out after 13 s;
// a connection that is closed gets nothing until a new one stands, for which the
// server has to answer.
//
// Where there is but one server there is nothing better to go to, and calls alone
// cut nothing: after a short pause they and the watches just go on.
type links struct {
	several bool // there is more than one server

	mu     sync.Mutex
	byAddr map[string]*link
}

// A link is a connection that knows when it was last heard.
type link struct {
	net.Conn
	heard  atomic.Int64 // when a byte came, in nanoseconds since born
	silent atomic.Int64 // since when a call waits in vain; 0: none does
	born   time.Time
}

func (ls *links) add(conn net.Conn) net.Conn {
	l := &link{Conn: conn, born: time.Now()}
	ls.mu.Lock()
	defer ls.mu.Unlock()
	if ls.byAddr == nil {
		ls.byAddr = map[string]*link{}
	}
	ls.byAddr[conn.RemoteAddr().String()] = l // instead of the last one, which is closed
	return l
}

// Read implements net.Conn.
func (l *link) Read(b []byte) (int, error) {
	n, err := l.Conn.Read(b)
	if n > 0 {
		l.heard.Store(int64(time.Since(l.born)))
		l.silent.Store(0)
	}
	return n, err
}

// unanswered is told of a call to addr that began at begin and got no answer in
// time.
func (ls *links) unanswered(addr net.Addr, begin time.Time) {
	l := ls.to(addr)
	if l == nil || !ls.several {
		return
	}
	at := int64(begin.Sub(l.born))
	if at <= 0 || l.heard.Load() >= at {
		return // it is slow, but it speaks
	}
	l.silent.CompareAndSwap(0, at)
	if since := l.silent.Load(); since != 0 && time.Since(l.born)-time.Duration(since) >= hangsAfter {
		_ = l.Close() // gRPC notices and connects again
	}
}

// cut closes the connection to addr, on which a watch has heard nothing for
// longer than any server may be silent.
func (ls *links) cut(addr net.Addr) {
	if l := ls.to(addr); l != nil {
		_ = l.Close()
	}
}

func (ls *links) to(addr net.Addr) *link {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	return ls.byAddr[addr.String()]
}

// intercept watches unary calls.
func (ls *links) intercept(ctx context.Context, method string, req, reply any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	var server peer.Peer
	begin := time.Now()
	err := invoke(ctx, method, req, reply, conn, append(opts, grpc.Peer(&server))...)
	if status.Code(err) == codes.DeadlineExceeded && server.Addr != nil {
		ls.unanswered(server.Addr, begin)
	}
	return err
}
