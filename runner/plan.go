package runner

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"anynetx/anynetx"
	"anynetx/datasets"
	"anynetx/random"
)

// Plan is a study with everything looked up: the population sampled, the data sets' classes and images counted. It is all that a worker
// needs, and a function of the study file, the data sets and the sampler.
type Plan struct {
	Version       int      `json:"version"`
	Name          string   `json:"name"`
	Seed          uint64   `json:"seed"`
	KeepWeights   string   `json:"keep_weights"`
	Sampled       *Sampled `json:"sampled,omitempty"`
	Architectures []Member `json:"architectures"`
	Tasks         []Task   `json:"tasks"`
	Failures      *Policy  `json:"failures,omitempty"` // nil: DefaultPolicy
	StudySHA256   string   `json:"study_sha256"`       // of the study file and of those it names

	byID map[string]int // index of an architecture
}

const planVersion = 1

// policy says what follows from failures.
func (p *Plan) policy() *Policy {
	if p.Failures != nil {
		return p.Failures
	}
	return DefaultPolicy()
}

// Sampled says how the population was drawn.
type Sampled struct {
	Drawn          uint64  `json:"drawn"`
	InBand         uint64  `json:"in_band"`
	AcceptanceRate float64 `json:"acceptance_rate"`
}

// Member is an architecture of the population, with the complexity it was sampled at.
type Member struct {
	anynetx.Summary
	SampleIndex *int64 `json:"sample_index,omitempty"`
}

// PlannedRun is architecture x task x replicate.
type PlannedRun struct {
	ID        string
	Member    *Member
	Task      *Task
	Replicate int
	Source    *PlannedRun // it starts from this run's final weights, nil for scratch

	Images int64   // training images from its start to its end
	MACs   float64 // multiply-adds, backward passes and tests included ...
	Values float64 // ... and outputs of layers that are computed for them: what the prediction of its time is made of
	shared *taskInputs
	seed   uint64
}

// input is one of the named values that a run is a function of.
type input struct{ name, value string }

// DataInfo is what a plan needs to know of the part of a data set that a task uses.
type DataInfo struct {
	ClassNames              []string
	TrainImages, TestImages int
	SHA256                  string // of the pixels and labels, "" if the data were not looked at
}

// Describe looks a task's data up.
type Describe func(dataset string, part datasets.Subset, stream random.Stream) (DataInfo, error)

// NewPlan samples the population and looks the data sets up.
func NewPlan(s *Study, describe Describe) (*Plan, error) {
	p := &Plan{Version: planVersion, Name: s.Name, Seed: s.Seed, KeepWeights: s.KeepWeights, Failures: s.Failures, StudySHA256: s.digest}
	if err := p.populate(s); err != nil {
		return nil, err
	}
	for _, t := range s.Tasks {
		info, err := describe(t.Dataset, t.Subset(), subsetStream(s.Seed, t.Dataset))
		if err != nil {
			return nil, fmt.Errorf("task %s: %w", t.Name, err)
		}
		t.Asked = t.Subset()
		t.Classes, t.TrainImages, t.TestImages = len(info.ClassNames), info.TrainImages, info.TestImages
		t.ClassNames, t.DataSHA256 = info.ClassNames, info.SHA256
		if t.TrainImages < t.Recipe.Batch {
			return nil, anynetx.Inputf("%s:%d: task %s has %d training images, fewer than a batch of its recipe (%d)", s.Path, t.line, t.Name, t.TrainImages, t.Recipe.Batch)
		}
		if t.Metric == "top5" && t.Classes <= 5 {
			return nil, anynetx.Inputf("%s:%d: task %s has %d classes, so its metric cannot be top5", s.Path, t.line, t.Name, t.Classes)
		}
		p.Tasks = append(p.Tasks, t)
	}
	if _, err := p.Runs(nil); err != nil {
		return nil, anynetx.Inputf("%s: %w", s.Path, err)
	}
	return p, nil
}

// subsetStream is the same for all tasks of a data set, so that their parts are nested.
func subsetStream(seed uint64, dataset string) random.Stream {
	return random.New(seed, "subset", dataset)
}

