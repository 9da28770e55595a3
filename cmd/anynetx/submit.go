package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/urfave/cli/v2"

	"anynetx/anynetx"
	"anynetx/runner"
)

func submitCommand() *cli.Command {
	return &cli.Command{Name: "submit", Usage: "have a Slurm cluster work on a study", ArgsUsage: "FILE.yaml",
		Description: "Example:\n\nanynetx study submit studies/quick.yaml --out /shared/study-quick --slurm --tasks 16 --gres gpu:1 --time 4:00:00\n\n" +
			"Makes the study folder, and submits an array of tasks that pull runs from it until none is left (`study join`). The folder, the data and this\n" +
			"program must be on a file system that all nodes see. Submit again for more tasks, or with a study file that has grown. Tasks that are warned of\n" +
			"their time limit, or pre-empted, write a checkpoint and are queued again. `study status` shows all of it. docs/slurm.md has a worked example.",
		Flags: []cli.Flag{outFlag(), dataFlag(),
			&cli.BoolFlag{Name: "slurm", Usage: "submit to Slurm, the one batch system there is yet"},
			&cli.IntFlag{Name: "tasks", Value: 8, Usage: "`NUMBER` of tasks that work at a time; each trains many runs"},
			&cli.StringFlag{Name: "partition", Usage: "`NAME` of the partition", DefaultText: "the cluster's"},
			&cli.StringFlag{Name: "time", Usage: "`LIMIT` of a task, in Slurm's form, such as 4:00:00 or 1-12", DefaultText: "the partition's"},
			&cli.StringFlag{Name: "gres", Usage: "`RESOURCES` of a task, such as gpu:1", DefaultText: "none: processors train"},
			&cli.IntFlag{Name: "cpus", Value: 1, Usage: "`NUMBER` of processors of a task; without GPUs, of workers too"},
			&cli.StringSliceFlag{Name: "devices", Usage: "`ID,...` of the devices in a task", DefaultText: "those of --gres, or cpu"},
			&cli.StringSliceFlag{Name: "sbatch", Usage: "another `OPTION` of sbatch, such as --sbatch=--account=vision; again for more"},
			&cli.BoolFlag{Name: "dry-run", Usage: "print the script and ask Slurm when it would start, but submit nothing"},
			&cli.BoolFlag{Name: "json", Usage: "one object on standard output"}},
		Action: studySubmit}
}

func studySubmit(c *cli.Context) error {
	file, err := oneArgument(c, "one study file")
	if err != nil {
		return err
	}
	out, err := outFolder(c)
	if err != nil {
		return err
	}
	if out, err = filepath.Abs(out); err != nil {
		return err
	}
	for _, name := range []string{"tasks", "cpus"} {
		if n := c.Int(name); n < 1 || n > 1_000_000 {
			return anynetx.Inputf("--%s is %d, must be 1 to 1,000,000", name, n)
		}
	}
	for _, name := range []string{"partition", "time", "gres"} {
		if value := c.String(name); strings.ContainsAny(value, " \t\r\n\"'") {
			return anynetx.Inputf("--%s is %q, must be one word", name, value)
		}
	}
	for _, option := range c.StringSlice("sbatch") {
		if !strings.HasPrefix(option, "-") || strings.ContainsAny(option, "\r\n") {
			return anynetx.Inputf("--sbatch is %q, must be an option of sbatch, such as --sbatch=--account=vision", option)
		}
	}
	if !c.Bool("slurm") {
		return anynetx.Inputf("--slurm is missing: say that the study goes to Slurm (`study run` trains on this machine)")
	}
	cluster, err := runner.FindSlurm(c.Context)
	if err != nil {
		return err
	}
	if c.Int("tasks") > cluster.MaxArraySize {
		return anynetx.Inputf("--tasks is %d, but arrays of this cluster have at most %d tasks (MaxArraySize); each task trains many runs, so ask for fewer, or submit twice",
			c.Int("tasks"), cluster.MaxArraySize)
	}
	job := &runner.SlurmJob{Tasks: c.Int("tasks"), CPUs: c.Int("cpus"), Partition: c.String("partition"), Time: c.String("time"), Gres: c.String("gres"),
		More: c.StringSlice("sbatch")}
	if job.Command, err = joinWords(c, out, cluster); err != nil {
		return err
	}
	store, err := runner.Prepare(file, out, c.String("data"), c.Bool("dry-run"))
	if err != nil {
		return err
	}
	if c.Bool("dry-run") {
		return dryRun(c, store, job)
	}
	array, err := runner.SubmitSlurm(c.Context, store, job)
	if err != nil {
		return err
	}
	if c.Bool("json") {
		return writeJSON(c.App.Writer, array)
	}
	if err := write(c.App.Writer, "submitted %s as job %s\n", counted(array.Tasks, "task"), array.Job); err != nil {
		return err
	}
	fmt.Fprintf(c.App.ErrWriter, "next: anynetx study status %s; logs are in %s\n", out, filepath.Dir(array.Script))
	return nil
}

// joinWords is the command of a task. Nodes start it in places of their own, so paths are absolute.
func joinWords(c *cli.Context, out string, cluster *runner.SlurmCluster) ([]string, error) {
	program, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("cannot tell where this program is: %w", err)
	}
	data, err := filepath.Abs(c.String("data"))
	if err != nil {
		return nil, err
	}
	devices := c.StringSlice("devices")
	if len(devices) == 0 {
		if devices, err = runner.SlurmDevices(c.String("gres")); err != nil {
			return nil, err
		}
	}
	words := []string{program, "study", "join", out, "--data", data, "--devices", strings.Join(devices, ","), "--progress", "plain"}
	if !cluster.RequeuesExit {
		words = append(words, "--requeue")
	}
	return words, nil
}

// dryRun prints what would be submitted.
func dryRun(c *cli.Context, store *runner.Store, job *runner.SlurmJob) error {
	script := job.Script(store)
	answer, err := runner.TestSlurm(c.Context, store, job)
	if err != nil {
		return err
	}
	if c.Bool("json") {
		return writeJSON(c.App.Writer, struct {
			Script string `json:"script"`
			Slurm  string `json:"slurm"`
		}{script, answer})
	}
	if err := write(c.App.Writer, "%s", script); err != nil {
		return err
	}
	fmt.Fprintln(c.App.ErrWriter, answer)
	return nil
}
