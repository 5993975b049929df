package consul_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/rs/zerolog"

	"github.com/seed-6593ebad/skywarden/backends/consul"
	"github.com/seed-6593ebad/skywarden/naming"
)

// What is wrong with a configuration is said at once and all together.
func ExampleOpen() {
	_, err := consul.Open(context.Background(), consul.Config{
		Addresses: []string{"http://10.0.0.1:8500"},
		TLS:       consul.TLS{CAFile: "ca.pem"},
		Principal: "game",
		Root:      "/names",
	})
	fmt.Println(err)
	fmt.Println(errors.Is(err, naming.ErrInsecureConfig))
	// Output:
	// consul: root "/names" is not like skywarden or prod/skywarden: letters, digits, "_" and "-" between slashes, and none at the ends
	// no token: insecure configuration: give TokenFile, Token or TokenFunc: what we may do is said by it
	// endpoint "http://10.0.0.1:8500": insecure configuration: without TLS everybody on the way reads and changes what is said: use https
	// TLS is given for Addresses that do not use it: make them https
	// true
}

// A process claims a name and holds it until it ends.
func Example() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	backend, err := consul.Open(ctx, consul.Config{
		Addresses: []string{"https://10.0.0.1:8501", "https://10.0.0.2:8501", "https://10.0.0.3:8501"},
		TLS:       consul.TLS{CAFile: "ca.pem"},
		Principal: "game",
		TokenFile: "token", // followed when it changes
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
		fmt.Println(err) // for example "consul: lease: permission denied: the node of the principal is not registered …"
		return
	}
	if _, err := lease.Claim(ctx, lobby, []byte("10.0.0.5:7000"), 0); err != nil {
		fmt.Println(err) // for example "consul: claim game.lobby: permission denied: …"
		return
	}
	<-lease.Done() // gone: whoever holds the name now, it is not this process
}
