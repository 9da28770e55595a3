package anynetx

import (
	"errors"
	"fmt"
)

// ErrInput marks an error as the user's input (a flag, a file): the program exits with 2.
var ErrInput = errors.New("bad input")

type inputError struct{ error }

func (e inputError) Is(target error) bool { return target == ErrInput }
func (e inputError) Unwrap() error        { return e.error }

// Inputf is fmt.Errorf for an error that the user can mend: errors.Is(err, ErrInput), with the text unchanged.
func Inputf(format string, args ...any) error { return inputError{fmt.Errorf(format, args...)} }
