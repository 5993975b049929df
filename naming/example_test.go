package naming_test

import (
	"errors"
	"fmt"

	"github.com/seed-6593ebad/skywarden/naming"
)

func ExampleParseName() {
	for _, s := range []string{"Game.Lobby", ".logger", "game/lobby"} {
		name, err := naming.ParseName(s)
		fmt.Println(name, err)
	}
	// Output:
	// game.lobby <nil>
	//  invalid name: ".logger" begins with a dot: it is local to its node and has no place in a registry
	//  invalid name: "game/lobby" has "/" at byte 4: only ASCII letters, digits, "_", "-" and dots between labels
}

func ExampleScope_Contains() {
	family, _ := naming.ParseFamily("game.")
	for _, s := range []string{"game.lobby", "game.eu.lobby", "game", "games.x"} {
		name, _ := naming.ParseName(s)
		fmt.Println(name, family.Contains(name))
	}
	// Output:
	// game.lobby true
	// game.eu.lobby true
	// game false
	// games.x false
}

func ExampleParseAddress() {
	address, err := naming.ParseAddress("game-1@10.0.0.5:7000/42")
	fmt.Println(address.Node(), address.Endpoint(), address.Handle(), err)
	_, err = naming.ParseAddress("game-1@lobby.example:7000/42")
	fmt.Println(naming.Code(err))
	// Output:
	// game-1 10.0.0.5:7000 42 <nil>
	// address_not_allowed
}

// Sentinels are for decisions, Code is for logs and metrics.
func ExampleCode() {
	name, _ := naming.ParseName("bank")
	err := error(&naming.Error{Op: "claim", Name: name, Backend: "etcd", Err: naming.ErrDenied})
	fmt.Println(err)
	fmt.Println(naming.Code(err), errors.Is(err, naming.ErrDenied))
	// Output:
	// etcd: claim bank: permission denied
	// denied true
}
