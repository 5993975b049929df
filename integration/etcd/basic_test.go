package etcd_test

import (
	"testing"
	"time"

	"github.com/seed-6593ebad/skywarden/naming"
)

func TestClaimAndFind(t *testing.T) {
	server := start(t)
	alice, bob := openAs(t, server, "alice"), openAs(t, server, "bob")
	if who, err := alice.WhoAmI(t.Context()); err != nil || who != "alice" {
		t.Errorf("WhoAmI: %q, %v", who, err)
	}
	seen := record(t, bob, "")
	seen.Wait("synced", 1, 5*time.Second)
	l := lease(t, alice)
	rev := claim(t, l, "a.lobby", "here")
	got, err := bob.Get(t.Context(), name(t, "a.lobby"))
	if err != nil || got.Revision != rev || string(got.Value) != "here" || !got.Held {
		t.Errorf("Get: %+v, %v", got, err)
	}
	seen.Wait("put a.lobby=here held=true", 1, time.Second)
	_, err = lease(t, bob).Claim(t.Context(), name(t, "a.lobby"), nil, 0)
	mustBe(t, err, naming.ErrDenied)
	if err := l.Release(t.Context(), name(t, "a.lobby")); err != nil {
		t.Error(err)
	}
	seen.Wait("delete a.lobby", 1, time.Second)
	seen.Wait("alive", 3, 12*time.Second)
	_, err = bob.Get(t.Context(), name(t, "a.lobby"))
	mustBe(t, err, naming.ErrNotFound)
	if err := l.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if err := alice.Close(); err != nil {
		t.Error(err)
	}
}
