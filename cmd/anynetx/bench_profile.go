package main

import (
	"cmp"
	"fmt"
	"io"
	"slices"

	"anynetx/bindings"
)

// kindTime is the time of all ops of a kind in a training step, convolutions apart by what they are.
type kindTime struct {
	Kind           string   `json:"kind"`
	Convolution    bool     `json:"convolution"`
	Ops            int      `json:"ops"`
	MS             float64  `json:"ms"`     // of a step: medians of its ops
	MinMS          float64  `json:"min_ms"` // the fastest run of each op
	Share          float64  `json:"share"`  // of all ops
	GFLOPs         float64  `json:"gflops,omitempty"`
	FractionOfPeak *float64 `json:"fraction_of_peak,omitempty"`
}

// recordTime is one op of a step.
type recordTime struct {
	Op             string   `json:"op"`
	MS             float64  `json:"ms"`
	MinMS          float64  `json:"min_ms"`
	Share          float64  `json:"share"`
	FractionOfPeak *float64 `json:"fraction_of_peak,omitempty"`
	Kernels        string   `json:"kernels,omitempty"`
}

// opTimes are the median and the least milliseconds of each op over steps.
func opTimes(profile [][]bindings.OpTime) (median, least []float64) {
	if len(profile) == 0 {
		return nil, nil
	}
	for i := range profile[0] {
		var ms []float64
		for _, step := range profile {
			ms = append(ms, float64(step[i].NS)/float64(step[i].Runs)/1e6)
		}
		slices.Sort(ms)
		median, least = append(median, ms[len(ms)/2]), append(least, ms[0])
	}
	return median, least
}

// convMACs are the multiply-adds of an op as FLOPs are counted everywhere: every tap of the filter, forward or per gradient made.
func convMACs(op *bindings.Op) float64 {
	macs := float64(op.N) * float64(op.P) * float64(op.Q) * float64(op.K) * float64(op.R) * float64(op.R) * float64(op.Group) * float64(op.Models)
	switch {
	case op.Kind == bindings.ConvFwd:
		return macs
	case op.Kind == bindings.ConvBwd && op.Out[0] >= 0:
		return 2 * macs
	case op.Kind == bindings.ConvBwd:
		return macs
	}
	return 0
}

// convFamily is what kind of convolution an op is in a network.
func convFamily(op *bindings.Op) string {
	switch {
	case op.C == 3:
		return "stem"
	case op.Kind == bindings.ConvFwd && op.In[4] >= 0 || op.Kind == bindings.ConvBwd && op.Out[2] >= 0:
		return "head"
	case op.R == 1 && op.Stride == 1:
		return "1x1"
	case op.R == 1:
		return "1x1 strided"
	case op.Group == op.C:
		return "dense 3x3"
	}
	return "grouped 3x3"
}

func kindOf(op *bindings.Op) (name string, convolution bool) {
	switch op.Kind {
	case bindings.ConvFwd:
		return convFamily(op) + " forward", true
	case bindings.ConvBwd:
		return convFamily(op) + " backward", true
	}
	return op.Kind.String(), false
}

func describeRecord(op *bindings.Op) string {
	name, convolution := kindOf(op)
	switch {
	case convolution:
		stride := ""
		if op.Stride > 1 {
			stride = fmt.Sprintf(" stride %d", op.Stride)
		}
		return fmt.Sprintf("%s %dpx %d->%d g%d%s", name, op.H, op.C, op.K, op.Group, stride)
	case op.Kind == bindings.SGD:
		return fmt.Sprintf("%s of %d values", name, op.C)
	}
	return fmt.Sprintf("%s %dpx %d channels", name, op.H, op.C)
}

// profileReport sums a profile up by kind, the slowest first, and names the slowest ops.
func profileReport(profile [][]bindings.OpTime, r *benchJSON) ([]kindTime, []recordTime) {
	if len(profile) == 0 {
		return nil, nil
	}
	peak := 0.0
	if r.Ceilings != nil {
		peak = r.Ceilings.FMAF32GFLOPs / float64(r.Processes)
	}
	fraction := func(macs, ms float64) *float64 {
		if macs == 0 || peak == 0 || ms == 0 {
			return nil
		}
		f := 2 * macs / (ms * 1e6) / peak
		return &f
	}
	total := 0.0
	byKind := map[string]*kindTime{}
	macs := map[string]float64{}
	var records []recordTime
	median, least := opTimes(profile)
	for i, ms := range median {
		t := &profile[0][i]
		total += ms
		name, convolution := kindOf(&t.Op)
		k := byKind[name]
		if k == nil {
			k = &kindTime{Kind: name, Convolution: convolution}
			byKind[name] = k
		}
		k.Ops++
		k.MS += ms
		k.MinMS += least[i]
		macs[name] += convMACs(&t.Op)
		records = append(records, recordTime{Op: describeRecord(&t.Op), MS: ms, MinMS: least[i], FractionOfPeak: fraction(convMACs(&t.Op), ms), Kernels: t.Kernels})
	}
	var kinds []kindTime
	for name, k := range byKind {
		k.Share = k.MS / total
		if k.MS > 0 { // else all of them ran inside of other ops' kernels
			k.GFLOPs = 2 * macs[name] / (k.MS * 1e6)
		}
		k.FractionOfPeak = fraction(macs[name], k.MS)
		kinds = append(kinds, *k)
	}
	slices.SortFunc(kinds, func(a, b kindTime) int { return cmp.Or(cmp.Compare(b.MS, a.MS), cmp.Compare(a.Kind, b.Kind)) })
	for i := range records {
		records[i].Share = records[i].MS / total
	}
	slices.SortStableFunc(records, func(a, b recordTime) int { return cmp.Compare(b.MS, a.MS) })
	return kinds, records[:min(len(records), 20)]
}

func percent(f *float64) string {
	if f == nil {
		return ""
	}
	return fmt.Sprintf("%.1f %%", 100**f)
}

func printProfile(w io.Writer, r *benchJSON) error {
	if err := write(w, "\n"); err != nil {
		return err
	}
	g := newGrid("kind of op", ">ops", ">ms", ">fastest", ">share", ">of peak")
	others, total := 0.0, 0.0
	for _, k := range r.Kinds {
		g.row(k.Kind, k.Ops, fmt.Sprintf("%.2f", k.MS), fmt.Sprintf("%.2f", k.MinMS), percent(&k.Share), percent(k.FractionOfPeak))
		total += k.MS
		if !k.Convolution {
			others += k.Share
		}
	}
	g.total("not convolution", "", fmt.Sprintf("%.2f", total*others), "", percent(&others))
	if err := g.print(w); err != nil {
		return err
	}
	if err := write(w, "\n"); err != nil {
		return err
	}
	g = newGrid("slowest ops", ">ms", ">fastest", ">share", ">of peak")
	for _, o := range r.Slowest {
		g.row(o.Op, fmt.Sprintf("%.2f", o.MS), fmt.Sprintf("%.2f", o.MinMS), percent(&o.Share), percent(o.FractionOfPeak))
	}
	return g.print(w)
}
