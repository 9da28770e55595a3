package anynetx

import (
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"
	"pgregory.net/rapid"
)

func TestDefaultSpaceIsThePapers(t *testing.T) {
	law := must[Law](t)
	want := Space{
		Depth: law(LogUniform(1, 16, 1)), Width: law(LogUniform(8, 1024, 8)),
		Bottleneck: law(Choice(1, 2, 4)), GroupWidth: law(Choice(1, 2, 4, 8, 16, 32)),
		Compatibility: CompatibilityPycls, Setting: DefaultSetting(),
		Band: Band{FLOPs: Range{360e6, 400e6}},
	}
	if diff := cmp.Diff(want, DefaultSpace(), cmp.AllowUnexported(Law{})); diff != "" {
		t.Error(diff)
	}
	empty := must[Space](t)(ParseSpace([]byte("{}"), "s.yaml"))
	if diff := cmp.Diff(want, empty, cmp.AllowUnexported(Law{})); diff != "" {
		t.Errorf("an empty mapping is not the default: %s", diff)
	}
	text, err := os.ReadFile("default_space.yaml")
	if err != nil || string(text) != DefaultSpaceYAML() {
		t.Errorf("the embedded text is not the file (%v)", err)
	}
}

func TestSpaceFileSaysWhatItMeans(t *testing.T) {
	text := "depth: {law: uniform, low: 2, high: 6, quantum: 2}\n" +
		"setting: {strides: [2, 2, 1, 1], classes: 10}\n" +
		"band: {params: {high: 1_000_000}, activations: {low: 5}}\n"
	want := DefaultSpace()
	want.Depth = must[Law](t)(Uniform(2, 6, 2))
	want.Setting.Strides, want.Setting.Classes = [Stages]int{2, 2, 1, 1}, 10
	want.Band = Band{Params: Range{0, 1_000_000}, Activations: Range{5, 0}} // the default's FLOPs are gone
	got := must[Space](t)(ParseSpace([]byte(text), "s.yaml"))
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(Law{})); diff != "" {
		t.Error(diff)
	}
	var study struct{ Space Space } // as a part of a study file
	inline := "space:\n  " + strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n  ")
	if err := yaml.Unmarshal([]byte(inline), &study); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, study.Space, cmp.AllowUnexported(Law{})); diff != "" {
		t.Error(diff)
	}
	err := yaml.Unmarshal([]byte("a: 1\nspace:\n  widht: 3\n"), &study)
	if !errors.Is(err, ErrInput) || !contains(err, `line 3: a space has no key "widht"`) {
		t.Errorf("error %v", err)
	}
}