// Subset is the part of the data set that the task asks for.
func (t *Task) Subset() datasets.Subset {
	return datasets.Subset{Classes: t.Classes, ClassList: t.ClassList, TrainImages: t.TrainImages, TestImages: t.TestImages, Balance: t.Balance}
}

func (p *Plan) populate(s *Study) error {
	switch pop := s.Population; {
	case pop.Space != nil:
		sampled, err := pop.Space.Sample(s.Seed, pop.Count, 0)
		if err != nil {
			return anynetx.Inputf("%s:%d: population: %w", s.Path, pop.line, err)
		}
		for _, m := range sampled.Members {
			index := int64(m.Index)
			p.Architectures = append(p.Architectures, Member{anynetx.Summarize(m.Architecture, m.Complexity), &index})
		}
		p.Sampled = &Sampled{sampled.Drawn, sampled.InBand, sampled.AcceptanceRate()}
	case pop.File != "":
		list, err := readPopulationFile(pop.File)
		if err != nil {
			return anynetx.Inputf("%s:%d: population: %w", s.Path, pop.line, err)
		}
		p.Architectures = list
	default:
		for _, a := range pop.List {
			network, err := anynetx.Build(a, listSetting(s))
			if err != nil {
				return anynetx.Inputf("%s:%d: architecture %s: %w", s.Path, pop.line, a, err)
			}
			p.Architectures = append(p.Architectures, Member{Summary: anynetx.Summarize(a, network.Complexity())})
		}
	}
	return nil
}

// listSetting is where the complexity of listed architectures is counted: in the first task's setting.
func listSetting(s *Study) anynetx.Setting {
	setting := s.Tasks[0].setting()
	if setting.Classes == 0 {
		setting.Classes = anynetx.DefaultSetting().Classes
	}
	return setting
}

// Task finds a task by its name.
func (p *Plan) Task(name string) *Task {
	for i := range p.Tasks {
		if p.Tasks[i].Name == name {
			return &p.Tasks[i]
		}
	}
	return nil
}

// Ranking lists the architectures (by index) of a task from the best to the worst, or says that the task is not complete.
type Ranking func(task string) (best []int, complete bool, err error)

// Runs lists the runs of all tasks in the order of the file. Tasks that take a rank range of a task that is not complete have none yet;
// a nil ranking is one of which no task is complete.
func (p *Plan) Runs(ranking Ranking) ([]*PlannedRun, error) {
	var list []*PlannedRun
	byTask := map[string]map[[2]int]*PlannedRun{}
	costs := map[costKey]anynetx.Complexity{}
	remaining := len(p.Tasks)
	for remaining > 0 {
		before := remaining
		for i := range p.Tasks {
			t := &p.Tasks[i]
			if byTask[t.Name] != nil || t.Start.Task != "" && byTask[t.Start.Task] == nil {
				continue
			}
			runs, err := p.taskRuns(t, byTask[t.Start.Task], ranking, costs)
			if err != nil {
				return nil, err
			}
			byTask[t.Name] = map[[2]int]*PlannedRun{}
			for _, r := range runs {
				byTask[t.Name][[2]int{p.indexOf(r.Member.ID), r.Replicate}] = r
			}
			list = append(list, runs...)
			remaining--
		}
		if remaining == before {
			return nil, fmt.Errorf("tasks wait for each other in a circle") // NewPlan's study was checked; a damaged plan.json may say so
		}
	}
	order := map[string]int{}
	for i := range p.Tasks {
		order[p.Tasks[i].Name] = i
	}
	slices.SortStableFunc(list, func(a, b *PlannedRun) int { return cmp.Compare(order[a.Task.Name], order[b.Task.Name]) })
	return list, nil
}

