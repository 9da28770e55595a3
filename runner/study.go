// Package runner carries a study out: it reads the study file, plans the runs, leases them to worker processes, commits their results
// and goes on where a killed study stopped. docs/study-format.md describes the file, docs/same-bits.md the rule behind "same bits".
package runner

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"anynetx/anynetx"
	"anynetx/datasets"
	"anynetx/engine"

	"go.yaml.in/yaml/v3"
)

// Study is a study file, with defaults filled in and every reference checked as far as the file alone allows.
type Study struct {
	Name        string
	Seed        uint64
	KeepWeights string // KeepAll or KeepNeeded
	Population  Population
	Recipes     map[string]engine.Recipe
	Tasks       []Task

	Expect   map[string]Expectation // by data set
	Failures *Policy                // nil: DefaultPolicy

	Path   string // of the file
	Text   []byte // its bytes
	digest string // SHA-256 of these and of the files named in it

	spaceText []byte // of the space's own file
}

// Expectation is what the study file says of a data set, for planning where the data are not; a run checks it.
type Expectation struct {
	Classes     int `yaml:"classes"`
	TrainImages int `yaml:"train_images"`
	TestImages  int `yaml:"test_images"`
}

// Which final weights a study keeps.
const (
	KeepAll    = "all"
	KeepNeeded = "needed" // those that another task starts from
)

// Population says where a study's architectures come from: exactly one of Space, List and File.
type Population struct {
	Space *anynetx.Space
	Count int // of networks to sample from Space
	List  []anynetx.Architecture
	File  string // architectures.parquet of `anynetx sample --out`
	line  int
}

// Task is a data set with everything that a run needs besides an architecture. In a Study Classes, TrainImages and TestImages of 0
// mean all; in a Plan they are numbers.
type Task struct {
	Name          string           `json:"name"`
	Dataset       string           `json:"dataset"`
	Classes       int              `json:"classes"`
	ClassList     []int            `json:"class_list,omitempty"`
	TrainImages   int              `json:"train_images"`
	TestImages    int              `json:"test_images"`
	Balance       bool             `json:"balance,omitempty"` // the largest class is cut to the size of the second
	RecipeName    string           `json:"recipe_name"`
	Recipe        engine.Recipe    `json:"recipe"`
	Stem          anynetx.Stem     `json:"stem"`
	StemWidth     int              `json:"stem_width"`
	Strides       []int            `json:"strides"`
	Resolution    int              `json:"resolution"`
	Epochs        int              `json:"epochs"`
	DType         string           `json:"dtype"`
	Metric        string           `json:"metric"`
	Start         Start            `json:"start"`
	Architectures Selection        `json:"architectures"`
	Replicates    []ReplicateCount `json:"replicates"`

	// In a Plan:
	ClassNames []string        `json:"class_names,omitempty"`
	Asked      datasets.Subset `json:"asked"`       // Classes, TrainImages and TestImages as the file has them
	DataSHA256 string          `json:"data_sha256"` // of what is trained and tested on
	line       int
}

// Start is where a run's first weights come from.
type Start struct {
	Kind string `json:"kind"`           // StartScratch, StartInit, StartContinue
	Task string `json:"task,omitempty"` // the source of the other two
}

// Kinds of start.
const (
	StartScratch  = "scratch"
	StartInit     = "init"     // final weights of the same architecture in Task, with a new head
	StartContinue = "continue" // weights, momentum and epoch of the same architecture in Task go on
)

// Selection says which architectures of the population are meant; the zero Selection is all.
type Selection struct {
	First int      `json:"first,omitempty"`
	IDs   []string `json:"ids,omitempty"` // of architectures, or their index as text
	Best  int      `json:"best,omitempty"`
	Worst int      `json:"worst,omitempty"`
	Of    string   `json:"of,omitempty"` // the task whose ranking Best and Worst speak of
	line  int
}