func TestSpaceFileErrorsNameTheLine(t *testing.T) {
	for text, want := range map[string]string{
		"":              "s.yaml: is empty",
		"# nothing\n":   "s.yaml: is empty",
		"- a\n":         "s.yaml:1: a space must be a mapping with the keys depth,",
		"a: [\n":        "s.yaml: is not valid YAML: line 1",
		"a: b: c\n":     "s.yaml: is not valid YAML",
		"{}\n---\n{}\n": "s.yaml:2: a second document starts here",
		"{}\n---\na: [": "s.yaml: is not valid YAML",
		"\x00":          "s.yaml: is not valid YAML",
		"depth: {law: choice, values: [1]}\n\nwidht: 3\n": `s.yaml:3: a space has no key "widht"; its keys are depth, width,`,
		"depth: {law: choice, values: [1]}\ndepth: 3\n":   "s.yaml:2: a space has the key depth twice",
		"depth: {}":                          "s.yaml:1: depth has no law: write law: log_uniform",
		"depth: 3":                           "s.yaml:1: depth must be a mapping",
		"depth: {law: normal, low: 1}":       `s.yaml:1: law of depth is "normal", must be log_uniform or uniform or choice`,
		"depth:\n  law: uniform\n  low: 1\n": "s.yaml:2: depth, law uniform, has no high",
		"depth:\n  law: choice\n  values: [1]\n  quantum: 2\n":                        "s.yaml:4: depth, law choice, has no use for quantum",
		"depth:\n  law: uniform\n  low: 1\n  high: 3\n  values: [2]\n":                "s.yaml:5: depth, law uniform, has no use for values",
		"depth:\n  law: uniform\n  low: 1\n  high: 1.5\n":                             `s.yaml:4: high of depth is "1.5", must be a whole number`,
		"depth: {law: uniform, low: one, high: 3}":                                    `low of depth is "one"`,
		"depth: {law: uniform, low: '1', high: 3}":                                    `low of depth is "1", must be a whole number`,
		"depth: {law: uniform, low: 1, high: 1e300}":                                  `high of depth is "1e300"`,
		"depth: {law: uniform, low: 1, high: 1e999999999999}":                         "high of depth is",
		"depth: {law: uniform, low: 1, high: .nan}":                                   "must be a whole number",
		"depth: {law: uniform, low: 1, high: 99999999999}":                            "high of depth is 99999999999, which is out of any range",
		"depth: {law: uniform, low: 1, high: 200}":                                    "s.yaml:1: depth can be 200, must be at most 128",
		"width: {law: uniform, low: 1, high: 5000}":                                   "width can be 5000, must be at most 4096",
		"bottleneck: {law: choice, values: [65]}":                                     "bottleneck can be 65, must be at most 64",
		"group_width: {law: choice, values: [5000]}":                                  "group_width can be 5000, must be at most 4096",
		"width: {law: log_uniform, low: 8, high: 1020, quantum: 8}":                   "must be multiples of its quantum 8",
		"bottleneck: {law: choice, values: 3}":                                        "values of bottleneck must be a list",
		"bottleneck: {law: choice, values: []}":                                       "choice has 0 values",
		"bottleneck:\n  law: choice\n  values:\n  - 1\n  - x\n":                       `s.yaml:5: value 2 of values of bottleneck is "x"`,
		"compatibility: none":                                                         `compatibility is "none", must be pycls`,
		"setting:\n  stem: vgg\n":                                                     `s.yaml:2: stem is "vgg", must be res_stem_in or`,
		"setting: {strides: [1, 2]}":                                                  "strides has 2 values, must have 4",
		"setting: {strides: [1, 2, 3, 2]}":                                            "stride of stage 3 is 3",
		"setting: {resolution: 0}":                                                    "resolution is 0, must be 1 to 4096",
		"setting: {classes: 1}":                                                       "classes is 1",
		"setting: {stem_width: 100000}":                                               "stem width is 100000",
		"setting: {Classes: 10}":                                                      `setting has no key "Classes"`,
		"band:\n  flops: {low: 5, high: 4}\n":                                         "s.yaml:2: band of flops has low 5 above high 4",
		"band: {params: {low: -1}}":                                                   "must not be negative",
		"band: {flop: {low: 1}}":                                                      `band has no key "flop"`,
		"band: {flops: [1, 2]}":                                                       "band of flops must be a mapping",
		"width: &a {law: choice, values: [8]}\ndepth: *a\n":                           "s.yaml:2: depth of a space is an alias: write the value out",
		"<<: {depth: 1}":                                                              `a space has no key "<<"`,
		"? [1, 2]\n: 3\n":                                                             "a space has no key",
		"band: {flops: {low: 1, high: 9223372036854775808}}":                          "must be a whole number",
		"band: {flops: {low: null}}":                                                  "must be a whole number",
		"a: " + strings.Repeat("[", 20000) + "\n":                                     "s.yaml: is not valid YAML",
		strings.Repeat("a", 100) + ": 1\n":                                            `has no key "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";`,
		"# " + strings.Repeat("x", 1<<20) + "\n":                                      "1048579 bytes, a space file has at most 1048576",
		"depth: {law: choice, values: [" + strings.Repeat("1, ", 20000) + "1]}":       "choice has 20001 values",
		"width: !!binary aGVsbG8=\n":                                                  "width must be a mapping",
		"group_width: {law: uniform, low: 1, high: 32, quantum: 3}\nband: {flops: 1}": "s.yaml:1: group_width: uniform has low 1 and high 32",
	} {
		_, err := ParseSpace([]byte(text), "s.yaml")
		if !errors.Is(err, ErrInput) || !contains(err, want) {
			t.Errorf("%.60q: error %v, want %q", text, err, want)
		}
		if err != nil && len(err.Error()) > 400 {
			t.Errorf("%.60q: the message is %d bytes long", text, len(err.Error()))
		}
	}
}

