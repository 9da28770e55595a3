package engine

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"sort"
	"strings"
)

// Limits of a file of weights; the largest network of the default space has some 200 MB.
const (
	maxSafetensorsHeader = 16 << 20
	maxSafetensorsData   = 8 << 30
)

const batchesSuffix = ".num_batches_tracked"

type safetensorsEntry struct {
	DType   string   `json:"dtype"`
	Shape   []int    `json:"shape"`
	Offsets [2]int64 `json:"data_offsets"`
}

// WriteSafetensors writes the weights with pycls's names and PyTorch's order of dimensions: what load_state_dict takes.
func (w *Weights) WriteSafetensors(out io.Writer) error {
	var header bytes.Buffer
	metadata, err := json.Marshal(w.Metadata)
	if err != nil {
		return fmt.Errorf("write weights: %w", err)
	}
	header.WriteString(`{"__metadata__":`)
	if w.Metadata == nil {
		metadata = []byte("{}")
	}
	header.Write(metadata)
	at := int64(0)
	put := func(name, dtype string, shape []int, size int64) error {
		entry, err := json.Marshal(safetensorsEntry{dtype, shape, [2]int64{at, at + size}})
		if err != nil {
			return fmt.Errorf("write weights: %w", err)
		}
		key, err := json.Marshal(name)
		if err != nil {
			return fmt.Errorf("write weights: %w", err)
		}
		at += size
		fmt.Fprintf(&header, ",%s:%s", key, entry)
		return nil
	}
	// The 8-byte numbers come first, so that everything is aligned.
	batches := 0
	for _, t := range w.Tensors {
		if isRunningMean(t.Name) {
			batches++
			if err := put(strings.TrimSuffix(t.Name, ".running_mean")+batchesSuffix, "I64", []int{}, 8); err != nil {
				return err
			}
		}
	}
	for _, t := range w.Tensors {
		shape := t.Shape
		if len(shape) == 4 {
			shape = []int{shape[0], shape[3], shape[1], shape[2]}
		}
		if err := put(t.Name, "F32", shape, 4*int64(len(t.Values))); err != nil {
			return err
		}
	}
	header.WriteByte('}')
	for header.Len()%8 != 0 {
		header.WriteByte(' ')
	}
	buffered := bufio.NewWriterSize(out, 1<<16)
	buffered.Write(binary.LittleEndian.AppendUint64(nil, uint64(header.Len())))
	buffered.Write(header.Bytes())
	var number [8]byte
	for range batches {
		binary.LittleEndian.PutUint64(number[:], uint64(w.Batches))
		buffered.Write(number[:])
	}
	for _, t := range w.Tensors {
		values := t.Values
		if len(t.Shape) == 4 {
			values = make([]float32, len(t.Values))
			swapFilter(values, t.Values, t.Shape, true)
		}
		for _, v := range values {
			binary.LittleEndian.PutUint32(number[:4], math.Float32bits(v))
			buffered.Write(number[:4])
		}
	}
	if err := buffered.Flush(); err != nil { // keeps the first error of the writes above
		return fmt.Errorf("write weights: %w", err)
	}
	return nil
}

