// Package bindings is the one door between Go and the native back ends: it loads a back end's shared library and makes each function
// of its C interface (anx.h) a Go function whose failures are *Error values.
package bindings

// #cgo LDFLAGS: -ldl
// #include <stdlib.h>
// #include "shim.h"
import "C"

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"unsafe"
)

// Library is a loaded back end. It stays loaded for the life of the process, and is safe for concurrent use; its contexts are not.
type Library struct {
	Name   string // "reference", "cpu", "cuda"
	Path   string
	SHA256 string // of the file: the provenance of every result

	api *C.anx_api
}

var libraryName = regexp.MustCompile(`^[a-z][a-z0-9_]*$`)

// Load finds and loads the back end of that name. It looks for libanx_<name>.so (.dylib on macOS) in this order and takes the first
// that exists:
//
//  1. the directory $ANX_LIBRARY_DIR, if set;
//  2. ../lib relative to the executable's directory;
//  3. the executable's directory;
//  4. build/lib of the anynetx module around the working directory (what tests and a source tree use).
//
// If there is none the error lists the places and wraps fs.ErrNotExist. A file that exists but cannot be used is an error; later
// places are not tried.
func Load(name string) (*Library, error) {
	if !libraryName.MatchString(name) {
		return nil, fmt.Errorf("%q is not the name of a back end: want \"cpu\", \"cuda\" or \"reference\"", name)
	}
	file := "libanx_" + name + ".so"
	if runtime.GOOS == "darwin" {
		file = "libanx_" + name + ".dylib"
	}
	var looked []string
	for _, directory := range libraryDirectories() {
		path := filepath.Join(directory, file)
		if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
			looked = append(looked, path)
			continue
		}
		return open(name, path)
	}
	verb := "build"
	if name == "cuda" {
		verb = "cuda"
	}
	return nil, fmt.Errorf("no %s back end: %w; looked for %s; run `make %s`, or set ANX_LIBRARY_DIR to the directory of %s",
		name, fs.ErrNotExist, strings.Join(looked, ", "), verb, file)
}

func libraryDirectories() []string {
	var directories []string
	if d := os.Getenv("ANX_LIBRARY_DIR"); d != "" {
		directories = append(directories, d)
	}
	if executable, err := os.Executable(); err == nil {
		if resolved, err := filepath.EvalSymlinks(executable); err == nil {
			executable = resolved
		}
		d := filepath.Dir(executable)
		directories = append(directories, filepath.Join(d, "..", "lib"), d)
	}
	if d, err := os.Getwd(); err == nil {
		for ; ; d = filepath.Dir(d) {
			if isModule(d) {
				directories = append(directories, filepath.Join(d, "build", "lib"))
				break
			}
			if d == filepath.Dir(d) {
				break
			}
		}
	}
	return directories
}

func isModule(directory string) bool {
	text, err := os.ReadFile(filepath.Join(directory, "go.mod"))
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(text)) {
		if fields := strings.Fields(line); len(fields) >= 2 && fields[0] == "module" {
			return fields[1] == "anynetx"
		}
	}
	return false
}

func open(name, path string) (*Library, error) {
	absolute, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("back end %s: %w", path, err)
	}
	sum, err := hashFile(absolute)
	if err != nil {
		return nil, fmt.Errorf("back end %s cannot be read: %w", absolute, err)
	}
	// dlerror's text belongs to the thread that made the call.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cPath := C.CString(absolute)
	defer C.free(unsafe.Pointer(cPath))
	var cError *C.char
	api := C.anx_shim_open(cPath, &cError)
	if cError != nil {
		return nil, fmt.Errorf("back end %s cannot be loaded: %s; run `make build`", absolute, C.GoString(cError))
	}
	if api == nil {
		return nil, fmt.Errorf("back end %s does not know ABI version %d; run `make build`", absolute, C.ANX_ABI_VERSION)
	}
	if api.abi_version != C.ANX_ABI_VERSION || uint64(api.struct_bytes) != uint64(C.sizeof_anx_api) {
		return nil, fmt.Errorf("back end %s has ABI version %d with a table of %d bytes, this program version %d with %d; run `make build`",
			absolute, api.abi_version, api.struct_bytes, C.ANX_ABI_VERSION, int(C.sizeof_anx_api))
	}
	if got := C.GoString(api.name); got != name {
		return nil, fmt.Errorf("back end %s calls itself %q, not %q; run `make build`", absolute, got, name)
	}
	return &Library{Name: name, Path: absolute, SHA256: sum, api: api}, nil
}

func hashFile(path string) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer file.Close()
	hash := sha256.New()
	if _, err := io.Copy(hash, file); err != nil {
		return "", err
	}
	return hex.EncodeToString(hash.Sum(nil)), nil
}

// Devices lists what the back end can run on; the position is ContextOptions.Device.
func (l *Library) Devices() ([]DeviceInfo, error) {
	var count C.int32_t
	if status := C.anx_shim_device_count(l.api, &count); status != C.ANX_OK {
		return nil, &Error{Status(status), fmt.Sprintf("the %s back end cannot count its devices", l.Name)}
	}
	devices := make([]DeviceInfo, count)
	for i := range devices {
		var info C.anx_device_info
		if status := C.anx_shim_device_info(l.api, &info, C.int32_t(i)); status != C.ANX_OK {
			return nil, &Error{Status(status), fmt.Sprintf("the %s back end cannot describe its device %d", l.Name, i)}
		}
		devices[i] = deviceInfo(&info)
	}
	return devices, nil
}

func deviceInfo(info *C.anx_device_info) DeviceInfo {
	return DeviceInfo{
		Name:         C.GoString(&info.name[0]),
		Model:        C.GoString(&info.model[0]),
		ISA:          C.GoString(&info.isa[0]),
		Units:        int(info.units),
		VectorImages: int(info.vector_images),
		MemoryBytes:  int64(info.memory_bytes),
	}
}
