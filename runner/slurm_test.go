package runner

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"anynetx/anynetx"
)

// fakeSlurm puts a command in PATH that answers with a script's words and counts its calls.
func fakeSlurm(t *testing.T, name, script string) (calls func() int) {
	t.Helper()
	bin, count := t.TempDir(), filepath.Join(t.TempDir(), "calls")
	text := fmt.Sprintf("#!/bin/sh\necho \"$@\" >>%s\n%s\n", count, script)
	if err := os.WriteFile(filepath.Join(bin, name), []byte(text), 0o777); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	return func() int {
		data, _ := os.ReadFile(count)
		return strings.Count(string(data), "\n")
	}
}

func TestFindSlurm(t *testing.T) {
	for _, c := range []struct {
		says string
		want SlurmCluster
	}{
		{"MaxArraySize            = 1001\nRequeueExit             = 75", SlurmCluster{1001, true}},
		{"RequeueExit             = 3,70-80\nMaxArraySize = 40001", SlurmCluster{40001, true}},
		{"RequeueExit             = (null)\nRequeueExitHold = 75", SlurmCluster{1001, false}},
		{"RequeueExit             = 7,5,76-99", SlurmCluster{1001, false}},
	} {
		fakeSlurm(t, "scontrol", "cat <<'END'\n"+c.says+"\nEND")
		got, err := FindSlurm(t.Context())
		if err != nil || *got != c.want {
			t.Errorf("%q: %+v %v, want %+v", c.says, got, err, c.want)
		}
	}
	fakeSlurm(t, "scontrol", "echo 'slurm_load_ctl_conf error: Unable to contact slurm controller' >&2; exit 1")
	if _, err := FindSlurm(t.Context()); err == nil || !strings.Contains(err.Error(), "`scontrol show config`") || !strings.Contains(err.Error(), "Unable to contact") {
		t.Errorf("a controller that is down: %v", err)
	}
	t.Setenv("PATH", t.TempDir())
	if _, err := FindSlurm(t.Context()); !errors.Is(err, anynetx.ErrInput) || !strings.Contains(err.Error(), "machine of the Slurm cluster") {
		t.Errorf("no Slurm: %v", err)
	}
}

func TestSlurmDevices(t *testing.T) {
	for gres, want := range map[string]string{"": "cpu", "gpu": "cuda:0", "gpu:2": "cuda:0,cuda:1", "gpu:a100": "cuda:0", "gpu:a100:2": "cuda:0,cuda:1", "craynetwork:1,gpu:1": "cuda:0", "license:3": "cpu"} {
		if got, err := SlurmDevices(gres); err != nil || strings.Join(got, ",") != want {
			t.Errorf("%q: %v %v, want %s", gres, got, err, want)
		}
	}
	for _, gres := range []string{"gpu:0", "gpu:1000", "gpu:a100:x"} {
		if got, err := SlurmDevices(gres); !errors.Is(err, anynetx.ErrInput) {
			t.Errorf("%q: %v %v", gres, got, err)
		}
	}
}

// Slurm is asked rarely, less often when it does not answer, and at once after a submission. Other people's jobs of the same number do not count.
func TestAskSlurm(t *testing.T) {
	store, err := openFake(t, faultStudy, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	now := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	if s := store.askSlurm(t.Context(), "h", now); s != nil {
		t.Errorf("nothing was submitted: %+v", s)
	}
	submit := func(n int, job string, at time.Time) {
		t.Helper()
		if err := os.MkdirAll(store.slurmDir(), 0o777); err != nil {
			t.Fatal(err)
		}
		text := fmt.Sprintf(`{"job": %q, "tasks": 3, "submitted_utc": %q}`, job, at.Format(time.RFC3339))
		if err := os.WriteFile(filepath.Join(store.slurmDir(), fmt.Sprintf("array-%d.json", n)), []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	submit(1, "41", now.Add(-time.Hour))
	calls := fakeSlurm(t, "squeue", `cat <<'END'
41|RUNNING|anynetx-faults|None
41|RUNNING|anynetx-faults|None
41|PENDING|anynetx-faults|Resources
41|RUNNING|somebody-elses|None
END`)
	want := []SlurmTasks{{"41", "running", "", 2}, {"41", "pending", "Resources", 1}}
	ask := func(after time.Duration, expected int) *SlurmStatus {
		t.Helper()
		s := store.askSlurm(t.Context(), "h", now.Add(after))
		if calls() != expected {
			t.Errorf("after %v squeue was called %d times, want %d", after, calls(), expected)
		}
		return s
	}
	for _, after := range []time.Duration{0, time.Second, 29 * time.Second} {
		if s := ask(after, 1); !slices.Equal(s.Tasks, want) || s.Problem != "" {
			t.Errorf("after %v: %+v, want %+v", after, s, want)
		}
	}
	ask(31*time.Second, 2)
	ask(-time.Hour, 3) // the clock was put back
	submit(2, "42", now)
	ask(0, 4)
	var text strings.Builder
	store.askSlurm(t.Context(), "h", now).writeText(&text, now)
	for _, line := range []string{"job 41 of 3 tasks: 2 running, 1 pending (Resources)", "job 42 of 3 tasks: Slurm knows of no task any more"} {
		if !strings.Contains(text.String(), line) {
			t.Errorf("%s does not say %q", text.String(), line)
		}
	}
	down := fakeSlurm(t, "squeue", "echo 'Unable to contact slurm controller' >&2; exit 1")
	asked, at := 0, now
	for range 3600 { // every second for an hour
		at = at.Add(time.Second)
		s := store.askSlurm(t.Context(), "h", at)
		if n := down(); n != asked {
			asked = n
			if !strings.Contains(s.Problem, "Unable to contact") || !slices.Equal(s.Tasks, want) {
				t.Errorf("no answer: %+v", s)
			}
		}
	}
	if asked < 5 || asked > 15 { // 30 s, then 1, 2, 4, 8, 10, 10 ... minutes
		t.Errorf("a controller that is down was asked %d times in an hour", asked)
	}
	fakeSlurm(t, "squeue", "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1")
	if s := store.askSlurm(t.Context(), "h", at.Add(time.Hour)); s.Problem != "" || len(s.Tasks) != 0 {
		t.Errorf("forgotten jobs are no problem: %+v", s)
	}
}

func TestScriptQuotes(t *testing.T) {
	store := &Store{Dir: `/a/it's 100% "q"`, Plan: &Plan{Name: "s"}}
	j := &SlurmJob{Command: []string{"/bin/anynetx", "study", "join", store.Dir}, Tasks: 3, CPUs: 2, Time: "4:00:00", More: []string{"--account=vision"}}
	want := `#!/bin/sh
#SBATCH --job-name=anynetx-s
#SBATCH --array=0-2
#SBATCH --cpus-per-task=2
#SBATCH --time=4:00:00
#SBATCH --requeue --open-mode=append
#SBATCH --signal=B:USR1@120
#SBATCH --output="/a/it's 100%% \"q\"/work/slurm/%A_%a.log"
#SBATCH --account=vision
exec /bin/anynetx study join '/a/it'\''s 100% "q"'
`
	if got := j.Script(store); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}

func TestProcessorsOfSlurm(t *testing.T) {
	for value, want := range map[string]int{"1": 1, "": 0, "0": 0, "x": 0} {
		t.Setenv("SLURM_CPUS_PER_TASK", value)
		if n := processors(); want > 0 && n != want || n < 1 {
			t.Errorf("SLURM_CPUS_PER_TASK=%q: %d", value, n)
		}
	}
}