// All says whether the selection is the whole population.
func (s Selection) All() bool { return s.First == 0 && len(s.IDs) == 0 && s.Of == "" }

// ReplicateCount trains the selected architectures Count times; an architecture takes the largest count that selects it.
type ReplicateCount struct {
	Count         int       `json:"count"`
	Architectures Selection `json:"architectures"`
}

const maxStudyBytes = 1 << 20

// ReadStudy reads a study file.
func ReadStudy(path string) (*Study, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, anynetx.Inputf("study file: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxStudyBytes+1))
	if err != nil {
		return nil, anynetx.Inputf("study file %s: %w", path, err)
	}
	return ParseStudy(text, path)
}

// ParseStudy reads a study file's text; path is for messages and for files named in it, which lie relative to it.
func ParseStudy(text []byte, path string) (*Study, error) {
	s, err := parseStudy(text, path)
	if err != nil {
		var line inputAt
		if errors.As(err, &line) {
			return nil, anynetx.Inputf("%s:%d: %s", path, line.line, line.text)
		}
		if strings.HasPrefix(err.Error(), path+":") { // a design space that stands in the file has said where
			return nil, err
		}
		return nil, anynetx.Inputf("%s: %w", path, err)
	}
	return s, nil
}

type studyFile struct {
	Name        *string                `yaml:"name"`
	Seed        *int64                 `yaml:"seed"`
	KeepWeights *string                `yaml:"keep_weights"`
	Population  yaml.Node              `yaml:"population"`
	Datasets    map[string]Expectation `yaml:"datasets"`
	Recipes     map[string]yaml.Node   `yaml:"recipes"`
	Failures    yaml.Node              `yaml:"failures"`
	Defaults    yaml.Node              `yaml:"defaults"`
	Tasks       []yaml.Node            `yaml:"tasks"`
}

func parseStudy(text []byte, path string) (*Study, error) {
	if len(text) > maxStudyBytes {
		return nil, fmt.Errorf("the file is larger than 1 MiB; a study file is a page of text")
	}
	var document, second yaml.Node
	reader := yaml.NewDecoder(bytes.NewReader(text))
	if err := reader.Decode(&document); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, fmt.Errorf("the file is empty; studies/quick.yaml is an example to copy")
		}
		return nil, lineOf(err, nil)
	}
	if err := reader.Decode(&second); !errors.Is(err, io.EOF) {
		if err != nil {
			return nil, lineOf(err, nil)
		}
		return nil, at(&second, "a second document begins here; a study file holds one")
	}
	root := document.Content[0]
	if err := noAliases(root); err != nil {
		return nil, err
	}
	var file studyFile
	if err := decode(root, "a study file", &file); err != nil {
		return nil, err
	}
	s := &Study{Path: path, Text: text, KeepWeights: KeepAll, Recipes: map[string]engine.Recipe{"default": engine.DefaultRecipe()}}
	switch {
	case file.Name == nil:
		return nil, at(root, "the study has no name; add a line like \"name: quick\"")
	case !validName(*file.Name):
		return nil, at(valueOf(root, "name"), "name is %q; %s", *file.Name, nameRule)
	case file.Seed != nil && (*file.Seed < 0 || *file.Seed >= 1<<53):
		return nil, at(valueOf(root, "seed"), "seed is %d, must be 0 to 2^53 - 1", *file.Seed)
	case file.Population.IsZero():
		return nil, at(root, "the study has no population; say where the architectures come from")
	case len(file.Tasks) == 0:
		return nil, at(root, "the study has no tasks; list at least one")
	}
	s.Name = *file.Name
	if file.Seed != nil {
		s.Seed = uint64(*file.Seed)
	}
	if file.KeepWeights != nil {
		if err := oneOf(valueOf(root, "keep_weights"), "keep_weights", *file.KeepWeights, KeepAll, KeepNeeded); err != nil {
			return nil, err
		}
		s.KeepWeights = *file.KeepWeights
	}
	s.Expect = file.Datasets
	for name, e := range s.Expect {
		if e.Classes < 2 || e.TrainImages < 1 || e.TestImages < 1 {
			return nil, at(valueOf(valueOf(root, "datasets"), name), "data set %s: give classes (at least 2), train_images and test_images", name)
		}
	}
	if !file.Failures.IsZero() {
		var err error
		if s.Failures, err = readPolicy(&file.Failures); err != nil {
			return nil, err
		}
	}
	if err := s.readPopulation(&file.Population); err != nil {
		return nil, err
	}
	for name, node := range file.Recipes {
		if !validName(name) {
			return nil, at(&node, "recipe %q: %s", name, nameRule)
		}
		recipe := engine.DefaultRecipe()
		if err := decode(&node, "recipe "+name, &recipe); err != nil {
			return nil, err
		}
		if err := recipe.Validate(); err != nil {
			return nil, at(&node, "recipe %s: %v", name, err)
		}
		s.Recipes[name] = recipe
	}
	names := map[string]bool{}
	for i := range file.Tasks {
		task, err := s.readTask(&file.Tasks[i], &file.Defaults)
		if err != nil {
			return nil, err
		}
		if names[task.Name] {
			return nil, at(&file.Tasks[i], "a task named %q is listed already; names must differ", task.Name)
		}
		names[task.Name] = true
		s.Tasks = append(s.Tasks, *task)
	}
	if err := s.checkReferences(); err != nil {
		return nil, err
	}
	h := sha256.New()
	h.Write(text)
	h.Write(s.spaceText)
	if s.Population.File != "" {
		f, err := os.Open(s.Population.File)
		if err != nil {
			return nil, at(valueOf(&file.Population, "file"), "population file: %v", err)
		}
		defer f.Close()
		if _, err := io.Copy(h, f); err != nil {
			return nil, at(valueOf(&file.Population, "file"), "population file: %v", err)
		}
	}
	s.digest = hex.EncodeToString(h.Sum(nil))
	return s, nil
}

