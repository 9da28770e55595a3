package engine

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"testing"

	"anynetx/anynetx"
	"anynetx/bindings"
	"anynetx/datasets"
	"anynetx/random"
)

// open takes a back end into use for a test. One that is not built is a loud skip, or a failure where ANX_REQUIRE names it.
func open(t testing.TB, backend, isa string) *bindings.Context {
	t.Helper()
	library, err := bindings.Load(backend)
	if errors.Is(err, fs.ErrNotExist) {
		for _, required := range strings.FieldsFunc(os.Getenv("ANX_REQUIRE"), func(r rune) bool { return r == ',' || r == ' ' }) {
			if required == backend {
				t.Fatalf("ANX_REQUIRE names %s: %v", backend, err)
			}
		}
		t.Skipf("the %s back end is not built: run make build", backend)
	}
	if err != nil {
		t.Fatal(err)
	}
	ctx, err := library.NewContext(bindings.ContextOptions{Threads: 1, ISA: isa})
	var native *bindings.Error
	if errors.As(err, &native) && native.Status == bindings.Unsupported && isa != "" {
		t.Skipf("this machine has no %s: %v", isa, err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(ctx.Close)
	return ctx
}

// backends runs a test on the reference and on every form of the CPU back end.
func backends(t *testing.T, test func(t *testing.T, ctx *bindings.Context)) {
	t.Run("reference", func(t *testing.T) { test(t, open(t, "reference", "")) })
	for _, isa := range []string{"avx512", "avx2", "portable"} {
		t.Run("cpu-"+isa, func(t *testing.T) { test(t, open(t, "cpu", isa)) })
	}
}

// tiny is a small network with projections, strides, bottlenecks and odd group widths.
func tiny(t testing.TB, stem anynetx.Stem, resolution, classes int) *anynetx.Network {
	t.Helper()
	a := anynetx.Architecture{
		{Depth: 1, Width: 6, Bottleneck: 1, GroupWidth: 3},
		{Depth: 2, Width: 18, Bottleneck: 2, GroupWidth: 9},
		{Depth: 1, Width: 10, Bottleneck: 1, GroupWidth: 5},
		{Depth: 1, Width: 8, Bottleneck: 4, GroupWidth: 1},
	}
	n, err := anynetx.Build(a, anynetx.Setting{Stem: stem, StemWidth: 6, Strides: [4]int{1, 2, 1, 2}, Resolution: resolution, Classes: classes})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// blobs is a set that can be learnt: every class has a pattern, and every image that of its class with noise over it.
func blobs(side, channels, classes, train, test int) *datasets.Set {
	s := &datasets.Set{Name: "blobs", H: side, W: side, C: channels, Mean: [3]float64{0.5, 0.5, 0.5}, Std: [3]float64{0.25, 0.25, 0.25}}
	for c := range classes {
		s.Classes = append(s.Classes, fmt.Sprint("class ", c))
	}
	pixels := side * side * channels
	split := func(name string, count int) (split datasets.Split) {
		noise := random.New(1, "noise", name)
		for i := range count {
			class := i % classes
			split.Labels = append(split.Labels, int32(class))
			pattern := random.New(1, "pattern", class)
			for p := range pixels {
				y, x := p/channels/side, p/channels%side
				v := 128.0
				if pattern.Float64(uint64(y/4*64+x/4)) < 0.5 {
					v = 80
				}
				v += 60 * (noise.Float64(uint64(i*pixels+p)) - 0.5)
				split.Images = append(split.Images, byte(v))
			}
		}
		return split
	}
	s.Train, s.Test = split("train", train), split("test", test)
	return s
}

// testConfig trains the network on 16 images a step.
func testConfig(n *anynetx.Network) Config {
	r := DefaultRecipe()
	r.Batch, r.PreciseBNImages = 16, 32
	r.Augmentation = datasets.Augmentation{Flip: true, Crop: datasets.CropPadded, Padding: 2}
	return Config{Network: n, Recipe: r, Epochs: 3, DType: "fp32", Seed: 7, Task: "blobs"}
}

func load(t testing.TB, ctx *bindings.Context, set *datasets.Set) *Data {
	t.Helper()
	d, err := LoadData(ctx, set)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func newTestTrainer(t testing.TB, ctx *bindings.Context, c Config, d *Data, options planOptions) *Trainer {
	t.Helper()
	trainer, err := newTrainer(ctx, c, d, options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(trainer.Close)
	return trainer
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// runEpochs trains to the end of an epoch.
func runEpochs(t testing.TB, trainer *Trainer, epochs int) (results []EpochResult) {
	t.Helper()
	for range epochs {
		for p := trainer.Position(); p.Step < p.StepsPerEpoch; p = trainer.Position() {
			must(t, trainer.Step())
		}
		r, err := trainer.EndEpoch()
		must(t, err)
		results = append(results, r)
	}
	return results
}
