package datasets

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"anynetx/anynetx"
)

// idxFile is a well-formed IDX file of bytes 0, 1, 2 ... below limit.
func idxFile(limit int, sizes ...int) []byte {
	b := []byte{0, 0, 8, byte(len(sizes))}
	total := 1
	for _, s := range sizes {
		b = binary.BigEndian.AppendUint32(b, uint32(s))
		total *= s
	}
	for i := range total {
		b = append(b, byte(i%limit))
	}
	return b
}

func zipped(t testing.TB, data []byte) []byte {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	if _, err := z.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// wantInput asserts that an error is the user's and says these things.
func wantInput(t testing.TB, err error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error; wanted one that says %q", parts)
	}
	if !errors.Is(err, anynetx.ErrInput) {
		t.Errorf("not marked as the user's input: %v", err)
	}
	for _, p := range parts {
		if !strings.Contains(err.Error(), p) {
			t.Errorf("error does not say %q: %v", p, err)
		}
	}
}

func TestIDX(t *testing.T) {
	good := idxFile(200, 3, 2, 4)
	body, err := decodeIDX("f", good, 3, 2, 4)
	if err != nil || len(body) != 24 || body[23] != 23 {
		t.Fatalf("%v %v", body, err)
	}
	for n := range 16 {
		_, err := decodeIDX("f", good[:n], 3, 2, 4)
		wantInput(t, err, "f: ", fmt.Sprintf("ends at byte %d, inside the header of 16", n))
	}
	for n := 16; n < len(good); n++ {
		_, err := decodeIDX("f", good[:n], 3, 2, 4)
		wantInput(t, err, fmt.Sprintf("truncated at byte %d of %d", n, len(good)))
	}
	_, err = decodeIDX("f", append(bytes.Clone(good), 0), 3, 2, 4)
	wantInput(t, err, "further bytes after byte 40")
	for at := range 16 { // any wrong byte of the header
		bad := bytes.Clone(good)
		bad[at] ^= 0x11
		_, err := decodeIDX("f", bad, 3, 2, 4)
		if at < 4 {
			wantInput(t, err, "byte 0", "00000803")
		} else {
			wantInput(t, err, fmt.Sprintf("size at byte %d", at/4*4))
		}
	}
}

func TestLabelsOutOfRangeAreNamedByRow(t *testing.T) {
	labels, err := decodeLabels("f", []byte{0, 9, 4}, 10)
	if err != nil || labels[1] != 9 {
		t.Fatal(labels, err)
	}
	_, err = decodeLabels("f", []byte{0, 9, 4, 10, 255}, 10)
	wantInput(t, err, "f: row 3 is class 10", "0 to 9")
}

func TestCIFAR(t *testing.T) {
	// two records of 2 label bytes and 1 x 2 pixels: planes become pixels
	data := []byte{1, 4, 10, 11, 20, 21, 30, 31 /**/, 0, 2, 50, 51, 60, 61, 70, 71}
	var s Split
	if err := decodeCIFAR(&s, "f", data, []int{2, 5}, 1, 2, 3); err != nil {
		t.Fatal(err)
	}
	if want := []byte{10, 20, 30, 11, 21, 31, 50, 60, 70, 51, 61, 71}; !bytes.Equal(s.Images, want) {
		t.Errorf("pixels %v, want %v", s.Images, want)
	}
	if s.Labels[0] != 4 || s.Labels[1] != 2 || len(s.Labels) != 2 {
		t.Errorf("labels %v", s.Labels)
	}
	for n := range len(data) {
		if n%8 != 0 {
			wantInput(t, decodeCIFAR(new(Split), "f", data[:n], []int{2, 5}, 1, 2, 3), fmt.Sprintf("record %d is truncated", n/8))
		}
	}
	for at, bad := range map[int]string{0: "label 0 of row 0 (byte 0)", 1: "label 1 of row 0 (byte 1)", 8: "label 0 of row 1 (byte 8)", 9: "label 1 of row 1 (byte 9)"} {
		d := bytes.Clone(data)
		d[at] = 5
		wantInput(t, decodeCIFAR(new(Split), "f", d, []int{2, 5}, 1, 2, 3), bad, "is class 5")
	}
}

