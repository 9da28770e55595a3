package datasets

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"image"
	"image/color"
	"image/jpeg"
	"image/png"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"anynetx/anynetx"
	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// picture is a PNG or JPEG of a colour, with a gradient if asked.
func picture(t testing.TB, kind string, w, h int, colour color.NRGBA) []byte {
	m := image.NewNRGBA(image.Rect(0, 0, w, h))
	for y := range h {
		for x := range w {
			m.SetNRGBA(x, y, colour)
		}
	}
	var b bytes.Buffer
	var err error
	switch kind {
	case "png":
		err = png.Encode(&b, m)
	case "jpg":
		err = jpeg.Encode(&b, m, &jpeg.Options{Quality: 95})
	case "gray":
		g := image.NewGray(m.Rect)
		for i := range g.Pix {
			g.Pix[i] = colour.R
		}
		err = jpeg.Encode(&b, g, nil)
	}
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

var (
	red   = color.NRGBA{R: 200, G: 10, B: 20, A: 255}
	green = color.NRGBA{R: 20, G: 180, B: 30, A: 255}
)

func imageFolder(t testing.TB, dir string) {
	files := map[string][]byte{"train/red/notes.txt": []byte("not an image"), "train/red/.hidden.png": nil, "readme": nil}
	for i := range 5 {
		files[fmt.Sprintf("train/red/%d.png", i)] = picture(t, "png", 20+i, 30, red)
		files[fmt.Sprintf("train/green/%d.JPG", i)] = picture(t, "jpg", 30, 20+i, green)
	}
	files["val/red/x.jpeg"] = picture(t, "jpg", 8, 8, red)
	files["val/green/x.png"] = picture(t, "png", 9, 100, green)
	writeFiles(t, dir, files)
}

func TestPrepareAndOpen(t *testing.T) {
	source, dst := t.TempDir(), filepath.Join(t.TempDir(), "new")
	imageFolder(t, source)
	p := Preparation{Source: source, Destination: dst, Name: "colours", Size: 16}
	report, err := Prepare(p)
	if err != nil {
		t.Fatal(err)
	}
	if report.TrainImages != 10 || report.TestImages != 2 || report.Ignored != 1 || report.Split != "folders train and val" || len(report.Bad) != 0 {
		t.Errorf("%+v", report)
	}
	set, err := Open("colours", dst)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(set.Classes, []string{"green", "red"}) || set.H != 16 || set.W != 16 || set.C != 3 || set.Name != "colours" {
		t.Errorf("%v %d %d %d", set.Classes, set.H, set.W, set.C)
	}
	if !slices.Equal(set.Train.Labels, []int32{0, 0, 0, 0, 0, 1, 1, 1, 1, 1}) || !slices.Equal(set.Test.Labels, []int32{0, 1}) {
		t.Errorf("%v %v", set.Train.Labels, set.Test.Labels)
	}
	for _, split := range []Split{set.Train, set.Test} {
		for i, l := range split.Labels {
			want := [2]color.NRGBA{green, red}[l]
			for p := range 256 {
				got := split.Images[(i*256+p)*3:]
				for c, v := range [3]uint8{want.R, want.G, want.B} {
					if math.Abs(float64(got[c])-float64(v)) > 4 { // JPEG
						t.Fatalf("image %d pixel %d is %v, want %v", i, p, got[:3], want)
					}
				}
			}
		}
	}
	rows, err := os.ReadFile(filepath.Join(dst, "colours.files.tsv"))
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(rows)), "\n")
	if len(lines) != 13 || lines[1] != "train\t0\tgreen\ttrain/green/0.JPG" || lines[12] != "test\t1\tred\tval/red/x.jpeg" {
		t.Errorf("%q", lines)
	}
	info, err := ReadInfo("colours", dst)
	if err != nil || info.Format != "packed" || info.Split != report.Split || info.Files[0].Verdict != OwnCRC {
		t.Errorf("%+v %v", info, err)
	}
	if files, err := Verify("colours", dst); err != nil || len(files) != 1 {
		t.Errorf("%v %v", files, err)
	}

	_, err = Prepare(p)
	wantInput(t, err, "is there already")
	first, _ := os.ReadFile(report.Path)
	p.Destination = t.TempDir()
	again, err := Prepare(p)
	if err != nil {
		t.Fatal(err)
	}
	if second, _ := os.ReadFile(again.Path); !bytes.Equal(first, second) {
		t.Error("preparing again gives other bytes")
	}
	left, _ := os.ReadDir(p.Destination)
	if len(left) != 2 {
		t.Errorf("temporary files are left: %v", left)
	}
}

