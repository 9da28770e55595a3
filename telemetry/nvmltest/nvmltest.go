// Package nvmltest runs tests against a driver that is none: telemetry/fake, built by CMake.
package nvmltest

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

// Driver is the state of the fake driver: what its next calls answer.
type Driver struct {
	t     testing.TB
	Path  string
	mu    sync.Mutex
	lines []string
	xids  int
}

// New makes a driver with 8 GPUs in good health. Processes that have its environment (Environment) use it.
func New(t testing.TB) *Driver {
	t.Helper()
	d := &Driver{t: t, Path: filepath.Join(t.TempDir(), "driver")}
	d.write()
	return d
}

// Library is the path of the fake driver: "new" or "old".
func Library(t testing.TB, which string) string {
	t.Helper()
	root, err := moduleRoot() // not by the source file: -trimpath hides where it is
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(root, "build", "fake-nvml", which, "libnvidia-ml.so.1")
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("%v; run `make build`", err)
	}
	return path
}

func moduleRoot() (string, error) {
	dir, err := os.Getwd()
	for ; err == nil && dir != filepath.Dir(dir); dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
	}
	return "", fmt.Errorf("no go.mod around the working directory: %w", err)
}

// Environment makes a process that starts with it use this driver.
func (d *Driver) Environment() []string {
	return []string{"ANX_FAKE_NVML=" + d.Path, "LD_LIBRARY_PATH=" + filepath.Dir(Library(d.t, "new"))}
}

// Set changes a value of a GPU; see telemetry/fake/nvml.c for the keys.
func (d *Driver) Set(gpu int, key string, value int64) {
	d.mu.Lock()
	prefix := fmt.Sprintf("%d %s ", gpu, key)
	d.lines = slices.DeleteFunc(d.lines, func(l string) bool { return strings.HasPrefix(l, prefix) })
	d.lines = append(d.lines, fmt.Sprintf("%s%d", prefix, value))
	d.mu.Unlock()
	d.write()
}

// XID makes the driver report an error of a GPU, once.
func (d *Driver) XID(gpu int, xid int64) {
	d.xids++
	d.Set(gpu, "xid", int64(1000*d.xids)+xid)
}

// UUID of a GPU.
func UUID(gpu int) string { return fmt.Sprintf("GPU-%08x-fake-0000-0000-000000000000", gpu) }

func (d *Driver) write() {
	d.mu.Lock()
	defer d.mu.Unlock()
	text := strings.Join(d.lines, "\n") + "\n"
	if err := os.WriteFile(d.Path+".new", []byte(text), 0o666); err != nil {
		d.t.Fatal(err)
	}
	if err := os.Rename(d.Path+".new", d.Path); err != nil {
		d.t.Fatal(err)
	}
}
