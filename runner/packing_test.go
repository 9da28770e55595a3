package runner

import (
	"math"
	"strings"
	"testing"
	"time"

	"anynetx/random"
	"anynetx/telemetry"
)

func TestPackingDecisions(t *testing.T) {
	for _, c := range []struct {
		now   int
		rates map[int]float64
		want  int
	}{
		{1, map[int]float64{1: 10}, 2},               // never tried
		{1, map[int]float64{1: 10, 2: 10.4}, 1},      // tried, and not worth it
		{1, map[int]float64{1: 10, 2: 10.6}, 2},      //
		{2, map[int]float64{1: 10, 2: 10.4}, 1},      // back
		{2, map[int]float64{1: 10, 2: 15}, 3},        // on
		{3, map[int]float64{1: 10, 2: 15, 3: 15}, 2}, // and back
		{2, map[int]float64{1: 10, 2: 15, 3: 15}, 2}, // to stay
		{4, map[int]float64{3: 10, 4: 20}, 4},        // as many as there may be
		{1, map[int]float64{1: 0}, 1},                // nothing is done: nothing is known
		{2, map[int]float64{2: 15}, 3},               // the others are too old to count
	} {
		if got, _ := decidePacking(c.now, 4, c.rates); got != c.want {
			t.Errorf("%d at %v: %d, want %d", c.now, c.rates, got, c.want)
		}
	}
}

// A device whose throughput has its best at three runs is found to have it there, and a device that gains nothing stays at one.
func TestPackingFindsTheBest(t *testing.T) {
	for _, c := range []struct {
		rate []float64 // by lanes at a time
		want int
	}{{[]float64{0, 1, 1.6, 2.1, 2.15, 2}, 3}, {[]float64{0, 1, 1.01, 1, 1, 1}, 1}, {[]float64{0, 1, 2, 3, 4, 5}, 5}} {
		p := &packing{most: 5, window: 30 * time.Second}
		now, work := time.Unix(1e9, 0), 0.0
		for range 600 {
			now = now.Add(time.Second)
			work += c.rate[p.models()]
			p.observe(now, p.models(), work)
		}
		if p.models() != c.want {
			t.Errorf("%v: %d lanes at a time, want %d", c.rate, p.models(), c.want)
		}
	}
	// Nothing is concluded from time in which the machine stood still, however it falls.
	p := &packing{most: 3, window: 30 * time.Second}
	now, work := time.Unix(1e9, 0), 0.0
	for i := range 600 {
		now = now.Add(time.Second)
		work += float64(p.models())
		if i%50 == 49 {
			now = now.Add(time.Minute)
		}
		if reason, changed := p.observe(now, p.models(), work); changed && !strings.Contains(reason, "tried") {
			t.Fatal(reason)
		}
	}
	if p.models() != 3 {
		t.Errorf("%d lanes at a time, want 3", p.models())
	}
	// What is not full is not measured.
	p, now = &packing{window: 30 * time.Second}, time.Unix(1e9, 0)
	for i := range 300 {
		now = now.Add(time.Second)
		if reason, changed := p.observe(now, min(i%20, 1), float64(i)); changed {
			t.Fatal(reason)
		}
	}
}

func TestMemoryOfOthersIsLeftAlone(t *testing.T) {
	const gib = 1 << 30
	sample := func(used int64, processes ...telemetry.Process) *telemetry.Sample {
		total := int64(32 * gib)
		return &telemetry.Sample{MemoryUsed: &used, MemoryTotal: &total, Processes: processes}
	}
	ours, theirs := telemetry.Process{PID: 7, MemoryBytes: 4 * gib}, telemetry.Process{PID: 8, MemoryBytes: 31 * gib}
	for _, c := range []struct {
		s    *telemetry.Sample
		want share
	}{
		{sample(0), share{0, 0, 32*gib - gib/4}},
		{sample(5*gib, ours), share{4 * gib, 0, 31*gib - gib/4}},  // one belongs to the driver
		{sample(31*gib, theirs), share{0, 31 * gib, gib - gib/4}}, // what is left
		{sample(32*gib, theirs), share{0, 31 * gib, -1}},          // nothing
		{sample(9*gib, ours, telemetry.Process{PID: 9, MemoryBytes: 4 * gib}), share{4 * gib, 4 * gib, 27*gib - gib/4}},
	} {
		if got, ok := divide(c.s, 7); !ok || got != c.want {
			t.Errorf("%+v, want %+v", got, c.want)
		}
	}
	if _, ok := divide(&telemetry.Sample{}, 7); ok {
		t.Error("memory is known of a device that does not tell")
	}
}

