package datasets

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"

	"anynetx/anynetx"
)

// PackedSuffix ends the names of prepared data sets.
const PackedSuffix = ".anxdata"

// A packed file is
//
//	magic, training images, test images, training labels, test labels (4 bytes each, little-endian), manifest (JSON),
//	4 bytes length of the manifest, 4 bytes CRC-32C of the manifest, magic
//
// The manifest stands at the end, as the counts are known only then; a file that was cut short has no second magic.
const packedMagic = "ANXDATA1"

const packedTail = 8 + len(packedMagic)

type packedManifest struct {
	Name        string    `json:"name"`
	Classes     []string  `json:"classes"`
	H           int       `json:"height"`
	W           int       `json:"width"`
	C           int       `json:"channels"`
	TrainImages int       `json:"train_images"`
	TestImages  int       `json:"test_images"`
	Split       string    `json:"split"`   // how training and test were told apart
	Skipped     int       `json:"skipped"` // images left out because they could not be read
	CRC32C      [4]uint32 `json:"crc32c"`  // of the four sections
}

func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) }

// sections are the sizes in bytes of the four, or false where the numbers cannot be those of a file of this size.
func (m packedManifest) sections(size int64) ([4]int64, bool) {
	var s [4]int64
	const limit = 1 << 20
	if m.H < 1 || m.W < 1 || m.H > limit || m.W > limit || m.C != 1 && m.C != 3 || m.TrainImages < 0 || m.TestImages < 0 {
		return s, false
	}
	pixels := int64(m.H) * int64(m.W) * int64(m.C) // below 2^42
	if int64(m.TrainImages) > size/pixels || int64(m.TestImages) > size/pixels {
		return s, false
	}
	s = [4]int64{int64(m.TrainImages) * pixels, int64(m.TestImages) * pixels, 4 * int64(m.TrainImages), 4 * int64(m.TestImages)}
	return s, s[0]+s[1]+s[2]+s[3] == size
}

func readPacked(path string, alive func()) (*Set, packedManifest, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, packedManifest{}, anynetx.Inputf("%s cannot be read: %w; check its permissions", path, err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return nil, packedManifest{}, anynetx.Inputf("%s is not a file that can be read; prepare it again", path)
	}
	return decodePacked(path, source{f, alive}, info.Size())
}

// decodePacked reads a packed file of this size. Memory is bounded by the size, whatever the manifest claims.
func decodePacked(place string, r io.ReaderAt, size int64) (*Set, packedManifest, error) {
	fail := func(format string, args ...any) (*Set, packedManifest, error) {
		return nil, packedManifest{}, anynetx.Inputf("%s: "+format+"; prepare the data set again", append([]any{place}, args...)...)
	}
	if size < int64(len(packedMagic)+packedTail) {
		return fail("its %d bytes are too few for a prepared data set", size)
	}
	head, tail := make([]byte, len(packedMagic)), make([]byte, packedTail)
	if _, err := r.ReadAt(head, 0); err != nil {
		return fail("reading failed at byte 0: %w", err)
	}
	if string(head) != packedMagic {
		return fail("it begins with %q, a prepared data set with %q", head, packedMagic)
	}
	if _, err := r.ReadAt(tail, size-int64(packedTail)); err != nil {
		return fail("reading failed at byte %d: %w", size-int64(packedTail), err)
	}
	if string(tail[8:]) != packedMagic {
		return fail("its end, %q at byte %d, is missing: it was cut short", packedMagic, size-int64(len(packedMagic)))
	}
	length := int64(binary.LittleEndian.Uint32(tail))
	at := size - int64(packedTail) - length
	if at < int64(len(packedMagic)) {
		return fail("byte %d says that the manifest has %d bytes, more than there are", size-int64(packedTail), length)
	}
	text := make([]byte, length)
	if _, err := r.ReadAt(text, at); err != nil {
		return fail("reading failed at byte %d: %w", at, err)
	}
	if crc32.Checksum(text, castagnoli()) != binary.LittleEndian.Uint32(tail[4:]) {
		return fail("the manifest at byte %d does not match its checksum", at)
	}
	var m packedManifest
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&m); err != nil {
		return fail("the manifest at byte %d cannot be understood: %w", at, err)
	}
	sizes, ok := m.sections(at - int64(len(packedMagic)))
	if !ok {
		return fail("the manifest at byte %d speaks of %d and %d images of %d x %d x %d, which do not fit the file's %d bytes",
			at, m.TrainImages, m.TestImages, m.H, m.W, m.C, size)
	}
	var data [4][]byte
	at = int64(len(packedMagic))
	for i, name := range [4]string{"training images", "test images", "training labels", "test labels"} {
		data[i] = make([]byte, sizes[i])
		if n, err := io.ReadFull(io.NewSectionReader(r, at, sizes[i]), data[i]); err != nil {
			return fail("reading the %s failed at byte %d: %w", name, at+int64(n), err)
		}
		if crc32.Checksum(data[i], castagnoli()) != m.CRC32C[i] {
			return fail("the %s at byte %d do not match their checksum", name, at)
		}
		at += sizes[i]
	}
	set := &Set{Name: m.Name, Classes: m.Classes, H: m.H, W: m.W, C: m.C,
		Train: Split{data[0], unpackLabels(data[2])}, Test: Split{data[1], unpackLabels(data[3])}}
	return set, m, set.finish(place)
}

