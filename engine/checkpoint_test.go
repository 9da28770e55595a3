package engine

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"strings"
	"testing"

	"anynetx/anynetx"
	"anynetx/bindings"
)

// resumeCase is a small run of 4 steps an epoch.
func resumeCase(t testing.TB, ctx *bindings.Context) (Config, *Data) {
	return testConfig(tiny(t, anynetx.ResStemIN, 16, 4)), load(t, ctx, blobs(16, 1, 4, 72, 24))
}

// advance takes so many steps, with the ends of epochs between them.
func advance(t testing.TB, trainer *Trainer, steps int) (results []EpochResult) {
	t.Helper()
	for range steps {
		must(t, trainer.Step())
		if p := trainer.Position(); p.Step == p.StepsPerEpoch {
			r, err := trainer.EndEpoch()
			must(t, err)
			results = append(results, r)
		}
	}
	return results
}

// TestResume: a run that is written and read again anywhere ends with the same bits; without its momentum or counters it does not.
func TestResume(t *testing.T) {
	backends(t, func(t *testing.T, ctx *bindings.Context) {
		c, d := resumeCase(t, ctx)
		whole := newTestTrainer(t, ctx, c, d, planOptions{})
		must(t, whole.Initialize())
		results := advance(t, whole, 12)
		want, err := whole.readState()
		must(t, err)
		for _, at := range []int{0, 1, 4, 7, 11} {
			first := newTestTrainer(t, ctx, c, d, planOptions{})
			must(t, first.Initialize())
			before := advance(t, first, at)
			var file bytes.Buffer
			must(t, first.WriteCheckpoint(&file, []byte("journal at 12")))
			position := first.Position()
			first.Close()

			second := newTestTrainer(t, ctx, c, d, planOptions{})
			extra, err := second.ReadCheckpoint(bytes.NewReader(file.Bytes()))
			must(t, err)
			if string(extra) != "journal at 12" || second.Position() != position {
				t.Errorf("step %d: extra bytes %q, position %+v, written at %+v", at, extra, second.Position(), position)
			}
			after := advance(t, second, 12-at)
			got, err := second.readState()
			must(t, err)
			if !bytes.Equal(got, want) {
				t.Errorf("resumed at step %d the run ends with other bits, first at byte %d of the state", at, firstDifference(got, want))
			}
			for i, r := range append(before, after...) {
				if r != results[i] {
					t.Errorf("resumed at step %d epoch %d gives %+v, not %+v", at, i, r, results[i])
				}
			}
			second.Close()
		}

		// Between the last step of an epoch and its end, too.
		first, second := newTestTrainer(t, ctx, c, d, planOptions{}), newTestTrainer(t, ctx, c, d, planOptions{})
		must(t, first.Initialize())
		for range 4 {
			must(t, first.Step())
		}
		var file bytes.Buffer
		must(t, first.WriteCheckpoint(&file, nil))
		_, err = second.ReadCheckpoint(&file)
		must(t, err)
		r, err := second.EndEpoch()
		must(t, err)
		if r != results[0] {
			t.Errorf("resumed at the end of an epoch it gives %+v, not %+v", r, results[0])
		}

		// Controls: what happens without a part of the state.
		l := whole.layout
		for _, part := range []struct {
			name       string
			at, length int64
			weights    bool // whether the weights must differ at the end
		}{{"momentum", l.momentum, 4 * int64(l.values), true}, {"training counters", l.training, 64, false}} {
			broken := newTestTrainer(t, ctx, c, d, planOptions{})
			must(t, broken.Initialize())
			before := advance(t, broken, 7)
			must(t, broken.write(part.at, make([]byte, part.length)))
			after := advance(t, broken, 5)
			got, err := broken.readState()
			must(t, err)
			same := bytes.Equal(got[:l.momentum], want[:l.momentum])
			if same == part.weights {
				t.Errorf("without %s the weights at the end are the same: %v", part.name, same)
			}
			if append(before, after...)[1] == results[1] {
				t.Errorf("without %s the epoch's results are the same, so the test above shows nothing", part.name)
			}
			broken.Close()
		}
	})
}