func TestPrepareSplitsClassFolders(t *testing.T) {
	source := t.TempDir()
	files := map[string][]byte{}
	for i := range 20 {
		files[fmt.Sprintf("a/%d.png", i)] = picture(t, "png", 4, 4, red)
		files[fmt.Sprintf("b/%d.png", i)] = picture(t, "png", 4, 4, green)
	}
	files["c/1.png"], files["c/2.png"] = files["a/1.png"], files["a/1.png"]
	writeFiles(t, source, files)
	tree, err := readTree(source, 20)
	if err != nil {
		t.Fatal(err)
	}
	if len(tree.images[0]) != 16+16+1 || len(tree.images[1]) != 4+4+1 {
		t.Errorf("%d and %d images", len(tree.images[0]), len(tree.images[1]))
	}
	seen := map[string]bool{}
	for _, i := range append(slices.Clone(tree.images[0]), tree.images[1]...) {
		seen[i.path] = true
	}
	if len(seen) != 42 {
		t.Errorf("%d of 42 files", len(seen))
	}
	again, _ := readTree(source, 20)
	if diff := cmp.Diff(tree, again, cmp.AllowUnexported(imageTree{}, treeImage{})); diff != "" {
		t.Error(diff)
	}
	if tree.images[1][0].path == "a/0.png" && tree.images[1][1].path == "a/1.png" {
		t.Error("the first files are set aside, not a choice by hash")
	}
}

func TestFoldersThatCannotBePrepared(t *testing.T) {
	good := picture(t, "png", 4, 4, red)
	for name, c := range map[string]struct {
		files map[string][]byte
		says  []string
	}{
		"no test":       {map[string][]byte{"train/a/1.png": good}, []string{"neither test nor val"}},
		"no train":      {map[string][]byte{"test/a/1.png": good}, []string{"no train"}},
		"one class":     {map[string][]byte{"train/a/1.png": good, "test/a/1.png": good}, []string{"1 class folders", "at least 2"}},
		"none":          {map[string][]byte{"x.png": good}, []string{"0 class folders"}},
		"extra class":   {map[string][]byte{"train/a/1.png": good, "train/b/1.png": good, "test/c/1.png": good}, []string{`"c"`, "train has not"}},
		"empty class":   {map[string][]byte{"train/a/1.png": good, "train/b/1.txt": good, "test/a/1.png": good}, []string{filepath.Join("train", "b"), "no PNG or JPEG"}},
		"empty test":    {map[string][]byte{"train/a/1.png": good, "train/b/1.png": good, "test/a/1.txt": good}, []string{"test images are needed"}},
		"deep":          {map[string][]byte{"train/a/x/1.png": good, "train/b/1.png": good, "test/a/1.png": good}, []string{"holds a folder, x"}},
		"single":        {map[string][]byte{"a/1.png": good, "b/1.png": good, "b/2.png": good}, []string{"holds 1 PNG", "at least 2"}},
		"odd name":      {map[string][]byte{"a\x1b[31m/1.png": good, "b/1.png": good, "b/2.png": good}, []string{"printable", `\x1b`}},
		"odd file name": {map[string][]byte{"a/1\n.png": good, "a/2.png": good, "b/1.png": good, "b/2.png": good}, []string{"printable", `\n`}},
	} {
		t.Run(name, func(t *testing.T) {
			source, dst := t.TempDir(), t.TempDir()
			writeFiles(t, source, c.files)
			_, err := Prepare(Preparation{Source: source, Destination: dst, Name: "x", Size: 8})
			wantInput(t, err, append(c.says, source)...)
			if left, _ := os.ReadDir(dst); len(left) != 0 {
				t.Errorf("files are left: %v", left)
			}
		})
	}
	dir := t.TempDir()
	writeFiles(t, dir, map[string][]byte{"file": nil})
	for says, p := range map[string]Preparation{
		"is not there":        {Source: filepath.Join(dir, "none"), Destination: dir, Name: "x", Size: 8},
		"is not a folder":     {Source: filepath.Join(dir, "file"), Destination: dir, Name: "x", Size: 8},
		"cannot be the name":  {Source: dir, Destination: dir, Name: "../x", Size: 8},
		"a data set built in": {Source: dir, Destination: dir, Name: "mnist", Size: 8},
		"size 0":              {Source: dir, Destination: dir, Name: "x"},
		"95 %":                {Source: dir, Destination: dir, Name: "x", Size: 8, TestPercent: 95},
	} {
		_, err := Prepare(p)
		wantInput(t, err, says)
	}
	imageFolder(t, dir)
	_, err := Prepare(Preparation{Source: dir, Destination: filepath.Join(dir, "file"), Name: "x", Size: 8})
	wantInput(t, err, "cannot be made")
	writeFiles(t, filepath.Join(dir, "loose", "loose"), map[string][]byte{"train/a": nil})
	_, err = Open("loose", filepath.Join(dir, "loose"))
	wantInput(t, err, "must be prepared first", "loose.anxdata")
}

