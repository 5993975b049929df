package secretfile

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/seed-6593ebad/skywarden/naming"
)

const canary = "hunter2"

func write(t *testing.T, path, content string, mode os.FileMode) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil { // which the umask does not touch
		t.Fatal(err)
	}
}

func TestOpen(t *testing.T) {
	for content, want := range map[string]string{
		canary:                                  canary,
		canary + "\n":                           canary,
		canary + "\r\n\n":                       canary,
		canary + " ":                            canary + " ",
		"pässword":                              "pässword",
		strings.Repeat("x", maxSecret):          strings.Repeat("x", maxSecret),
		strings.Repeat("x", maxSecret-1) + "\n": strings.Repeat("x", maxSecret-1),
	} {
		path := filepath.Join(t.TempDir(), "secret")
		write(t, path, content, 0o400)
		source, err := Open("password", path, nil)
		if err != nil {
			t.Errorf("%q: %v", content, err)
			continue
		}
		if got := Reveal(source.Get()); got != want {
			t.Errorf("%q gives %q, want %q", content, got, want)
		}
	}
}

func TestOpenErrors(t *testing.T) {
	for _, test := range []struct {
		what     string
		content  string
		mode     os.FileMode
		path     func(string) string // instead of the file's
		want     string
		insecure bool
		unixOnly bool
	}{
		{what: "empty", mode: 0o600, want: `password "DIR/secret" is empty`},
		{what: "line breaks alone", content: "\n\r\n", mode: 0o600, want: `password "DIR/secret" is empty`},
		{what: "two lines", content: canary + "\nsecond", mode: 0o600, want: `password "DIR/secret" has several lines or control characters: store the password alone in it`},
		{what: "a zero byte", content: canary + "\x00", mode: 0o600, want: `password "DIR/secret" has several lines or control characters: store the password alone in it`},
		{what: "no text", content: canary + "\xff", mode: 0o600, want: `password "DIR/secret" is not text in UTF-8`},
		{what: "too large", content: strings.Repeat(canary, maxSecret), mode: 0o600, want: `password "DIR/secret" is larger than 4096 bytes`},
		{what: "the group reads", content: canary, mode: 0o640, want: `password "DIR/secret" has mode 0640, nobody but its owner may have access to it: chmod go-rwx: ` + naming.ErrInsecureConfig.Error(), insecure: true, unixOnly: true},
		{what: "everybody reads", content: canary, mode: 0o604, want: `password "DIR/secret" has mode 0604, nobody but its owner may have access to it: chmod go-rwx: ` + naming.ErrInsecureConfig.Error(), insecure: true, unixOnly: true},
		{what: "a link to what everybody reads", content: canary, mode: 0o644, path: link, want: `password "DIR/secret.link" has mode 0644, nobody but its owner may have access to it: chmod go-rwx: ` + naming.ErrInsecureConfig.Error(), insecure: true, unixOnly: true},
		{what: "a directory", mode: 0o600, path: filepath.Dir, want: `password "DIR" is not a regular file: ` + naming.ErrInsecureConfig.Error(), insecure: true, unixOnly: true},
		{what: "nothing there", mode: 0o600, path: func(p string) string { return p + "-2" }, want: `password "DIR/secret-2" cannot be opened: no such file or directory`, unixOnly: true},
		{what: "no path", mode: 0o600, path: func(string) string { return "" }, want: "password: no file is given"},
		{what: "the secret for a path", mode: 0o600, path: func(string) string { return canary + "\n" }, want: "password: the name of the file has a line break: give the path of a file, not what is in it"},
	} {
		t.Run(test.what, func(t *testing.T) {
			if test.unixOnly && runtime.GOOS == "windows" {
				return // which has other modes and messages
			}
			dir := t.TempDir()
			path := filepath.Join(dir, "secret")
			write(t, path, test.content, test.mode)
			if test.path != nil {
				path = test.path(path)
			}
			_, err := Open("password", path, nil)
			got := strings.ReplaceAll(fmt.Sprint(err), dir, "DIR")
			if got != test.want {
				t.Errorf("error %s\nwant  %s", got, test.want)
			}
			if errors.Is(err, naming.ErrInsecureConfig) != test.insecure {
				t.Errorf("ErrInsecureConfig: %v, want %v", !test.insecure, test.insecure)
			}
			if strings.Contains(got, canary) {
				t.Error("the error repeats the secret")
			}
		})
	}
}

// link gives a link to path.
func link(path string) string {
	_ = os.Symlink(path, path+".link") // if it cannot be made, opening it fails
	return path + ".link"
}

