package analysis

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/xml"
	"errors"
	"html"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"anynetx/anynetx"
	"anynetx/results"
)

// TestStudyIsAnalysed runs everything over a study whose truth is known.
func TestStudyIsAnalysed(t *testing.T) {
	dir := quick().write(t)
	s, err := Run(dir, Options{Bootstrap: 500})
	if err != nil {
		t.Fatal(err)
	}
	if s.Reference != "fashion-10" || s.Partial != "" || len(s.Correlations) != 3 {
		t.Fatalf("summary: %+v", s)
	}
	near, far := s.Correlations[0], s.Correlations[1]
	if !(near.Low < near.Rho && near.Rho < near.High && near.Rho > 0.6 && far.Rho < near.Rho-0.1 && near.P < 0.001) {
		t.Errorf("rho of the near task is %v, of the far one %v", near, far)
	}
	if !(near.Ceiling > 0.7 && near.Ceiling < 1 && near.CeilingLow < near.Ceiling && near.Ceiling < near.CeilingHigh+1e-9) {
		t.Errorf("ceiling %v [%v, %v]", near.Ceiling, near.CeilingLow, near.CeilingHigh)
	}
	text := s.Text()
	for _, want := range []string{"fashion-5", "ceiling", "carries over", s.Report} {
		if !strings.Contains(text, want) {
			t.Errorf("the terminal's text lacks %q:\n%s", want, text)
		}
	}
	for _, f := range []string{"report.html", "figures/errors.svg", "figures/errors.png", "figures/depth-and-width.svg", "figures/edf.svg", "figures/ceiling.svg", "figures/replicates.svg",
		"tables/correlations.parquet", "tables/correlations.csv", "tables/correlations.md", "tables/drivers.parquet", "tables/reliability.parquet"} {
		if info, err := os.Stat(filepath.Join(dir, "analysis", f)); err != nil || info.Size() < 100 {
			t.Errorf("%s: %v", f, err)
		}
	}
}

// TestStudiesThatAreNotWhole: whatever is missing, the analysis finishes, says what there is and why a number is not.
func TestStudiesThatAreNotWhole(t *testing.T) {
	task := func(name string, classes int) syntheticTask {
		return syntheticTask{name: name, classes: classes, shared: 0.8, noise: 0.3}
	}
	with := func(s syntheticTask, change func(*syntheticTask)) syntheticTask { change(&s); return s }
	for name, c := range map[string]struct {
		study    synthetic
		text     []string
		figures  int
		rho      bool
		ceilings bool
	}{
		"nothing trained yet": {synthetic{architectures: 12, tasks: []syntheticTask{with(task("a", 10), func(s *syntheticTask) { s.missing = 12 }), with(task("b", 2), func(s *syntheticTask) { s.missing = 12 })}},
			[]string{"0 of 24 runs are done", "24 have not finished yet", "no rho of b against a"}, 0, false, false},
		"one task": {synthetic{architectures: 12, replicated: 3, tasks: []syntheticTask{task("only", 10)}},
			[]string{"single task only"}, 3, false, false},
		"one architecture": {synthetic{architectures: 1, replicated: 1, tasks: []syntheticTask{task("a", 10), task("b", 2)}},
			[]string{"at least 3 are needed", "no ceiling with a"}, 4, false, false},
		"three architectures": {synthetic{architectures: 3, tasks: []syntheticTask{task("a", 10), task("b", 2)}},
			[]string{"cannot be said with so few"}, 4, true, false},
		"all failed": {synthetic{architectures: 12, tasks: []syntheticTask{task("a", 10), with(task("b", 2), func(s *syntheticTask) { s.failEvery = 1 })}},
			[]string{"12 failed", "no rho of b against a"}, 2, false, false},
		"constant": {synthetic{architectures: 12, replicated: 3, tasks: []syntheticTask{task("a", 10), with(task("b", 2), func(s *syntheticTask) { s.constant = true })}},
			[]string{"give no ranking", "all errors are equal"}, 4, false, false},
		"ties and failures": {synthetic{architectures: 30, replicated: 5, tasks: []syntheticTask{task("a", 10), with(task("b", 2), func(s *syntheticTask) { s.ties, s.failEvery, s.missing = 1, 7, 4 })}},
			[]string{"failed", "have not finished yet"}, 5, true, true},
		"no replicates": {synthetic{architectures: 30, tasks: []syntheticTask{task("a", 10), task("b", 2)}},
			[]string{"no architecture has two finished replicates"}, 4, true, false},
	} {
		t.Run(name, func(t *testing.T) {
			dir := c.study.write(t)
			s, err := Run(dir, Options{Bootstrap: 100})
			if err != nil {
				t.Fatal(err)
			}
			for _, want := range c.text {
				if !strings.Contains(s.Text(), want) {
					t.Errorf("the text lacks %q:\n%s", want, s.Text())
				}
			}
			rows, err := results.Read[results.Row](filepath.Join(dir, "analysis", "tables", "correlations.parquet"), "correlations")
			if err != nil {
				t.Fatal(err)
			}
			if n := len(c.study.tasks); len(rows) != n*(n-1)/2 {
				t.Fatalf("%d rows of correlations", len(rows))
			}
			for _, r := range rows {
				if (r["rho"] != nil) != c.rho || (r["reason"] == nil) != c.rho || (r["ceiling"] != nil) != c.ceilings {
					t.Errorf("row %v", r)
				}
			}
			pictures, err := filepath.Glob(filepath.Join(dir, "analysis", "figures", "*.svg"))
			if err != nil || len(pictures) != c.figures {
				t.Errorf("%d figures, want %d: %v", len(pictures), c.figures, pictures)
			}
			report, err := os.ReadFile(s.Report)
			if err != nil || !strings.Contains(string(report), "</html>") || regexp.MustCompile(`[> (]NaN`).Match(report) {
				t.Errorf("report: %v, %d bytes", err, len(report))
			}
		})
	}
}

