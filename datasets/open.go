package datasets

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"anynetx/anynetx"
)

// Open reads a data set: one built in (List), or one prepared from an image folder (Prepare). It looks in dir/<name>, then in dir, then
// where the system's package puts the files; contents are held against the checksums on record.
func Open(name, dir string) (*Set, error) { return OpenTelling(name, dir, nil) }

// OpenTelling is Open that calls alive whenever it has got on: who waits for a slow disk can tell it from one that hangs.
func OpenTelling(name, dir string, alive func()) (*Set, error) {
	found, err := find(name, dir)
	if err != nil {
		return nil, err
	}
	found.alive = alive
	set, _, _, err := found.read()
	return set, err
}

const formatPacked = "packed" // of Spec.Format: a set that was prepared

// place is where a data set was found: its files in the order of the spec, or one packed file.
type place struct {
	spec   Spec
	folder string
	paths  []string
	packed string
	alive  func() // nil: nobody waits
}

// source is a file that is read in pieces, each of which counts as life.
type source struct {
	file  *os.File
	alive func()
}

const piece = 1 << 20

func (s source) Read(p []byte) (int, error) {
	n, err := s.file.Read(p[:min(len(p), piece)])
	s.got(n)
	return n, err
}

func (s source) ReadAt(p []byte, at int64) (n int, err error) {
	for more := 0; n < len(p) && err == nil; n += more {
		more, err = s.file.ReadAt(p[n:min(len(p), n+piece)], at+int64(n))
		s.got(more)
	}
	return n, err
}

func (s source) got(n int) {
	if n > 0 && s.alive != nil {
		s.alive()
	}
}

// find looks through the folders a data set may lie in, and takes the first that holds all of its files.
func find(name, dir string) (place, error) {
	if !nameRule.MatchString(name) {
		return place{}, anynetx.Inputf("%q cannot be the name of a data set: small letters, digits, dots and dashes, beginning with a letter or digit", name)
	}
	spec, known := builtIn(name)
	if !known {
		spec = Spec{Name: name, Format: formatPacked}
	}
	return spec.find(dir)
}

