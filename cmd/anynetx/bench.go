package main

import (
	"errors"
	"fmt"
	"runtime"
	"sync"

	"github.com/urfave/cli/v2"

	"anynetx/anynetx"
	"anynetx/bindings"
)

func benchCommand() *cli.Command {
	return &cli.Command{
		Name:  "bench",
		Usage: "how fast this machine trains, and how fast it could",
		Subcommands: []*cli.Command{{
			Name:  "machine",
			Usage: "measure the peaks that fractions of peak are fractions of",
			Description: "Example:\n\nanynetx bench machine --json\n\n" +
				"Peak arithmetic (fused multiply-adds, 2 FLOP each), the bf16 dot product's where there is one, and memory bandwidth; of one thread, and of all cores at once.",
			Flags: append(benchFlags(),
				&cli.Float64Flag{Name: "seconds", Value: 2, Usage: "measure for about so many `SECONDS`, each time"}),
			Action: benchMachine,
		}, {
			Name:  "network",
			Usage: "train a network on random images and say how fast it goes",
			Description: "Example:\n\n" +
				"anynetx bench network --depths 1,2,7,12 --widths 32,64,160,384 --group-widths 16,16,16,16 --strides 2,2,2,2 --stem simple_stem_in --resolution 32 --classes 10 --batch 128 --threads 1 --seconds 10\n\n" +
				"Times are of whole training steps: input, forward, backward and update; warm-up and tests are left out. The peak is measured in the same run, before and after,\n" +
				"with as many threads at once. Arithmetic is 2 FLOP per multiply-add of the forward pass and both gradients (the stem has no input gradient).",
			Flags: append(append(append(networkFlags(false), benchFlags()...), profileFlags()...),
				&cli.IntFlag{Name: "batch", Value: 128, Usage: "`IMAGES` of a training step"},
				&cli.IntFlag{Name: "threads", Value: 1, Usage: "`NUMBER` of threads of one model; 0: all cores"},
				&cli.IntFlag{Name: "models", Value: 1, Usage: "`NUMBER` of models that train in common launches, where the back end can: a population of small networks"},
				&cli.IntFlag{Name: "processes", Value: 1, Usage: "`NUMBER` of models trained at once, each with --threads of its own; 0: one per core"},
				&cli.Float64Flag{Name: "seconds", Value: 10, Usage: "measure for so many `SECONDS`"},
				&cli.StringFlag{Name: "dtype", Value: "fp32", Usage: "`TYPE` of activations and their gradients: fp32, fp16 or bf16, where the device has it"},
				&cli.BoolFlag{Name: "ops", Usage: "where the time goes: by kind of op, and the slowest ops"}),
			Action: benchNetwork,
		}, {
			Name:  "ops",
			Usage: "time single ops beside the machine's peak",
			Description: "Examples:\n\n" +
				"anynetx bench ops --filter 'grouped 14px g(3|16)'\nanynetx bench ops --filter stem --seconds 0.5 --json\n\n" +
				"Ops as training uses them: the batch norm's affine and ReLU in front, its sums behind. Maps of 56 to 7 pixels with batches of 16 images (what 224 px gives),\n" +
				"of 8 to 1 pixels with 128 (32 px). `bwd` is both gradients, `wgrad` the weight's alone, `dgrad` the difference in time. Taps that fall outside the map count\n" +
				"as arithmetic in `peak`, as FLOPs are counted everywhere, and not in `inside`. The peak of bf16 is that of its dot product.",
			Flags: append(benchFlags(),
				&cli.IntFlag{Name: "threads", Value: 1, Usage: "`NUMBER` of threads; 0: all cores"},
				&cli.Float64Flag{Name: "seconds", Value: 0.05, Usage: "measure each op for so many `SECONDS`"},
				&cli.StringFlag{Name: "dtype", Value: "fp32", Usage: "`TYPE` of activations: fp32 or bf16"},
				&cli.StringFlag{Name: "filter", Usage: "only ops whose name matches the regular `EXPRESSION`"}),
			Action: benchOps,
		}},
	}
}

func benchFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "device", Value: "cpu:0", Usage: "`ID` of a device; `anynetx devices` shows them"},
		&cli.StringFlag{Name: "isa", Usage: "instruction `SET` instead of the best, such as avx2"},
		&cli.BoolFlag{Name: "json", Usage: "one object on standard output"},
	}
}

// benchContexts takes a device into use count times; 0 threads or contexts are one per core.
func benchContexts(c *cli.Context, count, threads int) ([]*bindings.Context, error) {
	if count == 0 {
		count = runtime.NumCPU()
	}
	if count < 0 || count > 4096 {
		return nil, anynetx.Inputf("processes is %d, must be 0 (one per core) to 4096", count)
	}
	var list []*bindings.Context
	for range count {
		ctx, err := openDevice(c.String("device"), threads)
		if isa := c.String("isa"); err == nil && isa != "" {
			library := ctx.Library()
			ctx.Close()
			if threads == 0 {
				threads = runtime.NumCPU()
			}
			ctx, err = library.NewContext(bindings.ContextOptions{Threads: threads, ISA: isa})
			var native *bindings.Error
			if errors.As(err, &native) && native.Status == bindings.Unsupported {
				err = anynetx.Inputf("--isa: %w", err)
			}
		}
		if err != nil {
			closeAll(list)
			return nil, err
		}
		list = append(list, ctx)
	}
	return list, nil
}

