package anynetx

import (
	"errors"
	"math"
	"runtime"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestPopulationIsTheScripts(t *testing.T) {
	var file struct {
		Spaces      map[string]string
		Populations []struct {
			Space      string
			Seed       uint64
			Candidates []goldenStages
			Drawn      uint64
			InBand     uint64 `json:"in_band"`
			Members    []struct {
				Index      uint64
				ID         string
				Stages     goldenStages
				Complexity goldenCounts
			}
		}
	}
	golden(t, "population.json", &file)
	if len(file.Populations) < 3 {
		t.Fatalf("population.json holds %d populations", len(file.Populations))
	}
	for _, want := range file.Populations {
		space := must[Space](t)(ParseSpace([]byte(file.Spaces[want.Space]), want.Space))
		for i, stages := range want.Candidates {
			if got := space.Candidate(want.Seed, uint64(i)); got != stages.architecture() {
				t.Errorf("%s, seed %d: candidate %d is %v, the script has %v", want.Space, want.Seed, i, got, stages)
			}
		}
		got := must[Population](t)(space.Sample(want.Seed, len(want.Members), 0))
		if got.Drawn != want.Drawn || got.InBand != want.InBand || got.Repeated != want.InBand-uint64(len(want.Members)) {
			t.Errorf("%s: drawn %d, in band %d, repeated %d; the script has %d, %d", want.Space, got.Drawn, got.InBand, got.Repeated, want.Drawn, want.InBand)
		}
		for i, m := range want.Members {
			g := got.Members[i]
			if g != (Member{m.Stages.architecture(), m.Complexity.complexity(), m.Index}) || g.Architecture.ID() != m.ID {
				t.Errorf("%s: member %d is %+v, the script has %+v", want.Space, i, g, m)
			}
		}
	}
}

func TestDefaultPopulation(t *testing.T) {
	space := DefaultSpace()
	p := must[Population](t)(space.Sample(1, 500, 0))
	ids := map[string]bool{}
	for i, m := range p.Members {
		ids[m.Architecture.ID()] = true
		if m.Complexity.FLOPs < 360e6 || m.Complexity.FLOPs > 400e6 {
			t.Errorf("member %d has %d FLOPs", i, m.Complexity.FLOPs)
		}
		if got := build(t, m.Architecture, DefaultSetting()).Complexity(); got != m.Complexity {
			t.Errorf("member %d is counted as %+v, its network as %+v", i, m.Complexity, got)
		}
		if i > 0 && m.Index <= p.Members[i-1].Index {
			t.Errorf("member %d is candidate %d, after %d", i, m.Index, p.Members[i-1].Index)
		}
		if m.Architecture != space.Candidate(1, m.Index) {
			t.Errorf("member %d is not candidate %d", i, m.Index)
		}
	}
	if len(p.Members) != 500 || len(ids) != 500 || p.Drawn != p.Members[499].Index+1 || p.InBand != 500+p.Repeated {
		t.Errorf("%d members, %d IDs, %d drawn, %d in the band, %d repeated", len(p.Members), len(ids), p.Drawn, p.InBand, p.Repeated)
	}
	// 2.4 % lie in the band: a second way to see a changed law (5 standard deviations at these counts are 22 %).
	if rate := p.AcceptanceRate(); math.Abs(rate/0.0243-1) > 0.22 {
		t.Errorf("acceptance rate %.4f", rate)
	}
}

func TestSampleDoesNotDependOnCores(t *testing.T) {
	space := must[Space](t)(ParseSpace([]byte(tinySpace+"band: {flops: {high: 300000}}\n"), "tiny"))
	before := runtime.GOMAXPROCS(0)
	defer runtime.GOMAXPROCS(before)
	var want Population
	for i, cores := range []int{1, 2, 3, 7} {
		runtime.GOMAXPROCS(cores)
		got := must[Population](t)(space.Sample(11, 60, 0))
		if i == 0 {
			want = got
			if got.Repeated == 0 {
				t.Error("the tiny space repeats no architecture: choose one that does")
			}
		} else if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("on %d cores: %s", cores, diff)
		}
		_, err := DefaultSpace().Sample(3, 50, 1500)
		runtime.GOMAXPROCS(1)
		_, alone := DefaultSpace().Sample(3, 50, 1500)
		if err == nil || err.Error() != alone.Error() {
			t.Errorf("on %d cores the message is %v, on one %v", cores, err, alone)
		}
	}
	for _, count := range []int{1, 7, 59} {
		got := must[Population](t)(space.Sample(11, count, 0))
		if diff := cmp.Diff(want.Members[:count], got.Members); diff != "" {
			t.Errorf("the first %d are not a prefix: %s", count, diff)
		}
	}
	other := must[Population](t)(space.Sample(12, 60, 0))
	if cmp.Equal(want.Members, other.Members) {
		t.Error("another seed gives the same population")
	}
}