// ReadSafetensors reads weights as WriteSafetensors and PyTorch write them: F32 tensors, and I64 for num_batches_tracked. Errors are
// ErrDamaged where the bytes do not fit together.
func ReadSafetensors(in io.Reader) (*Weights, error) {
	var lengthBytes [8]byte
	if _, err := io.ReadFull(in, lengthBytes[:]); err != nil {
		return nil, shortRead("length", err)
	}
	length := binary.LittleEndian.Uint64(lengthBytes[:])
	if length < 2 || length > maxSafetensorsHeader {
		return nil, damaged("this is no safetensors file: its header would be %d bytes long, and must be 2 to %d", length, maxSafetensorsHeader)
	}
	header, err := readBounded(in, int64(length), "header")
	if err != nil {
		return nil, err
	}
	var raw map[string]json.RawMessage
	if err := json.Unmarshal(header, &raw); err != nil {
		return nil, damaged("the header of the safetensors file cannot be read: %v", err)
	}
	w := &Weights{Metadata: map[string]string{}}
	if text, ok := raw["__metadata__"]; ok {
		if err := json.Unmarshal(text, &w.Metadata); err != nil {
			return nil, damaged("__metadata__ of the safetensors file cannot be read: %v", err)
		}
		delete(raw, "__metadata__")
	}
	type named struct {
		name string
		safetensorsEntry
	}
	var entries []named
	for name, text := range raw {
		e := named{name: name}
		if err := json.Unmarshal(text, &e.safetensorsEntry); err != nil {
			return nil, damaged("tensor %q of the safetensors file: its entry cannot be read: %v", name, err)
		}
		size, ok := map[string]int64{"F32": 4, "I64": 8}[e.DType]
		if !ok {
			return nil, damaged("tensor %q of the safetensors file is of dtype %q; weights must be F32", name, e.DType)
		}
		if len(e.Shape) > 8 {
			return nil, damaged("tensor %q of the safetensors file has %d dimensions", name, len(e.Shape))
		}
		bytes := size
		for _, n := range e.Shape {
			if n < 1 || bytes > maxSafetensorsData/int64(n) {
				return nil, damaged("tensor %q of the safetensors file has the impossible shape %v", name, e.Shape)
			}
			bytes *= int64(n)
		}
		if e.Offsets[0] < 0 || e.Offsets[0] > maxSafetensorsData || e.Offsets[1]-e.Offsets[0] != bytes {
			return nil, damaged("tensor %q of the safetensors file: bytes %d to %d do not fit its shape %v", name, e.Offsets[0], e.Offsets[1], e.Shape)
		}
		entries = append(entries, e)
	}
	sort.Slice(entries, func(i, j int) bool {
		a, b := entries[i], entries[j]
		return a.Offsets[0] < b.Offsets[0] || a.Offsets[0] == b.Offsets[0] && a.name < b.name
	})
	end := int64(0)
	for _, e := range entries {
		if e.Offsets[0] != end {
			return nil, damaged("tensor %q of the safetensors file begins at byte %d of the data, and the one before ends at %d", e.name, e.Offsets[0], end)
		}
		end = e.Offsets[1]
		data, err := readBounded(in, e.Offsets[1]-e.Offsets[0], "tensor "+e.name)
		if err != nil {
			return nil, err
		}
		if e.DType == "I64" {
			if strings.HasSuffix(e.name, batchesSuffix) && len(data) == 8 {
				w.Batches = int64(binary.LittleEndian.Uint64(data))
				continue
			}
			return nil, damaged("tensor %q of the safetensors file is I64; weights must be F32", e.name)
		}
		t := WeightTensor{Name: e.name, Shape: e.Shape, Values: make([]float32, len(data)/4)}
		for i := range t.Values {
			t.Values[i] = math.Float32frombits(binary.LittleEndian.Uint32(data[4*i:]))
		}
		if len(e.Shape) == 4 {
			theirs := t.Values
			t.Shape = []int{e.Shape[0], e.Shape[2], e.Shape[3], e.Shape[1]}
			t.Values = make([]float32, len(theirs))
			swapFilter(t.Values, theirs, t.Shape, false)
		}
		w.Tensors = append(w.Tensors, t)
	}
	if n, err := io.CopyN(io.Discard, in, 1); n != 0 {
		return nil, damaged("the safetensors file goes on behind its last tensor, byte %d of the data", end)
	} else if err != io.EOF {
		return nil, fmt.Errorf("read weights: %w", err)
	}
	return w, nil
}

// readBounded takes no more memory than there are bytes, whatever size says.
func readBounded(in io.Reader, size int64, what string) ([]byte, error) {
	var b bytes.Buffer
	if _, err := io.CopyN(&b, in, size); err != nil {
		return nil, shortRead(what, err)
	}
	return b.Bytes(), nil
}

func shortRead(what string, err error) error {
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return damaged("the safetensors file ends within its %s", what)
	}
	return fmt.Errorf("read weights, %s: %w", what, err)
}