func TestSpaceMadeByHandIsValidated(t *testing.T) {
	for want, change := range map[string]func(*Space){
		"depth has no law":           func(s *Space) { s.Depth = Law{} },
		"width can be 4097":          func(s *Space) { s.Width, _ = Choice(4097) },
		`compatibility is ""`:        func(s *Space) { s.Compatibility = "" },
		"setting: classes is 0":      func(s *Space) { s.Setting.Classes = 0 },
		"band of activations has lo": func(s *Space) { s.Band.Activations = Range{3, 2} },
	} {
		s := DefaultSpace()
		change(&s)
		if _, err := s.Sample(1, 1, 1); !errors.Is(err, ErrInput) || !contains(err, want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
}

func TestBandIsClosed(t *testing.T) {
	for _, c := range []struct {
		r    Range
		v    int64
		want bool
	}{
		{Range{5, 7}, 4, false}, {Range{5, 7}, 5, true}, {Range{5, 7}, 7, true}, {Range{5, 7}, 8, false},
		{Range{5, 0}, 4, false}, {Range{5, 0}, 1 << 62, true}, {Range{0, 7}, 0, true}, {Range{0, 7}, 8, false}, {Range{}, 3, true},
	} {
		if got := c.r.Contains(c.v); got != c.want {
			t.Errorf("%v contains %d: %v", c.r, c.v, got)
		}
	}
	b := Band{Range{1, 2}, Range{3, 4}, Range{5, 6}}
	for c, want := range map[Complexity]bool{{1, 3, 5}: true, {2, 4, 6}: true, {3, 3, 5}: false, {1, 5, 5}: false, {1, 3, 7}: false} {
		if got := b.Contains(c); got != want {
			t.Errorf("%v contains %+v: %v", b, c, got)
		}
	}
}

func TestCompatibleStagesAreValidAndNear(t *testing.T) {
	for before, want := range map[Stage]Stage{ // by hand, from pycls's rule
		{1, 24, 1, 16}:   {1, 32, 1, 16},   // 24/16 = 1.5 rounds to 2
		{1, 40, 1, 16}:   {1, 32, 1, 16},   // 2.5 rounds to 2, the even one
		{1, 56, 1, 16}:   {1, 64, 1, 16},   // 3.5 to 4
		{1, 8, 4, 32}:    {1, 8, 4, 2},     // v = 2, g = 2
		{2, 2, 4, 8}:     {2, 4, 4, 1},     // v = max(1, 0)
		{3, 1024, 1, 3}:  {3, 1023, 1, 3},  // 341.33 to 341
		{1, 100, 3, 16}:  {1, 96, 3, 16},   // v = 33, 2.06 to 2
		{1, 1016, 1, 32}: {1, 1024, 1, 32}, // 31.75 to 32
	} {
		if got := compatible(before); got != want {
			t.Errorf("%v becomes %v, want %v", before, got, want)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		before := drawStage(t)
		after := compatible(before)
		if err := (Architecture{after, after, after, after}).Validate(); err != nil {
			t.Fatalf("%v becomes %v: %v", before, after, err)
		}
		if compatible(after) != after {
			t.Fatalf("%v is not compatible with itself: %v", after, compatible(after))
		}
		if after.Depth != before.Depth || after.Bottleneck != before.Bottleneck || after.GroupWidth > before.GroupWidth {
			t.Fatalf("%v becomes %v", before, after)
		}
		v := max(1, before.Width/before.Bottleneck)
		if moved := after.InnerWidth() - v; 2*moved > after.GroupWidth || -2*moved > after.GroupWidth {
			t.Fatalf("%v becomes %v: the inner width moved by %d", before, after, moved)
		}
	})
}

func TestIDIsEqualIfAndOnlyIfTheArchitectureIs(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := drawArchitecture(t), drawArchitecture(t)
		if (a == b) != (a.ID() == b.ID()) {
			t.Fatalf("%v and %v have IDs %s and %s", a, b, a.ID(), b.ID())
		}
		c := a
		field := []*int{&c[3].Depth, &c[0].Width, &c[1].Bottleneck, &c[2].GroupWidth}[rapid.IntRange(0, 3).Draw(t, "field")]
		*field++
		if c.ID() == a.ID() {
			t.Fatalf("%v and %v have one ID", a, c)
		}
	})
}

func FuzzParseSpace(f *testing.F) {
	f.Add(defaultSpace)
	f.Add([]byte("band: {flops: {low: 1e6, high: 2e6}, params: {high: 3}}\nsetting: {stem: res_stem_cifar, strides: [2, 2, 2, 2]}"))
	f.Add([]byte("depth: {law: uniform, low: 1, high: 9}\nwidth: {law: choice, values: [8, 24]}\ngroup_width: {law: log_uniform, low: 2, high: 32, quantum: 2}"))
	f.Add([]byte("a: &a [*a]\n---\nb"))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := ParseSpace(data, "f.yaml")
		if err != nil {
			if !errors.Is(err, ErrInput) || !strings.HasPrefix(err.Error(), "f.yaml:") {
				t.Fatalf("error %v", err)
			}
			return
		}
		if err := s.Validate(); err != nil {
			t.Fatalf("parsed, but: %v", err)
		}
		for i := range uint64(4) {
			if _, err := Build(s.Candidate(1, i), s.Setting); err != nil {
				t.Fatalf("candidate %d cannot be built: %v", i, err)
			}
		}
	})
}

// What the paper promises of widths (divisible by 8, at most 1024) survives compatibility, for every draw of its law; of a law with
// every integer as group width that is not so (docs/deviations.md).
func TestPapersWidthsStayDivisibleBy8(t *testing.T) {
	s := DefaultSpace()
	count := func(groups Law) (stages, odd int) {
		for _, w := range s.Width.Values() {
			for _, b := range s.Bottleneck.Values() {
				for _, g := range groups.Values() {
					stage := compatible(Stage{1, w, b, g})
					stages++
					if stage.Width%8 != 0 {
						odd++
					}
					if stage.Width > 1024 && groups.String() == s.GroupWidth.String() {
						t.Errorf("w %d b %d g %d becomes %v", w, b, g, stage)
					}
				}
			}
		}
		return
	}
	if stages, odd := count(s.GroupWidth); stages != 128*3*6 || odd != 0 {
		t.Errorf("%d of %d stages have a width that 8 does not divide", odd, stages)
	}
	if stages, odd := count(must[Law](t)(Uniform(1, 32, 1))); odd == 0 {
		t.Errorf("of %d stages with any group width, every width is divisible by 8", stages)
	}
}
