package runner

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"anynetx/anynetx"
)

// Slurm carries `study join` to many machines as a job array. Its tasks pull runs from the study folder; none owns a run, so their number,
// lost tasks and uneven runs do not matter. The folder is the truth. What Slurm says is advice: it forgets jobs, and a task that it does not
// know may well be at work.

// SlurmJob is an array of tasks to be submitted.
type SlurmJob struct {
	Command   []string // of a task; its arguments may hold anything
	Tasks     int
	CPUs      int // of a task
	Partition string
	Time      string
	Gres      string
	More      []string // options of sbatch
}

// slurmWarning is how long before its end Slurm warns a task. The warning may be a minute early.
const slurmWarning = 2 * time.Minute

// SlurmCluster is what a submission must know of a cluster.
type SlurmCluster struct {
	MaxArraySize int
	RequeuesExit bool // a task that ends with exitStopped is queued again
}

// FindSlurm asks the cluster that this machine belongs to.
func FindSlurm(ctx context.Context) (*SlurmCluster, error) {
	text, err := slurm(ctx, nil, "scontrol", "show", "config")
	if err != nil {
		return nil, err
	}
	c := &SlurmCluster{MaxArraySize: 1001} // Slurm's default
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(line, "=")
		switch value = strings.TrimSpace(value); strings.TrimSpace(name) {
		case "MaxArraySize":
			if c.MaxArraySize, err = strconv.Atoi(value); err != nil {
				return nil, fmt.Errorf("scontrol show config: MaxArraySize is %q, not a number", value)
			}
		case "RequeueExit":
			c.RequeuesExit = inRanges(exitStopped, value)
		}
	}
	return c, nil
}

// inRanges looks a number up in a list such as "3,70-80".
func inRanges(n int, list string) bool {
	for part := range strings.SplitSeq(list, ",") {
		low, high, isRange := strings.Cut(strings.TrimSpace(part), "-")
		if !isRange {
			high = low
		}
		first, err1 := strconv.Atoi(low)
		last, err2 := strconv.Atoi(high)
		if err1 == nil && err2 == nil && first <= n && n <= last {
			return true
		}
	}
	return false
}

