package analysis

import (
	"math"
	"slices"

	"anynetx/random"
)

// resamples draws architectures with replacement. Draw k of resample b is a function of the stream, b and k.
type resamples struct {
	stream random.Stream
	n      int
}

func (r resamples) index(b, k int) int {
	return int(r.stream.Below(uint64(b)*uint64(r.n)+uint64(k), uint64(r.n)))
}

// ranker gives mid-ranks of a resample in linear time: groups of equal values are sorted once, a resample only counts them.
type ranker struct {
	group []int // of each value, among the distinct values in order
	count []int
	rank  []float64
}

func newRanker(x []float64) *ranker {
	distinct := slices.Clone(x)
	slices.Sort(distinct)
	distinct = slices.Compact(distinct)
	r := &ranker{group: make([]int, len(x)), count: make([]int, len(distinct)), rank: make([]float64, len(distinct))}
	for i, v := range x {
		r.group[i], _ = slices.BinarySearch(distinct, v)
	}
	return r
}

func (r *ranker) resample(drawn []int) {
	clear(r.count)
	for _, i := range drawn {
		r.count[r.group[i]]++
	}
	below := 0
	for g, c := range r.count {
		r.rank[g] = float64(below) + float64(c+1)/2
		below += c
	}
}

// bootstrapSpearman is rho of each resample of the pairs; NaN where a resample is constant on one side.
func bootstrapSpearman(x, y []float64, count int, stream random.Stream) []float64 {
	n := len(x)
	rx, ry, draw := newRanker(x), newRanker(y), resamples{stream, n}
	drawn := make([]int, n)
	out := make([]float64, count)
	mean := float64(n+1) / 2
	for b := range out {
		for k := range drawn {
			drawn[k] = draw.index(b, k)
		}
		rx.resample(drawn)
		ry.resample(drawn)
		var xx, yy, xy float64
		for _, i := range drawn {
			dx, dy := rx.rank[rx.group[i]]-mean, ry.rank[ry.group[i]]-mean
			xx += dx * dx
			yy += dy * dy
			xy += dx * dy
		}
		out[b] = xy / math.Sqrt(xx*yy)
	}
	return out
}
