package runner

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// slot is the place of one worker process.
type slot struct {
	index   int
	device  string
	process *os.Process // nil: none
	pid     int         // of the last one
	stdin   io.WriteCloser
	tail    *tail
	log     io.WriteCloser // what the worker writes to standard error goes here
	killer  *time.Timer
	ready   bool
	fatal   *Message
	runs    map[string]int    // attempts in hand, by run ID
	trained map[string]bool   // those of them that only wait for their commit
	steps   map[string]int64  // that they are known to have trained
	hung    map[string]string // those of them that made us kill the process, and why
	key     string            // deviceKey
	closed  string            // why its device is not used any more
	deaths  int               // in a row, before it had looked for work
	again   time.Time         // when to start one again; zero: never

	// Of a worker on a GPU.
	name     string            // of the device
	needs    map[string]int64  // bytes that attempts in hand were planned to take, by run ID
	groups   map[string]string // those of them that train in common launches
	settled  time.Time         // when a run last came or went
	baseline int64             // bytes that others had when the worker began
	work     float64           // done so far, as predicted
	packing  packing
	orders   Orders // the last ones

	cpu    float64 // seconds at the last telemetry
	images int64   // at the last telemetry
}

// report is a worker's message, or its end.
type report struct {
	slot    *slot
	message *Message
	state   *os.ProcessState
}

// spawn starts a worker in a slot. The worker ends when the pipe to its standard input does, so it does not outlive us.
func (c *coordinator) spawn(s *slot) {
	arguments := append(c.Command[1:len(c.Command):len(c.Command)], "--study", c.Dir, "--data", c.DataDir, "--slot", strconv.Itoa(s.index), "--device", backEnd(s.device),
		"--threads", strconv.Itoa(c.threads()), "--attached")
	if c.CheckpointEvery > 0 {
		arguments = append(arguments, "--checkpoint-every", c.CheckpointEvery.String())
	}
	if c.otherDevices(s) {
		arguments = append(arguments, "--elsewhere")
	}
	if isGPU(s.device) {
		arguments = append(arguments, "--uuid", s.device)
	}
	if onGPU(s.device) {
		arguments = append(arguments, "--ordered")
	}
	if c.AcceptLibrary {
		arguments = append(arguments, "--accept-library")
	}
	s.ready, s.fatal, s.cpu, s.images = false, nil, 0, 0
	s.runs, s.trained, s.steps, s.hung = map[string]int{}, map[string]bool{}, map[string]int64{}, map[string]string{}
	s.needs, s.groups, s.orders, s.baseline = map[string]int64{}, map[string]string{}, Orders{}, 0
	s.tail = &tail{}
	command := exec.Command(c.Command[0], arguments...)
	command.SysProcAttr = child()
	if isGPU(s.device) { // the process sees this one alone, as its first
		command.Env = append(os.Environ(), "CUDA_VISIBLE_DEVICES="+s.device)
	}
	failed := func(err error) {
		s.tail.Write([]byte(err.Error()))
		s.deaths++
		c.cause = fmt.Errorf("cannot start a worker: %w", err)
		c.stop(c.cause)
	}
	log, err := os.OpenFile(c.logPath(s), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o666)
	if err != nil {
		failed(diskError(err))
		return
	}
	command.Stderr = io.MultiWriter(s.tail, log)
	stdin, err1 := command.StdinPipe()
	stdout, err2 := command.StdoutPipe()
	if err1 != nil || err2 != nil {
		log.Close()
		failed(fmt.Errorf("pipes: %v %v", err1, err2))
		return
	}
	started := make(chan error)
	c.start <- func() { started <- command.Start() }
	if err := <-started; err != nil {
		log.Close()
		failed(err)
		return
	}
	s.log = log
	s.process, s.pid, s.stdin = command.Process, command.Process.Pid, stdin
	go func() {
		for lines := bufio.NewScanner(stdout); lines.Scan(); {
			var m Message
			if json.Unmarshal(lines.Bytes(), &m) == nil {
				c.inbox <- report{slot: s, message: &m}
			}
		}
		io.Copy(io.Discard, stdout) // a line too long is no reason to block the worker
		command.Wait()
		c.inbox <- report{slot: s, state: command.ProcessState}
	}()
}

// logPath is where a worker's standard error goes. Those that joined have files of their own, since machines cannot append to one file
// of a network file system.
func (c *coordinator) logPath(s *slot) string {
	name := fmt.Sprintf("worker-%d.log", s.index)
	if c.Join {
		name = fmt.Sprintf("worker-%s-%d-%d.log", plainName(c.me.Host), c.me.PID, s.index)
	}
	return filepath.Join(c.Dir, "work", "logs", name)
}

// backEnd is a device in a worker's terms.
func backEnd(device string) string {
	if isGPU(device) {
		return "cuda:0"
	}
	return device
}

// tail keeps the last lines that a worker wrote to standard error.
type tail struct {
	mu   sync.Mutex
	text []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, p...)
	if len(t.text) > 8192 {
		t.text = t.text[len(t.text)-4096:]
	}
	return len(p), nil
}

// last is the end of it on one line, without marks.
func (t *tail) last() string {
	if t == nil {
		return ""
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	lines := slices.DeleteFunc(strings.Split(strings.TrimSpace(string(t.text)), "\n"), func(l string) bool { return strings.HasPrefix(l, markPrefix) })
	return strings.Join(lines[max(0, len(lines)-3):], " | ")
}