// noAliases refuses anchors and aliases everywhere, before anything is expanded.
func noAliases(n *yaml.Node) error {
	if n.Kind == yaml.AliasNode || n.Anchor != "" {
		return at(n, "anchors and aliases are not read here; write the value out, or put it under \"defaults\"")
	}
	for _, c := range n.Content {
		if err := noAliases(c); err != nil {
			return err
		}
	}
	return nil
}

type populationFile struct {
	Space         yaml.Node   `yaml:"space"`
	Count         *int        `yaml:"count"`
	Architectures []stageFile `yaml:"architectures"`
	File          string      `yaml:"file"`
}

type stageFile struct {
	Depths      []int `yaml:"depths"`
	Widths      []int `yaml:"widths"`
	Bottlenecks []int `yaml:"bottlenecks"`
	GroupWidths []int `yaml:"group_widths"`
}

const maxPopulation = 1_000_000

func (s *Study) readPopulation(n *yaml.Node) error {
	var file populationFile
	if err := decode(n, "population", &file); err != nil {
		return err
	}
	given := 0
	for _, is := range []bool{!file.Space.IsZero(), len(file.Architectures) > 0, file.File != ""} {
		if is {
			given++
		}
	}
	if given != 1 {
		return at(n, "population needs exactly one of space (with count), architectures and file")
	}
	s.Population.line = n.Line
	if file.Count != nil && file.Space.IsZero() {
		return at(valueOf(n, "count"), "count belongs to a space; architectures and file say themselves how many there are")
	}
	switch {
	case file.File != "":
		s.Population.File = file.File
		if !filepath.IsAbs(file.File) {
			s.Population.File = filepath.Join(filepath.Dir(s.Path), file.File)
		}
	case len(file.Architectures) > 0:
		list := valueOf(n, "architectures")
		for i, f := range file.Architectures {
			var a anynetx.Architecture
			for _, part := range []struct {
				name   string
				values []int
				set    func(*anynetx.Stage, int)
			}{
				{"depths", f.Depths, func(s *anynetx.Stage, v int) { s.Depth = v }},
				{"widths", f.Widths, func(s *anynetx.Stage, v int) { s.Width = v }},
				{"bottlenecks", f.Bottlenecks, func(s *anynetx.Stage, v int) { s.Bottleneck = v }},
				{"group_widths", f.GroupWidths, func(s *anynetx.Stage, v int) { s.GroupWidth = v }},
			} {
				if len(part.values) != anynetx.Stages {
					return at(list.Content[i], "architecture %d: %s has %d numbers, must have one per stage (%d)", i, part.name, len(part.values), anynetx.Stages)
				}
				for k, v := range part.values {
					part.set(&a[k], v)
				}
			}
			if err := a.Validate(); err != nil {
				return at(list.Content[i], "architecture %d: %v", i, err)
			}
			if slices.Contains(s.Population.List, a) {
				return at(list.Content[i], "architecture %d (%s) is listed already", i, a)
			}
			s.Population.List = append(s.Population.List, a)
		}
	default:
		if file.Count == nil || *file.Count < 1 || *file.Count > maxPopulation {
			return at(n, "population needs count, a number of architectures from 1 to %d", maxPopulation)
		}
		s.Population.Count = *file.Count
		space, err := s.readSpace(&file.Space)
		if err != nil {
			return err
		}
		s.Population.Space = &space
	}
	return nil
}

