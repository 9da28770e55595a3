//go:build !linux

package runner

import (
	"errors"
	"syscall"
)

// processStart cannot tell the start time here; the number alone says whether the process lives.
func processStart(pid int) (uint64, bool) {
	err := syscall.Kill(pid, 0)
	return 0, err == nil || errors.Is(err, syscall.EPERM)
}

func usage(pid int) (seconds float64, bytes int64, ok bool) { return 0, 0, false }

func machine() string { return "" }

func child() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
