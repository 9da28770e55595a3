package bindings

import "fmt"

// Status is what a native call returned: anx_status.
type Status int32

const (
	OK Status = iota
	InvalidArgument
	Unsupported
	OutOfMemory
	DeviceLost
	Internal
)

func (s Status) String() string {
	if name, ok := at([]string{"ok", "invalid argument", "unsupported", "out of memory", "device lost", "internal error"}, int(s)); ok {
		return name
	}
	return fmt.Sprintf("status(%d)", int32(s))
}

// Error is a failed native call: Text is the back end's sentence. Use errors.As to get at Status.
type Error struct {
	Status Status
	Text   string
}

func (e *Error) Error() string { return fmt.Sprintf("%s: %s", e.Status, e.Text) }

func invalid(format string, arguments ...any) error {
	return &Error{InvalidArgument, fmt.Sprintf(format, arguments...)}
}
