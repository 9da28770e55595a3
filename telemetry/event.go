package telemetry

import (
	"fmt"
	"time"
)

// Kind says what happened to a device.
type Kind string

const (
	XID           Kind = "xid"            // the driver reports an error by its number
	ECC           Kind = "ecc"            // uncorrected memory errors, counted
	Lost          Kind = "lost"           // the driver has lost the device; it needs a reset
	Suspect       Kind = "suspect"        // a call to the driver has not returned
	Answers       Kind = "answers"        // ... and now it has
	ForeignMemory Kind = "foreign_memory" // processes of others use memory of the device
	Heard         Kind = "heard"          // what the driver knew of the device at this event's time has been said: the answer to Monitor.Ask
)

// Event is something that happened to a device.
type Event struct {
	Time   time.Time
	Device string // UUID
	Kind   Kind
	XID    int64 // of kind XID
	Text   string
}

func (e Event) String() string {
	return fmt.Sprintf("%s: %s", e.Device, e.Text)
}
