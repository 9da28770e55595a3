package datasets

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"anynetx/anynetx"
)

// Open reads a data set: one built in (List), or one prepared from an image folder (Prepare). It looks in dir/<name>, then in dir, then
// where the system's package puts the files; contents are held against the checksums on record.
func Open(name, dir string) (*Set, error) {
	found, err := find(name, dir)
	if err != nil {
		return nil, err
	}
	if found.packed != "" {
		set, _, err := readPacked(found.packed)
		if err == nil {
			set.Name = name
		}
		return set, err
	}
	contents := make([][]byte, len(found.paths))
	for i, path := range found.paths {
		f := found.spec.Files[i]
		content, err := readContent(path, f.Bytes)
		if err != nil {
			return nil, err
		}
		if sum := sha256.Sum256(content); f.SHA256 != "" && hex.EncodeToString(sum[:]) != f.SHA256 {
			// The decoder's complaint, if it has one, says more than two checksums do.
			if _, err := decode(found.spec, found.paths[:i+1], append(contents[:i:i], content)); err != nil && !errors.Is(err, errIncomplete) {
				return nil, err
			}
			return nil, anynetx.Inputf("%s: the content is not %s's: SHA-256 %x, on record is %s; fetch the file again", path, name, sum, f.SHA256)
		}
		contents[i] = content
	}
	return decode(found.spec, found.paths, contents)
}

// place is where a data set was found: its files in the order of the spec, or one packed file.
type place struct {
	spec   Spec
	folder string
	paths  []string
	packed string
}

// find looks through the folders a data set may lie in, and takes the first that holds any of its files.
func find(name, dir string) (place, error) {
	if !nameRule.MatchString(name) {
		return place{}, anynetx.Inputf("%q cannot be the name of a data set: small letters, digits, dots and dashes, beginning with a letter or digit", name)
	}
	spec, known := builtIn(name)
	folders := []string{filepath.Join(dir, name), filepath.Clean(dir)}
	if spec.Archive != nil {
		folders = append(folders, filepath.Join(dir, name, spec.Archive.Folder), filepath.Join(dir, spec.Archive.Folder))
	}
	if spec.Package != nil {
		folders = append(folders, spec.Package.Folder)
	}
	var notes []string
	for _, folder := range folders {
		packed := filepath.Join(folder, name+PackedSuffix)
		if ok, err := present(packed); err != nil {
			return place{}, err
		} else if ok {
			return place{spec: spec, folder: folder, packed: packed}, nil
		}
		if !known {
			if ok, err := present(filepath.Join(folder, "train")); err == nil && ok && folder != filepath.Clean(dir) {
				notes = append(notes, fmt.Sprintf("%s is an image folder: it must be prepared first (anynetx data prepare)", folder))
			}
			continue
		}
		paths, missing, err := spec.locate(folder)
		if err != nil {
			return place{}, err
		}
		if len(missing) == 0 {
			return place{spec: spec, folder: folder, paths: paths}, nil
		}
		if len(missing) < len(spec.Files) {
			notes = append(notes, fmt.Sprintf("%s lacks %s", folder, strings.Join(missing, ", ")))
		}
		if spec.Archive != nil {
			archive := filepath.Join(folder, spec.Archive.Name)
			if ok, err := present(archive); err == nil && ok {
				notes = append(notes, fmt.Sprintf("%s must be unpacked: tar xzf %s -C %s", archive, archive, folder))
			}
		}
	}
	text := fmt.Sprintf("data set %s was not found; looked in %s", name, strings.Join(folders, ", "))
	if len(notes) > 0 {
		text += ". But " + strings.Join(notes, "; ")
	}
	if known {
		text += ". " + spec.howToGet(filepath.Join(dir, name))
	} else {
		var names []string
		for _, s := range List() {
			names = append(names, s.Name)
		}
		text += fmt.Sprintf(" for %s. Built in are %s; an image folder becomes a data set by preparing it", name+PackedSuffix, strings.Join(names, ", "))
	}
	return place{}, anynetx.Inputf("%s", text)
}

func present(path string) (bool, error) {
	_, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return false, nil
	}
	if err != nil {
		return false, anynetx.Inputf("%s cannot be looked at: %w; check the permissions", path, err)
	}
	return true, nil
}

