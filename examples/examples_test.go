// Package examples_test runs the programs below this directory.
package examples_test

import (
	"os/exec"
	"testing"
)

func TestExamples(t *testing.T) {
	for program, want := range map[string]string{
		"hello":    "balance: 5\nbalance: 15\n",
		"standby":  "hello you, I am on first\nhello you, I am on second\n",
		"observer": "register ok 1\nregister taken 1\nrelease ok 1\n",
		"slog": "level=INFO msg=naming event=register result=ok name=bank principal=local\n" +
			"level=WARN msg=naming event=register result=taken name=bank principal=local holder=game-1\n" +
			"level=INFO msg=naming event=release result=ok name=bank principal=local\n",
	} {
		t.Run(program, func(t *testing.T) {
			t.Parallel()
			got, err := exec.CommandContext(t.Context(), "go", "run", "./"+program).CombinedOutput()
			if err != nil || string(got) != want {
				t.Errorf("%v, and printed\n%s\nwant\n%s", err, got, want)
			}
		})
	}
}
