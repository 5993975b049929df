package harness

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/testcontainers/testcontainers-go"
)

// An Image is a server program at a pinned version.
type Image struct {
	Name    string // "etcd", "consul"
	Version string // "3.7.3"
	Env     string // environment variable that names another image

	module string // directory below integration/images with the pinned go.mod
	pkg    string // import path of the program's main package
	path   string // where the program lies in the image; as in the official one
}

// Images lists every server program of the tests.
func Images() []Image {
	return []Image{
		etcdImage("3.7.3", "etcd", "SKYWARDEN_ETCD_IMAGE"),
		etcdImage("3.6.5", "etcd-3.6.5", "SKYWARDEN_ETCD_3_6_5_IMAGE"),
		consulImage,
	}
}

// Prepare makes the image, or without an engine the program, ready to run, and
// returns a line which says what will be used and where it came from. The
// first time it compiles the server: minutes.
func (i Image) Prepare(ctx context.Context) (string, error) {
	mode, err := CurrentMode()
	if err != nil {
		return "", err
	}
	if mode.Containers {
		_, origin, err := i.container(ctx)
		return origin, err
	}
	_, origin, err := i.program(ctx, runtime.GOOS, mode.arch)
	return origin, err
}

// buildTimeout is for an empty module and build cache on two cores, measured:
// etcd 1 minute, Consul 6.5 minutes.
const buildTimeout = 20 * time.Minute

// container returns the reference of an image that runs this program.
func (i Image) container(ctx context.Context) (ref, origin string, err error) {
	if ref := os.Getenv(i.Env); ref != "" {
		return ref, fmt.Sprintf("%s: image %s, named by %s", i, ref, i.Env), nil
	}
	engine, err := engine()
	if err != nil {
		return "", "", err
	}
	_, err = engine.Client().ImageInspect(ctx, i.tag())
	if err == nil {
		return i.tag(), fmt.Sprintf("%s: local image %s", i, i.tag()), nil
	}
	if !errdefs.IsNotFound(err) {
		return "", "", fmt.Errorf("look for image %s: %w", i.tag(), err)
	}
	mode, err := CurrentMode()
	if err != nil {
		return "", "", err
	}
	program, _, err := i.program(ctx, "linux", mode.arch)
	if err != nil {
		return "", "", err
	}
	archive, err := i.buildContext(program)
	if err != nil {
		return "", "", err
	}
	repo, tag, _ := strings.Cut(i.tag(), ":")
	_, err = engine.BuildImage(ctx, &testcontainers.ContainerRequest{
		FromDockerfile: testcontainers.FromDockerfile{ContextArchive: archive, Repo: repo, Tag: tag, KeepImage: true},
	})
	if err != nil {
		return "", "", fmt.Errorf("build image %s: %w", i.tag(), err)
	}
	return i.tag(), fmt.Sprintf("%s: image %s, built from integration/images/%s", i, i.tag(), i.module), nil
}

// buildContext is a FROM scratch image with the program alone, as the archive
// that the engine builds from: nothing is pulled.
func (i Image) buildContext(program string) (*bytes.Reader, error) {
	binary, err := os.ReadFile(program)
	if err != nil {
		return nil, err
	}
	dockerfile := fmt.Sprintf("FROM scratch\nCOPY %s %s\nENTRYPOINT [%q]\n", path.Base(i.path), i.path, i.path)
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	for _, file := range []struct {
		name string
		mode int64
		data []byte
	}{{"Dockerfile", 0o644, []byte(dockerfile)}, {path.Base(i.path), 0o755, binary}} {
		if err := w.WriteHeader(&tar.Header{Name: file.name, Mode: file.mode, Size: int64(len(file.data))}); err != nil {
			return nil, err
		}
		if _, err := w.Write(file.data); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return bytes.NewReader(archive.Bytes()), nil
}

// program returns the path of this program compiled for a platform. It is
// kept in the user's cache directory under a name that changes with the pinned
// versions and with the compiler, so what is there is never stale.
func (i Image) program(ctx context.Context, goos, goarch string) (program, origin string, err error) {
	dir, err := imagesDir(ctx)
	if err != nil {
		return "", "", err
	}
	dir = filepath.Join(dir, i.module)
	digest := sha256.New()
	digest.Write([]byte(runtime.Version() + i.pkg))
	for _, name := range []string{"go.mod", "go.sum"} {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return "", "", err
		}
		digest.Write(data)
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", "", err
	}
	cache = filepath.Join(cache, "skywarden-test")
	program = filepath.Join(cache, fmt.Sprintf("%s-%s-%s-%s-%x", i.Name, i.Version, goos, goarch, digest.Sum(nil)[:8]))
	if goos == "windows" {
		program += ".exe"
	}
	if _, err := os.Stat(program); err == nil {
		return program, fmt.Sprintf("%s: program %s", i, program), nil
	}

	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", "", err
	}
	scratch, err := os.MkdirTemp(cache, "build-")
	if err != nil {
		return "", "", err
	}
	defer os.RemoveAll(scratch)
	fmt.Fprintf(os.Stderr, "harness: compiling %s from its Go module (once; minutes)\n", i)
	built := filepath.Join(scratch, "program")
	build := exec.CommandContext(ctx, "go", "build", "-C", dir, "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", built, i.pkg)
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS="+goos, "GOARCH="+goarch, "GOFLAGS=", "GOWORK=off")
	if output, err := build.CombinedOutput(); err != nil {
		return "", "", fmt.Errorf("compile %s: %w\n%s", i, err, output)
	}
	// Renamed whole: another test process that looks meanwhile sees nothing or all of it.
	if err := os.Rename(built, program); err != nil {
		return "", "", err
	}
	return program, fmt.Sprintf("%s: program %s, built from integration/images/%s", i, program, i.module), nil
}

// String is name and version.
func (i Image) String() string { return i.Name + " " + i.Version }

func (i Image) tag() string { return "skywarden-test/" + i.Name + ":" + i.Version }

// imagesDir is integration/images on this machine, also when the tests of
// another module use this package.
func imagesDir(ctx context.Context) (string, error) {
	list := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", "github.com/seed-6593ebad/skywarden/integration")
	output, err := list.Output()
	if err != nil {
		if exit, ok := errors.AsType[*exec.ExitError](err); ok {
			err = fmt.Errorf("%w: %s", err, firstLine(string(exit.Stderr)))
		}
		return "", fmt.Errorf("find the integration module: %w", err)
	}
	return filepath.Join(strings.TrimSpace(string(output)), "images"), nil
}

// origins remembers what was announced, so that each image is named once.
var origins sync.Map

func announce(image Image, origin string) {
	if _, told := origins.LoadOrStore(image.String(), true); !told {
		fmt.Fprintln(os.Stderr, "harness:", origin)
	}
}