func TestBadImages(t *testing.T) {
	good := picture(t, "png", 4, 4, red)
	bomb := claims(t, good, 9000, 9000)
	photo := picture(t, "jpg", 40, 40, red)
	scans := append(bytes.Clone(photo), bytes.Repeat([]byte{0xff, 0xda}, maxScans)...)
	source := t.TempDir()
	imageFolder(t, source)
	bad := map[string][]byte{
		"train/red/b1.png": good[:len(good)/2], "train/red/b2.png": []byte("hello"), "train/red/b3.png": bomb, "train/red/b4.jpg": photo[:len(photo)/2],
		"train/red/b5.jpg": scans, "train/red/b6.png": nil, "train/red/b8.jpg": twelveBits(t, photo), "val/red/b7.png": []byte("GIF89a"),
	}
	writeFiles(t, source, bad)
	dst := t.TempDir()
	_, err := Prepare(Preparation{Source: source, Destination: dst, Name: "x", Size: 8})
	if left, _ := os.ReadDir(dst); len(left) != 0 {
		t.Errorf("files are left: %v", left)
	}
	wantInput(t, err, "b1.png is damaged", "b2.png is not a PNG", "b3.png has 9000 x 9000", "b5.jpg has 1001 scans", "and 2 more", "--skip-bad")
	report, err := Prepare(Preparation{Source: source, Destination: t.TempDir(), Name: "x", Size: 8, SkipBad: true})
	if err != nil {
		t.Fatal(err)
	}
	if len(report.Bad) != len(bad) || report.TrainImages != 10 || report.TestImages != 2 {
		t.Errorf("%+v", report)
	}
	if info, err := ReadInfo("x", filepath.Dir(report.Path)); err != nil || info.Skipped != len(bad) {
		t.Errorf("%+v %v", info, err)
	}
	for i := range 5 {
		writeFiles(t, source, map[string][]byte{fmt.Sprintf("train/red/%d.png", i): nil})
	}
	_, err = Prepare(Preparation{Source: source, Destination: t.TempDir(), Name: "x", Size: 8, SkipBad: true})
	wantInput(t, err, `no training image of class "red"`)
	large := filepath.Join(t.TempDir(), "large.png")
	if err := os.WriteFile(large, good, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(large, maxImageBytes+1); err != nil {
		t.Fatal(err)
	}
	if _, err := loadImage(large, 8, new(sync.Mutex)); err == nil || !strings.Contains(err.Error(), "more than the") {
		t.Error(err)
	}
}

func TestImagesOfEveryKind(t *testing.T) {
	for kind, data := range map[string][]byte{"png": picture(t, "png", 11, 7, red), "jpg": picture(t, "jpg", 11, 7, red), "gray": picture(t, "gray", 11, 7, red),
		"transparent": picture(t, "png", 11, 7, color.NRGBA{R: 200, G: 10, B: 20})} {
		got, err := decodeImage(data, 5, new(sync.Mutex))
		if err != nil || len(got) != 75 {
			t.Fatal(kind, err)
		}
		want := map[string][3]byte{"gray": {200, 200, 200}, "transparent": {}}[kind]
		if kind == "png" || kind == "jpg" {
			want = [3]byte{red.R, red.G, red.B}
		}
		for i, v := range got {
			if math.Abs(float64(v)-float64(want[i%3])) > 3 {
				t.Fatalf("%s: %v, want %v", kind, got[:3], want)
			}
		}
	}
}

// noise gives rows of an image whose pixels are a function of y, x and channel.
func noise(h, w int, at func(y, x, c int) byte) func(y int) []byte {
	line := make([]byte, 4*w)
	return func(y int) []byte {
		for x := range w {
			for c := range 4 {
				line[4*x+c] = at(y, x, c)
			}
		}
		return line
	}
}

func TestShrink(t *testing.T) {
	at := func(y, x, c int) byte { return byte(y*31 + x*17 + c*101 + y*x*7) }
	same := shrink(9, 9, 9, noise(9, 9, at))
	for y := range 9 {
		for x := range 9 {
			for c := range 3 {
				if same[(y*9+x)*3+c] != at(y, x, c) {
					t.Fatal("the same size is not a copy")
				}
			}
		}
	}
	cut := shrink(9, 15, 9, noise(9, 15, at)) // the centre of the long side
	if cut[0] != at(0, 3, 0) || cut[9*9*3-1] != at(8, 11, 2) {
		t.Error("not the centre")
	}
	rapid.Check(t, func(t *rapid.T) {
		h, w, size := rapid.IntRange(1, 40).Draw(t, "h"), rapid.IntRange(1, 40).Draw(t, "w"), rapid.IntRange(1, 20).Draw(t, "size")
		v := rapid.Byte().Draw(t, "v")
		for _, got := range shrink(h, w, size, noise(h, w, func(int, int, int) byte { return v })) {
			if got != v {
				t.Fatalf("a plain colour %d became %d", v, got)
			}
		}
		// Against the definition, in floating point: one pass over both sides, the triangle as wide as the step.
		short := min(h, w)
		newH, newW := size, size
		if h < w {
			newW = max(size, int(math.Floor(float64(w*size)/float64(short)+0.5)))
		} else {
			newH = max(size, int(math.Floor(float64(h*size)/float64(short)+0.5)))
		}
		weights := func(in, out, k int) []float64 {
			step := float64(in) / float64(out)
			middle, width, sum := (float64(k)+0.5)*step, max(step, 1), 0.0
			ws := make([]float64, in)
			for j := range ws {
				ws[j] = max(0, 1-math.Abs(float64(j)+0.5-middle)/width)
				sum += ws[j]
			}
			for j := range ws {
				ws[j] /= sum
			}
			return ws
		}
		got := shrink(h, w, size, noise(h, w, at))
		oy, ox := rapid.IntRange(0, size-1).Draw(t, "y"), rapid.IntRange(0, size-1).Draw(t, "x")
		wy, wx := weights(h, newH, oy+(newH-size)/2), weights(w, newW, ox+(newW-size)/2)
		want := 0.0
		for y, a := range wy {
			for x, b := range wx {
				want += a * b * float64(at(y, x, 1))
			}
		}
		if g := float64(got[(oy*size+ox)*3+1]); math.Abs(g-want) > 1.01 { // two roundings
			t.Fatalf("%d x %d to %d, pixel %d %d: %v, want %v", h, w, size, oy, ox, g, want)
		}
	})
}

// packedBytes is a small well-formed packed file.
func packedBytes(t testing.TB) []byte {
	path := filepath.Join(t.TempDir(), "p"+PackedSuffix)
	w, err := newPackedWriter(path, packedManifest{Name: "p", Classes: []string{"a", "b"}, H: 1, W: 2, C: 3, Split: "x"})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 5 {
		if err := w.add(i/3, []byte{byte(i), 1, 2, 3, 4, byte(255 - i)}, int32(i%2)); err != nil {
			t.Fatal(err)
		}
	}
	if w.add(0, make([]byte, 6), 0) == nil {
		t.Error("a training image after test images is accepted")
	}
	if err := w.commit(); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestPackedFileShowsEveryDamage(t *testing.T) {
	good := packedBytes(t)
	set, _, err := decodePacked("f", bytes.NewReader(good), int64(len(good)))
	if err != nil || len(set.Train.Labels) != 3 || len(set.Test.Labels) != 2 || set.Test.Images[6] != 4 || set.Test.Labels[1] != 0 {
		t.Fatal(set, err)
	}
	for n := range good {
		_, _, err := decodePacked("f", bytes.NewReader(good[:n]), int64(n))
		wantInput(t, err, "f: ", "prepare the data set again")
		bad := bytes.Clone(good)
		bad[n] ^= 1 << (n % 8)
		_, _, err = decodePacked("f", bytes.NewReader(bad), int64(len(bad)))
		wantInput(t, err, "f: ")
	}
	_, _, err = decodePacked("f", bytes.NewReader(append(bytes.Clone(good), 0)), int64(len(good))+1)
	wantInput(t, err, "cut short")
}

// withManifest makes a packed file of a manifest with a right checksum, as a liar would.
func withManifest(body []byte, manifest string) []byte {
	b := append([]byte(packedMagic), body...)
	b = append(b, manifest...)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(manifest)))
	b = binary.LittleEndian.AppendUint32(b, crc32.Checksum([]byte(manifest), castagnoli()))
	return append(b, packedMagic...)
}