// TestInterleaved: runs that share a context and its data set do not touch each other.
func TestInterleaved(t *testing.T) {
	backends(t, func(t *testing.T, ctx *bindings.Context) {
		c, d := resumeCase(t, ctx)
		configs := []Config{c, c}
		configs[1].Network = tiny(t, anynetx.SimpleStemIN, 16, 4)
		configs[1].Replicate = 3
		var alone, together [2][]byte
		for i, c := range configs {
			alone[i] = finalState(t, ctx, c, d, planOptions{})
		}
		var trainers [2]*Trainer
		for i, c := range configs {
			trainers[i] = newTestTrainer(t, ctx, c, d, planOptions{})
			must(t, trainers[i].Initialize())
		}
		for range 12 {
			for _, trainer := range trainers {
				advance(t, trainer, 1)
			}
		}
		for i, trainer := range trainers {
			var err error
			together[i], err = trainer.readState()
			must(t, err)
			if !bytes.Equal(alone[i], together[i]) {
				t.Errorf("run %d ends with other bits when another run takes turns with it", i)
			}
		}
	})
}

// checkpointOf is a checkpoint at step 5 of a run.
func checkpointOf(t testing.TB, trainer *Trainer) []byte {
	t.Helper()
	must(t, trainer.Initialize())
	advance(t, trainer, 5)
	var file bytes.Buffer
	must(t, trainer.WriteCheckpoint(&file, []byte("extra")))
	return file.Bytes()
}

// TestDamagedCheckpoint: cut anywhere, or with any byte changed, it is refused and the trainer stays as it was.
func TestDamagedCheckpoint(t *testing.T) {
	ctx := open(t, "reference", "")
	c, d := resumeCase(t, ctx)
	trainer := newTestTrainer(t, ctx, c, d, planOptions{})
	file := checkpointOf(t, trainer)
	advance(t, trainer, 1)
	position := trainer.Position()
	state, err := trainer.readState()
	must(t, err)
	refused := func(what string, at int, data []byte) {
		t.Helper()
		_, err := trainer.ReadCheckpoint(bytes.NewReader(data))
		if !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrOther) {
			t.Fatalf("%s at byte %d of %d: %v", what, at, len(file), err)
		}
	}
	header := 16 + int(binary.LittleEndian.Uint32(file[12:]))
	sampled := func(at int) bool { // every byte of the header's start and of the end, some between
		return at < 600 || at > len(file)-100 || at >= header-50 && at < header+20 || at%97 == 0
	}
	long := os.Getenv("ANX_FAULTS") != "" // make test-faults: cut at every byte
	for at := range file {
		if long || sampled(at) {
			refused("cut", at, file[:at])
		}
		if sampled(at) {
			changed := append([]byte(nil), file...)
			changed[at] ^= 1 << (at % 8)
			refused("a changed bit", at, changed)
		}
	}
	refused("a byte more", len(file), append(append([]byte(nil), file...), 0))
	huge := append([]byte(nil), file...)
	binary.LittleEndian.PutUint32(huge[12:], 0xffffffff)
	refused("a header of 4 GB", 12, huge)
	after, err := trainer.readState()
	must(t, err)
	if trainer.Position() != position || !bytes.Equal(after, state) {
		t.Error("a refused checkpoint changed the trainer")
	}
	if _, err := trainer.ReadCheckpoint(bytes.NewReader(file)); err != nil {
		t.Errorf("the undamaged one: %v", err)
	}
	failing := errors.New("disk gone")
	if _, err := trainer.ReadCheckpoint(io.MultiReader(bytes.NewReader(file[:1000]), failingReader{failing})); !errors.Is(err, failing) || errors.Is(err, ErrDamaged) {
		t.Errorf("a failing disk is not a damaged file: %v", err)
	}
}

type failingReader struct{ err error }

func (r failingReader) Read([]byte) (int, error) { return 0, r.err }

type failingWriter struct{ room int }

func (w *failingWriter) Write(p []byte) (int, error) {
	if w.room -= len(p); w.room < 0 {
		return 0, errors.New("disk full")
	}
	return len(p), nil
}

