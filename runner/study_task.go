package runner

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"anynetx/anynetx"
	"anynetx/engine"

	"go.yaml.in/yaml/v3"
)

// taskFile is a task, or the defaults of all tasks, as written.
type taskFile struct {
	Name          *string        `yaml:"name"`
	Dataset       *string        `yaml:"dataset"`
	Classes       *int           `yaml:"classes"`
	ClassList     []int          `yaml:"class_list"`
	TrainImages   *int           `yaml:"train_images"`
	TestImages    *int           `yaml:"test_images"`
	Balance       *bool          `yaml:"balance"`
	Recipe        *string        `yaml:"recipe"`
	Stem          *string        `yaml:"stem"`
	StemWidth     *int           `yaml:"stem_width"`
	Strides       []int          `yaml:"strides"`
	Resolution    *int           `yaml:"resolution"`
	Epochs        *int           `yaml:"epochs"`
	DType         *string        `yaml:"dtype"`
	Metric        *string        `yaml:"metric"`
	Start         *startFile     `yaml:"start"`
	Architectures *Selection     `yaml:"architectures"`
	Replicates    *replicateFile `yaml:"replicates"`
}

type startFile struct{ Start }

// UnmarshalYAML reads `scratch`, `{init: TASK}` or `{continue: TASK}`.
func (s *startFile) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind == yaml.ScalarNode && n.Value == StartScratch {
		s.Kind = StartScratch
		return nil
	}
	var from struct {
		Init     string `yaml:"init"`
		Continue string `yaml:"continue"`
	}
	if n.Kind != yaml.MappingNode {
		return at(n, "start is %q, must be scratch, {init: TASK} or {continue: TASK}", n.Value)
	}
	if err := decode(n, "start", &from); err != nil {
		return err
	}
	switch {
	case from.Init != "" && from.Continue == "":
		s.Start = Start{StartInit, from.Init}
	case from.Continue != "" && from.Init == "":
		s.Start = Start{StartContinue, from.Continue}
	default:
		return at(n, "start needs one of init and continue, with the name of a task")
	}
	return nil
}

// UnmarshalYAML reads `all`, `[ID or INDEX, ...]`, `{first: N}` or `{best: N, worst: N, of: TASK}`.
func (s *Selection) UnmarshalYAML(n *yaml.Node) error {
	*s = Selection{line: n.Line}
	switch {
	case n.Kind == yaml.ScalarNode && n.Value == "all":
		return nil
	case n.Kind == yaml.SequenceNode && len(n.Content) > 0:
		for _, c := range n.Content {
			if c.Kind != yaml.ScalarNode || c.Value == "" {
				return at(c, "architectures are listed by ID or by index in the population, from 0")
			}
			if slices.Contains(s.IDs, c.Value) {
				return at(c, "architecture %s is listed already", c.Value)
			}
			s.IDs = append(s.IDs, c.Value)
		}
		return nil
	case n.Kind == yaml.MappingNode:
		var f struct {
			First *int   `yaml:"first"`
			Best  int    `yaml:"best"`
			Worst int    `yaml:"worst"`
			Of    string `yaml:"of"`
		}
		if err := decode(n, "architectures", &f); err != nil {
			return err
		}
		switch {
		case f.First != nil && f.Best == 0 && f.Worst == 0 && f.Of == "" && *f.First > 0:
			s.First = *f.First
			return nil
		case f.First == nil && f.Of != "" && f.Best >= 0 && f.Worst >= 0 && f.Best+f.Worst > 0:
			s.Best, s.Worst, s.Of = f.Best, f.Worst, f.Of
			return nil
		}
	}
	return at(n, "architectures must be all, a list of IDs or indices, {first: N} or {best: N, worst: N, of: TASK}")
}

type replicateFile struct{ list []ReplicateCount }

const maxReplicates = 100_000

// UnmarshalYAML reads a number, or a list of {count, architectures}.
func (r *replicateFile) UnmarshalYAML(n *yaml.Node) error {
	type entry struct {
		Count         int        `yaml:"count"`
		Architectures *Selection `yaml:"architectures"`
	}
	var entries []entry
	if n.Kind == yaml.ScalarNode {
		e := entry{}
		if err := decode(n, "replicates", &e.Count); err != nil {
			return err
		}
		entries = append(entries, e)
	} else if err := decode(n, "replicates", &entries); err != nil {
		return err
	}
	for _, e := range entries {
		if e.Count < 1 || e.Count > maxReplicates {
			return at(n, "replicates: count is %d, must be 1 to %d", e.Count, maxReplicates)
		}
		c := ReplicateCount{Count: e.Count}
		if e.Architectures != nil {
			c.Architectures = *e.Architectures
		}
		if c.Architectures.Of != "" {
			return at(n, "replicates: a rank range belongs to the task's own architectures; here list IDs or say {first: N}")
		}
		r.list = append(r.list, c)
	}
	return nil
}