func (p *Plan) taskRuns(t *Task, sources map[[2]int]*PlannedRun, ranking Ranking, costs map[costKey]anynetx.Complexity) ([]*PlannedRun, error) {
	selected, known, err := p.selected(t, ranking)
	if err != nil || !known {
		return nil, err
	}
	counts := map[int]int{}
	for _, rule := range t.Replicates {
		indices, err := p.indices(rule.Architectures)
		if err != nil {
			return nil, fmt.Errorf("task %s: replicates: %w", t.Name, err)
		}
		for _, i := range indices {
			counts[i] = max(counts[i], rule.Count)
		}
	}
	var list []*PlannedRun
	shared := t.inputs()
	for _, index := range selected {
		m := &p.Architectures[index]
		cost, err := p.complexity(t, m, costs)
		if err != nil {
			return nil, err
		}
		for replicate := range max(counts[index], 1) {
			r := &PlannedRun{Member: m, Task: t, Replicate: replicate, shared: shared, seed: p.Seed}
			if t.Start.Task != "" {
				r.Source = sources[[2]int{index, replicate}]
				if r.Source == nil {
					r.Source = sources[[2]int{index, 0}]
				}
				if r.Source == nil {
					return nil, fmt.Errorf("task %s starts from task %s, which does not train architecture %s (index %d)", t.Name, t.Start.Task, m.ID, index)
				}
			}
			epochs := float64(t.Epochs)
			if t.Start.Kind == StartContinue {
				epochs -= float64(r.Source.Task.Epochs)
			}
			trained := t.TrainImages / t.Recipe.Batch * t.Recipe.Batch
			r.Images = int64(epochs) * int64(trained)
			passes := epochs * float64(3*trained+min(t.Recipe.PreciseBNImages, t.TrainImages)+t.TestImages)
			r.MACs, r.Values = passes*float64(cost.FLOPs), passes*float64(cost.Activations)
			r.identify()
			list = append(list, r)
		}
	}
	return list, nil
}

type costKey struct {
	arch    string
	setting anynetx.Setting
}

// complexity of a member in the task's setting.
func (p *Plan) complexity(t *Task, m *Member, cache map[costKey]anynetx.Complexity) (anynetx.Complexity, error) {
	setting := t.setting()
	key := costKey{m.ID, setting}
	if v, ok := cache[key]; ok {
		return v, nil
	}
	network, err := anynetx.Build(m.Architecture(), setting)
	if err != nil {
		return anynetx.Complexity{}, fmt.Errorf("task %s: architecture %s cannot be built: %w", t.Name, m.ID, err)
	}
	cache[key] = network.Complexity()
	return cache[key], nil
}

// selected lists the architectures of a task, or says that they are not known yet.
func (p *Plan) selected(t *Task, ranking Ranking) ([]int, bool, error) {
	if t.Architectures.Of == "" {
		list, err := p.indices(t.Architectures)
		if err != nil {
			return nil, false, fmt.Errorf("task %s: %w", t.Name, err)
		}
		return list, true, nil
	}
	if ranking == nil {
		return nil, false, nil
	}
	ranked, complete, err := ranking(t.Architectures.Of)
	if err != nil || !complete {
		return nil, false, err
	}
	list := slices.Clone(ranked[:min(t.Architectures.Best, len(ranked))])
	for _, i := range ranked[max(0, len(ranked)-t.Architectures.Worst):] {
		if !slices.Contains(list, i) {
			list = append(list, i)
		}
	}
	return list, true, nil
}

// planned is the most runs that a task can have whose architectures are not known yet.
func (p *Plan) planned(t *Task) int {
	for t.Architectures.Of == "" { // its source's are not known
		t = p.Task(t.Start.Task)
	}
	most := 1
	for _, rule := range t.Replicates {
		most = max(most, rule.Count)
	}
	return min(t.Architectures.Best+t.Architectures.Worst, len(p.Architectures)) * most
}

// indices resolves a selection that is no rank range.
func (p *Plan) indices(s Selection) ([]int, error) {
	n := len(p.Architectures)
	var list []int
	switch {
	case s.First > n:
		return nil, fmt.Errorf("the first %d architectures are asked for, but the population has %d", s.First, n)
	case len(s.IDs) > 0:
		for _, id := range s.IDs {
			i := p.indexOf(id)
			if number, err := strconv.Atoi(id); i < 0 && err == nil && number >= 0 && number < n {
				i = number
			}
			if i < 0 {
				return nil, fmt.Errorf("architecture %q is neither an ID nor an index (0 to %d) of the population", id, n-1)
			}
			if slices.Contains(list, i) {
				return nil, fmt.Errorf("architecture %s is listed twice, by ID and by index", id)
			}
			list = append(list, i)
		}
		return list, nil
	}
	if s.First > 0 {
		n = s.First
	}
	for i := range n {
		list = append(list, i)
	}
	return list, nil
}

