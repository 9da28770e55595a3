package datasets

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"testing"
)

// Whoever waits for a data set hears of every piece that was read, however it is read.
func TestReadingIsHeard(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	want := bytes.Repeat([]byte("0123456789abcde"), 3*piece/15) // three pieces, or a byte less
	if err := os.WriteFile(path, want, 0o666); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	heard := 0
	s := source{f, func() { heard++ }}
	got := make([]byte, len(want))
	for name, read := range map[string]func() (int, error){
		"from the start": func() (int, error) { return io.ReadFull(s, got) },
		"at a place":     func() (int, error) { return s.ReadAt(got, 0) },
	} {
		clear(got)
		heard = 0
		if n, err := read(); err != nil || n != len(want) || !bytes.Equal(got, want) || heard != 3 {
			t.Errorf("%s: %d bytes, heard %d times, %v", name, n, heard, err)
		}
	}
	heard = 0
	if n, err := s.ReadAt(got, 1); err != io.EOF || n != len(want)-1 || !bytes.Equal(got[:n], want[1:]) {
		t.Errorf("beyond the end: %d bytes, %v", n, err)
	}
	if _, err := readContent(path, int64(len(want)), s.alive); err != nil || heard < 5 {
		t.Errorf("a file of a data set built in is heard of %d times (%v)", heard-3, err)
	}
	source, dir := t.TempDir(), t.TempDir()
	imageFolder(t, source)
	if _, err := Prepare(Preparation{Source: source, Destination: dir, Name: "colours", Size: 16}); err != nil {
		t.Fatal(err)
	}
	heard = 0
	if _, err := OpenTelling("colours", dir, s.alive); err != nil || heard == 0 {
		t.Errorf("a prepared set is heard of %d times (%v)", heard, err)
	}
	spec, dir := tinySpec(), t.TempDir()
	writeFiles(t, dir, tinyFiles(t))
	found, err := spec.find(dir)
	if err != nil {
		t.Fatal(err)
	}
	heard, found.alive = 0, s.alive
	if _, _, _, err := found.read(); err != nil || heard < len(spec.Files) {
		t.Errorf("%d files are heard of %d times (%v)", len(spec.Files), heard, err)
	}
}