func (s *Study) readTask(n, defaults *yaml.Node) (*Task, error) {
	var file taskFile
	if !defaults.IsZero() {
		if err := decode(defaults, "defaults", &file); err != nil {
			return nil, err
		}
		if file.Name != nil {
			return nil, at(defaults, "defaults cannot hold a name")
		}
	}
	var own taskFile
	if err := decode(n, "a task", &own); err != nil {
		return nil, err
	}
	if err := decode(n, "a task", &file); err != nil {
		return nil, err
	}
	if own.Classes != nil && own.ClassList == nil {
		file.ClassList = nil
	}
	if own.ClassList != nil && own.Classes == nil {
		file.Classes = nil
	}
	setting := anynetx.DefaultSetting()
	t := &Task{line: n.Line, RecipeName: "default", Stem: setting.Stem, StemWidth: setting.StemWidth,
		Strides: setting.Strides[:], Resolution: setting.Resolution, DType: "fp32", Metric: "top1", Start: Start{Kind: StartScratch}}
	set(&t.Name, file.Name)
	set(&t.Dataset, file.Dataset)
	set(&t.Classes, file.Classes)
	t.ClassList = file.ClassList
	set(&t.TrainImages, file.TrainImages)
	set(&t.TestImages, file.TestImages)
	set(&t.Balance, file.Balance)
	set(&t.RecipeName, file.Recipe)
	set((*string)(&t.Stem), file.Stem)
	set(&t.StemWidth, file.StemWidth)
	if file.Strides != nil {
		t.Strides = file.Strides
	}
	set(&t.Resolution, file.Resolution)
	set(&t.Epochs, file.Epochs)
	set(&t.DType, file.DType)
	set(&t.Metric, file.Metric)
	set(&t.Architectures, file.Architectures)
	if file.Start != nil {
		t.Start = file.Start.Start
	}
	if file.Replicates != nil {
		t.Replicates = file.Replicates.list
	}
	recipe, ok := s.Recipes[t.RecipeName]
	t.Recipe = recipe
	where := func(key string) *yaml.Node {
		if v := valueOf(n, key); v != n {
			return v
		}
		if v := valueOf(defaults, key); v != defaults {
			return v
		}
		return n
	}
	switch {
	case t.Name == "":
		return nil, at(n, "the task has no name")
	case !validName(t.Name):
		return nil, at(where("name"), "task name is %q; %s", t.Name, nameRule)
	case t.Dataset == "":
		return nil, at(n, "task %s has no dataset; `anynetx data list` shows the known ones", t.Name)
	case !validName(t.Dataset):
		return nil, at(where("dataset"), "task %s: dataset is %q; %s", t.Name, t.Dataset, nameRule)
	case !ok:
		return nil, at(where("recipe"), "task %s: recipe %q is not among the recipes of this file", t.Name, t.RecipeName)
	case t.Epochs < 1 || t.Epochs > 100_000:
		return nil, at(where("epochs"), "task %s: epochs is %d, must be 1 to 100000", t.Name, t.Epochs)
	case t.Classes < 0 || t.Classes == 1 || t.Classes > 1<<20:
		return nil, at(where("classes"), "task %s: classes is %d, must be at least 2 (leave the line out for all)", t.Name, t.Classes)
	case len(t.ClassList) == 1 || hasRepeat(t.ClassList):
		return nil, at(where("class_list"), "task %s: class_list must name at least two different classes, by index from 0", t.Name)
	case len(t.ClassList) > 0 && t.Classes != 0 && t.Classes != len(t.ClassList):
		return nil, at(where("classes"), "task %s: classes is %d but class_list names %d; leave one of them out", t.Name, t.Classes, len(t.ClassList))
	case t.TrainImages < 0 || t.TestImages < 0:
		return nil, at(where("train_images"), "task %s: numbers of images cannot be negative (leave the lines out for all)", t.Name)
	case len(t.Strides) != anynetx.Stages:
		return nil, at(where("strides"), "task %s: strides has %d numbers, must have one per stage (%d)", t.Name, len(t.Strides), anynetx.Stages)
	}
	if err := oneOf(where("dtype"), "task "+t.Name+": dtype", t.DType, engine.DTypes()...); err != nil {
		return nil, err
	}
	if err := oneOf(where("metric"), "task "+t.Name+": metric", t.Metric, "top1", "top5"); err != nil {
		return nil, err
	}
	if err := t.Recipe.Augmentation.Validate(t.Resolution); err != nil {
		return nil, at(where("recipe"), "task %s: recipe %s: %v", t.Name, t.RecipeName, err)
	}
	check := t.setting()
	if check.Classes == 0 {
		check.Classes = 2 // all of the data set's, known when it is opened
	}
	if err := check.Validate(); err != nil {
		return nil, at(n, "task %s: %v", t.Name, err)
	}
	return t, nil
}

