package runner

import (
	"errors"
	"io"
	"time"

	"anynetx/anynetx"
	"anynetx/bindings"
	"anynetx/engine"
)

// EpochResult is what an epoch brought.
type EpochResult = engine.EpochResult

// Training is one run on a device: what the worker's loop needs of engine.Trainer, so that its tests can train something faster.
type Training interface {
	Initialize() error
	InitializeFrom(weights io.Reader) error // all but the head from another run's final weights
	ContinueFrom(state io.Reader) error     // weights, momentum and epoch from another run's final checkpoint
	Position() engine.Position
	Step() error
	EndEpoch() (EpochResult, error)
	WriteCheckpoint(w io.Writer, extra []byte) error
	ReadCheckpoint(r io.Reader) (extra []byte, err error)
	WriteWeights(w io.Writer) error
	NativeTime() time.Duration // in native code since the training was opened: its part of what it shared with others
	RunsPerLaunch() float64    // that shared the launches of its steps, itself included: the mean; 0 before the first
	Memory() engine.Memory
	Close()
}

// Trainers makes the trainings of a worker. It keeps what they share: the device and the data sets on it.
type Trainers interface {
	Open(r *PlannedRun) (Training, error)
	OpenGroup(runs []*PlannedRun) (TrainingGroup, error)
	Need(runs ...*PlannedRun) (bytes int64, err error) // of a run, or of a group, on the device, with data sets
	Provenance() Provenance
	Close()
}

// TrainingGroup is trainings that go on in common launches, some or all of them, each to the bits that it has alone. Step and EndEpoch say
// what became of each. Close closes those that are open too.
type TrainingGroup interface {
	Trainings() []Training // in the order of the runs
	Step([]Training) []error
	EndEpoch([]Training) ([]EpochResult, []error)
	Close()
}

// Provenance says on what a worker trains.
type Provenance struct {
	Backend    string // "cpu", "cuda", "reference"
	Device     string // "cpu:0"
	DeviceName string
	Library    string // SHA-256 of the native library, "" where there is none
	Threads    int
}

// Classes of failure. Those of the run itself are a function of its inputs; the others are tried again.
const (
	classDiverged     = "diverged"      // its loss or gradients are no numbers: would happen again
	classSource       = "source_failed" // the run it starts from failed
	classMemory       = "out_of_memory"
	classUnsupported  = "unsupported"
	classDevice       = "device_lost"
	classCrash        = "crashed" // it took its process down
	classHung         = "hung"
	classCancelled    = "cancelled"
	classApplication  = "application" // this and the next by the word of the device: policy.yaml
	classECC          = "ecc"
	classGPULost      = "gpu_lost"
	classForeign      = "foreign_memory"
	classUnresponsive = "unresponsive"
	classInternal     = "internal"
	classFolder       = "study_folder" // the study folder's disk; no fault of the run
	classInput        = "input"        // data or recipe, for the user to mend; no fault of the run
)

func classify(err error) string {
	var native *bindings.Error
	switch {
	case errors.Is(err, engine.ErrDiverged):
		return classDiverged
	case errors.Is(err, errRunCancelled):
		return classCancelled
	case errors.Is(err, errStudyFolder):
		return classFolder
	case errors.As(err, &native):
		switch native.Status {
		case bindings.OutOfMemory:
			return classMemory
		case bindings.Unsupported:
			return classUnsupported
		case bindings.DeviceLost:
			return classDevice
		}
	case errors.Is(err, anynetx.ErrInput):
		return classInput
	}
	return classInternal
}
