package datasets

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"unicode"
	"unicode/utf8"

	"anynetx/anynetx"
)

// Preparation says how an image folder becomes a data set.
//
// Source holds train/<class>/ and test/<class>/ (or val/<class>/) with PNG and JPEG files, or just <class>/; then TestPercent of each class
// are set aside, chosen by a hash of the file's name.
type Preparation struct {
	Source      string
	Destination string // folder, made if need be; <Name>.anxdata and <Name>.files.tsv (which image came from which file) appear in it
	Name        string
	Size        int  // images become Size x Size pixels
	TestPercent int  // 0: 10
	SkipBad     bool // leave out images that cannot be read, and count them, instead of failing
}

// Prepared reports a preparation.
type Prepared struct {
	Path        string   `json:"path"`
	Classes     []string `json:"classes"`
	TrainImages int      `json:"train_images"`
	TestImages  int      `json:"test_images"`
	Split       string   `json:"split"`
	Bad         []string `json:"bad"`     // with SkipBad: one sentence for each image left out
	Ignored     int      `json:"ignored"` // files that are neither PNG nor JPEG
}

const (
	maxImageBytes  = 64 << 20
	maxImagePixels = 64 << 20
	largePixels    = 8 << 20
	maxScans       = 1000
	maxSize        = 1024
)

// Prepare decodes, shrinks and crops the images of a folder once, into the packed format that Open reads. The result is a function of the
// images, the names and the options alone.
func Prepare(p Preparation) (*Prepared, error) {
	if !nameRule.MatchString(p.Name) {
		return nil, anynetx.Inputf("%q cannot be the name of a data set: small letters, digits, dots and dashes, beginning with a letter or digit", p.Name)
	}
	if _, known := builtIn(p.Name); known {
		return nil, anynetx.Inputf("%s is the name of a data set built in; choose another", p.Name)
	}
	if p.Size < 1 || p.Size > maxSize {
		return nil, anynetx.Inputf("size %d cannot be used: it must lie in 1 to %d", p.Size, maxSize)
	}
	if p.TestPercent == 0 {
		p.TestPercent = 10
	}
	if p.TestPercent < 1 || p.TestPercent > 90 {
		return nil, anynetx.Inputf("%d %% for test cannot be used: it must lie in 1 to 90", p.TestPercent)
	}
	path := filepath.Join(p.Destination, p.Name+PackedSuffix)
	if there, err := present(path); err != nil {
		return nil, err
	} else if there {
		return nil, anynetx.Inputf("%s is there already; remove it or choose another name", path)
	}
	tree, err := readTree(p.Source, p.TestPercent)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(p.Destination, 0o755); err != nil {
		return nil, anynetx.Inputf("%s cannot be made: %w; check the permissions", p.Destination, err)
	}
	w, err := newPackedWriter(path, packedManifest{Name: p.Name, Classes: tree.classes, H: p.Size, W: p.Size, C: 3, Split: tree.rule})
	if err != nil {
		return nil, err
	}
	defer w.abandon()
	result := &Prepared{Path: path, Classes: tree.classes, Split: tree.rule, Ignored: tree.ignored}
	var rows strings.Builder
	rows.WriteString("split\trow\tclass\tfile\n")
	for split, name := range [2]string{"train", "test"} {
		if err := p.writeSplit(w, split, tree.images[split], result, func(row int, image treeImage) {
			fmt.Fprintf(&rows, "%s\t%d\t%s\t%s\n", name, row, tree.classes[image.label], image.path)
		}); err != nil {
			return nil, err
		}
		if len(w.labels[split]) == 0 {
			return nil, anynetx.Inputf("%s: none of the %s images can be read; the last: %s", p.Source, name, result.Bad[len(result.Bad)-1])
		}
	}
	for label, count := range (Split{Labels: w.labels[0]}).PerClass(len(tree.classes)) {
		if count == 0 {
			return nil, anynetx.Inputf("%s: no training image of class %q can be read; the last that could not: %s", p.Source, tree.classes[label], result.Bad[len(result.Bad)-1])
		}
	}
	result.TrainImages, result.TestImages = len(w.labels[0]), len(w.labels[1])
	w.m.Skipped = len(result.Bad)
	list := filepath.Join(p.Destination, p.Name+".files.tsv")
	if err := writeWhole(list, rows.String()); err != nil {
		return nil, fmt.Errorf("%s cannot be written: %w; check the disk's space", list, err)
	}
	return result, w.commit()
}

