package memory_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/seed-6593ebad/skywarden/backends/memory"
	"github.com/seed-6593ebad/skywarden/naming"
)

// One server, two principals: each may claim its own names, and no other.
func ExampleServer_Grant() {
	ctx := context.Background()
	bank, _ := naming.ParseName("bank")

	var server memory.Server
	owner, err := server.Grant("bank", memory.Grant{Claim: []naming.Scope{naming.Only(bank)}})
	if err != nil {
		fmt.Println(err)
		return
	}
	other, err := server.Grant("web", memory.Grant{Read: []naming.Scope{naming.All()}})
	if err != nil {
		fmt.Println(err)
		return
	}

	for _, c := range []memory.Credential{other, owner} {
		backend := server.OpenAs(c)
		defer backend.Close()
		lease, err := backend.Lease(ctx, 0)
		if err != nil {
			fmt.Println(err)
			return
		}
		_, err = lease.Claim(ctx, bank, []byte("here"), 0)
		fmt.Println(naming.Code(err), errors.Is(err, naming.ErrDenied))
	}
	entry, err := server.OpenAs(other).Get(ctx, bank)
	fmt.Printf("%s %v %v\n", entry.Value, entry.Held, err)
	// Output:
	// denied true
	// ok false
	// here true <nil>
}
