package engine

import (
	"os"
	"strconv"
	"strings"
	"testing"

	"anynetx/anynetx"
	"anynetx/bindings"
)

// resident is the memory that this process has.
func resident(t *testing.T) int64 {
	t.Helper()
	text, err := os.ReadFile("/proc/self/statm")
	must(t, err)
	pages, err := strconv.ParseInt(strings.Fields(string(text))[1], 10, 64)
	must(t, err)
	return pages * int64(os.Getpagesize())
}

// TestThreadsTakeWhatIsPlanned: a batch in two sheets (cpu/cpu.h), which threads keep in memory of their own.
func TestThreadsTakeWhatIsPlanned(t *testing.T) {
	library := open(t, "cpu", "").Library()
	stage := anynetx.Stage{Depth: 1, Width: 16, Bottleneck: 1, GroupWidth: 8}
	n, err := anynetx.Build(anynetx.Architecture{stage, stage, stage, stage},
		anynetx.Setting{Stem: anynetx.ResStemCifar, StemWidth: 16, Strides: [4]int{1, 2, 2, 2}, Resolution: 32, Classes: 4})
	must(t, err)
	for _, threads := range []int{1, 2} {
		ctx, err := library.NewContext(bindings.ContextOptions{Threads: threads})
		must(t, err)
		c := testConfig(n)
		c.Recipe.Batch, c.Recipe.PreciseBNImages = 128, 128
		d := load(t, ctx, blobs(32, 3, 4, 128, 16))
		before := resident(t)
		trainer := newTestTrainer(t, ctx, c, d, planOptions{})
		must(t, trainer.Initialize())
		must(t, trainer.Step())
		_, err = trainer.EndEpoch()
		must(t, err)
		taken, planned := resident(t)-before, trainer.Memory().Total()
		if planned < 40<<20 || taken < planned/2 || taken > planned+planned/4 {
			t.Errorf("%d threads: %d MiB are planned, %d MiB are taken", threads, planned>>20, taken>>20)
		}
		ctx.Close()
	}
}