func set[T any](to *T, from *T) {
	if from != nil {
		*to = *from
	}
}

func hasRepeat(list []int) bool {
	seen := map[int]bool{}
	for _, v := range list {
		if seen[v] || v < 0 {
			return true
		}
		seen[v] = true
	}
	return false
}

func (t *Task) setting() anynetx.Setting {
	s := anynetx.Setting{Stem: t.Stem, StemWidth: t.StemWidth, Resolution: t.Resolution, Classes: t.Classes}
	if len(t.ClassList) > 0 {
		s.Classes = len(t.ClassList)
	}
	copy(s.Strides[:], t.Strides)
	return s
}

func (t *Task) stridesText() string {
	parts := make([]string, len(t.Strides))
	for i, v := range t.Strides {
		parts[i] = strconv.Itoa(v)
	}
	return strings.Join(parts, "-")
}

// sources are the tasks that must be further on before this one's runs can start.
func (t *Task) sources() []string {
	var list []string
	if t.Start.Task != "" {
		list = append(list, t.Start.Task)
	}
	if t.Architectures.Of != "" {
		list = append(list, t.Architectures.Of)
	}
	return list
}

// checkReferences looks at what tasks say of each other: sources exist, do not wait for each other in a circle, and fit.
func (s *Study) checkReferences() error {
	for i := range s.Tasks {
		t := &s.Tasks[i]
		for _, name := range t.sources() {
			if s.task(name) == nil {
				return inputAt{t.line, fmt.Sprintf("task %s: there is no task named %q in this file", t.Name, name)}
			}
		}
	}
	for i := range s.Tasks {
		if path := s.circle(s.Tasks[i].Name, nil); path != nil {
			return inputAt{s.Tasks[i].line, fmt.Sprintf("tasks wait for each other in a circle: %s", strings.Join(path, " -> "))}
		}
	}
	for i := range s.Tasks {
		t := &s.Tasks[i]
		if t.Start.Kind == StartScratch {
			continue
		}
		from := s.task(t.Start.Task)
		if t.Stem != from.Stem || t.StemWidth != from.StemWidth {
			return inputAt{t.line, fmt.Sprintf("task %s starts from task %s but their stems differ (%s %d and %s %d); the weights would not fit",
				t.Name, from.Name, t.Stem, t.StemWidth, from.Stem, from.StemWidth)}
		}
		if t.Start.Kind == StartContinue {
			switch {
			case t.Epochs <= from.Epochs:
				return inputAt{t.line, fmt.Sprintf("task %s continues task %s, so its epochs (%d) count from the start of that task and must be more than %d",
					t.Name, from.Name, t.Epochs, from.Epochs)}
			case t.Dataset != from.Dataset || t.Classes != from.Classes || !slices.Equal(t.ClassList, from.ClassList) ||
				t.TrainImages != from.TrainImages || t.TestImages != from.TestImages || t.Balance != from.Balance:
				return inputAt{t.line, fmt.Sprintf("task %s continues task %s, so data set, classes and images must be the same; to change them start with init", t.Name, from.Name)}
			case t.Recipe.Batch != from.Recipe.Batch || t.Resolution != from.Resolution || !slices.Equal(t.Strides, from.Strides) || t.DType != from.DType:
				return inputAt{t.line, fmt.Sprintf("task %s continues task %s, so batch, resolution, strides and dtype must be the same; to change them start with init", t.Name, from.Name)}
			}
		}
	}
	return nil
}

func (s *Study) task(name string) *Task {
	for i := range s.Tasks {
		if s.Tasks[i].Name == name {
			return &s.Tasks[i]
		}
	}
	return nil
}

func (s *Study) circle(name string, path []string) []string {
	if slices.Contains(path, name) {
		return append(path, name)
	}
	for _, source := range s.task(name).sources() {
		if found := s.circle(source, append(slices.Clone(path), name)); found != nil {
			return found
		}
	}
	return nil
}