func TestReadAllTellsWhereAFileEnds(t *testing.T) {
	content := idxFile(250, 50, 4, 4)
	n := int64(len(content))
	packed := zipped(t, content)
	for _, data := range [][]byte{content, packed} {
		got, err := readAll("f", bytes.NewReader(data), n)
		if err != nil || !bytes.Equal(got, content) {
			t.Fatalf("%v", err)
		}
		_, err = readAll("f", bytes.NewReader(data), n-1)
		wantInput(t, err, "further bytes", fmt.Sprintf("byte %d", n-1))
		_, err = readAll("f", bytes.NewReader(data), n+1)
		wantInput(t, err, "truncated", fmt.Sprintf("byte %d of %d", n, n+1))
	}
	for cut := range len(packed) {
		_, err := readAll("f", bytes.NewReader(packed[:cut]), n)
		wantInput(t, err, "f: ")
	}
	for _, at := range []int{len(packed) - 1, len(packed) - 5} { // gzip's own length and checksum
		bad := bytes.Clone(packed)
		bad[at] ^= 1
		_, err := readAll("f", bytes.NewReader(bad), n)
		wantInput(t, err, "f: its end", "checksum")
	}
}

// endless is a gzip stream of zeros that never ends; reading more than allowed fails the test.
type endless struct {
	t     *testing.T
	data  []byte
	given int
}

func (e *endless) Read(p []byte) (int, error) {
	n := copy(p, e.data[e.given%len(e.data):])
	if e.given += n; e.given > 1<<20 {
		e.t.Fatal("a gzip bomb is read without bounds")
	}
	return n, nil
}

func TestGzipBombIsNotRead(t *testing.T) {
	bomb := zipped(t, make([]byte, 10<<20)) // 10 KiB, over and over: 10 GiB in the megabyte allowed
	_, err := readAll("f", &endless{t: t, data: bomb}, 1000)
	wantInput(t, err, "further bytes after uncompressed byte 1000")
}

func tinySpec() Spec {
	return Spec{
		Name: "tiny", Format: "idx", H: 2, W: 4, C: 1, TrainImages: 3, TestImages: 2, Classes: []string{"a", "b"},
		Files: []File{
			{Name: "x", Split: "train", Content: "images", Bytes: 16 + 24}, {Name: "y", Split: "train", Content: "labels", Bytes: 8 + 3},
			{Name: "tx", Split: "test", Content: "images", Bytes: 16 + 16}, {Name: "ty", Split: "test", Content: "labels", Bytes: 8 + 2},
		},
	}
}

