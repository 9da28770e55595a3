package bindings

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"os/exec"
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

// Libraries that load and are none of ours, or of another version: each is refused by a sentence that says what is wrong.
func TestLoadRefusesOtherVersions(t *testing.T) {
	directory := t.TempDir()
	t.Setenv("ANX_LIBRARY_DIR", directory)
	header, err := filepath.Abs(".")
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ source, want string }{
		"no_symbol":   {"int other;", "anx_get_api"},
		"no_version":  {"const anx_api *anx_get_api(uint32_t v) { return v == 99 ? (void *)1 : 0; }", "does not know ABI version"},
		"new_version": {"static anx_api a = {ANX_ABI_VERSION + 1, sizeof a}; const anx_api *anx_get_api(uint32_t v) { return &a; }", "has ABI version"},
		"small_table": {"static anx_api a = {ANX_ABI_VERSION, sizeof a - 8}; const anx_api *anx_get_api(uint32_t v) { return &a; }", "table of"},
		"needs_more":  {"int absent(void); const anx_api *anx_get_api(uint32_t v) { return absent() ? 0 : 0; }", "absent"},
	} {
		source, library := filepath.Join(directory, name+".c"), filepath.Join(directory, "libanx_"+name+".so")
		if err := os.WriteFile(source, []byte("#include \"anx.h\"\n"+c.source+"\n"), 0o666); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command("cc", "-shared", "-fPIC", "-w", "-I"+header, "-o", library, source).CombinedOutput(); err != nil {
			t.Fatalf("cc: %v\n%s", err, out)
		}
		if _, err := Load(name); err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), library) || errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v; want a sentence that names %s and %q", name, err, library, c.want)
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
