// Package nvmltest runs tests against a driver that is none: telemetry/fake, built by CMake.
package nvmltest

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// Driver is the state of the fake driver: what its next calls answer. It is a file, so a process of a test can have its own Driver of the
// same Path; one of them sets values at a time.
type Driver struct {
	t    testing.TB
	Path string
	mu   sync.Mutex
	xids int
}

// New makes a driver with 8 GPUs in good health. Processes that have its environment (Environment) use it.
func New(t testing.TB) *Driver {
	t.Helper()
	d := &Driver{t: t, Path: filepath.Join(t.TempDir(), "driver")}
	d.write("")
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
	defer d.mu.Unlock()
	before, err := os.ReadFile(d.Path)
	if err != nil {
		panic(err)
	}
	prefix, text := fmt.Sprintf("%d %s ", gpu, key), ""
	for line := range strings.Lines(string(before)) {
		if !strings.HasPrefix(line, prefix) {
			text += line
		}
	}
	d.write(fmt.Sprintf("%s%s%d\n", text, prefix, value))
}

// XID makes the driver report an error of a GPU, once.
func (d *Driver) XID(gpu int, xid int64) {
	d.xids++
	d.Set(gpu, "xid", int64(1000*d.xids)+xid)
}

// UUID of a GPU.
func UUID(gpu int) string { return fmt.Sprintf("GPU-%08x-fake-0000-0000-000000000000", gpu) }

func (d *Driver) write(text string) {
	if err := os.WriteFile(d.Path+".new", []byte(text), 0o666); err != nil {
		panic(err)
	}
	if err := os.Rename(d.Path+".new", d.Path); err != nil {
		panic(err)
	}
}