// writeSplit decodes the images of a split, several at a time, and writes them in order.
func (p Preparation) writeSplit(w *packedWriter, split int, images []treeImage, result *Prepared, written func(int, treeImage)) error {
	const chunk = 256
	pixels := make([][]byte, chunk)
	failures := make([]error, chunk)
	for at := 0; at < len(images); at += chunk {
		part := images[at:min(at+chunk, len(images))]
		var wait sync.WaitGroup
		next := make(chan int)
		var large sync.Mutex // one large image at a time, so that memory stays bounded
		for range runtime.GOMAXPROCS(0) {
			wait.Go(func() {
				for i := range next {
					pixels[i], failures[i] = loadImage(filepath.Join(p.Source, filepath.FromSlash(part[i].path)), p.Size, &large)
				}
			})
		}
		for i := range part {
			next <- i
		}
		close(next)
		wait.Wait()
		if bad := errors.Join(failures[:len(part)]...); bad != nil && !p.SkipBad {
			lines := strings.Split(bad.Error(), "\n")
			more := ""
			if len(lines) > 5 {
				more = fmt.Sprintf("; and %d more", len(lines)-5)
				lines = lines[:5]
			}
			return anynetx.Inputf("%s%s. Mend or remove them, or leave unreadable images out (--skip-bad)", strings.Join(lines, "; "), more)
		}
		for i, image := range part {
			if failures[i] != nil {
				result.Bad = append(result.Bad, failures[i].Error())
				continue
			}
			if err := w.add(split, pixels[i], image.label); err != nil {
				return fmt.Errorf("%s cannot be written: %w; check the disk's space", w.path, err)
			}
			written(len(w.labels[split])-1, image)
		}
	}
	return nil
}

type treeImage struct {
	path  string // from the source, with slashes
	label int32
}

// imageTree is an image folder as found on disk.
type imageTree struct {
	classes []string
	images  [2][]treeImage // training, test; sorted by class and name
	rule    string         // how the two were told apart
	ignored int
}

func readTree(source string, testPercent int) (imageTree, error) {
	var tree imageTree
	top, err := folders(source)
	if err != nil {
		return tree, err
	}
	train, test := slices.Contains(top, "train"), ""
	for _, name := range []string{"test", "val"} {
		if test == "" && slices.Contains(top, name) {
			test = name
		}
	}
	switch {
	case train && test == "":
		return tree, anynetx.Inputf("%s has a folder train, but neither test nor val; add one, or give just the class folders to have them split", source)
	case !train && test != "":
		return tree, anynetx.Inputf("%s has a folder %s, but no train; add it, or give just the class folders to have them split", source, test)
	case train:
		tree.rule = "folders train and " + test
		if tree.classes, err = folders(filepath.Join(source, "train")); err != nil {
			return tree, err
		}
		extra, err := folders(filepath.Join(source, test))
		if err != nil {
			return tree, err
		}
		for _, c := range extra {
			if !slices.Contains(tree.classes, c) {
				return tree, anynetx.Inputf("%s has the class %q, which train has not; add it there or remove it", filepath.Join(source, test), c)
			}
		}
		for label, c := range tree.classes {
			for split, top := range [2]string{"train", test} {
				if split == 1 && !slices.Contains(extra, c) {
					continue
				}
				images, err := tree.class(source, top+"/"+c, label)
				if err != nil {
					return tree, err
				}
				tree.images[split] = append(tree.images[split], images...)
				if split == 0 && len(images) == 0 {
					return tree, anynetx.Inputf("%s holds no PNG or JPEG file; every class needs training images", filepath.Join(source, "train", c))
				}
			}
		}
	default:
		tree.rule = fmt.Sprintf("%d %% of each class for test, by a hash of the file's name", testPercent)
		tree.classes = top
		for label, c := range top {
			images, err := tree.class(source, c, label)
			if err != nil {
				return tree, err
			}
			if len(images) < 2 {
				return tree, anynetx.Inputf("%s holds %d PNG or JPEG files; a class needs at least 2 to be split into training and test", filepath.Join(source, c), len(images))
			}
			training, test := hashSplit(images, testPercent)
			tree.images[0] = append(tree.images[0], training...)
			tree.images[1] = append(tree.images[1], test...)
		}
	}
	if len(tree.classes) < 2 {
		return tree, anynetx.Inputf("%s: %d class folders were found, at least 2 are needed: <class>/*.png or train/<class>/*.png and test/<class>/*.png", source, len(tree.classes))
	}
	if len(tree.images[1]) == 0 {
		return tree, anynetx.Inputf("%s holds no PNG or JPEG file; test images are needed", filepath.Join(source, test))
	}
	return tree, nil
}