func (s Spec) find(dir string) (place, error) {
	folders := []string{filepath.Join(dir, s.Name), filepath.Clean(dir)}
	if s.Archive != nil {
		folders = append(folders, filepath.Join(dir, s.Name, s.Archive.Folder), filepath.Join(dir, s.Archive.Folder))
	}
	if s.Package != nil {
		folders = append(folders, s.Package.Folder)
	}
	var notes []string
	for _, folder := range folders {
		if s.Format == formatPacked {
			packed := filepath.Join(folder, s.Name+PackedSuffix)
			if ok, err := present(packed); err != nil {
				return place{}, err
			} else if ok {
				return place{spec: s, folder: folder, packed: packed}, nil
			}
			continue
		}
		paths, missing, err := s.locate(folder)
		if err != nil {
			return place{}, err
		}
		if len(missing) == 0 {
			return place{spec: s, folder: folder, paths: paths}, nil
		}
		if len(missing) < len(s.Files) {
			notes = append(notes, fmt.Sprintf("%s lacks %s", folder, strings.Join(missing, ", ")))
		}
		if s.Archive != nil {
			archive := filepath.Join(folder, s.Archive.Name)
			if ok, err := present(archive); err == nil && ok {
				notes = append(notes, fmt.Sprintf("%s must be unpacked: tar xzf %s -C %s", archive, archive, folder))
			}
		}
	}
	text := fmt.Sprintf("data set %s was not found; looked in %s", s.Name, strings.Join(folders, ", "))
	if s.Format == formatPacked {
		if ok, err := present(filepath.Join(folders[0], "train")); err == nil && ok {
			notes = append(notes, fmt.Sprintf("%s is an image folder, which must be prepared first (anynetx data prepare)", folders[0]))
		}
		var names []string
		for _, b := range List() {
			names = append(names, b.Name)
		}
		text += fmt.Sprintf(" for %s. Built in are %s; an image folder becomes one by `anynetx data prepare`", s.Name+PackedSuffix, strings.Join(names, ", "))
	} else {
		var names []string
		for _, f := range s.Files {
			names = append(names, f.Name)
		}
		text += fmt.Sprintf(" for %s, plain or with .gz. ", strings.Join(names, ", ")) + s.howToGet(filepath.Join(dir, s.Name))
	}
	if len(notes) > 0 {
		text += ". Note: " + strings.Join(notes, "; ")
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
	if s.Archive != nil || slices.ContainsFunc(s.Files, func(f File) bool { return f.URL != "" }) {
		ways = append(ways, "`anynetx data fetch "+s.Name+"`")
	}
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

// read reads all files of a place and holds them against what is on record. It goes on after a bad one, so that the error names them all;
// files has an entry for each in any case.
func (p place) read() (set *Set, m packedManifest, files []FileInfo, err error) {
	if p.packed != "" {
		info := FileInfo{Path: p.packed, Verdict: OwnCRC}
		if stat, err := os.Stat(p.packed); err == nil {
			info.Bytes = stat.Size()
		}
		if set, m, err = readPacked(p.packed, p.alive); err != nil {
			info.Verdict = verdict(p.packed, err)
			return nil, m, []FileInfo{info}, err
		}
		set.Name = p.spec.Name
		return set, m, []FileInfo{info}, nil
	}
	set = &Set{Name: p.spec.Name, Classes: p.spec.Classes, H: p.spec.H, W: p.spec.W, C: p.spec.C}
	var problems []error
	for i, path := range p.paths {
		f := p.spec.Files[i]
		info := FileInfo{Path: path, Recorded: f.SHA256, Verdict: NoChecksum}
		if stat, err := os.Stat(path); err == nil {
			info.Bytes = stat.Size()
		}
		content, err := readContent(path, f.Bytes, p.alive)
		if err == nil {
			info.SHA256 = fmt.Sprintf("%x", sha256.Sum256(content))
			err = decodeFile(set, p.spec, i, path, content)
		}
		if err == nil && f.SHA256 != "" {
			info.Verdict = Matches
			if info.SHA256 != f.SHA256 {
				err = anynetx.Inputf("%s: the content is not that of %s: its SHA-256 is %s, on record is %s; fetch the file again", path, p.spec.Name, info.SHA256, f.SHA256)
			}
		}
		if err != nil {
			info.Verdict = verdict(path, err)
			problems = append(problems, err)
		}
		files = append(files, info)
	}
	if err := together(problems); err != nil {
		return nil, m, files, err
	}
	return set, m, files, set.finish(p.folder)
}

// verdict is an error's text without the path that stands beside it.
func verdict(path string, err error) string { return strings.TrimPrefix(err.Error(), path+": ") }

// together makes one sentence of several errors.
func together(problems []error) error {
	if len(problems) < 2 {
		return errors.Join(problems...)
	}
	texts := make([]string, len(problems))
	for i, p := range problems {
		texts[i] = p.Error()
	}
	return anynetx.Inputf("%s", strings.Join(texts, ". "))
}

// readContent reads a file, plain or gzip, whose content must have exactly this many bytes. It never holds more than that, whatever
// the file claims.
func readContent(path string, bytes int64, alive func()) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, anynetx.Inputf("%s cannot be read: %w; check that it is there and its permissions", path, err)
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, anynetx.Inputf("%s is not a file that can be read; fetch it again", path)
	}
	return readAll(path, source{f, alive}, bytes)
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

// decodeFile adds the content of the i-th file of a spec to a set. Content is kept, not copied, where the format allows.
func decodeFile(set *Set, spec Spec, i int, path string, content []byte) (err error) {
	split, count := &set.Train, spec.TrainImages
	if spec.Files[i].Split == "test" {
		split, count = &set.Test, spec.TestImages
	}
	switch spec.Files[i].Content {
	case "images":
		split.Images, err = decodeIDX(path, content, count, spec.H, spec.W)
	case "labels":
		var body []byte
		if body, err = decodeIDX(path, content, count); err == nil {
			split.Labels, err = decodeLabels(path, body, len(spec.Classes))
		}
	case "records":
		err = decodeCIFAR(split, path, content, spec.LabelClasses, spec.H, spec.W, spec.C)
	}
	return err
}