func TestPackedFileThatLies(t *testing.T) {
	zero := fmt.Sprint(crc32.Checksum(make([]byte, 2), castagnoli()))
	label := crc32.Checksum(make([]byte, 4), castagnoli())
	seven := crc32.Checksum([]byte{7, 0, 0, 0}, castagnoli())
	body := append(make([]byte, 8), 7, 0, 0, 0)
	manifest := func(h, n int, classes string, crc uint32) string {
		return fmt.Sprintf(`{"classes":[%s],"height":%d,"width":2,"channels":1,"train_images":%d,"test_images":1,"crc32c":[%s,%s,%d,%d]}`, classes, h, n, zero, zero, label, crc)
	}
	for says, data := range map[string][]byte{
		"do not fit":                    withManifest(body, manifest(1<<19, 1<<40, `"a","b"`, seven)),
		"speaks of 1 and 1":             withManifest(append(make([]byte, 8), body...), manifest(1, 1, `"a","b"`, seven)), // bytes that nobody owns
		"speaks of 2305843009213693953": withManifest(make([]byte, 16), manifest(2, 1<<61+1, `"a","b"`, seven)),           // 8 x this is 8, were it not caught
		"-1 and 1 images":               withManifest(body, manifest(1, -1, `"a","b"`, seven)),
		"row 0 of the test":             withManifest(body, manifest(1, 1, `"a","b"`, seven)),
		"there twice":                   withManifest(body, manifest(1, 1, `"a","a"`, seven)),
		"not printable":                 withManifest(body, manifest(1, 1, `"a","\u001b[31m"`, seven)),
		"there are 1":                   withManifest(body, manifest(1, 1, `"a"`, seven)),
		"test labels":                   withManifest(body, manifest(1, 1, `"a","b"`, seven+1)),
		"understood":                    withManifest(body, `{"colour":"red"}`),
	} {
		_, _, err := decodePacked("f", bytes.NewReader(data), int64(len(data)))
		wantInput(t, err, says)
	}
}