// hashSplit puts the files with the smallest hashes aside for test; both lists stay in order.
func hashSplit(images []treeImage, percent int) (training, test []treeImage) {
	hash := func(i treeImage) string {
		sum := sha256.Sum256([]byte(i.path))
		return hex.EncodeToString(sum[:])
	}
	byHash := slices.SortedFunc(slices.Values(images), func(a, b treeImage) int { return strings.Compare(hash(a), hash(b)) })
	aside := map[string]bool{}
	for _, i := range byHash[:min(max(1, (len(images)*percent+50)/100), len(images)-1)] {
		aside[i.path] = true
	}
	for _, i := range images {
		if aside[i.path] {
			test = append(test, i)
		} else {
			training = append(training, i)
		}
	}
	return training, test
}

// folders lists the folders in a folder, sorted; files beside them are none of our business, hidden ones neither.
func folders(path string) ([]string, error) {
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil, unreadable(path, err)
	}
	var names []string
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") {
			continue
		}
		info, err := os.Stat(filepath.Join(path, e.Name())) // follows links: large sets are often linked together
		if err != nil {
			return nil, unreadable(filepath.Join(path, e.Name()), err)
		}
		if !info.IsDir() {
			continue
		}
		if strings.ContainsFunc(e.Name(), unicode.IsControl) || !utf8.ValidString(e.Name()) {
			return nil, anynetx.Inputf("%s holds the folder %q; the name of a class must be printable text: rename it", path, e.Name())
		}
		names = append(names, e.Name())
	}
	return names, nil
}

func unreadable(path string, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return anynetx.Inputf("%s is not there; give the folder that holds the images", path)
	}
	if errors.Is(err, syscall.ENOTDIR) {
		return anynetx.Inputf("%s is not a folder; give the folder that holds the images", path)
	}
	return anynetx.Inputf("%s cannot be read: %w; check its permissions", path, err)
}

// class lists the images of a class folder.
func (t *imageTree) class(source, folder string, label int) ([]treeImage, error) {
	path := filepath.Join(source, filepath.FromSlash(folder))
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil, unreadable(path, err)
	}
	var images []treeImage
	for _, e := range entries {
		name := e.Name()
		switch {
		case strings.HasPrefix(name, "."):
		case e.IsDir():
			return nil, anynetx.Inputf("%s holds a folder, %s, where only images may lie: <class>/*.png, or train/<class>/*.png and test/<class>/*.png", path, name)
		case !slices.Contains([]string{".png", ".jpg", ".jpeg"}, strings.ToLower(filepath.Ext(name))):
			t.ignored++
		case strings.ContainsFunc(name, unicode.IsControl) || !utf8.ValidString(name):
			return nil, anynetx.Inputf("%s holds the file %q; its name must be printable text: rename it", path, name)
		default:
			images = append(images, treeImage{folder + "/" + name, int32(label)})
		}
	}
	return images, nil
}

// writeWhole writes a small file under a temporary name and renames it.
func writeWhole(path, text string) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".tmp-*")
	if err != nil {
		return err
	}
	_, err = io.WriteString(f, text)
	err = errors.Join(err, f.Chmod(0o644), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		os.Remove(f.Name())
	}
	return err
}
