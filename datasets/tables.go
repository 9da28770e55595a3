package datasets

import (
	"fmt"
	"math"

	"anynetx/random"
)

// Columns is the width of a sample table: image, y, x, height, width, flip and two reserved (anx_sample in bindings/anx.h).
const Columns = 8

// TrainTable returns the training samples of an epoch in their order, one row of Columns numbers each. Every random number of a row is a
// function of (stream, epoch, image), so the rows of an image do not depend on which others the set holds, nor on the epoch's order.
// The augmentation must be valid (Validate).
func TrainTable(set *Set, a Augmentation, resolution int, stream random.Stream, epoch int) []int32 {
	return AppendTrainTable(nil, set, a, resolution, stream, epoch)
}

// AppendTrainTable is TrainTable for a caller that keeps the memory: give it the last table, cut to length 0.
func AppendTrainTable(dst []int32, set *Set, a Augmentation, resolution int, stream random.Stream, epoch int) []int32 {
	a = a.withDefaults(resolution)
	count := len(set.Train.Labels)
	at := len(dst)
	dst = grow(dst, count*Columns)
	table := dst[at:]
	key := stream.Uint64(uint64(epoch)) // the mixer maps one to one: no two epochs share a key
	draws := random.New(key, "augmentation")
	order := random.New(key, "order").Permutation(count)

	const perSample = 32 // numbers kept for each image: 0..19 area and ratio, 20 y, 21 x, 22 flip
	first, last := reach(set.H, resolution, a.Padding)
	left, right := reach(set.W, resolution, a.Padding)
	logLow := math.Log(a.Ratio[0])
	logRange := math.Log(a.Ratio[1]) - logLow
	for i, image := range order {
		row := table[i*Columns : (i+1)*Columns : (i+1)*Columns]
		base := uint64(image) * perSample
		y, x, h, w := 0, 0, set.H, set.W
		switch a.Crop {
		case CropNone:
		case CropPadded:
			y = first + int(draws.Below(base+20, uint64(last-first+1)))
			x = left + int(draws.Below(base+21, uint64(right-left+1)))
			h, w = resolution, resolution
		case CropResized:
			y, x, h, w = a.resizedWindow(set.H, set.W, logLow, logRange,
				func(k uint64) float64 { return draws.Float64(base + k) },
				func(k, n uint64) uint64 { return draws.Below(base+k, n) })
		default:
			panic(fmt.Sprintf("datasets: crop %q was never validated", a.Crop))
		}
		flip := int32(0)
		if a.Flip {
			flip = int32(draws.Uint64(base+22) >> 63)
		}
		row[0], row[1], row[2], row[3], row[4], row[5], row[6], row[7] = image, int32(y), int32(x), int32(h), int32(w), flip, 0, 0
	}
	return dst
}

// reach is the range of a window's first pixel along one side: the window moves within the image and its border. Where it does not fit
// even so, it stays centred, with as much border as it needs.
func reach(side, resolution, padding int) (first, last int) {
	first, last = -padding, side+padding-resolution
	if last < first {
		middle := centre(side, resolution)
		return middle, middle
	}
	return first, last
}

// centre is where a centred window begins, rounded towards the first pixel; negative where the window is larger.
func centre(side, window int) int {
	return (side - window) >> 1
}

// TestTable returns the test samples in the order of the set: the whole image, or its centre, at the scale training sees on average.
func TestTable(set *Set, a Augmentation, resolution int) []int32 {
	a = a.withDefaults(resolution)
	y, x, h, w := 0, 0, set.H, set.W
	switch a.Crop {
	case CropNone:
	case CropPadded:
		y, x, h, w = centre(set.H, resolution), centre(set.W, resolution), resolution, resolution
	case CropResized:
		// The window of resolution x resolution in the image resized to TestResize, seen from the image itself.
		side := max(1, (resolution*min(set.H, set.W)+a.TestResize/2)/a.TestResize)
		y, x, h, w = centre(set.H, side), centre(set.W, side), side, side
	default:
		panic(fmt.Sprintf("datasets: crop %q was never validated", a.Crop))
	}
	table := make([]int32, len(set.Test.Labels)*Columns)
	for i := range set.Test.Labels {
		row := table[i*Columns:]
		row[0], row[1], row[2], row[3], row[4] = int32(i), int32(y), int32(x), int32(h), int32(w)
	}
	return table
}

func grow(dst []int32, n int) []int32 {
	if cap(dst)-len(dst) >= n {
		return dst[:len(dst)+n]
	}
	return append(dst, make([]int32, n)...)
}