func TestBadInputIsNamed(t *testing.T) {
	dir := quick().write(t)
	for want, o := range map[string]Options{
		`no task "oops"`:           {Reference: "oops"},
		`metric "loss"`:            {Metric: "loss"},
		"7 bootstrap resamples":    {Bootstrap: 7},
		"the level of intervals":   {Confidence: 1.5},
		"the folder of the report": {Out: filepath.Join(dir, "study.yaml", "below-a-file")},
	} {
		if err := os.WriteFile(filepath.Join(dir, "study.yaml"), nil, 0o666); err != nil {
			t.Fatal(err)
		}
		_, err := Run(dir, o)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q, got %v", want, err)
		}
		if o.Out == "" && !errors.Is(err, anynetx.ErrInput) {
			t.Errorf("%v is not marked as input", err)
		}
	}
	if _, err := Run(t.TempDir(), Options{}); err == nil || !errors.Is(err, anynetx.ErrInput) || !strings.Contains(err.Error(), "architectures.parquet is missing") {
		t.Errorf("an empty folder: %v", err)
	}
	// A damaged file among good ones is refused by name, never left out silently.
	bad := filepath.Join(dir, "runs", "dataset=d0", "damaged.parquet")
	if err := os.WriteFile(bad, []byte("PAR1 this is not all PAR1"), 0o666); err != nil {
		t.Fatal(err)
	}
	var damaged *results.DamagedError
	if _, err := Run(dir, Options{}); !errors.As(err, &damaged) || damaged.Path != bad || !strings.Contains(err.Error(), "move it out of the study folder to go on") {
		t.Errorf("a damaged file: %v", err)
	}
	if err := os.Remove(bad); err != nil {
		t.Fatal(err)
	}
	stray := results.Row{"run_id": "x", "arch_id": "nobody", "task": "fashion-10", "dataset": "d0", "replicate": 0, "status": "done", "epochs": 1}
	if err := results.Write(filepath.Join(dir, "runs", "dataset=d0", "x.parquet"), "runs", []results.Row{stray}, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := Run(dir, Options{}); err == nil || !strings.Contains(err.Error(), "architecture nobody") {
		t.Errorf("a run of an unknown architecture: %v", err)
	}
}