func (p *Plan) indexOf(id string) int {
	if len(p.byID) != len(p.Architectures) {
		p.byID = make(map[string]int, len(p.Architectures))
		for i, m := range p.Architectures {
			p.byID[m.ID] = i
		}
	}
	if i, ok := p.byID[id]; ok {
		return i
	}
	return -1
}

// taskInputs are the inputs that the runs of a task share.
type taskInputs struct {
	list []input
	text string
}

func (t *Task) inputs() *taskInputs {
	var in taskInputs
	add := func(name string, v any) { in.list = append(in.list, flatten(name, reflect.ValueOf(v), false)...) }
	add("task", t.Name)
	add("dataset", t.Dataset)
	add("subset", t.Asked)
	add("data_sha256", t.DataSHA256)
	add("classes", t.Classes)
	add("train_images", t.TrainImages)
	add("test_images", t.TestImages)
	add("stem", string(t.Stem))
	add("stem_width", t.StemWidth)
	add("strides", t.stridesText())
	add("resolution", t.Resolution)
	add("epochs", t.Epochs)
	add("dtype", t.DType)
	add("start", t.Start.Kind)
	add("recipe", t.Recipe)
	in.text = inputText(in.list)
	return &in
}

func inputText(list []input) string {
	var text strings.Builder
	for _, in := range list {
		for _, part := range [...]string{in.name, "=", strconv.Itoa(len(in.value)), ":", in.value, "\n"} {
			text.WriteString(part)
		}
	}
	return text.String()
}

// own are the inputs of the run that are not its task's.
func (r *PlannedRun) own() []input {
	source := ""
	if r.Source != nil {
		source = r.Source.ID
	}
	return []input{{"arch_id", r.Member.ID}, {"replicate", strconv.Itoa(r.Replicate)}, {"seed", strconv.FormatUint(r.seed, 10)}, {"source_run", source}}
}

func (r *PlannedRun) inputs() []input { return append(r.own(), r.shared.list...) }

// identify gives the run the ID that is the hash of its inputs. A field that is zero is left out, so that a new field of a recipe whose
// zero means "as before" leaves the IDs of existing runs alone.
func (r *PlannedRun) identify() {
	r.ID = r.hash()[:16]
}

func (r *PlannedRun) hash() string {
	sum := sha256.Sum256([]byte("anynetx run 1\n" + inputText(r.own()) + r.shared.text))
	return hex.EncodeToString(sum[:])
}

// flatten lists the fields of a value by their YAML names. A pointer that is set is an input even if it points to zero.
func flatten(name string, v reflect.Value, keepZero bool) []input {
	if v.Kind() == reflect.Pointer {
		if v.IsNil() {
			return nil
		}
		return flatten(name, v.Elem(), true)
	}
	if v.IsZero() && !keepZero {
		return nil
	}
	switch v.Kind() {
	case reflect.Struct:
		var list []input
		for i := range v.NumField() {
			key, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("yaml"), ",")
			if key == "" {
				key = strings.ToLower(v.Type().Field(i).Name)
			}
			list = append(list, flatten(name+"."+key, v.Field(i), false)...)
		}
		return list
	case reflect.Slice, reflect.Array, reflect.Map:
		if v.Kind() != reflect.Array && v.Len() == 0 {
			return nil
		}
		text, err := json.Marshal(v.Interface())
		if err != nil {
			panic(err) // lists of numbers and strings: the field types of a recipe
		}
		return []input{{name, string(text)}}
	}
	return []input{{name, fmt.Sprint(v.Interface())}}
}

// longestFirst orders runs for execution.
func longestFirst(runs []*PlannedRun, costs CostModel) []*PlannedRun {
	sorted := slices.Clone(runs)
	slices.SortFunc(sorted, func(a, b *PlannedRun) int {
		return cmp.Or(cmp.Compare(costs.Seconds(b), costs.Seconds(a)), cmp.Compare(a.ID, b.ID))
	})
	return sorted
}