// As Kubernetes mounts a secret: the file is a link through a directory that is
// a link, which is exchanged.
func TestGetFollowsLinks(t *testing.T) {
	if runtime.GOOS == "windows" {
		return // where links need a privilege
	}
	dir := t.TempDir()
	mount := func(version, content string) {
		t.Helper()
		if err := os.Mkdir(filepath.Join(dir, version), 0o700); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, version, "password"), content, 0o400)
		if err := os.Symlink(version, filepath.Join(dir, "next")); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(dir, "next"), filepath.Join(dir, "..data")); err != nil {
			t.Fatal(err)
		}
	}
	mount("..1", "first")
	if err := os.Symlink("..data/password", filepath.Join(dir, "password")); err != nil {
		t.Fatal(err)
	}
	source, err := Open("password", filepath.Join(dir, "password"), nil)
	if err != nil {
		t.Fatal(err)
	}
	mount("..2", "other")
	if got := Reveal(source.Get()); got != "other" {
		t.Errorf("after the exchange: %q, want %q", got, "other")
	}
}

func TestGet(t *testing.T) {
	path := filepath.Join(t.TempDir(), "secret")
	long := time.Now().Add(-time.Hour)
	set := func(content string, mode os.FileMode, when time.Time) {
		t.Helper()
		write(t, path, content, mode)
		if err := os.Chtimes(path, when, when); err != nil {
			t.Fatal(err)
		}
	}
	set("first", 0o600, long)
	var reports []string
	source, err := Open("token", path, func(err error) {
		reports = append(reports, strings.ReplaceAll(fmt.Sprint(err), filepath.Dir(path), "DIR"))
	})
	if err != nil {
		t.Fatal(err)
	}
	first := source.Get()
	mustBe := func(want string) Secret {
		t.Helper()
		got := source.Get()
		if Reveal(got) != want {
			t.Fatalf("got %q, want %q", Reveal(got), want)
		}
		return got
	}
	if mustBe("first") != first {
		t.Error("the same file gives unequal secrets")
	}
	set("first\n", 0o600, long.Add(time.Minute))
	if mustBe("first") != first {
		t.Error("the same content gives unequal secrets")
	}
	set("other", 0o600, long.Add(2*time.Minute))
	if mustBe("other") == first {
		t.Error("another content gives equal secrets")
	}

	// What cannot be used changes nothing, and is reported once.
	set("", 0o600, long.Add(3*time.Minute))
	mustBe("other")
	mustBe("other")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	mustBe("other")
	set("third", 0o600, long.Add(4*time.Minute))
	mustBe("third")
	mustBe("third")
	if runtime.GOOS != "windows" {
		want := []string{`token "DIR/secret" is empty`, `token "DIR/secret" cannot be opened: no such file or directory`, "<nil>"}
		if diff := cmp.Diff(want, reports); diff != "" {
			t.Errorf("reports (-want +got):\n%s", diff)
		}
	}

	// Two writings within one step of the file system's clock.
	now := time.Now()
	set("four1", 0o600, now)
	mustBe("four1")
	set("four2", 0o600, now)
	mustBe("four2")
}

// Whoever may write it is looked at when a file is read again, too.
func TestGetRefusesModes(t *testing.T) {
	if runtime.GOOS == "windows" {
		return // where modes say nothing
	}
	path := filepath.Join(t.TempDir(), "secret")
	write(t, path, "first", 0o600)
	var reported error
	source, err := Open("token", path, func(err error) { reported = err })
	if err != nil {
		t.Fatal(err)
	}
	write(t, path, "second", 0o644)
	if got := Reveal(source.Get()); got != "first" || !errors.Is(reported, naming.ErrInsecureConfig) {
		t.Errorf("a file that everybody reads gives %q and is reported as %v", got, reported)
	}
}

func TestSourceIsNotPrinted(t *testing.T) {
	path := filepath.Join(t.TempDir(), "secret")
	write(t, path, canary, 0o600)
	source, err := Open("token", path, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range []any{source, source.Get(), &struct{ s Secret }{source.Get()}} {
		if got := fmt.Sprintf("%v %+v %#v", v, v, v); strings.Contains(got, canary) {
			t.Errorf("%T is printed as %s", v, got)
		}
	}
}

// Root's files may be read by the group of a process that is not root, and by
// nobody else: Kubernetes mounts Secrets so.
func TestGroupOfRootsFiles(t *testing.T) {
	for _, c := range []struct {
		mode    os.FileMode
		access  Access
		isRoots bool
		want    os.FileMode
	}{
		{0o440, OwnerOnly, true, 0},
		{0o640, OwnerOnly, true, 0},
		{0o400, OwnerOnly, true, 0},
		{0o440, OwnerOnly, false, 0o040},
		{0o460, OwnerOnly, true, 0o020},
		{0o444, OwnerOnly, true, 0o004},
		{0o450, OwnerOnly, true, 0o010},
		{0o644, OwnerWrites, false, 0},
		{0o664, OwnerWrites, true, 0o020},
	} {
		if got := excess(c.mode, c.access, c.isRoots); got != c.want {
			t.Errorf("mode %04o, access %03o, root's %v: excess %03o, want %03o", c.mode, c.access, c.isRoots, got, c.want)
		}
	}
}