// TestSameStudySameBytes: nothing in the outcome depends on time, place or order.
func TestSameStudySameBytes(t *testing.T) {
	dir := quick().write(t)
	outcome := func(out string) map[string]string {
		if _, err := Run(dir, Options{Bootstrap: 100, Out: out}); err != nil {
			t.Fatal(err)
		}
		all := map[string]string{}
		err := filepath.WalkDir(out, func(path string, d fs.DirEntry, err error) error {
			if err == nil && !d.IsDir() {
				var data []byte
				if data, err = os.ReadFile(path); err == nil {
					all[strings.TrimPrefix(path, out)] = string(data)
				}
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return all
	}
	a, b := outcome(t.TempDir()), outcome(t.TempDir())
	if len(a) != len(b) || len(a) < 20 {
		t.Fatalf("%d and %d files", len(a), len(b))
	}
	for name := range a {
		if a[name] != b[name] {
			t.Errorf("%s differs", name)
		}
	}
}

func TestReferenceAndMetricCanBeChosen(t *testing.T) {
	s := quick()
	s.tasks[0].metric = "top5"
	dir := s.write(t)
	got, err := Run(dir, Options{Bootstrap: 100, Reference: "fashion-2"})
	if err != nil {
		t.Fatal(err)
	}
	if got.Reference != "fashion-2" || got.Correlations[0].TaskX != "fashion-2" || got.Tasks[1].Metric != "top5" || got.Tasks[2].Metric != "top1" {
		t.Errorf("%+v", got.Tasks)
	}
	if top1, err := Run(dir, Options{Bootstrap: 100, Metric: "top1"}); err != nil || top1.Tasks[0].Metric != "top1" || top1.Tasks[0].Median < 2*got.Tasks[1].Median {
		t.Errorf("top1: %v %+v", err, top1.Tasks[0])
	}
}

// TestWhatIsReadOfAStudy: replicate 0 stands for an architecture, an error that was not recorded is a failure, and five classes have no top-5 error.
func TestWhatIsReadOfAStudy(t *testing.T) {
	s := quick()
	s.tasks[1].classes, s.tasks[1].metric, s.tasks[2].metric = 5, "top5", "top5"
	s.tasks[2].classes = 6
	dir := s.write(t)
	row := results.Row{"run_id": "no-top5", "arch_id": archID(39), "task": "fashion-2", "dataset": "d2", "replicate": 7, "epochs": 4, "status": "done", "test_top1_err_pct": 20.0}
	attempt := results.Row{"run_id": "no-top5", "attempt": 2, "task": "t", "outcome": "committed", "started_utc": time.Unix(1, 0), "backend": "cpu", "device": "cpu:0", "host": "h", "wall_time_s": 50.0}
	if err := errors.Join(results.Write(filepath.Join(dir, "runs", "dataset=d2", "one.parquet"), "runs", []results.Row{row}, nil),
		results.Write(filepath.Join(dir, "attempts", "two.parquet"), "attempts", []results.Row{attempt}, nil)); err != nil {
		t.Fatal(err)
	}
	study, err := Load(dir, "", "")
	if err != nil {
		t.Fatal(err)
	}
	for _, task := range study.Tasks {
		for i, e := range task.Errors {
			if len(e) == 0 || task.First[i] != e[0] {
				t.Fatalf("task %s, architecture %d: %v stands for the replicates %v", task.Name, i, task.First[i], e)
			}
		}
	}
	ten, five, six := study.Tasks[0], study.Tasks[1], study.Tasks[2]
	if five.Metric != "top1" || six.Metric != "top5" || six.Failed != 1 || six.Failures["no top5 error recorded"] != 1 || ten.Failed != 0 {
		t.Errorf("metrics %s and %s; failures %v", five.Metric, six.Metric, six.Failures)
	}
	if ten.chance() != 90 || five.chance() != 80 || math.Abs(six.chance()-100./6) > 1e-12 {
		t.Errorf("chance is %v, %v and %v %%", ten.chance(), five.chance(), six.chance())
	}
	if got := study.Provenance.DeviceSeconds; got != 3650 {
		t.Errorf("%v s on the device; an attempt without its device time counts with its wall time", got)
	}
}

// TestReportIsSafeAndSelfContained: names that try to break out do not, and nothing is loaded from elsewhere.
func TestReportIsSafeAndSelfContained(t *testing.T) {
	s := quick()
	s.tasks[1].name, s.tasks[1].names = `<script>alert(1)</script>`, `["<b onmouseover=alert(2)>","\u001b[31mred"]`
	s.tasks[2].name = "=cmd()\x1b]0;title\x07"
	dir := s.write(t)
	summary, err := Run(dir, Options{Bootstrap: 100, Command: `anynetx analyze "<img src=x>"`})
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(summary.Report)
	if err != nil {
		t.Fatal(err)
	}
	report := string(data)
	for _, evil := range []string{"<script>alert", "<b onmouseover", "<img src=x", "\x1b"} {
		if strings.Contains(report, evil) {
			t.Errorf("the report holds %q", evil)
		}
	}
	if regexp.MustCompile(`(?i)(src|href)\s*=\s*["']?(https?:|//)|@import|url\(`).MatchString(report) {
		t.Error("the report loads something")
	}
	script := regexp.MustCompile(`(?s)<script>(.*?)</script>`).FindStringSubmatch(report)
	if script == nil {
		t.Fatal("no script")
	}
	hash := sha256.Sum256([]byte(script[1]))
	if !strings.Contains(html.UnescapeString(report), "script-src 'sha256-"+base64.StdEncoding.EncodeToString(hash[:])) {
		t.Error("the policy does not allow the report's own script")
	}
	d := xml.NewDecoder(strings.NewReader(between(report, `<svg role="img"`, "</svg>")))
	for {
		if _, err := d.Token(); err == io.EOF {
			break
		} else if err != nil {
			t.Fatalf("figure in the report: %v", err)
		}
	}
	csv, err := os.ReadFile(filepath.Join(dir, "analysis", "tables", "correlations.csv"))
	if err != nil || strings.Contains(string(csv), "\x1b") || strings.Contains(string(csv), ",=cmd") || strings.Contains(summary.Text(), "\x1b") {
		t.Errorf("a name acts on a terminal or a spreadsheet: %v\n%q", err, csv)
	}
}

// TestNamesAreNoFormulas: a spreadsheet takes each of these for the beginning of one.
func TestNamesAreNoFormulas(t *testing.T) {
	for _, name := range []string{"=1", "+1", "-1", "@sum"} {
		if got := plain(name); got != "'"+name {
			t.Errorf("%q is written as %q", name, got)
		}
	}
}

// TestManyTasksStayReadable: twelve tasks are 66 pairs, of which a terminal shows the reference's and the headline gives counts.
func TestManyTasksStayReadable(t *testing.T) {
	s := synthetic{architectures: 20, seed: 2}
	for i := range 12 {
		s.tasks = append(s.tasks, syntheticTask{name: "task-" + string(rune('a'+i)), classes: 100 - i, shared: 1, noise: 0.1})
	}
	summary, err := Run(s.write(t), Options{Bootstrap: 100})
	if err != nil {
		t.Fatal(err)
	}
	text := summary.Text()
	if len(summary.Correlations) != 66 || strings.Count(text, "\n") > 45 || !strings.Contains(text, "51 more pairs are in") || !strings.Contains(text, "carries over to 11 of 11 tasks") {
		t.Errorf("%d pairs:\n%s", len(summary.Correlations), text)
	}
}

func between(s, from, to string) string {
	s = s[strings.Index(s, from):]
	return s[:strings.Index(s, to)+len(to)]
}

// TestFiguresShowWhatTheyShould counts marks: a picture with the right frame and no points is wrong.
func TestFiguresShowWhatTheyShould(t *testing.T) {
	study, err := Load(quick().write(t), "", "")
	if err != nil {
		t.Fatal(err)
	}
	a := Analyse(study, Options{Bootstrap: 100})
	want := map[string]map[string]int{ // colour to number of marks, those of legends included
		"errors":          {"#F59E1B": 2*8 + 1, "#B31B2C": 2*8 + 1, "#2E6CA7": 2*24 + 1},
		"depth-and-width": {"#2E6CA7": 6 * 40},
		"replicates":      {"#F49D1A": 3*8*3 + 1, "#2E6CA7": 3*40 + 1},
	}
	for _, f := range a.figureList() {
		r, png, err := f.render()
		if err != nil {
			t.Fatal(err)
		}
		if len(png) < 5000 || !bytes.HasPrefix(png, []byte("\x89PNG")) {
			t.Errorf("%s: a PNG of %d bytes", f.slug, len(png))
		}
		for colour, n := range want[f.slug] {
			if got := strings.Count(string(r.svg), "fill:"+colour); got != n {
				t.Errorf("%s: %d marks of colour %s, want %d", f.slug, got, colour, n)
			}
		}
		delete(want, f.slug)
		if f.slug == "errors" {
			if !strings.Contains(string(r.svg), "ρ = "+number(a.Correlations[0].Rho)) {
				t.Error("errors: no rho in a title")
			}
			if len(r.spots) != 80 {
				t.Errorf("errors: %d spots", len(r.spots))
			}
			for _, s := range r.spots {
				if s.X < 0 || s.X > f.width.Points() || s.Y < 0 || s.Y > f.height.Points() {
					t.Fatalf("spot %+v lies outside", s)
				}
			}
		}
	}
	if len(want) > 0 {
		t.Errorf("figures that were not drawn: %v", want)
	}
	for n, k := range map[int]int{4: 0, 5: 1, 24: 4, 49: 9, 500: 10} {
		if extremes(n) != k {
			t.Errorf("of %d architectures %d are best", n, extremes(n))
		}
	}
}
