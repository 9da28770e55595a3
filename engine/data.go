package engine

import (
	"fmt"

	"anynetx/anynetx"
	"anynetx/bindings"
	"anynetx/datasets"
)

// Data is a set on a device, shared by the trainers of a worker. Close it after them.
type Data struct {
	set         *datasets.Set
	digest      string
	buffer      *bindings.Buffer
	train, test source // without samples, which are a trainer's own
}

// LoadData copies a set to the device, after checking what native code will rely on.
func LoadData(ctx *bindings.Context, set *datasets.Set) (*Data, error) {
	if set.H < 1 || set.W < 1 || set.C != 1 && set.C != 3 {
		return nil, anynetx.Inputf("data set %s: images are %d x %d x %d; they must have 1 or 3 channels", set.Name, set.H, set.W, set.C)
	}
	for c := range 3 {
		if !(set.Std[c] > 0) {
			return nil, anynetx.Inputf("data set %s: the standard deviation of channel %d is %v; it must be above 0", set.Name, c, set.Std[c])
		}
	}
	pixels := set.H * set.W * set.C
	for _, split := range []struct {
		name string
		datasets.Split
	}{{"training", set.Train}, {"test", set.Test}} {
		count := len(split.Labels)
		if count == 0 {
			return nil, anynetx.Inputf("data set %s: there are no %s images", set.Name, split.name)
		}
		if len(split.Images) != count*pixels {
			return nil, anynetx.Inputf("data set %s: %d labels of %s images, but %d bytes of pixels instead of %d",
				set.Name, count, split.name, len(split.Images), count*pixels)
		}
		for i, label := range split.Labels {
			if label < 0 || int(label) >= len(set.Classes) {
				return nil, anynetx.Inputf("data set %s: %s image %d has label %d; it must be 0 to %d", set.Name, split.name, i, label, len(set.Classes)-1)
			}
		}
	}
	d := &Data{set: set, digest: set.Digest()}
	norm := make([]float32, 6)
	for c := range 3 {
		norm[c], norm[3+c] = float32(set.Mean[c]), float32(1/set.Std[c])
	}
	var bytes int64
	d.train, d.test, bytes = placeData(set.H, set.W, set.C, len(set.Train.Labels), len(set.Test.Labels))
	var err error
	if d.buffer, err = ctx.NewBuffer(bytes); err != nil {
		return nil, fmt.Errorf("room for data set %s, %d bytes: %w", set.Name, bytes, err)
	}
	for _, part := range []struct {
		tensor bindings.Tensor
		bytes  []byte
	}{
		{d.train.images, set.Train.Images}, {d.train.labels, bindings.Bytes(set.Train.Labels)},
		{d.test.images, set.Test.Images}, {d.test.labels, bindings.Bytes(set.Test.Labels)},
		{d.train.norm, bindings.Bytes(norm)},
	} {
		if err := d.buffer.Write(int64(part.tensor.Offset), part.bytes); err != nil {
			d.Close()
			return nil, fmt.Errorf("copy data set %s to the device: %w", set.Name, err)
		}
	}
	return d, nil
}

// Close frees the device's memory. Closing twice does nothing.
func (d *Data) Close() { d.buffer.Close() }

// placeData lays out the data buffer.
func placeData(h, w, c, trainCount, testCount int) (train, test source, bytes int64) {
	put := func(t bindings.Tensor) bindings.Tensor {
		t.Buffer, t.Offset = dataBuffer, uint64(bytes)
		bytes = align(bytes + int64(t.Elements())*int64(t.DType.Bytes()))
		return t
	}
	images := func(count int) bindings.Tensor {
		return put(bindings.Tensor{DType: bindings.U8, N: int32(count), H: int32(h), W: int32(w), C: int32(c)})
	}
	labels := func(count int) bindings.Tensor {
		return put(bindings.Tensor{DType: bindings.I32, N: 1, H: 1, W: 1, C: int32(count)})
	}
	train.images, test.images = images(trainCount), images(testCount)
	train.labels, test.labels = labels(trainCount), labels(testCount)
	train.norm = put(bindings.Tensor{N: 2, H: 1, W: 1, C: 3})
	test.norm = train.norm
	return train, test, bytes
}

// placeSamples lays out the sample buffer: rows of the epoch in training, then those of the test pass, filled up to whole batches.
func placeSamples(train, test *source, batch int) (bytes int64) {
	table := func(count int) bindings.Tensor {
		t := bindings.Tensor{DType: bindings.I32, N: int32(count), H: 1, W: 1, C: bindings.SampleColumns, Buffer: sampleBuffer, Offset: uint64(bytes)}
		bytes = align(bytes + 4*int64(t.Elements()))
		return t
	}
	train.samples = table(int(train.images.N))
	test.samples = table((int(test.images.N) + batch - 1) / batch * batch)
	return bytes
}
