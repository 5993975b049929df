package etcd_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/rs/zerolog"

	"github.com/seed-6593ebad/skywarden/backends/etcd"
	"github.com/seed-6593ebad/skywarden/naming"
)

// What is wrong with a configuration is said at once and all together.
func ExampleOpen() {
	_, err := etcd.Open(context.Background(), etcd.Config{
		Endpoints: []string{"http://10.0.0.1:2379"},
		TLS:       etcd.TLS{CertFile: "game.pem", KeyFile: "game-key.pem", CAFile: "ca.pem"},
		Root:      "names",
	})
	fmt.Println(err)
	fmt.Println(errors.Is(err, naming.ErrInsecureConfig))
	// Output:
	// etcd: root "names" is not like /skywarden or /prod/skywarden: letters, digits, "_" and "-" between slashes
	// endpoint "http://10.0.0.1:2379": insecure configuration: without TLS everybody on the way reads and changes what is said: use https
	// TLS is given for Endpoints that do not use it: make them https
	// true
}

// A process claims a name and holds it until it ends.
func Example() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	backend, err := etcd.Open(ctx, etcd.Config{
		Endpoints: []string{"https://10.0.0.1:2379", "https://10.0.0.2:2379", "https://10.0.0.3:2379"},
		TLS:       etcd.TLS{CertFile: "game.pem", KeyFile: "game-key.pem", CAFile: "ca.pem"},
		Logger:    zerolog.New(os.Stderr),
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer backend.Close()
	lobby, err := naming.ParseName("game.lobby")
	if err != nil {
		fmt.Println(err)
		return
	}
	lease, err := backend.Lease(ctx, 0)
	if err != nil {
		fmt.Println(err)
		return
	}
	if _, err := lease.Claim(ctx, lobby, []byte("10.0.0.5:7000"), 0); err != nil {
		fmt.Println(err) // for example "etcd: claim game.lobby: permission denied: …"
		return
	}
	<-lease.Done() // gone: whoever holds the name now, it is not this process
}