// locate returns the path of each file of the spec in a folder, and the names of those that are not there.
func (s Spec) locate(folder string) (paths, missing []string, err error) {
	for _, f := range s.Files {
		path := ""
		for _, candidate := range []string{f.Name, f.Name + ".gz"} {
			ok, err := present(filepath.Join(folder, candidate))
			if err != nil {
				return nil, nil, err
			}
			if ok {
				path = filepath.Join(folder, candidate)
				break
			}
		}
		if path == "" {
			missing = append(missing, f.Name)
			continue
		}
		paths = append(paths, path)
	}
	return paths, missing, nil
}

func (s Spec) howToGet(folder string) string {
	var ways []string
	if s.Package != nil {
		ways = append(ways, "apt-get install "+s.Package.Name)
	}
	if s.Archive != nil {
		ways = append(ways, fmt.Sprintf("fetch %s and unpack it in %s", s.Archive.URL, folder))
	}
	var urls []string
	for _, f := range s.Files {
		if f.URL != "" {
			urls = append(urls, f.URL)
		}
	}
	if len(urls) > 0 {
		ways = append(ways, fmt.Sprintf("fetch %s into %s", strings.Join(urls, " "), folder))
	}
	return "To get it: " + strings.Join(ways, "; or ")
}

// readContent reads a file, plain or gzip, whose content must have exactly this many bytes. It never holds more than that, whatever
// the file claims.
func readContent(path string, bytes int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, anynetx.Inputf("%s cannot be read: %w; check that it is there and its permissions", path, err)
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, anynetx.Inputf("%s is not a file that can be read; fetch it again", path)
	}
	return readAll(path, f, bytes)
}

func readAll(path string, from io.Reader, size int64) ([]byte, error) {
	buffered := bufio.NewReaderSize(from, 1<<16)
	var r io.Reader = buffered
	what := ""
	if start, _ := buffered.Peek(2); bytes.Equal(start, []byte{0x1f, 0x8b}) {
		z, err := gzip.NewReader(buffered)
		if err != nil {
			return nil, anynetx.Inputf("%s: its gzip header cannot be read: %w; fetch the file again", path, err)
		}
		r, what = z, "uncompressed "
	}
	content := make([]byte, size)
	n, err := io.ReadFull(r, content)
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return nil, anynetx.Inputf("%s: it is truncated at %sbyte %d of %d; fetch the file again", path, what, n, size)
	}
	if err != nil {
		return nil, anynetx.Inputf("%s: reading failed at %sbyte %d of %d: %w; fetch the file again", path, what, n, size, err)
	}
	var one [1]byte
	// The read that meets the end also checks gzip's own checksum.
	switch n, err := io.ReadFull(r, one[:]); {
	case n > 0:
		return nil, anynetx.Inputf("%s: there are further bytes after %sbyte %d, where it should end; fetch the file again", path, what, size)
	case err != io.EOF:
		return nil, anynetx.Inputf("%s: its end, after %sbyte %d, cannot be read: %w; fetch the file again", path, what, size, err)
	}
	return content, nil
}

var errIncomplete = errors.New("not all files are given")

// decode makes a set of the contents of a spec's files. Contents are kept, not copied, where the format allows.
func decode(spec Spec, paths []string, contents [][]byte) (*Set, error) {
	set := &Set{Name: spec.Name, Classes: spec.Classes, H: spec.H, W: spec.W, C: spec.C}
	for i, content := range contents {
		split, count := &set.Train, spec.TrainImages
		if spec.Files[i].Split == "test" {
			split, count = &set.Test, spec.TestImages
		}
		switch spec.Files[i].Content {
		case "images":
			body, err := decodeIDX(paths[i], content, count, spec.H, spec.W)
			if err != nil {
				return nil, err
			}
			split.Images = body
		case "labels":
			body, err := decodeIDX(paths[i], content, count)
			if err != nil {
				return nil, err
			}
			if split.Labels, err = decodeLabels(paths[i], body, len(spec.Classes)); err != nil {
				return nil, err
			}
		case "records":
			if err := decodeCIFAR(split, paths[i], content, spec.LabelClasses, spec.H, spec.W, spec.C); err != nil {
				return nil, err
			}
		}
	}
	if len(contents) < len(spec.Files) {
		return nil, errIncomplete
	}
	return set, set.finish(filepath.Dir(paths[0]))
}