func unpackLabels(b []byte) []int32 {
	labels := make([]int32, len(b)/4)
	for i := range labels {
		labels[i] = int32(binary.LittleEndian.Uint32(b[4*i:]))
	}
	return labels
}

// packedWriter writes a packed file image by image; it takes its name only with commit.
type packedWriter struct {
	path string
	file *os.File
	out  *bufio.Writer
	m    packedManifest

	labels [2][]int32 // of training and test, so far
}

func newPackedWriter(path string, m packedManifest) (*packedWriter, error) {
	file, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".tmp-*")
	if err != nil {
		return nil, anynetx.Inputf("%s cannot be written: %w; check the folder and its permissions", path, err)
	}
	w := &packedWriter{path: path, file: file, out: bufio.NewWriterSize(file, 1<<20), m: m}
	_, err = w.out.WriteString(packedMagic)
	return w, err
}

// add writes an image of the training (0) or test (1) split; all of training come first.
func (w *packedWriter) add(split int, image []byte, label int32) error {
	if split == 0 && len(w.labels[1]) > 0 {
		return errors.New("training images must be written before test images")
	}
	w.labels[split] = append(w.labels[split], label)
	return w.write(split, image)
}

func (w *packedWriter) write(section int, data []byte) error {
	w.m.CRC32C[section] = crc32.Update(w.m.CRC32C[section], castagnoli(), data)
	_, err := w.out.Write(data)
	return err
}

// commit writes labels and manifest, and gives the file its name.
func (w *packedWriter) commit() (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("%s cannot be written: %w; check the disk's space", w.path, err)
		}
	}()
	w.m.TrainImages, w.m.TestImages = len(w.labels[0]), len(w.labels[1])
	for i, labels := range w.labels {
		if err := w.write(2+i, labelBytes(labels)); err != nil {
			return err
		}
	}
	text, err := json.Marshal(w.m)
	if err != nil {
		return err
	}
	text = binary.LittleEndian.AppendUint32(text, uint32(len(text)))
	text = binary.LittleEndian.AppendUint32(text, crc32.Checksum(text[:len(text)-4], castagnoli()))
	if _, err := w.out.Write(append(text, packedMagic...)); err != nil {
		return err
	}
	if err := w.out.Flush(); err != nil {
		return err
	}
	if err := w.file.Chmod(0o644); err != nil {
		return err
	}
	if err := w.file.Sync(); err != nil {
		return err
	}
	if err := w.file.Close(); err != nil {
		return err
	}
	return os.Rename(w.file.Name(), w.path)
}

// abandon removes what was written, unless it was committed.
func (w *packedWriter) abandon() {
	w.file.Close()
	os.Remove(w.file.Name())
}
