package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"anynetx": heldProgram})
}

// TestScripts runs testdata/script: the program as a user meets it. A script whose first line asks for [native] needs the back ends.
func TestScripts(t *testing.T) {
	libraries, err := filepath.Abs(filepath.Join("..", "..", "build", "lib"))
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(e *testscript.Env) error {
			e.Setenv("ANX_LIBRARY_DIR", libraries)
			e.Setenv("SCHEMA_1", filepath.Join(libraries, "..", "..", "results", "testdata", "schema-1"))
			e.Setenv("FAKE_NVML_DIR", filepath.Join(libraries, "..", "fake-nvml", "new"))
			return nil
		},
		Condition: func(condition string) (bool, error) {
			if condition != "native" {
				return false, fmt.Errorf("condition %q is not known", condition)
			}
			built, err := filepath.Glob(filepath.Join(libraries, "libanx_cpu.*"))
			return len(built) > 0, err
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"json": checkJSON, "code": checkCode, "png": writePNGs},
	})
}

// json FILE [PATH WANT]: the file is one JSON value; the value at PATH (names and "len" joined by dots, array positions in
// digits) reads WANT, "*" for anything. `! json` demands that the file is no JSON.
func checkJSON(ts *testscript.TestScript, negated bool, args []string) {
	if len(args) != 1 && len(args) != 3 {
		ts.Fatalf("usage: json FILE [PATH WANT]")
	}
	text := ts.ReadFile(args[0])
	d := json.NewDecoder(strings.NewReader(text))
	d.UseNumber()
	var value any
	err := d.Decode(&value)
	if err == nil && d.More() {
		ts.Fatalf("%s holds more than one JSON value", args[0])
	}
	if negated {
		if err == nil {
			ts.Fatalf("%s is JSON", args[0])
		}
		return
	}
	if err != nil {
		ts.Fatalf("%s is not JSON: %v\n%s", args[0], err, text)
	}
	if len(args) == 1 {
		return
	}
	got, ok := lookup(value, strings.Split(args[1], "."))
	if !ok {
		ts.Fatalf("%s has no %s:\n%s", args[0], args[1], text)
	}
	if args[2] != "*" && got != args[2] {
		ts.Fatalf("%s: %s is %s, want %s", args[0], args[1], got, args[2])
	}
}

func lookup(value any, path []string) (string, bool) {
	for _, name := range path {
		switch v := value.(type) {
		case map[string]any:
			next, ok := v[name]
			if !ok {
				return "", false
			}
			value = next
		case []any:
			if name == "len" {
				value = len(v)
				continue
			}
			var i int
			if json.Unmarshal([]byte(name), &i) != nil || i < 0 || i >= len(v) {
				return "", false
			}
			value = v[i]
		default:
			return "", false
		}
	}
	if s, ok := value.(string); ok {
		return s, true
	}
	text, err := json.Marshal(value)
	return string(text), err == nil
}

// code WANT anynetx ...: the exit code of the command, which testscript alone only splits into zero and not zero.
func checkCode(ts *testscript.TestScript, negated bool, args []string) {
	if negated || len(args) < 2 {
		ts.Fatalf("usage: code WANT COMMAND ...")
	}
	err := ts.Exec(args[1], args[2:]...)
	got := "0"
	if err != nil {
		got = strings.TrimPrefix(err.Error(), "exit status ")
	}
	if got != args[0] {
		ts.Fatalf("exit code is %s, want %s\n%s", got, args[0], ts.ReadFile("stderr"))
	}
}

// png FOLDER COUNT: small images of different colours.
func writePNGs(ts *testscript.TestScript, negated bool, args []string) {
	if negated || len(args) != 2 {
		ts.Fatalf("usage: png FOLDER COUNT")
	}
	folder := ts.MkAbs(args[0])
	count, err := strconv.Atoi(args[1])
	ts.Check(err)
	ts.Check(os.MkdirAll(folder, 0o777))
	for i := range count {
		ts.Check(writePNG(filepath.Join(folder, fmt.Sprintf("%d.png", i)), 9, len(folder), i))
	}
}

// writePNG writes picture i of a class.
func writePNG(path string, size, class, i int) error {
	picture := image.NewRGBA(image.Rect(0, 0, size, size-2))
	for at := range size * (size - 2) {
		picture.Set(at%size, at/size, color.RGBA{uint8(at * 4), uint8(class * 31 % 256), uint8(i * 40 % 256), 255})
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	return errors.Join(png.Encode(f, picture), f.Close())
}