// Four stages of 2 x 2 possibilities: repeats soon.
const tinySpace = `depth: {law: choice, values: [1, 2]}
width: {law: choice, values: [8, 16]}
bottleneck: {law: choice, values: [1]}
group_width: {law: choice, values: [4]}
setting: {stem: res_stem_cifar, stem_width: 8, resolution: 8, classes: 2}
`

func TestImpossibleSpacesSaySo(t *testing.T) {
	tiny := func(rest string) Space { return must[Space](t)(ParseSpace([]byte(tinySpace+rest), "tiny")) }
	one := "depth: {law: choice, values: [1]}\nwidth: {law: choice, values: [8]}\nbottleneck: {law: choice, values: [1]}\n" +
		"group_width: {law: choice, values: [8]}\nband: {}\n"
	for want, try := range map[string]func() (Population, error){
		"only 0 of 5 architectures found in 2000 candidates (0 in the band: flops 1 to 2; 0 repeated); flops: 0 within, nearest above ": func() (Population, error) {
			return tiny("band: {flops: {low: 1, high: 2}}\n").Sample(1, 5, 2000)
		},
		"move or widen the band": func() (Population, error) {
			return tiny("band: {params: {low: 100_000_000}}\n").Sample(1, 5, 2000)
		},
		"params at least 100000000; 0 repeated); params: 0 within, nearest below ": func() (Population, error) {
			return tiny("band: {params: {low: 100_000_000}}\n").Sample(1, 5, 2000)
		},
		"only 1 of 2 architectures found in 300 candidates (300 in the band: no bounds; 299 repeated): the space is nearly used up": func() (Population, error) {
			return must[Space](t)(ParseSpace([]byte(one), "one")).Sample(1, 2, 300)
		},
		"only 11 of 50 architectures found in 500 candidates (11 in the band": func() (Population, error) { return DefaultSpace().Sample(1, 50, 500) },
		"draw more candidates, or widen the band":                             func() (Population, error) { return DefaultSpace().Sample(1, 50, 100) }, // the band lies between what is seen
		"count is 0, must be 1 to 1000000":                                    func() (Population, error) { return DefaultSpace().Sample(1, 0, 0) },
		"count is 1000001":                                                    func() (Population, error) { return DefaultSpace().Sample(1, 1_000_001, 0) },
	} {
		if _, err := try(); !errors.Is(err, ErrInput) || !contains(err, want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
	// The nearest values are those of a search by hand.
	space := tiny("band: {flops: {low: 200_000, high: 200_001}}\n")
	below, above := int64(-1), int64(math.MaxInt64)
	for i := range uint64(500) {
		v := build(t, space.Candidate(1, i), space.Setting).Complexity().FLOPs
		if v < 200_000 {
			below = max(below, v)
		} else if v > 200_001 {
			above = min(above, v)
		}
	}
	if below < 0 || above == math.MaxInt64 {
		t.Fatalf("the band does not lie inside what the space has: %d, %d", below, above)
	}
	want := neighbours{{bandPart: space.Band.parts()[0], below: below, above: above}}.String()
	if _, err := space.Sample(1, 1, 500); !contains(err, want) {
		t.Errorf("error %v, want %q", err, want)
	}
}

func TestOneSided(t *testing.T) {
	band := Band{FLOPs: Range{10, 20}, Params: Range{High: 5}}
	for _, c := range []struct {
		seen []Complexity
		want bool
	}{
		{nil, true},
		{[]Complexity{{FLOPs: 9, Params: 5}}, true},                           // all FLOPs below
		{[]Complexity{{FLOPs: 21, Params: 5}, {FLOPs: 30, Params: 1}}, true},  // all above
		{[]Complexity{{FLOPs: 9, Params: 5}, {FLOPs: 21, Params: 5}}, false},  // on both sides
		{[]Complexity{{FLOPs: 10, Params: 6}}, true},                          // all parameters above
		{[]Complexity{{FLOPs: 10, Params: 6}, {FLOPs: 21, Params: 5}}, false}, // each within, never both
	} {
		n := band.nearest()
		for _, v := range c.seen {
			n.see(v)
		}
		if got := n.oneSided(); got != c.want {
			t.Errorf("%v: one-sided %v (%v)", c.seen, got, n)
		}
	}
}

func BenchmarkDefaultPopulation(b *testing.B) {
	for b.Loop() {
		if _, err := DefaultSpace().Sample(1, 500, 0); err != nil {
			b.Fatal(err)
		}
	}
}
