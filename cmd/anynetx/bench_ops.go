package main

import (
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"anynetx/anynetx"
	"anynetx/bindings"
	"anynetx/engine"
	"anynetx/random"
)

// opJSON is one pass of one op. Fractions are of the run's FMA peak, or of its copy bandwidth where an op only moves memory.
type opJSON struct {
	Op             string   `json:"op"`
	Pass           string   `json:"pass"` // fwd, bwd, wgrad, dgrad
	Family         string   `json:"family"`
	Batch          int      `json:"batch"`
	Size           int      `json:"size"`
	Channels       int      `json:"channels"`
	Outputs        int      `json:"outputs"`
	Group          int      `json:"group,omitempty"`
	Stride         int      `json:"stride"`
	Runs           int      `json:"runs,omitempty"`
	US             float64  `json:"us"`               // median of the runs
	MinUS          float64  `json:"min_us,omitempty"` // the fastest
	GFLOPs         float64  `json:"gflops,omitempty"`
	FractionOfPeak *float64 `json:"fraction_of_peak,omitempty"`
	FractionInside *float64 `json:"fraction_inside,omitempty"` // taps outside the map not counted
	GBPerS         float64  `json:"gb_per_s,omitempty"`        // of activations, each counted once
	FractionOfCopy *float64 `json:"fraction_of_copy,omitempty"`
}

type opsJSON struct {
	Device   string             `json:"device"`
	ISA      string             `json:"isa"`
	Library  string             `json:"library_sha256"`
	Threads  int                `json:"threads"`
	DType    string             `json:"dtype"`
	Ceilings *bindings.Ceilings `json:"ceilings"`
	Ops      []opJSON           `json:"ops"`
}

func benchOps(c *cli.Context) error {
	seconds, err := secondsFlag(c)
	if err != nil {
		return err
	}
	filter, err := regexp.Compile(c.String("filter"))
	if err != nil {
		return anynetx.Inputf("--filter: %w", err)
	}
	contexts, err := benchContexts(c, 1, c.Int("threads"))
	if err != nil {
		return err
	}
	defer closeAll(contexts)
	device := contexts[0]
	info := device.Info()
	r := opsJSON{Device: info.Name, ISA: info.ISA, Library: device.Library().SHA256, Threads: c.Int("threads"), DType: c.String("dtype")}
	if err := engine.CheckDType(device, r.DType); err != nil {
		return err
	}
	dtype := map[string]bindings.DType{"fp32": bindings.F32, "bf16": bindings.BF16}[r.DType]
	if r.Threads == 0 {
		r.Threads = info.Units
	}
	before, err := ceilingsOf(contexts, ceilingsSeconds)
	if err != nil {
		return err
	}
	for _, o := range opCases() {
		var passes []opPass
		for _, p := range o.passes() {
			if filter.MatchString(o.name + " " + p.name) {
				passes = append(passes, p)
			}
		}
		done := map[string]*opJSON{}
		for _, p := range passes {
			if err := c.Context.Err(); err != nil {
				return err
			}
			m, err := timeOp(device, dtype, &o, p, seconds)
			if err != nil {
				return err
			}
			r.Ops = append(r.Ops, m)
			done[p.name] = &m
		}
		if both, weight := done["bwd"], done["wgrad"]; both != nil && weight != nil && both.US > weight.US && both.MinUS > weight.MinUS {
			d := *both
			d.Pass, d.Runs, d.US, d.MinUS, d.GBPerS = "dgrad", 0, both.US-weight.US, both.MinUS-weight.MinUS, 0
			r.Ops = append(r.Ops, d)
		}
	}
	if len(r.Ops) == 0 {
		return anynetx.Inputf("--filter %q: no op has such a name; names look like `grouped 28px b16 128->128 g16 fwd`", filter)
	}
	after, err := ceilingsOf(contexts, ceilingsSeconds)
	if err != nil {
		return err
	}
	r.Ceilings = higher(before, after)
	for i := range r.Ops {
		r.Ops[i].relate(r.Ceilings, dtype)
	}
	if c.Bool("json") {
		return writeJSON(c.App.Writer, r)
	}
	return printOps(c.App.Writer, &r)
}