// readSpace reads a space written in the study file, or one in a file of its own.
func (s *Study) readSpace(n *yaml.Node) (anynetx.Space, error) {
	if n.Kind == yaml.ScalarNode {
		path := n.Value
		if path == "default" {
			return anynetx.DefaultSpace(), nil
		}
		if !filepath.IsAbs(path) {
			path = filepath.Join(filepath.Dir(s.Path), path)
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return anynetx.Space{}, at(n, "space file: %v", err)
		}
		s.spaceText = text
		return anynetx.ParseSpace(text, path)
	}
	text, err := yaml.Marshal(n)
	if err != nil {
		return anynetx.Space{}, at(n, "%v", err)
	}
	if n.Style&yaml.FlowStyle == 0 {
		text = linesOf(s.Text, n) // so that messages name lines of this file
	}
	return anynetx.ParseSpace(text, s.Path)
}

// linesOf cuts a block mapping out of the file, with empty lines in place of what stands before it.
func linesOf(text []byte, n *yaml.Node) []byte {
	last := n.Line
	var visit func(*yaml.Node)
	visit = func(n *yaml.Node) {
		last = max(last, n.Line)
		for _, c := range n.Content {
			visit(c)
		}
	}
	visit(n)
	lines := strings.Split(string(text), "\n")
	for i := range lines {
		switch {
		case i < n.Line-1:
			lines[i] = ""
		case len(lines[i]) >= n.Column-1:
			lines[i] = lines[i][n.Column-1:]
		}
	}
	for last < len(lines) && (strings.HasPrefix(lines[last], " ") || lines[last] == "}" || lines[last] == "]") {
		last++ // the rest of a flow collection that ends on a later line
	}
	return []byte(strings.Join(lines[:last], "\n") + "\n")
}

const nameRule = "names have 1 to 64 letters, digits, dots, dashes and underscores, and begin with a letter or digit"

func validName(name string) bool {
	if len(name) < 1 || len(name) > 64 {
		return false
	}
	for i, c := range []byte(name) {
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		if !letter && (i == 0 || !strings.ContainsRune("-_.", rune(c))) {
			return false
		}
	}
	return true
}

func valueOf(mapping *yaml.Node, key string) *yaml.Node {
	for i := 0; i+1 < len(mapping.Content); i += 2 {
		if mapping.Content[i].Value == key {
			return mapping.Content[i+1]
		}
	}
	return mapping
}
