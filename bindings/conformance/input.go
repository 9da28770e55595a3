package conformance

import (
	"fmt"

	"anynetx/bindings"
)

// rectangles gives the source of row i of a batch.
type rectangles func(b *builder, i int) (y, x, height, width, flip int)

// input makes x, crops of a set of images ih x iw with 1 or 3 channels, and their labels y.
func (b *builder) input(x Tensor, ih, iw, channels int, source rectangles) (image, y int32) {
	const images, before, after = 7, 3, 2 // rows of the table around the batch
	n := int(x.N)
	pixels := make([]byte, images*ih*iw*channels)
	for i := range pixels {
		pixels[i] = byte(b.below(256))
	}
	labels := make([]int32, images)
	for i := range labels {
		labels[i] = int32(100 + i)
	}
	rows := before + n + after
	samples := make([]int32, rows*bindings.SampleColumns)
	for i := range rows {
		row := samples[i*bindings.SampleColumns:]
		if i < before || i >= before+n {
			row[bindings.SampleImage] = -1 // nobody may look here
			continue
		}
		y, x, height, width, flip := source(b, i-before)
		row[bindings.SampleImage] = int32(b.below(images))
		row[bindings.SampleY], row[bindings.SampleX], row[bindings.SampleH], row[bindings.SampleW] = int32(y), int32(x), int32(height), int32(width)
		row[bindings.SampleFlip] = int32(flip)
	}
	norm := []float32{0.28, 0.48, 0.44, 1 / 0.35, 1 / 0.24, 1 / 0.26}
	in := []int32{
		b.add(Tensor{Name: "images", Tensor: bindings.Tensor{DType: bindings.U8, N: images, H: int32(ih), W: int32(iw), C: int32(channels)}, Data: pixels}),
		b.integers("labels", 1, images, labels), b.integers("samples", rows, bindings.SampleColumns, samples), b.add(Tensor{Name: "norm", Tensor: plain(bindings.F32, 2, 3), Data: bindings.Bytes(norm)}),
	}
	op := mapOp(bindings.Input, n, int(x.H), int(x.W), 3)
	op.Slot[0] = b.slot(before)
	image = b.add(x)
	y = b.output("y", plain(bindings.I32, 1, n), 1)
	b.op(op, in, []int32{image, y})
	return image, y
}

// inputCase makes n crops of h x w pixels.
func inputCase(name string, n, h, w, ih, iw, channels int, source rectangles) Case {
	b := newBuilder("input", fmt.Sprintf("%s %dx%d from %dx%dx%d batch %d", name, h, w, ih, iw, channels, n))
	x := Tensor{Name: "X", Tensor: activationTensor(n, h, w, 3), Output: true, Terms: 4}
	if name == "resized" || name == "enlarged" {
		x.Slack = 16 // positions in float: off by e times the side, in pixels
	}
	b.input(x, ih, iw, channels, source)
	return b.Case
}

func inputCases() []Case {
	var cases []Case
	for _, channels := range []int{1, 3} {
		cases = append(cases,
			inputCase("whole", 16, 28, 28, 28, 28, channels, func(b *builder, i int) (int, int, int, int, int) { return 0, 0, 28, 28, i % 2 }),
			inputCase("padded", 32, 12, 10, 12, 10, channels, func(b *builder, i int) (int, int, int, int, int) {
				return b.below(9) - 4, b.below(9) - 4, 12, 10, b.below(2)
			}),
			inputCase("far outside", 16, 5, 5, 6, 4, channels, func(b *builder, i int) (int, int, int, int, int) {
				return 20*(i%3) - 20, 1000000 * (i%2 - 1), 5, 5, 0
			}),
			inputCase("inside", 16, 5, 7, 11, 13, channels, func(b *builder, i int) (int, int, int, int, int) {
				return b.below(7), b.below(7), 5, 7, b.below(2)
			}),
			inputCase("resized", 16, 8, 9, 21, 17, channels, func(b *builder, i int) (int, int, int, int, int) {
				height, width := 1+b.below(21), 1+b.below(17)
				return b.below(22-height) - 1, b.below(18-width) - 1, height, width, b.below(2)
			}),
			inputCase("enlarged", 48, 13, 16, 5, 4, channels, func(b *builder, i int) (int, int, int, int, int) {
				return -(i % 2), i % 3, 1 + i%5, 1 + i%4, i / 2 % 2
			}),
			inputCase("one pixel", 1, 1, 1, 3, 3, channels, func(b *builder, i int) (int, int, int, int, int) { return 1, 2, 1, 1, 1 }),
		)
	}
	return cases
}