// slurm runs a command of Slurm's. One that hangs, for want of a controller, is given up.
func slurm(ctx context.Context, stdin []byte, command ...string) (string, error) {
	patience := time.Minute // a submission that is given up may have been accepted
	if command[0] == "squeue" {
		patience = 10 * time.Second
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	c := exec.CommandContext(ctx, command[0], command[1:]...)
	c.WaitDelay = time.Second
	var stdout, stderr bytes.Buffer
	c.Stdin, c.Stdout, c.Stderr = bytes.NewReader(stdin), &stdout, &stderr
	err := c.Run()
	text := strings.Join(command, " ")
	switch {
	case errors.Is(err, exec.ErrNotFound):
		return "", anynetx.Inputf("%s is not to be found: do this on a machine of the Slurm cluster, and have Slurm's commands in PATH", command[0])
	case ctx.Err() != nil:
		return "", fmt.Errorf("`%s` gave no answer in %v: is Slurm's controller up? (`scontrol ping`)", text, patience)
	case err != nil:
		return "", fmt.Errorf("`%s`: %w%s", text, err, with(strings.Join(strings.Fields(stderr.String()), " ")))
	}
	return stdout.String() + stderr.String(), nil // sbatch --test-only answers on standard error
}

// Script is the batch script of the array; its log goes to the study folder.
func (j *SlurmJob) Script(s *Store) string {
	var b strings.Builder
	b.WriteString("#!/bin/sh\n")
	option := func(format string, args ...any) { fmt.Fprintf(&b, "#SBATCH "+format+"\n", args...) }
	option("--job-name=%s", s.slurmName())
	option("--array=0-%d", j.Tasks-1)
	option("--cpus-per-task=%d", j.CPUs)
	for _, o := range [][2]string{{"partition", j.Partition}, {"time", j.Time}, {"gres", j.Gres}} {
		if o[1] != "" {
			option("--%s=%s", o[0], o[1])
		}
	}
	option("--requeue --open-mode=append")
	option("--signal=B:USR1@%.0f", slurmWarning.Seconds())
	option("--output=%s", batchQuoted(strings.ReplaceAll(s.slurmDir(), "%", "%%")+"/%A_%a.log"))
	for _, o := range j.More {
		option("%s", o)
	}
	var words []string
	for _, w := range j.Command {
		words = append(words, shellQuoted(w))
	}
	fmt.Fprintf(&b, "exec %s\n", strings.Join(words, " "))
	return b.String()
}

func plainWord(s string) bool {
	return s != "" && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-+:,=%") == ""
}

func shellQuoted(s string) string {
	if plainWord(s) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// batchQuoted is for a line of #SBATCH, which knows double quotes.
func batchQuoted(s string) string {
	if plainWord(s) {
		return s
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
}

func (s *Store) slurmName() string { return "anynetx-" + s.Plan.Name }
func (s *Store) slurmDir() string  { return filepath.Join(s.Dir, "work", "slurm") }

// SlurmArray is an array that was submitted.
type SlurmArray struct {
	Job       string    `json:"job"`
	Tasks     int       `json:"tasks"`
	Submitted time.Time `json:"submitted_utc"`
	Script    string    `json:"script"`
}

// SubmitSlurm writes the array's script to work/slurm of the study folder, and submits it.
func SubmitSlurm(ctx context.Context, s *Store, j *SlurmJob) (*SlurmArray, error) {
	if err := os.MkdirAll(s.slurmDir(), 0o777); err != nil {
		return nil, diskError(err)
	}
	script := ""
	for n := 1; script == ""; n++ {
		path := filepath.Join(s.slurmDir(), fmt.Sprintf("array-%d.sh", n))
		won, err := createOnce(path, strconv.Itoa(os.Getpid()), []byte(j.Script(s)))
		if err != nil {
			return nil, err
		}
		if won {
			script = path
		}
	}
	answer, err := slurm(ctx, nil, "sbatch", "--parsable", script)
	if err != nil {
		return nil, errors.Join(err, os.Remove(script))
	}
	line, _, _ := strings.Cut(strings.TrimSpace(answer), "\n")
	job, _, _ := strings.Cut(line, ";") // job;cluster
	if _, err := strconv.Atoi(job); err != nil {
		return nil, fmt.Errorf("sbatch --parsable %s answered %q, which is no job number", script, answer)
	}
	a := &SlurmArray{Job: job, Tasks: j.Tasks, Submitted: time.Now().UTC().Truncate(time.Second), Script: script}
	data, err := json.Marshal(a)
	if err != nil {
		return nil, err
	}
	if err := writeBytes(strings.TrimSuffix(script, ".sh")+".json", strconv.Itoa(os.Getpid()), data); err != nil {
		return nil, fmt.Errorf("job %s is submitted, but `study status` will not ask Slurm for it: %w", job, err)
	}
	return a, nil
}

// TestSlurm has Slurm look at an array without submitting it.
func TestSlurm(ctx context.Context, s *Store, j *SlurmJob) (string, error) {
	text, err := slurm(ctx, []byte(j.Script(s)), "sbatch", "--test-only")
	return strings.TrimSpace(text), err
}

// RequeueSlurmTask queues the task again that this process is the batch script of.
func RequeueSlurmTask() error {
	id := os.Getenv("SLURM_JOB_ID")
	if array := os.Getenv("SLURM_ARRAY_JOB_ID"); array != "" { // SLURM_JOB_ID of a task is a number of its own
		id = array + "_" + os.Getenv("SLURM_ARRAY_TASK_ID")
	}
	if id == "" {
		return anynetx.Inputf("--requeue is for tasks of Slurm, but SLURM_JOB_ID is not set")
	}
	_, err := slurm(context.Background(), nil, "scontrol", "requeue", id)
	return err
}

// SlurmDevices are the devices of a task that asks for generic resources: Slurm shows it the GPUs that it was given, numbered from 0.
func SlurmDevices(gres string) ([]string, error) {
	for part := range strings.SplitSeq(gres, ",") {
		name, rest, _ := strings.Cut(part, ":")
		if name != "gpu" {
			continue
		}
		n := 1
		if number := rest[strings.LastIndexByte(rest, ':')+1:]; number != "" {
			if k, err := strconv.Atoi(number); err == nil {
				n = k
			} else if strings.Contains(rest, ":") {
				return nil, anynetx.Inputf("--gres is %q: behind the last colon stands a number, such as gpu:1 or gpu:a100:2", gres)
			}
		}
		if n < 1 || n > 64 {
			return nil, anynetx.Inputf("--gres is %q: a task takes 1 to 64 GPUs", gres)
		}
		var list []string
		for i := range n {
			list = append(list, fmt.Sprintf("cuda:%d", i))
		}
		return list, nil
	}
	return []string{"cpu"}, nil
}