func writeFiles(t testing.TB, folder string, files map[string][]byte) {
	t.Helper()
	if err := os.MkdirAll(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, data := range files {
		path := filepath.Join(folder, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func tinyFiles(t testing.TB) map[string][]byte {
	return map[string][]byte{"x": idxFile(256, 3, 2, 4), "y.gz": zipped(t, idxFile(2, 3)), "tx.gz": zipped(t, idxFile(256, 2, 2, 4)), "ty": idxFile(2, 2)}
}

func TestPlacesAreSearchedInOrder(t *testing.T) {
	dir := t.TempDir()
	spec := tinySpec()
	if err := spec.check(); err != nil {
		t.Fatal(err)
	}
	spec.Package = &Package{Name: "dataset-tiny", Folder: filepath.Join(dir, "system")}
	spec.Files[0].URL = "https://example.org/x"
	_, err := spec.find(filepath.Join(dir, "data"))
	wantInput(t, err, filepath.Join(dir, "data", "tiny"), filepath.Join(dir, "system"), "apt-get install dataset-tiny", "https://example.org/x")

	for _, folder := range []string{filepath.Join(dir, "system"), filepath.Join(dir, "data"), filepath.Join(dir, "data", "tiny")} {
		writeFiles(t, folder, tinyFiles(t))
		found, err := spec.find(filepath.Join(dir, "data"))
		if err != nil {
			t.Fatal(err)
		}
		if found.folder != folder {
			t.Errorf("found in %s, not in %s", found.folder, folder)
		}
		set, _, files, err := found.read()
		if err != nil {
			t.Fatal(err)
		}
		if len(set.Train.Labels) != 3 || len(set.Test.Labels) != 2 || set.Train.Images[9] != 9 || set.Train.Labels[1] != 1 {
			t.Errorf("%+v", set)
		}
		for _, f := range files {
			if f.Verdict != NoChecksum || len(f.SHA256) != 64 || f.Bytes == 0 {
				t.Errorf("%+v", f)
			}
		}
	}
	if err := os.Remove(filepath.Join(dir, "data", "tiny", "ty")); err != nil {
		t.Fatal(err)
	}
	if found, err := spec.find(filepath.Join(dir, "data")); err != nil || found.folder != filepath.Join(dir, "data") {
		t.Errorf("an incomplete folder hides a complete one: %v %v", found.folder, err)
	}
	_, err = spec.find(filepath.Join(dir, "data", "tiny", "x")) // a file where a folder should be
	if err != nil {
		t.Errorf("the package's folder is not reached behind a file: %v", err)
	}
	spec.Package = nil
	_, err = spec.find(filepath.Join(dir, "data", "tiny", "x"))
	wantInput(t, err, "was not found")
	lone := filepath.Join(dir, "lone")
	writeFiles(t, lone, map[string][]byte{"x": nil})
	_, err = spec.find(lone)
	wantInput(t, err, lone+" lacks y, tx, ty")
}

func TestFindDoesNotRead(t *testing.T) {
	dir := t.TempDir()
	if _, err := find("cifar100", dir); err == nil {
		t.Fatal("found in an empty folder")
	}
	writeFiles(t, filepath.Join(dir, "cifar-100-binary"), map[string][]byte{"train.bin": nil, "test.bin.gz": nil})
	if found, err := find("cifar100", dir); err != nil || found.folder != filepath.Join(dir, "cifar-100-binary") {
		t.Error(found.folder, err)
	}
	_, err := Open("cifar100", dir)
	wantInput(t, err, "train.bin: it is truncated at byte 0 of 153700000", "test.bin.gz: it is truncated at byte 0")
}

func TestFoldersThatCannotBeRead(t *testing.T) {
	dir := t.TempDir()
	if err := os.Symlink("loop", filepath.Join(dir, "loop")); err != nil {
		t.Fatal(err)
	}
	_, err := Open("mnist", filepath.Join(dir, "loop"))
	wantInput(t, err, filepath.Join(dir, "loop", "mnist"), "cannot be looked at")
	files := tinyFiles(t)
	delete(files, "x")
	writeFiles(t, dir, files)
	if err := os.Mkdir(filepath.Join(dir, "x"), 0o755); err != nil {
		t.Fatal(err)
	}
	found, err := tinySpec().find(dir)
	if err != nil {
		t.Fatal(err)
	}
	_, _, _, err = found.read()
	wantInput(t, err, filepath.Join(dir, "x"), "not a file")
	for _, name := range []string{"", "../mnist", "a/b", ".hidden", "UPPER", strings.Repeat("x", 65)} {
		_, err := Open(name, dir)
		wantInput(t, err, "cannot be the name")
	}
}

func TestEveryBadFileIsNamed(t *testing.T) {
	dir := t.TempDir()
	spec := tinySpec()
	files := tinyFiles(t)
	files["x"] = files["x"][:20]
	files["ty"] = idxFile(3, 2)
	files["ty"][9] = 7
	writeFiles(t, dir, files)
	found, err := spec.find(dir)
	if err != nil {
		t.Fatal(err)
	}
	_, _, infos, err := found.read()
	wantInput(t, err, filepath.Join(dir, "x")+": it is truncated at byte 20 of 40", filepath.Join(dir, "ty")+": row 1 is class 7")
	if infos[0].Verdict == NoChecksum || infos[1].Verdict != NoChecksum || infos[3].Verdict == NoChecksum {
		t.Errorf("verdicts: %+v", infos)
	}

	writeFiles(t, dir, tinyFiles(t))
	spec.Files[2].SHA256 = strings.Repeat("0", 64)
	found, _ = spec.find(dir)
	_, _, _, err = found.read()
	wantInput(t, err, "tx.gz", "not that of tiny", spec.Files[2].SHA256)
}

func TestFilesOfAnotherDataSetAreRefused(t *testing.T) {
	// MNIST's files have the names and sizes of Fashion-MNIST's: only the content tells.
	dir := t.TempDir()
	for _, f := range List()[1].Files {
		sizes := []int{60000}
		if f.Split == "test" {
			sizes[0] = 10000
		}
		if f.Content == "images" {
			sizes = append(sizes, 28, 28)
		}
		writeFiles(t, dir, map[string][]byte{f.Name: idxFile(10, sizes...)})
	}
	_, err := Open("mnist", dir)
	wantInput(t, err, "train-images", "t10k-labels", "not that of mnist")
	files, err := Verify("mnist", dir)
	wantInput(t, err, "not that of mnist")
	if len(files) != 4 || !strings.Contains(files[0].Verdict, "on record") {
		t.Errorf("%+v", files)
	}
}

func TestArchiveIsVerifiedBesideItsFiles(t *testing.T) {
	dir := t.TempDir()
	writeFiles(t, dir, map[string][]byte{"a.tar.gz": []byte("abc")})
	a := Download{Name: "a.tar.gz", Bytes: 3, SHA256: "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"}
	info, there, err := checkArchive(a, filepath.Join(dir, "nowhere"), dir)
	if err != nil || !there || info.Verdict != Matches {
		t.Fatalf("%+v %v %v", info, there, err)
	}
	a.SHA256 = strings.Repeat("0", 64)
	_, _, err = checkArchive(a, dir)
	wantInput(t, err, "a.tar.gz", "fetch it again")
	if _, there, _ := checkArchive(a, filepath.Join(dir, "nowhere")); there {
		t.Error("an archive that is not there was found")
	}
	spec, _ := builtIn("cifar10")
	writeFiles(t, dir, map[string][]byte{spec.Archive.Name: nil})
	_, err = Open("cifar10", dir)
	wantInput(t, err, "must be unpacked: tar xzf")
}

func FuzzIDX(f *testing.F) {
	good := idxFile(200, 3, 2, 4)
	f.Add(good)
	f.Add(good[:15])
	f.Add(append(bytes.Clone(good), 1))
	f.Fuzz(func(t *testing.T, data []byte) {
		body, err := decodeIDX("f", data, 3, 2, 4)
		if err == nil && (len(body) != 24 || !bytes.Equal(data[:16], good[:16])) {
			t.Fatalf("accepted %x", data)
		}
	})
}

func FuzzReadAll(f *testing.F) {
	f.Add([]byte("0123456789"))
	f.Add(zipped(f, []byte("0123456789")))
	f.Add(zipped(f, make([]byte, 1<<16)))
	f.Fuzz(func(t *testing.T, data []byte) {
		content, err := readAll("f", bytes.NewReader(data), 10)
		if err == nil && len(content) != 10 {
			t.Fatalf("%d bytes", len(content))
		}
		if err != nil && !errors.Is(err, anynetx.ErrInput) {
			t.Fatal(err)
		}
	})
}

func FuzzCIFAR(f *testing.F) {
	f.Add([]byte{1, 4, 10, 11, 20, 21, 30, 31})
	f.Add([]byte{1, 9, 10, 11, 20, 21, 30})
	f.Fuzz(func(t *testing.T, data []byte) {
		var s Split
		if decodeCIFAR(&s, "f", data, []int{2, 5}, 1, 2, 3) == nil {
			if len(s.Labels)*8 != len(data) || len(s.Images) != 6*len(s.Labels) {
				t.Fatalf("%d bytes became %d labels", len(data), len(s.Labels))
			}
			for _, l := range s.Labels {
				if l < 0 || l > 4 {
					t.Fatalf("label %d", l)
				}
			}
		}
	})
}