// relate works out rates and fractions of the peak.
func (m *opJSON) relate(peak *bindings.Ceilings, dtype bindings.DType) {
	o := opCase{batch: m.Batch, size: m.Size, c: m.Channels, k: m.Outputs, stride: m.Stride, r: filterSize(m.Family)}
	if m.Group == 0 {
		if peak != nil {
			f := m.GBPerS / peak.CopyGBPerS
			m.FractionOfCopy = &f
		}
		return
	}
	macs := float64(m.Batch) * float64(o.out()*o.out()) * float64(m.Outputs) * float64(o.r*o.r) * float64(m.Group)
	if m.Pass == "bwd" {
		macs *= 2
	}
	m.GFLOPs = 2 * macs / (m.US * 1e3)
	if peak != nil {
		f := m.GFLOPs / peakOf(peak, dtype == bindings.BF16)
		inside := f * o.insideShare()
		m.FractionOfPeak, m.FractionInside = &f, &inside
	}
}

func filterSize(family string) int {
	switch {
	case strings.HasPrefix(family, "stem 7"):
		return 7
	case strings.HasPrefix(family, "stem") || family == "grouped":
		return 3
	}
	return 1
}

// timeOp runs a program of one op for so many seconds.
func timeOp(device *bindings.Context, dtype bindings.DType, o *opCase, pass opPass, seconds float64) (opJSON, error) {
	m := opJSON{Op: o.name, Pass: pass.name, Family: o.family, Batch: o.batch, Size: o.size, Channels: o.c, Outputs: o.k, Group: o.group, Stride: o.stride}
	p := opProgram{device: device, dtype: dtype}
	if err := p.build(o, bindings.NewOp(pass.kind), pass.in, pass.out); err != nil {
		return m, err
	}
	buffer, err := device.NewBuffer(p.bytes)
	if err != nil {
		return m, fmt.Errorf("%s: %w", o.name, err)
	}
	defer buffer.Close()
	if err := p.fillInputs(buffer); err != nil {
		return m, fmt.Errorf("%s: %w", o.name, err)
	}
	program, err := device.NewProgram(p.desc, []*bindings.Buffer{buffer})
	if err != nil {
		return m, fmt.Errorf("%s: %w", o.name, err)
	}
	defer program.Close()
	run := func() (time.Duration, error) {
		start := time.Now()
		if err := program.Run(nil); err != nil {
			return 0, fmt.Errorf("%s: %w", o.name, err)
		}
		err := device.Synchronize()
		return time.Since(start), err
	}
	if _, err := run(); err != nil {
		return m, err
	}
	var times []time.Duration
	for total := time.Duration(0); len(times) < 5 || total.Seconds() < seconds; {
		d, err := run()
		if err != nil {
			return m, err
		}
		times = append(times, d)
		total += d
	}
	slices.Sort(times)
	m.Runs, m.US = len(times), float64(times[len(times)/2].Nanoseconds())/1e3
	m.MinUS = float64(times[0].Nanoseconds()) / 1e3
	m.GBPerS = float64(p.moved) / (m.US * 1e3)
	return m, nil
}

// fillInputs writes numbers of ordinary size: zeros and denormal numbers would have a speed of their own.
func (p *opProgram) fillInputs(b *bindings.Buffer) error {
	stream := random.New(1, "bench op")
	noise := make([]float32, 1<<16-1)
	for i := range noise {
		noise[i] = float32(int(stream.Uint64(uint64(i))>>44)-1<<19) / (1 << 19)
	}
	for _, id := range p.fill {
		t := p.desc.Tensors[id]
		values := make([]float32, t.Elements())
		for i := 0; i < len(values); {
			i += copy(values[i:], noise)
		}
		if t.DType != bindings.F32 && t.Layout == bindings.Plain {
			continue
		}
		if err := p.device.Pack(t, b, values); err != nil {
			return err
		}
	}
	return nil
}

func printOps(w io.Writer, r *opsJSON) error {
	if r.Ceilings != nil {
		err := write(w, "%s, %s, %s, %s: %.1f GFLOP/s of multiply-adds, copy %.1f GB/s\n\n", r.Device, r.ISA, r.DType, counted(r.Threads, "thread"), peakOf(r.Ceilings, r.DType == "bf16"), r.Ceilings.CopyGBPerS)
		if err != nil {
			return err
		}
	}
	g := newGrid("op", "pass", ">us", ">fastest", ">GFLOP/s", ">of peak", ">inside", ">GB/s", ">of copy")
	number := func(x float64) string {
		if x == 0 {
			return ""
		}
		return fmt.Sprintf("%.1f", x)
	}
	for _, m := range r.Ops {
		g.row(m.Op, m.Pass, fmt.Sprintf("%.1f", m.US), fmt.Sprintf("%.1f", m.MinUS), number(m.GFLOPs), percent(m.FractionOfPeak), percent(m.FractionInside), number(m.GBPerS), percent(m.FractionOfCopy))
	}
	return g.print(w)
}
