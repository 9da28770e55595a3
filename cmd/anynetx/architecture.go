package main

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"

	"anynetx/anynetx"
)

// stageInts is a flag's value of one whole number per stage: 1,2,7,12.
type stageInts struct {
	values [anynetx.Stages]int
	set    bool
}

func (s *stageInts) Set(text string) error {
	parts := strings.Split(text, ",")
	if len(parts) != anynetx.Stages {
		return fmt.Errorf("it has %d numbers, one per stage makes %d, such as 1,2,7,12", len(parts), anynetx.Stages)
	}
	for i, p := range parts {
		n, err := strconv.ParseInt(strings.TrimSpace(p), 10, 32)
		if err != nil {
			return fmt.Errorf("%q is not a whole number of stage %d; write it like 1,2,7,12", p, i+1)
		}
		s.values[i] = int(n)
	}
	s.set = true
	return nil
}

func (s *stageInts) String() string {
	if s == nil || s.values == [anynetx.Stages]int{} {
		return ""
	}
	return joinInts(s.values[:])
}

// networkFlags are the flags of every verb that works on one network: the architecture and its setting. fromData says that classes and
// resolution are the data set's if they are not given.
func networkFlags(fromData bool) []cli.Flag {
	const architecture, setting = "Architecture, one number per stage", "Setting"
	d := anynetx.DefaultSetting()
	start := ""
	if fromData {
		start = "the data set's"
	}
	stages := func(name, usage string, start [anynetx.Stages]int) cli.Flag {
		category := architecture
		if name == "strides" {
			category = setting
		}
		return &cli.GenericFlag{Name: name, Category: category, Usage: usage, Value: &stageInts{values: start}}
	}
	return []cli.Flag{
		stages("depths", "blocks of each stage, such as `1,2,7,12`", [anynetx.Stages]int{}),
		stages("widths", "output channels of each stage, such as `32,64,160,384`", [anynetx.Stages]int{}),
		stages("bottlenecks", "bottleneck ratios `B,B,B,B`: the inner width is width / ratio", [anynetx.Stages]int{1, 1, 1, 1}),
		stages("group-widths", "channels per group of the 3x3, such as `16,16,16,16`", [anynetx.Stages]int{}),
		&cli.StringFlag{Name: "arch", Category: architecture, Usage: "instead of the four: `ID` of an architecture in the population --from"},
		&cli.StringFlag{Name: "from", Category: architecture, Usage: "study folder or Parquet `FILE` of anynetx sample that holds --arch", TakesFile: true},
		&cli.StringFlag{Name: "stem", Category: setting, Value: string(d.Stem), Usage: "`STEM`: res_stem_in, simple_stem_in or res_stem_cifar"},
		&cli.IntFlag{Name: "stem-width", Category: setting, Value: d.StemWidth, Usage: "output `CHANNELS` of the stem"},
		stages("strides", "stride `S,S,S,S` of each stage's first block", d.Strides),
		&cli.IntFlag{Name: "resolution", Category: setting, Value: d.Resolution, DefaultText: start, Usage: "height and width of the input in `PIXELS`"},
		&cli.IntFlag{Name: "classes", Category: setting, Value: d.Classes, DefaultText: start, Usage: "`NUMBER` of classes"},
	}
}

// architectureOf reads the architecture flags.
func architectureOf(c *cli.Context) (anynetx.Architecture, error) {
	names := []string{"depths", "widths", "bottlenecks", "group-widths"}
	if id := c.String("arch"); id != "" || c.IsSet("arch") {
		for _, name := range names {
			if c.IsSet(name) {
				return anynetx.Architecture{}, anynetx.Inputf("--arch and --%s exclude each other: give one of them", name)
			}
		}
		if c.String("from") == "" {
			return anynetx.Architecture{}, anynetx.Inputf("--arch %s needs --from, the study folder or Parquet file that holds this architecture", id)
		}
		return findArchitecture(c.String("from"), id)
	}
	if c.IsSet("from") {
		return anynetx.Architecture{}, anynetx.Inputf("--from needs --arch, the ID of one of its architectures")
	}
	var missing []string
	for _, name := range names {
		if name != "bottlenecks" && !c.IsSet(name) {
			missing = append(missing, "--"+name)
		}
	}
	if len(missing) > 0 {
		return anynetx.Architecture{}, anynetx.Inputf("%s missing; see `anynetx %s --help` for an example", strings.Join(missing, ", "), c.Command.FullName())
	}
	value := func(name string) [anynetx.Stages]int { return c.Generic(name).(*stageInts).values }
	var a anynetx.Architecture
	for i := range a {
		a[i] = anynetx.Stage{
			Depth: value("depths")[i], Width: value("widths")[i],
			Bottleneck: value("bottlenecks")[i], GroupWidth: value("group-widths")[i],
		}
	}
	if err := a.Validate(); err != nil {
		return a, anynetx.Inputf("this architecture cannot be built: %w", err)
	}
	return a, nil
}

// settingOf reads the setting flags.
func settingOf(c *cli.Context) (anynetx.Setting, error) {
	s := anynetx.Setting{
		Stem: anynetx.Stem(c.String("stem")), StemWidth: c.Int("stem-width"),
		Strides:    c.Generic("strides").(*stageInts).values,
		Resolution: c.Int("resolution"), Classes: c.Int("classes"),
	}
	if err := s.Validate(); err != nil {
		return s, anynetx.Inputf("this network cannot be built: %w", err)
	}
	return s, nil
}

// networkOf builds the network that the flags describe.
func networkOf(c *cli.Context) (*anynetx.Network, error) {
	a, err := architectureOf(c)
	if err != nil {
		return nil, err
	}
	s, err := settingOf(c)
	if err != nil {
		return nil, err
	}
	n, err := anynetx.Build(a, s)
	if err != nil {
		return nil, anynetx.Inputf("this network cannot be built: %w", err)
	}
	return n, nil
}