func closeAll(list []*bindings.Context) {
	for _, ctx := range list {
		ctx.Close()
	}
}

// together runs f on every context at once, each on an operating-system thread of its own.
func together(list []*bindings.Context, f func(i int, ctx *bindings.Context) error) error {
	failures := make([]error, len(list))
	var group sync.WaitGroup
	for i, ctx := range list {
		group.Go(func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			failures[i] = f(i, ctx)
		})
	}
	group.Wait()
	return errors.Join(failures...)
}

// ceilingsOf are the sums of what the contexts reach at once; nil if the back end does not measure them.
func ceilingsOf(list []*bindings.Context, seconds float64) (*bindings.Ceilings, error) {
	each := make([]bindings.Ceilings, len(list))
	err := together(list, func(i int, ctx *bindings.Context) (err error) {
		each[i], err = ctx.Ceilings(seconds)
		return err
	})
	var native *bindings.Error
	if errors.As(err, &native) && native.Status == bindings.Unsupported {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	sum := new(bindings.Ceilings)
	for _, c := range each {
		sum.FMAF32GFLOPs += c.FMAF32GFLOPs
		sum.DotBF16GFLOPs += c.DotBF16GFLOPs
		sum.CopyGBPerS += c.CopyGBPerS
		sum.ReadGBPerS += c.ReadGBPerS
	}
	return sum, nil
}

// higher is the better of two measurements, figure by figure: the peak of a run that another program disturbed.
func higher(a, b *bindings.Ceilings) *bindings.Ceilings {
	if a == nil || b == nil {
		return nil
	}
	return &bindings.Ceilings{
		FMAF32GFLOPs: max(a.FMAF32GFLOPs, b.FMAF32GFLOPs), DotBF16GFLOPs: max(a.DotBF16GFLOPs, b.DotBF16GFLOPs),
		CopyGBPerS: max(a.CopyGBPerS, b.CopyGBPerS), ReadGBPerS: max(a.ReadGBPerS, b.ReadGBPerS),
	}
}

func secondsFlag(c *cli.Context) (float64, error) {
	s := c.Float64("seconds")
	if !(s > 0 && s <= 3600) {
		return 0, anynetx.Inputf("--seconds is %v, must be above 0 and at most 3600", s)
	}
	return s, nil
}

type machineJSON struct {
	Device     string             `json:"device"`
	ISA        string             `json:"isa"`
	Cores      int                `json:"cores"`
	OneThread  *bindings.Ceilings `json:"one_thread"`
	AllThreads *bindings.Ceilings `json:"all_cores"`
}

func benchMachine(c *cli.Context) error {
	seconds, err := secondsFlag(c)
	if err != nil {
		return err
	}
	contexts, err := benchContexts(c, 0, 1)
	if err != nil {
		return err
	}
	defer closeAll(contexts)
	info := contexts[0].Info()
	r := machineJSON{Device: info.Name, ISA: info.ISA, Cores: len(contexts)}
	if r.OneThread, err = ceilingsOf(contexts[:1], seconds); err != nil {
		return err
	}
	if r.OneThread == nil {
		return anynetx.Inputf("the back end of %s does not measure its peaks", c.String("device"))
	}
	if r.AllThreads, err = ceilingsOf(contexts, seconds); err != nil {
		return err
	}
	w := c.App.Writer
	if c.Bool("json") {
		return writeJSON(w, r)
	}
	if err := write(w, "%s, %s\n\n", r.Device, r.ISA); err != nil {
		return err
	}
	g := newGrid("peak", ">1 thread", fmt.Sprintf(">%s", counted(r.Cores, "core")), "unit")
	row := func(name, unit string, value func(*bindings.Ceilings) float64) {
		g.row(name, fmt.Sprintf("%.1f", value(r.OneThread)), fmt.Sprintf("%.1f", value(r.AllThreads)), unit)
	}
	row("fp32 multiply-add", "GFLOP/s", func(c *bindings.Ceilings) float64 { return c.FMAF32GFLOPs })
	row("bf16 dot product", "GFLOP/s", func(c *bindings.Ceilings) float64 { return c.DotBF16GFLOPs })
	row("memory copy (read + write)", "GB/s", func(c *bindings.Ceilings) float64 { return c.CopyGBPerS })
	row("memory read", "GB/s", func(c *bindings.Ceilings) float64 { return c.ReadGBPerS })
	return g.print(w)
}

// peakText is "61.2 % of 110.5 GFLOP/s".
func peakText(gflops, peak float64) string {
	return fmt.Sprintf("%.1f %% of %.1f GFLOP/s", 100*gflops/peak, peak)
}