func FuzzPacked(f *testing.F) {
	f.Add(packedBytes(f))
	f.Add(withManifest(nil, `{"height":1048576,"width":1048576,"channels":3,"train_images":9223372036854775807}`))
	f.Add(withManifest(make([]byte, 100), `{"height":1,"width":1,"channels":1,"train_images":20}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		set, _, err := decodePacked("f", bytes.NewReader(data), int64(len(data)))
		if err != nil && !errors.Is(err, anynetx.ErrInput) {
			t.Fatal(err)
		}
		if err == nil && (len(set.Train.Images) != len(set.Train.Labels)*set.H*set.W*set.C || len(set.Test.Labels) == 0) {
			t.Fatal("accepted a torn set")
		}
	})
}

func FuzzImage(f *testing.F) {
	f.Add(picture(f, "png", 5, 3, red))
	f.Add(picture(f, "jpg", 5, 3, red))
	f.Add(picture(f, "gray", 1, 9, red))
	f.Fuzz(func(t *testing.T, data []byte) {
		if config, _, err := image.DecodeConfig(bytes.NewReader(data)); err == nil && config.Width*config.Height > 1<<20 {
			return // right, but slow
		}
		if pixels, err := decodeImage(data, 4, new(sync.Mutex)); err == nil && len(pixels) != 48 {
			t.Fatalf("%d bytes", len(pixels))
		}
	})
}
