package engine

import (
	"io"
	"testing"
	"time"

	"anynetx/anynetx"
	"anynetx/bindings"
	"anynetx/datasets"
)

// BenchmarkOutsideNative trains a network of a few MFLOP at 32 pixels, with augmentation, an end of epoch and a checkpoint each 25 steps, and
// reports the share of the time that is not native code: it must stay below 2 %.
func BenchmarkOutsideNative(b *testing.B) {
	library, err := bindings.Load("cpu")
	if err != nil {
		b.Skip(err)
	}
	ctx, err := library.NewContext(bindings.ContextOptions{Threads: 1})
	must(b, err)
	defer ctx.Close()
	var a anynetx.Architecture
	for i, w := range []int{16, 32, 64, 128} {
		a[i] = anynetx.Stage{Depth: 1, Width: w, Bottleneck: 1, GroupWidth: 8}
	}
	n, err := anynetx.Build(a, anynetx.Setting{Stem: anynetx.SimpleStemIN, StemWidth: 16, Strides: [4]int{1, 2, 2, 2}, Resolution: 32, Classes: 10})
	must(b, err)
	set := blobs(32, 3, 10, 128*25, 1280)
	r := DefaultRecipe()
	r.PreciseBNImages = 1024
	r.Augmentation = datasets.Augmentation{Flip: true, Crop: datasets.CropPadded, Padding: 4}
	t := newTestTrainer(b, ctx, Config{Network: n, Recipe: r, Epochs: 1 << 20, DType: "fp32", Task: "blobs"}, load(b, ctx, set), planOptions{})
	must(b, t.Initialize())
	b.ResetTimer()
	start, native, images := time.Now(), t.NativeTime(), 0
	for b.Loop() {
		runEpochs(b, t, 1)
		must(b, t.WriteCheckpoint(io.Discard, nil))
		images += 25 * 128
	}
	total := time.Since(start)
	b.ReportMetric(100*float64(total-(t.NativeTime()-native))/float64(total), "%outside")
	b.ReportMetric(float64(images)/total.Seconds(), "images/s")
	b.ReportMetric(float64(n.Complexity().FLOPs)/1e6, "MFLOP")
}
