package runner

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"anynetx/anynetx"
)

const smallStudy = `name: small
seed: 3
population: {architectures: [{depths: [1, 1, 1, 1], widths: [8, 8, 8, 8], bottlenecks: [1, 1, 1, 1], group_widths: [4, 4, 4, 4]}]}
recipes:
  tiny: {batch: 16, learning_rate: 0.05}
defaults: {dataset: one, recipe: tiny, epochs: 3}
tasks:
  - name: first
    classes: 5
  - name: second
    start: {init: first}
`

func TestStudyDefaults(t *testing.T) {
	s, err := ParseStudy([]byte(smallStudy), "small.yaml")
	if err != nil {
		t.Fatal(err)
	}
	second := s.Tasks[1]
	if s.KeepWeights != KeepAll || second.Recipe.LearningRate != 0.05 || second.Recipe.Momentum != 0.9 || second.Stem != anynetx.ResStemIN ||
		second.Resolution != 224 || second.Start != (Start{StartInit, "first"}) || !second.Architectures.All() || second.Epochs != 3 {
		t.Errorf("%+v", s)
	}
}

// Each mistake must be answered with its line and with what to do.
func TestStudyMistakes(t *testing.T) {
	for _, c := range []struct{ old, new, want string }{
		{"    classes: 5", "    clases: 5", `small.yaml:9: unknown key "clases" in a task; did you mean "classes"?`},
		{"    classes: 5", "    nonsense: 5", `small.yaml:9: unknown key "nonsense" in a task; known are name,`},
		{"seed: 3", "sead: 3", `small.yaml:2: unknown key "sead" in a study file; did you mean "seed"?`},
		{"learning_rate: 0.05", "lerning_rate: 0.05", `small.yaml:5: unknown key "lerning_rate" in recipe tiny; did you mean "learning_rate"?`},
		{"learning_rate: 0.05", "learning_rate: fast", "small.yaml:5: the value is of the wrong kind"},
		{"learning_rate: 0.05", "learning_rate: -1", "small.yaml:5: recipe tiny: learning_rate is -1"},
		{"    classes: 5", "    classes: 1", "small.yaml:9: task first: classes is 1, must be at least 2"},
		{"    classes: 5", "    classes: [5]", "small.yaml:9: the value is of the wrong kind"},
		{"    classes: 5", "    classes:", "small.yaml:9: classes has no value"},
		{"    classes: 5", "    classes: 5\n    classes: 6", "small.yaml:10: mapping key"},
		{"    classes: 5", "    classes: 5\n    class_list: [1, 2]", "small.yaml:9: task first: classes is 5 but class_list names 2"},
		{"    classes: 5", "    strides: [1, 2]", "small.yaml:9: task first: strides has 2 numbers"},
		{"    classes: 5", "    strides: [1, 2, 3, 1]", "stride of stage 3 is 3"},
		{"    classes: 5", "    stem: big_stem", `stem is "big_stem"`},
		{"    classes: 5", "    epochs: 0", "small.yaml:9: task first: epochs is 0"},
		{"    classes: 5", "    dtype: int8", `small.yaml:9: task first: dtype is "int8", must be fp32 or fp16 or bf16`},
		{"    classes: 5", "    recipe: large", `small.yaml:9: task first: recipe "large" is not among`},
		{"    classes: 5", "    replicates: 0", "small.yaml:9: replicates: count is 0"},
		{"    classes: 5", "    architectures: some", "small.yaml:9: architectures must be all,"},
		{"    classes: 5", "    architectures: {best: 2}", "small.yaml:9: architectures must be all,"},
		{"    classes: 5", "    architectures: {best: 2, worst: 1, of: nobody}", `there is no task named "nobody"`},
		{"    classes: 5", "    start: {init: second}", "in a circle: first -> second -> first"},
		{"{init: first}", "{continue: first}", "so its epochs (3) count from the start of that task and must be more than 3"},
		{"{init: first}", "fresh", `small.yaml:11: start is "fresh", must be scratch, {init: TASK}`},
		{"{init: first}", "{init: first, continue: first}", "small.yaml:11: start needs one of init and continue"},
		{"{init: first}", "{init: third}", `there is no task named "third"`},
		{"name: second", "name: first", `small.yaml:10: a task named "first" is listed already`},
		{"name: second", "name: a/b", "small.yaml:10: task name is \"a/b\""},
		{"name: small", "name: ../up", "small.yaml:1: name is \"../up\""},
		{"name: small\n", "", "small.yaml:1: the study has no name"},
		{"seed: 3", "seed: -3", "small.yaml:2: seed is -3"},
		{"seed: 3", "keep_weights: some", `small.yaml:2: keep_weights is "some", must be all or needed`},
		{"seed: 3", "seed: &x 3", "small.yaml:2: anchors and aliases are not read"},
		{"depths: [1, 1, 1, 1]", "depths: [1, 1, 1]", "small.yaml:3: architecture 0: depths has 3 numbers"},
		{"widths: [8, 8, 8, 8]", "widths: [8, 8, 8, 9]", "inner width 9 is not a multiple of group width 4"},
		{"population: {", "population: {count: 3, ", "small.yaml:3: count belongs to a space"},
		{"population: {", "population: {space: default, ", "small.yaml:3: population needs exactly one of"},
		{"tasks:\n", "tasks: []\nnot: |\n", "unknown key \"not\""},
		{smallStudy, "", "the file is empty"},
		{smallStudy, smallStudy + "---\nname: other\n", "a second document begins here"},
		{smallStudy, "[1, 2", "small.yaml:"},
		{smallStudy, "name: a\ntasks: 7\n", "small.yaml:2: the value is of the wrong kind"},
		{smallStudy, "#" + strings.Repeat("x", maxStudyBytes), "larger than 1 MiB"},
	} {
		text := strings.Replace(smallStudy, c.old, c.new, 1)
		if text == smallStudy {
			t.Fatalf("%q is not in the study", c.old)
		}
		_, err := ParseStudy([]byte(text), "small.yaml")
		switch {
		case err == nil:
			t.Errorf("%q was accepted", c.new)
		case !errors.Is(err, anynetx.ErrInput):
			t.Errorf("%q: not an input error: %v", c.new, err)
		case !strings.Contains(err.Error(), c.want):
			t.Errorf("%q: %v; want %q", c.new, err, c.want)
		}
	}
}

