package engine

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

// A checkpoint: magic, version (4 bytes), length of the header (4 bytes), header (JSON), the state, extra bytes of the caller, and the
// SHA-256 of all that. Numbers are little-endian. The state is the state buffer of a run by itself, whose layout depends on the network and the
// dtype alone, so a checkpoint fits every back end and group; the header's table names what lies in it.
const (
	checkpointMagic   = "anynetx\x00"
	checkpointVersion = 1
	maxHeader         = 16 << 20
	maxExtra          = 64 << 20
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// ErrDamaged marks a checkpoint or weights file whose bytes are not what was written; an older one may do.
var ErrDamaged = errors.New("damaged")

// ErrOther marks a checkpoint that is whole but belongs to another run or another build of the back end.
var ErrOther = errors.New("of another run")

type markedError struct {
	error
	mark error
}

func (e markedError) Is(target error) bool { return target == e.mark }
func (e markedError) Unwrap() error        { return e.error }

func damaged(format string, arguments ...any) error {
	return markedError{fmt.Errorf(format, arguments...), ErrDamaged}
}

func other(format string, arguments ...any) error {
	return markedError{fmt.Errorf(format, arguments...), ErrOther}
}

type checkpointHeader struct {
	Config       string            `json:"config_sha256"`
	Architecture string            `json:"architecture"`
	Epoch        int               `json:"epoch"`
	Step         int               `json:"step"`
	Library      string            `json:"library_sha256"`
	Device       string            `json:"device_model"`
	Tensors      []checkpointEntry `json:"tensors"`
	StateBytes   int64             `json:"state_bytes"`
	ExtraBytes   int64             `json:"extra_bytes"`
}

type checkpointEntry struct {
	Name   string `json:"name"`
	DType  string `json:"dtype"`
	Shape  []int  `json:"shape"`
	Offset int64  `json:"offset"` // in the state
	CRC32C uint32 `json:"crc32c"`
}

// checkpointTable names what lies in a state.
func checkpointTable(l *layout, state []byte) (table []checkpointEntry) {
	for _, p := range l.parts() {
		table = append(table, checkpointEntry{p.name, p.dtype, p.shape, p.offset, crc32.Checksum(state[p.offset:p.offset+p.bytes], castagnoli)})
	}
	return table
}

// WriteCheckpoint writes everything the run needs to go on from here to the same bits, and the caller's extra bytes.
func (t *Trainer) WriteCheckpoint(w io.Writer, extra []byte) error {
	if len(extra) > maxExtra {
		return fmt.Errorf("checkpoint: %d extra bytes; at most %d have room", len(extra), maxExtra)
	}
	state, err := t.readState()
	if err != nil {
		return err
	}
	config, err := t.configSHA256()
	if err != nil {
		return err
	}
	return writeCheckpoint(w, checkpointHeader{
		Config: config, Architecture: t.config.Network.Architecture.ID(), Epoch: t.epoch, Step: t.step,
		Library: t.ctx.Library().SHA256, Device: t.ctx.Info().Model,
	}, t.saved, state, extra)
}

// writeCheckpoint fills in what the header says of state and extra.
func writeCheckpoint(w io.Writer, h checkpointHeader, l *layout, state, extra []byte) error {
	h.Tensors, h.StateBytes, h.ExtraBytes = checkpointTable(l, state), int64(len(state)), int64(len(extra))
	header, err := json.Marshal(h)
	if err != nil {
		return fmt.Errorf("checkpoint: %w", err)
	}
	if len(header) > maxHeader {
		return fmt.Errorf("checkpoint: the header would take %d bytes; at most %d have room", len(header), maxHeader)
	}
	start := []byte(checkpointMagic)
	start = binary.LittleEndian.AppendUint32(start, checkpointVersion)
	start = binary.LittleEndian.AppendUint32(start, uint32(len(header)))
	sum := sha256.New()
	for _, part := range [][]byte{start, header, state, extra} {
		sum.Write(part)
		if _, err := w.Write(part); err != nil {
			return fmt.Errorf("write checkpoint: %w", err)
		}
	}
	if _, err := w.Write(sum.Sum(nil)); err != nil {
		return fmt.Errorf("write checkpoint: %w", err)
	}
	return nil
}

// ReadCheckpoint takes the run to where WriteCheckpoint left it, and returns the extra bytes. Nothing changes unless all of the
// checkpoint is whole (else ErrDamaged) and of this run, library and device model (else ErrOther).
func (t *Trainer) ReadCheckpoint(r io.Reader) (extra []byte, err error) {
	header, state, extra, err := readCheckpoint(r, t.saved)
	if err != nil {
		return nil, err
	}
	config, err := t.configSHA256()
	if err != nil {
		return nil, err
	}
	library, device := t.ctx.Library(), t.ctx.Info().Model
	switch {
	case header.Config != config:
		return nil, other("the checkpoint is of another run (its configuration is %.12s, this run's %.12s): network, recipe, data, seed and replicate must be the same",
			header.Config, config)
	case header.Library != library.SHA256:
		return nil, other("the checkpoint was written with another build of the %s back end (%.12s, this one is %.12s): use that build, or start the run anew",
			library.Name, header.Library, library.SHA256)
	case header.Device != device:
		return nil, other("the checkpoint was written on device model %q, this one is %q: go on there, or start the run anew", header.Device, device)
	case header.Epoch < t.config.StartEpoch || header.Epoch > t.config.Epochs || header.Step < 0 || header.Step > t.steps ||
		header.Epoch == t.config.Epochs && header.Step != 0:
		return nil, damaged("the checkpoint stands at epoch %d, step %d, and the run has %d epochs of %d steps", header.Epoch, header.Step, t.config.Epochs, t.steps)
	}
	return extra, t.setState(state, header.Epoch, header.Step)
}

// readCheckpoint reads and verifies; what it takes in memory is bounded by the layout and the limits above, whatever the bytes say.
func readCheckpoint(r io.Reader, l *layout) (h checkpointHeader, state, extra []byte, err error) {
	sum := sha256.New()
	r = io.TeeReader(r, sum)
	at := int64(0)
	read := func(what string, size int64) ([]byte, error) {
		// By a growing buffer: a length that lies costs no memory beyond the bytes that are there.
		var b bytes.Buffer
		n, err := io.CopyN(&b, r, size)
		if err == io.EOF {
			return nil, damaged("the checkpoint ends within its %s, at byte %d", what, at+n)
		} else if err != nil {
			return nil, fmt.Errorf("read checkpoint, %s, byte %d: %w", what, at+n, err)
		}
		at += n
		return b.Bytes(), nil
	}
	start, err := read("first bytes", int64(len(checkpointMagic))+8)
	if err != nil {
		return h, nil, nil, err
	}
	if string(start[:len(checkpointMagic)]) != checkpointMagic {
		return h, nil, nil, damaged("this is no checkpoint: its first bytes are %q", start[:len(checkpointMagic)])
	}
	numbers := start[len(checkpointMagic):]
	if v := binary.LittleEndian.Uint32(numbers); v != checkpointVersion {
		return h, nil, nil, damaged("the checkpoint is of version %d, and this program knows version %d", v, checkpointVersion)
	}
	length := binary.LittleEndian.Uint32(numbers[4:])
	if length > maxHeader {
		return h, nil, nil, damaged("the checkpoint's header would be %d bytes long; %d is the limit", length, maxHeader)
	}
	text, err := read("header", int64(length))
	if err != nil {
		return h, nil, nil, err
	}
	if err := json.Unmarshal(text, &h); err != nil {
		return h, nil, nil, damaged("the checkpoint's header cannot be read: %v", err)
	}
	if h.ExtraBytes < 0 || h.ExtraBytes > maxExtra {
		return h, nil, nil, damaged("the checkpoint's header tells of %d extra bytes; %d is the limit", h.ExtraBytes, maxExtra)
	}
	if h.StateBytes != l.bytes {
		return h, nil, nil, other("the checkpoint holds a state of %d bytes, and this network's takes %d: it is of another network", h.StateBytes, l.bytes)
	}
	if state, err = read("state", h.StateBytes); err != nil {
		return h, nil, nil, err
	}
	if extra, err = read("extra bytes", h.ExtraBytes); err != nil {
		return h, nil, nil, err
	}
	want := sum.Sum(nil)
	got, err := read("checksum", sha256.Size)
	if err != nil {
		return h, nil, nil, err
	}
	if n, _ := io.CopyN(io.Discard, r, 1); n != 0 {
		return h, nil, nil, damaged("the checkpoint goes on behind its end, byte %d", at)
	}
	table := checkpointTable(l, state)
	if len(table) != len(h.Tensors) {
		return h, nil, nil, other("the checkpoint holds %d tensors, and this network has %d: it is of another network", len(h.Tensors), len(table))
	}
	for i, e := range table {
		told := h.Tensors[i]
		if told.Name != e.Name || told.DType != e.DType || told.Offset != e.Offset || fmt.Sprint(told.Shape) != fmt.Sprint(e.Shape) {
			return h, nil, nil, other("tensor %d of the checkpoint is %q %v, and this network's is %q %v: it is of another network", i, told.Name, told.Shape, e.Name, e.Shape)
		}
		if told.CRC32C != e.CRC32C {
			return h, nil, nil, damaged("the checkpoint's tensor %s is damaged: its CRC-32C is %08x, not %08x", e.Name, e.CRC32C, told.CRC32C)
		}
	}
	if !bytes.Equal(got, want) {
		return h, nil, nil, damaged("the checkpoint is damaged: its SHA-256 is %s, not %s", hex.EncodeToString(want)[:12], hex.EncodeToString(got)[:12])
	}
	return h, state, extra, nil
}
