package bindings

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestLoadReference(t *testing.T) {
	library, err := Load("reference")
	if err != nil {
		t.Fatal(err)
	}
	file, err := os.ReadFile(library.Path)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(file)
	if library.SHA256 != hex.EncodeToString(sum[:]) {
		t.Errorf("the hash is %s, the file's is %x", library.SHA256, sum)
	}
	devices, err := library.Devices()
	if err != nil {
		t.Fatal(err)
	}
	if len(devices) != 1 || devices[0].Name == "" || devices[0].Model != "reference" || devices[0].VectorImages != 1 || devices[0].MemoryBytes <= 0 {
		t.Errorf("devices: %+v", devices)
	}
}

func TestLoadSaysWhereItLooked(t *testing.T) {
	empty := t.TempDir()
	t.Setenv("ANX_LIBRARY_DIR", empty)
	_, err := Load("absent")
	if !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("got %v, want an error that is fs.ErrNotExist", err)
	}
	executable, _ := os.Executable()
	for _, place := range []string{empty, filepath.Join(filepath.Dir(executable), "libanx_absent"), filepath.Join("build", "lib"), "make build", "ANX_LIBRARY_DIR"} {
		if !strings.Contains(err.Error(), place) {
			t.Errorf("%q does not mention %s", err, place)
		}
	}
}

func TestLoadRefusesWhatIsNoBackEnd(t *testing.T) {
	for _, name := range []string{"", "../reference", "a/b", "CPU", "x.so"} {
		if _, err := Load(name); err == nil || errors.Is(err, fs.ErrNotExist) {
			t.Errorf("name %q: %v", name, err)
		}
	}
	directory := t.TempDir()
	t.Setenv("ANX_LIBRARY_DIR", directory)
	good, err := os.ReadFile(mustLoad(t).Path)
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{"empty": nil, "text": []byte("not a library"), "truncated": good[:len(good)/3], "renamed": good} {
		path := filepath.Join(directory, "libanx_"+name+".so")
		if err := os.WriteFile(path, content, 0o755); err != nil {
			t.Fatal(err)
		}
		if _, err := Load(name); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("a library that is %s: %v", name, err)
		}
	}
}

func mustLoad(t *testing.T) *Library {
	t.Helper()
	library, err := Load("reference")
	if err != nil {
		t.Fatal(err)
	}
	return library
}