// A space written in the study file is answered with the study file's lines.
func TestSpaceInStudy(t *testing.T) {
	const study = `name: spaced
population:
  count: 3
  space:
    depth: {law: log_uniform, low: 1, high: 4, quantum: 1}
    band:
      flops: {low: 1e6, high: 2e6}
    setting: {stem: simple_stem_in, stem_width: 16, strides: [1, 2, 2, 2],
      resolution: 32, classes: 10}
tasks:
  - {name: only, dataset: one, epochs: 1}
`
	s, err := ParseStudy([]byte(study), "spaced.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if s.Population.Space.Band.FLOPs != (anynetx.Range{Low: 1e6, High: 2e6}) || s.Population.Space.Setting.Resolution != 32 {
		t.Errorf("%+v", s.Population.Space)
	}
	_, err = ParseStudy([]byte(strings.Replace(study, "flops:", "flips:", 1)), "spaced.yaml")
	if err == nil || !strings.HasPrefix(err.Error(), "spaced.yaml:7: ") || !errors.Is(err, anynetx.ErrInput) {
		t.Errorf("an unknown key of a space on line 7: %v", err)
	}
	impossible, err := ParseStudy([]byte(strings.Replace(study, "low: 1e6, high: 2e6", "low: 1, high: 2", 1)), "spaced.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := NewPlan(impossible, fakeData); err == nil || !errors.Is(err, anynetx.ErrInput) || !strings.Contains(err.Error(), "spaced.yaml:3") {
		t.Errorf("a band without networks: %v", err)
	}
}

func TestStudiesOfTheRepositoryPlan(t *testing.T) {
	paths, err := filepath.Glob("../studies/*.yaml")
	if err != nil || len(paths) < 2 {
		t.Fatalf("%v %v", paths, err)
	}
	for _, path := range paths {
		s, err := ReadStudy(path)
		if err != nil {
			t.Error(err)
			continue
		}
		p, err := NewPlan(s, DescribeWithoutData(s, t.TempDir()))
		if err != nil {
			t.Error(err)
			continue
		}
		f, err := ForecastStudy(p, ForecastOptions{Measure: func(string) Measure {
			return func(*Plan, []*PlannedRun) (Speed, error) { return Speed{MACsPerSecond: 1e9}, nil }
		}})
		if err != nil {
			t.Error(err)
			continue
		}
		var text strings.Builder
		if err := f.WriteText(&text); err != nil || f.Hours <= 0 || f.Runs < 24 || !strings.Contains(text.String(), s.Tasks[0].Name) {
			t.Errorf("%s: %+v %v", path, f, err)
		}
	}
}

func FuzzParseStudy(f *testing.F) {
	f.Add([]byte(smallStudy))
	f.Add([]byte(faultStudy))
	if text, err := os.ReadFile("../studies/quick.yaml"); err == nil {
		f.Add(text)
	}
	f.Add([]byte("name: a\npopulation: {space: default, count: 1}\ntasks: [{name: a, dataset: b, epochs: 1, start: {init: a}}]\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		s, err := ParseStudy(text, "fuzz.yaml")
		if err != nil {
			if !errors.Is(err, anynetx.ErrInput) || !strings.HasPrefix(err.Error(), "fuzz.yaml") {
				t.Errorf("%q: %v", text, err)
			}
			return
		}
		if s.Name == "" || len(s.Tasks) == 0 {
			t.Errorf("%q gave %+v", text, s)
		}
	})
}
