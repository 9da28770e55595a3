package datasets

import (
	"bytes"
	_ "embed"
	"fmt"
	"io"
	"regexp"
	"slices"

	"go.yaml.in/yaml/v3"
)

// Spec is what is known of a data set before its files are seen; specs.yaml holds those built in.
type Spec struct {
	Name         string    `yaml:"name" json:"name"`
	Title        string    `yaml:"title" json:"title"`
	Source       string    `yaml:"source" json:"source"` // the home of the data set
	Licence      string    `yaml:"licence" json:"licence"`
	Format       string    `yaml:"format" json:"format"` // "idx", "cifar" or "packed"
	H            int       `yaml:"height" json:"height"`
	W            int       `yaml:"width" json:"width"`
	C            int       `yaml:"channels" json:"channels"`
	TrainImages  int       `yaml:"train_images" json:"train_images"`
	TestImages   int       `yaml:"test_images" json:"test_images"`
	LabelClasses []int     `yaml:"label_classes,flow" json:"-"` // format cifar: how many values each label byte has; the last is the label
	Classes      []string  `yaml:"classes,flow" json:"classes"`
	Package      *Package  `yaml:"package" json:"package,omitempty"`
	Archive      *Download `yaml:"archive" json:"archive,omitempty"`
	Files        []File    `yaml:"files" json:"files,omitempty"`
}

// Package is a Debian and Ubuntu package that brings the files.
type Package struct {
	Name   string `yaml:"name" json:"name"`
	Folder string `yaml:"folder" json:"folder"`
}

// Download is an archive that holds the files, in a folder of that name.
type Download struct {
	Name   string `yaml:"name" json:"name"`
	Folder string `yaml:"folder" json:"folder"`
	Bytes  int64  `yaml:"bytes" json:"bytes"`
	SHA256 string `yaml:"sha256" json:"sha256"`
	URL    string `yaml:"url" json:"url"`
}

// File is one file of a data set; it may carry the suffix .gz and be compressed. Bytes and SHA256 are of the content.
type File struct {
	Name    string `yaml:"name" json:"name"`
	Split   string `yaml:"split" json:"split"`     // "train" or "test"
	Content string `yaml:"content" json:"content"` // "images", "labels" or "records"
	Bytes   int64  `yaml:"bytes" json:"bytes"`
	SHA256  string `yaml:"sha256" json:"sha256,omitempty"`
	URL     string `yaml:"url" json:"url,omitempty"`
}

//go:embed specs.yaml
var specsYAML []byte

// List returns the data sets built in, in the order of specs.yaml.
func List() []Spec {
	specs, err := parseSpecs(specsYAML)
	if err != nil {
		panic(fmt.Sprintf("specs.yaml inside this program is damaged: %v", err)) // the file is compiled in and tested
	}
	return specs
}

func builtIn(name string) (Spec, bool) {
	specs := List()
	i := slices.IndexFunc(specs, func(s Spec) bool { return s.Name == name })
	if i < 0 {
		return Spec{}, false
	}
	return specs[i], true
}

var (
	nameRule = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,63}$`)
	hashRule = regexp.MustCompile(`^[0-9a-f]{64}$`)
)

func parseSpecs(text []byte) ([]Spec, error) {
	d := yaml.NewDecoder(bytes.NewReader(text))
	d.KnownFields(true)
	var specs []Spec
	if err := d.Decode(&specs); err != nil {
		return nil, err
	}
	if d.Decode(new(any)) != io.EOF {
		return nil, fmt.Errorf("there is a second document")
	}
	seen := map[string]bool{}
	for _, s := range specs {
		if seen[s.Name] {
			return nil, fmt.Errorf("%s stands there twice", s.Name)
		}
		seen[s.Name] = true
		if err := s.check(); err != nil {
			return nil, fmt.Errorf("%s: %w", s.Name, err)
		}
	}
	return specs, nil
}

// check holds the files' sizes against the counts, so that nothing that trusts a spec can be led astray by a typing error.
func (s Spec) check() error {
	if !nameRule.MatchString(s.Name) {
		return fmt.Errorf("the name must be small letters, digits, dots, dashes")
	}
	if s.H < 1 || s.W < 1 || s.C != 1 && s.C != 3 || len(s.Classes) < 2 || s.TrainImages < 1 || s.TestImages < 1 {
		return fmt.Errorf("sizes or counts are missing")
	}
	seen := map[string]bool{}
	for _, c := range s.Classes {
		if c == "" || seen[c] {
			return fmt.Errorf("class %q is empty or stands there twice", c)
		}
		seen[c] = true
	}
	pixels := int64(s.H) * int64(s.W) * int64(s.C)
	for _, split := range []string{"train", "test"} {
		count := int64(s.TrainImages)
		if split == "test" {
			count = int64(s.TestImages)
		}
		want := map[string]int64{}
		switch s.Format {
		case "idx":
			if s.C != 1 {
				return fmt.Errorf("format idx has one channel")
			}
			want["images"], want["labels"] = 16+count*pixels, 8+count
		case "cifar":
			if len(s.LabelClasses) == 0 || s.LabelClasses[len(s.LabelClasses)-1] != len(s.Classes) {
				return fmt.Errorf("label_classes does not end with the number of classes")
			}
			want["records"] = count * (int64(len(s.LabelClasses)) + pixels)
		default:
			return fmt.Errorf("format %q is not known", s.Format)
		}
		got := map[string]int64{}
		for _, f := range s.Files {
			if f.Split == split {
				got[f.Content] += f.Bytes
			}
			if f.Split != "train" && f.Split != "test" {
				return fmt.Errorf("file %s: split %q is not known", f.Name, f.Split)
			}
			if f.SHA256 != "" && !hashRule.MatchString(f.SHA256) {
				return fmt.Errorf("file %s: sha256 is not 64 hexadecimal digits", f.Name)
			}
		}
		for content, bytes := range want {
			if got[content] != bytes {
				return fmt.Errorf("%s %s: files hold %d bytes, the counts say %d", split, content, got[content], bytes)
			}
			delete(got, content)
		}
		if len(got) > 0 {
			return fmt.Errorf("%s: unexpected contents %v", split, got)
		}
	}
	if a := s.Archive; a != nil && !hashRule.MatchString(a.SHA256) {
		return fmt.Errorf("archive: sha256 is not 64 hexadecimal digits")
	}
	return nil
}
