package runner

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
)

// processStart is the time a process started, in clock ticks since boot, and false if there is no such process or only its corpse.
// Process IDs are used again; with their start they are not.
func processStart(pid int) (uint64, bool) {
	fields, ok := processStat(pid)
	if !ok || fields[0] == "Z" || fields[0] == "X" {
		return 0, false
	}
	start, err := strconv.ParseUint(fields[19], 10, 64)
	return start, err == nil
}

// processStat is /proc/PID/stat from field 3 (state) on.
func processStat(pid int) ([]string, bool) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil, false
	}
	end := bytes.LastIndexByte(text, ')') // the name may hold anything
	if end < 0 {
		return nil, false
	}
	fields := strings.Fields(string(text[end+1:]))
	return fields, len(fields) > 21
}

// usage is the processor time and the memory of a process.
func usage(pid int) (seconds float64, bytes int64, ok bool) {
	fields, ok := processStat(pid)
	if !ok {
		return 0, 0, false
	}
	user, err1 := strconv.ParseUint(fields[11], 10, 64)
	system, err2 := strconv.ParseUint(fields[12], 10, 64)
	pages, err3 := strconv.ParseInt(fields[21], 10, 64)
	const ticks = 100 // USER_HZ, 100 on every Linux that Go runs on
	return float64(user+system) / ticks, pages * int64(os.Getpagesize()), err1 == nil && err2 == nil && err3 == nil
}

// machine tells processes apart that share a host name: boots, and containers with numbers of their own.
func machine() string {
	boot, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	namespace, _ := os.Readlink("/proc/self/ns/pid")
	return strings.TrimSpace(string(boot)) + " " + namespace
}

// child makes a worker end with its coordinator: SIGTERM asks it for a checkpoint, should the pipe to it be held open by another process.
func child() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
}
