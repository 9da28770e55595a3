package datasets

import (
	"crypto/sha256"
	"encoding/hex"
	"io"
	"os"
	"path/filepath"

	"anynetx/anynetx"
)

// Info describes a data set as it lies on disk.
type Info struct {
	Name          string     `json:"name"`
	Title         string     `json:"title,omitempty"`
	Source        string     `json:"source,omitempty"`
	Licence       string     `json:"licence,omitempty"`
	Format        string     `json:"format"`
	Folder        string     `json:"folder"`
	H             int        `json:"height"`
	W             int        `json:"width"`
	C             int        `json:"channels"`
	Classes       []string   `json:"classes"`
	TrainImages   int        `json:"train_images"`
	TestImages    int        `json:"test_images"`
	TrainPerClass []int      `json:"train_per_class"`
	TestPerClass  []int      `json:"test_per_class"`
	Mean          []float64  `json:"mean"` // per channel, pixels in 0..1
	Std           []float64  `json:"std"`
	Digest        string     `json:"digest"`            // Set.Digest
	Files         []FileInfo `json:"files"`             //
	Split         string     `json:"split,omitempty"`   // of a prepared set: how training and test were told apart
	Skipped       int        `json:"skipped,omitempty"` // of a prepared set: images that could not be read
}

// FileInfo describes one file of a data set.
type FileInfo struct {
	Path     string `json:"path"`
	Bytes    int64  `json:"bytes"`              // on disk
	SHA256   string `json:"sha256,omitempty"`   // of the content, uncompressed
	Recorded string `json:"recorded,omitempty"` // what is on record for it
	Verdict  string `json:"verdict"`
}

// The verdicts on a file whose content is what it should be.
const (
	Matches    = "matches the checksum on record"
	NoChecksum = "no checksum on record; counts and structure verified"
	OwnCRC     = "matches its own checksums"
)

// ReadInfo reads a data set, with all the checks of Open, and describes it.
func ReadInfo(name, dir string) (*Info, error) {
	found, err := find(name, dir)
	if err != nil {
		return nil, err
	}
	set, m, files, err := found.read()
	if err != nil {
		return nil, err
	}
	info := &Info{
		Name: name, Title: found.spec.Title, Source: found.spec.Source, Licence: found.spec.Licence, Format: found.spec.Format, Folder: found.folder,
		H: set.H, W: set.W, C: set.C, Classes: set.Classes, TrainImages: len(set.Train.Labels), TestImages: len(set.Test.Labels),
		TrainPerClass: set.Train.PerClass(len(set.Classes)), TestPerClass: set.Test.PerClass(len(set.Classes)),
		Mean: set.Mean[:set.C], Std: set.Std[:set.C], Digest: set.Digest(), Files: files, Split: m.Split, Skipped: m.Skipped,
	}
	return info, nil
}

// Verify reads every file of a data set and holds it against what is on record: sizes, structure, labels, checksums, and the archive they
// came in, if it lies there too. The files are returned, with a verdict each, also where the error says that some are wrong.
func Verify(name, dir string) ([]FileInfo, error) {
	found, err := find(name, dir)
	if err != nil {
		return nil, err
	}
	_, _, files, err := found.read()
	problems := []error{}
	if err != nil {
		problems = append(problems, err)
	}
	if found.packed == "" && found.spec.Archive != nil {
		if info, there, err := checkArchive(*found.spec.Archive, found.folder, filepath.Dir(found.folder)); there {
			files = append(files, info)
			if err != nil {
				problems = append(problems, err)
			}
		}
	}
	return files, together(problems)
}

func checkArchive(a Download, folders ...string) (info FileInfo, there bool, err error) {
	for _, folder := range folders {
		path := filepath.Join(folder, a.Name)
		if there, err := present(path); err != nil || !there {
			continue
		}
		info = FileInfo{Path: path, Recorded: a.SHA256, Verdict: Matches}
		info.Bytes, info.SHA256, err = hashFile(path)
		if err == nil && info.SHA256 != a.SHA256 {
			err = anynetx.Inputf("%s: the archive has %d bytes and SHA-256 %s, on record are %d and %s; fetch it again", path, info.Bytes, info.SHA256, a.Bytes, a.SHA256)
		}
		if err != nil {
			info.Verdict = verdict(path, err)
		}
		return info, true, err
	}
	return info, false, nil
}

// hashFile gives size and SHA-256 of a file as it lies there.
func hashFile(path string) (int64, string, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, "", anynetx.Inputf("%s: it cannot be read: %w; check its permissions", path, err)
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(h, f)
	if err != nil {
		return n, "", anynetx.Inputf("%s: it cannot be read beyond byte %d: %w; fetch it again", path, n, err)
	}
	return n, hex.EncodeToString(h.Sum(nil)), nil
}