// TestOtherCheckpoint: whole, but of another run, library or device.
func TestOtherCheckpoint(t *testing.T) {
	ctx := open(t, "reference", "")
	c, d := resumeCase(t, ctx)
	file := checkpointOf(t, newTestTrainer(t, ctx, c, d, planOptions{}))
	for name, change := range map[string]func(*Config){
		"seed":      func(c *Config) { c.Seed++ },
		"replicate": func(c *Config) { c.Replicate++ },
		"rate":      func(c *Config) { c.Recipe.LearningRate /= 2 },
		"epochs":    func(c *Config) { c.Epochs++ },
		"data set":  func(c *Config) { c.Task = "others" },
		"network":   func(c *Config) { c.Network = tiny(t, anynetx.SimpleStemIN, 16, 4) },
	} {
		other := c
		change(&other)
		_, err := newTestTrainer(t, ctx, other, d, planOptions{}).ReadCheckpoint(bytes.NewReader(file))
		if !errors.Is(err, ErrOther) {
			t.Errorf("another %s: %v", name, err)
		}
	}
	_, err := newTestTrainer(t, ctx, c, load(t, ctx, blobs(16, 1, 4, 76, 24)), planOptions{}).ReadCheckpoint(bytes.NewReader(file))
	if !errors.Is(err, ErrOther) {
		t.Errorf("other data: %v", err)
	}

	cpu := open(t, "cpu", "")
	_, d2 := resumeCase(t, cpu)
	trainer := newTestTrainer(t, cpu, c, d2, planOptions{})
	if _, err := trainer.ReadCheckpoint(bytes.NewReader(file)); !errors.Is(err, ErrOther) || !strings.Contains(err.Error(), "another build") {
		t.Errorf("another library: %v", err)
	}
}

// TestContinue: more epochs under another schedule go on from a finished run's state, momentum included.
func TestContinue(t *testing.T) {
	ctx := open(t, "reference", "")
	c, d := resumeCase(t, ctx)
	c.Recipe.Schedule = Constant
	long := newTestTrainer(t, ctx, c, d, planOptions{})
	must(t, long.Initialize())
	want := advance(t, long, 12)

	short := c
	short.Epochs = 2
	source := newTestTrainer(t, ctx, short, d, planOptions{})
	must(t, source.Initialize())
	advance(t, source, 8)
	var file bytes.Buffer
	must(t, source.WriteCheckpoint(&file, nil))
	more := c
	more.StartEpoch = 2
	trainer := newTestTrainer(t, ctx, more, d, planOptions{})
	if err := trainer.Initialize(); err == nil {
		t.Error("a run that starts with epoch 2 was initialized")
	}
	must(t, trainer.ContinueFrom(bytes.NewReader(file.Bytes())))
	if got := advance(t, trainer, 4); len(got) != 1 || got[0] != want[2] {
		t.Errorf("continued: %+v, in one go: %+v", got, want[2])
	}

	more.StartEpoch = 1
	if err := newTestTrainer(t, ctx, more, d, planOptions{}).ContinueFrom(bytes.NewReader(file.Bytes())); !errors.Is(err, anynetx.ErrInput) {
		t.Errorf("a state of epoch 2 for a run that starts with 1: %v", err)
	}
}

func TestFullDisk(t *testing.T) {
	ctx := open(t, "reference", "")
	c, d := resumeCase(t, ctx)
	trainer := newTestTrainer(t, ctx, c, d, planOptions{})
	size := len(checkpointOf(t, trainer))
	for _, room := range []int{0, 20, 5000, size / 2, size - 1} {
		if err := trainer.WriteCheckpoint(&failingWriter{room}, []byte("extra")); err == nil || !strings.Contains(err.Error(), "disk full") {
			t.Errorf("room for %d of %d bytes: %v", room, size, err)
		}
		if err := trainer.WriteWeights(&failingWriter{min(room, 9000)}); err == nil || !strings.Contains(err.Error(), "disk full") {
			t.Errorf("weights, room for %d bytes: %v", room, err)
		}
	}
	must(t, trainer.WriteCheckpoint(&failingWriter{size}, []byte("extra")))
}

func FuzzReadCheckpoint(f *testing.F) {
	l := &layout{values: 16, momentum: 64, training: 128, testing: 192, bytes: 256}
	l.parameters = []entry{{anynetx.Parameter{Name: "a", Shape: [4]int{1, 1, 1, 5}}, 0}}
	var file bytes.Buffer
	must(f, writeCheckpoint(&file, checkpointHeader{Epoch: 1}, l, make([]byte, l.bytes), []byte("extra")))
	f.Add(file.Bytes())
	f.Add(file.Bytes()[:200])
	f.Fuzz(func(t *testing.T, data []byte) {
		if _, _, _, err := readCheckpoint(bytes.NewReader(data), l); err == nil && !bytes.Equal(data, file.Bytes()) {
			t.Error("bytes that nobody wrote pass as a checkpoint")
		}
	})
}
