package engine

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"

	"anynetx/anynetx"
	"anynetx/bindings"
)

// TestWeights: what is written is read again, in PyTorch's order in the file and in ours in memory, and starts another run.
func TestWeights(t *testing.T) {
	ctx := open(t, "reference", "")
	c, d := resumeCase(t, ctx)
	trainer := newTestTrainer(t, ctx, c, d, planOptions{})
	must(t, trainer.Initialize())
	advance(t, trainer, 6)
	var file bytes.Buffer
	must(t, trainer.WriteWeights(&file))
	want, err := trainer.Weights()
	must(t, err)
	got, err := ReadSafetensors(bytes.NewReader(file.Bytes()))
	must(t, err)
	if fmt.Sprint(want.Tensors) != fmt.Sprint(got.Tensors) || got.Batches != 6 || got.Metadata["architecture"] != c.Network.Architecture.ID() {
		t.Errorf("read again the weights differ; %d batches, %v", got.Batches, got.Metadata)
	}
	// One number by hand: filter k, row y, column x, channel c of the stem lies at ((k 3 + c) 7 + y) 7 + x in the file.
	stem := got.Tensors[0]
	length := 8 + binary.LittleEndian.Uint64(file.Bytes())
	norms := 0
	for _, v := range got.Tensors {
		if isRunningMean(v.Name) {
			norms++
		}
	}
	at := int(length) + 8*norms + 4*(((2*3+1)*7+4)*7+5)
	if inFile, inMemory := math.Float32frombits(binary.LittleEndian.Uint32(file.Bytes()[at:])), stem.Values[((2*7+4)*7+5)*3+1]; stem.Name != "stem.conv.weight" || inFile != inMemory {
		t.Errorf("%s: %v in the file, %v in memory", stem.Name, inFile, inMemory)
	}

	// Fine-tuning: another number of classes, so another head; everything else is taken.
	set := blobs(16, 1, 3, 48, 24)
	tuned := testConfig(tiny(t, anynetx.ResStemIN, 16, 3))
	fine := newTestTrainer(t, ctx, tuned, load(t, ctx, set), planOptions{})
	must(t, fine.InitializeFrom(got, false))
	fresh := newTestTrainer(t, ctx, tuned, fine.data, planOptions{})
	must(t, fresh.Initialize())
	started, err := fine.Weights()
	must(t, err)
	scratch, err := fresh.Weights()
	must(t, err)
	for i, v := range started.Tensors {
		expected := scratch.Tensors[i].Values
		if !strings.HasPrefix(v.Name, "head.") {
			for _, w := range want.Tensors {
				if w.Name == v.Name {
					expected = w.Values
				}
			}
		}
		if !bytes.Equal(bindings.Bytes(v.Values), bindings.Bytes(expected)) {
			t.Errorf("fine-tuning starts with another %s", v.Name)
		}
	}
	momentum := make([]float32, fine.layout.values)
	must(t, fine.read(fine.layout.momentum, bindings.Bytes(momentum)))
	for _, v := range momentum {
		if v != 0 {
			t.Fatal("fine-tuning starts with momentum")
		}
	}
	advance(t, fine, 3)

	if err := fine.InitializeFrom(got, true); !errors.Is(err, anynetx.ErrInput) || !strings.Contains(err.Error(), "head.fc.weight") {
		t.Errorf("a head of another shape: %v", err)
	}
	other := newTestTrainer(t, ctx, testConfig(tiny(t, anynetx.SimpleStemIN, 16, 4)), d, planOptions{})
	if err := other.InitializeFrom(got, false); !errors.Is(err, anynetx.ErrInput) || !strings.Contains(err.Error(), "stem.conv.weight has shape") {
		t.Errorf("another stem: %v", err)
	}
	if err := other.InitializeFrom(&Weights{}, false); !errors.Is(err, anynetx.ErrInput) || !strings.Contains(err.Error(), "no tensor") {
		t.Errorf("no weights: %v", err)
	}
	if err := other.Step(); err == nil {
		t.Error("a trainer whose weights were refused takes a step")
	}
}

// smallWeights is a file of two tensors.
func smallWeights(t testing.TB) []byte {
	var file bytes.Buffer
	w := &Weights{Batches: 3, Tensors: []WeightTensor{
		{"a.weight", []int{2, 3, 3, 2}, make([]float32, 36)}, {"b.running_mean", []int{2}, []float32{1, 2}}}}
	must(t, w.WriteSafetensors(&file))
	return file.Bytes()
}

func TestDamagedWeights(t *testing.T) {
	file := smallWeights(t)
	for at := range file {
		if _, err := ReadSafetensors(bytes.NewReader(file[:at])); !errors.Is(err, ErrDamaged) {
			t.Errorf("cut at byte %d of %d: %v", at, len(file), err)
		}
	}
	if _, err := ReadSafetensors(bytes.NewReader(append(append([]byte(nil), file...), 0))); !errors.Is(err, ErrDamaged) {
		t.Errorf("a byte more: %v", err)
	}
	framed := func(header string, data int) []byte {
		b := binary.LittleEndian.AppendUint64(nil, uint64(len(header)))
		return append(append(b, header...), make([]byte, data)...)
	}
	for name, bad := range map[string][]byte{
		"a header of 2^60 bytes":  binary.LittleEndian.AppendUint64(nil, 1<<60),
		"no JSON":                 framed("not JSON at all", 0),
		"another dtype":           framed(`{"a":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]}}`, 4),
		"a negative size":         framed(`{"a":{"dtype":"F32","shape":[-2,-2],"data_offsets":[0,16]}}`, 16),
		"a size that overflows":   framed(`{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}}`, 0),
		"a size of its own":       framed(`{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,12]}}`, 12),
		"a hole":                  framed(`{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}`, 8),
		"tensors that overlap":    framed(`{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}`, 12),
		"offsets that overflow":   framed(`{"a":{"dtype":"F32","shape":[1],"data_offsets":[9223372036854775807,-9223372036854775805]}}`, 8),
		"8 GB that are not there": framed(`{"a":{"dtype":"F32","shape":[2000000000],"data_offsets":[0,8000000000]}}`, 8),
	} {
		if _, err := ReadSafetensors(bytes.NewReader(bad)); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzReadSafetensors(f *testing.F) {
	file := smallWeights(f)
	f.Add(file)
	f.Add(file[:50])
	f.Fuzz(func(t *testing.T, data []byte) {
		w, err := ReadSafetensors(bytes.NewReader(data))
		if err != nil {
			return
		}
		var again bytes.Buffer
		must(t, w.WriteSafetensors(&again))
		if _, err := ReadSafetensors(&again); err != nil {
			t.Errorf("what was read cannot be written and read again: %v", err)
		}
	})
}