func TestChosenGPUs(t *testing.T) {
	found := []telemetry.Device{{UUID: "GPU-aa1", Name: "V100"}, {UUID: "GPU-aa2", Name: "V100"}, {UUID: "GPU-b", Name: "A100", MIG: true}, {UUID: "MIG-b1", Parent: "GPU-b"}}
	for name, want := range map[string]string{"GPU-aa2": "GPU-aa2", "cuda:1": "GPU-aa2", "cuda:2": "MIG-b1", "cuda": "GPU-aa1 GPU-aa2 MIG-b1"} {
		list, err := chooseGPUs(name, found)
		var got []string
		for _, d := range list {
			got = append(got, d.UUID)
		}
		if err != nil || strings.Join(got, " ") != want {
			t.Errorf("%s: %v %v", name, got, err)
		}
	}
	for name, says := range map[string]string{"GPU-a": "2 GPUs begin like that", "cuda:3": "there is no device cuda:3", "GPU-b": "there is no device GPU-b",
		"GPU-zzz": "there are: cuda:0 is GPU-aa1 (V100), cuda:1 is GPU-aa2 (V100), cuda:2 is MIG-b1"} {
		if _, err := chooseGPUs(name, found); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v; want %q", name, err, says)
		}
	}
	for visible, want := range map[string]int{"1,0": 2, "GPU-aa2": 1, "": 0, "0,-1,1": 1} {
		if list, err := visibleDevices(visible, found); err != nil || len(list) != want {
			t.Errorf("CUDA_VISIBLE_DEVICES=%s: %v %v", visible, list, err)
		}
	}
	if _, err := visibleDevices("9", found); err == nil || !strings.Contains(err.Error(), "CUDA_VISIBLE_DEVICES=9") {
		t.Error(err)
	}
}

// Predictions find the two rates of a device in durations with noise, and the order that they bring.
func TestCostsAreLearned(t *testing.T) {
	draw, n := random.New(1, "costs"), uint64(0)
	next := func() float64 { n++; return draw.Float64(n) }
	l := learned{}
	for range 60 {
		r := &PlannedRun{MACs: 1e12 * (1 + 4*next()), Values: 1e10 * (1 + 4*next())}
		if e := l["gpu"]; l.of("gpu") != (CostModel{}) && e.total < enough {
			t.Error("a prediction from too little")
		}
		l.add("gpu", r, (2e-12*r.MACs+3e-10*r.Values)*(0.9+0.2*next()))
	}
	c := l.of("gpu")
	if math.Abs(c.PerMAC/2e-12-1) > 0.15 || math.Abs(c.PerValue/3e-10-1) > 0.15 {
		t.Errorf("%+v", c)
	}
	// One that computes more may still take less.
	a, b := &PlannedRun{ID: "a", MACs: 2e12, Values: 1e10}, &PlannedRun{ID: "b", MACs: 1e12, Values: 3e10}
	if longestFirst([]*PlannedRun{b, a}, CostModel{})[0] != a || longestFirst([]*PlannedRun{b, a}, c)[0] != b {
		t.Error("the order does not follow the costs")
	}
	// Proportional features leave one rate; none is negative.
	same := learned{}
	for range enough {
		same.add("cpu", &PlannedRun{MACs: 1e12, Values: 1e10}, 5)
	}
	if c := same.of("cpu"); c.PerMAC < 0 || c.PerValue < 0 || math.Abs(c.Seconds(&PlannedRun{MACs: 2e12, Values: 2e10})-10) > 1e-6 {
		t.Errorf("%+v", c)
	}
}
