package configs

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rs/zerolog"
)

// loadEtcdSample reads the sample with certificates beside it.
func loadEtcdSample(t *testing.T) *Config {
	t.Helper()
	dir := t.TempDir()
	writeTLSFiles(t, dir, "game")
	c, err := parse(filepath.Join(dir, "etcd.yaml"), []byte(EtcdSample), []string{"echo"})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// The roles of the sample are what its allow-list asks for. With -update they are
// written anew.
func TestEtcdRolesAreRendered(t *testing.T) {
	c := loadEtcdSample(t)
	grants, err := c.Grants()
	if err != nil {
		t.Fatal(err)
	}
	files, err := Render(c.Driver(), c.Root(), grants)
	if err != nil {
		t.Fatal(err)
	}
	if len(files) != 1 || files[0].Name != "etcd-roles.txt" {
		t.Fatalf("got %v", files)
	}
	if *update {
		if err := os.WriteFile(files[0].Name, files[0].Content, 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(EtcdRoles, string(files[0].Content)); diff != "" {
		t.Errorf("(-file +rendered; go test ./configs -run TestEtcdRoles -update):\n%s", diff)
	}
	// In a root of the file's own.
	if files, err = Render("etcd", "/prod", grants); err != nil || !bytes.Contains(files[0].Content, []byte(" /prod/names/billing\n")) {
		t.Errorf("got %v, %v", files, err)
	}
}

func TestGrants(t *testing.T) {
	c := loadEtcdSample(t)
	grants, err := c.Grants("dashboard")
	if err != nil {
		t.Fatal(err)
	}
	var principals []string
	for _, g := range grants {
		principals = append(principals, g.Principal)
	}
	if diff := cmp.Diff([]string{"billing", "dashboard", "game"}, principals); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if _, err := c.Grants("", " x"); err == nil || strings.Count(err.Error(), "is no principal") != 2 {
		t.Errorf("two bad readers: %v", err)
	}
	if _, err := (&Config{file: "f.yaml"}).Grants(); err == nil || !strings.Contains(err.Error(), "f.yaml: it has no allow-list") {
		t.Errorf("without an allow-list: %v", err)
	}
}

func TestOpenAdmin(t *testing.T) {
	c := loadEtcdSample(t)
	if _, err := c.OpenAdmin(t.Context(), Admin{CertFile: "root.pem"}); err == nil || !strings.Contains(err.Error(), "together") {
		t.Errorf("a certificate without key: %v", err)
	}
	if _, err := c.OpenAdmin(t.Context(), Admin{User: "root"}); err == nil || !strings.Contains(err.Error(), "together") {
		t.Errorf("a user without password: %v", err)
	}
	if _, err := c.OpenAdmin(t.Context(), Admin{CertFile: "c", KeyFile: "k", User: "root", PasswordFile: "p"}); err == nil || !strings.Contains(err.Error(), "give one") {
		t.Errorf("a certificate and a password: %v", err)
	}
	if _, err := c.OpenAdmin(t.Context(), Admin{User: "root", PasswordFile: "nowhere"}); err == nil || strings.Contains(err.Error(), "certificate") || !strings.Contains(err.Error(), "nowhere") {
		t.Errorf("a password instead of the file's certificate: %v", err)
	}
	_, err := c.OpenAdmin(t.Context(), Admin{CertFile: "root.pem", KeyFile: "root-key.pem"})
	if !errors.Is(err, os.ErrNotExist) && (err == nil || !strings.Contains(err.Error(), `"root.pem" cannot be opened`)) {
		t.Errorf("a certificate that is not there: %v", err)
	}
	// It works once the server is there.
	c.Etcd.Endpoints = []string{"https://127.0.0.1:1"}
	admin, err := c.OpenAdmin(t.Context(), Admin{Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	if err := admin.Close(); err != nil {
		t.Error(err)
	}
	if _, err := (&Config{Memory: &Memory{}}).OpenAdmin(t.Context(), Admin{}); err == nil {
		t.Error("the memory backend has an administrator")
	}
}
