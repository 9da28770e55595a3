package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/gofrs/flock"
	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"anynetx/bindings"
	"anynetx/datasets"
	"anynetx/engine"
	"anynetx/runner"
)

func doctorCommand() *cli.Command {
	return &cli.Command{
		Name:  "doctor",
		Usage: "whether this machine can run a study, and what to do if not",
		Description: "Example:\n\nanynetx doctor --study studies/quick.yaml --out study-quick\n\n" +
			"Looks at the native libraries, the processor, the data sets, the disk and file locks. Exit code 1 if something that is needed is missing.",
		Flags: []cli.Flag{dataFlag(),
			&cli.StringFlag{Name: "study", Usage: "also the data sets and dtypes of a study `FILE`", TakesFile: true},
			&cli.StringFlag{Name: "out", Value: ".", Usage: "the `FOLDER` that results are to go to", TakesFile: true},
			&cli.BoolFlag{Name: "json", Usage: "an array of findings on standard output"}},
		Action: doctor,
	}
}

// The states of a finding. Only failed makes the program fail.
const (
	stateOK     = "ok"
	stateNote   = "note"
	stateFailed = "FAILED"
)

type finding struct {
	Check string `json:"check"`
	State string `json:"state"`
	Found string `json:"found"`
	Mend  string `json:"mend,omitempty"` // what to do about it
}

func doctor(c *cli.Context) error {
	findings := append(examineLibraries(), examineDisk(c.String("out"))...)
	needed := []string{}
	if c.IsSet("study") {
		study, err := runner.ReadStudy(c.String("study"))
		if err != nil {
			return err
		}
		needed = studyDatasets(study)
		findings = append(findings, examineDTypes(study)...)
	}
	for _, name := range needed {
		findings = append(findings, examineDataset(name, c.String("data")))
	}
	if len(needed) == 0 {
		findings = append(findings, surveyDatasets(c.String("data")))
	}
	failed := 0
	for _, f := range findings {
		if f.State == stateFailed {
			failed++
		}
	}
	if c.Bool("json") {
		if err := writeJSON(c.App.Writer, findings); err != nil {
			return err
		}
	} else {
		g := newGrid("check", "", "found")
		for _, f := range findings {
			g.row(f.Check, f.State, f.Found)
			if f.Mend != "" {
				g.row("", "", "-> "+f.Mend)
			}
		}
		if err := g.print(c.App.Writer); err != nil {
			return err
		}
	}
	if failed > 0 {
		return fmt.Errorf("%d of %d checks failed: see what to do in the output of doctor", failed, len(findings))
	}
	return nil
}

func examineLibraries() []finding {
	var list []finding
	for _, name := range backEnds() {
		f := finding{Check: "library " + name, State: stateOK}
		library, err := bindings.Load(name)
		switch {
		case err == nil:
			f.Found = library.Path
		case errors.Is(err, fs.ErrNotExist) && name != "cpu":
			f.State, f.Found = stateNote, map[string]string{
				"reference": "not built; only tests need it",
				"cuda":      "not built; networks are trained on the processor",
			}[name]
		case errors.Is(err, fs.ErrNotExist):
			f.State, f.Found, f.Mend = stateFailed, "not found", "run `make build`, or set ANX_LIBRARY_DIR to the folder of libanx_cpu.so"
		default:
			f.State, f.Found, f.Mend = stateFailed, err.Error(), "run `make build` again"
		}
		list = append(list, f)
		if err == nil && name != "reference" {
			list = append(list, examineDevices(library)...)
		}
	}
	return list
}

func examineDevices(library *bindings.Library) []finding {
	devices, err := library.Devices()
	if err != nil || len(devices) == 0 {
		f := finding{Check: library.Name + " devices", State: stateNote, Found: "none"}
		if err != nil {
			f.State, f.Found, f.Mend = stateFailed, err.Error(), "see the sentence before; without this back end move its library away"
		} else {
			f.Found = whyNoDevice(library)
		}
		return []finding{f}
	}
	var list []finding
	units := "units"
	if library.Name == "cpu" {
		units = "cores"
	}
	for i, d := range devices {
		f := finding{Check: fmt.Sprintf("device %s:%d", library.Name, i), State: stateOK,
			Found: fmt.Sprintf("%s, %s, %d %s, %s", d.Name, d.ISA, d.Units, units, bytesText(d.MemoryBytes))}
		if err := exercise(library, i); err != nil {
			f.State, f.Found, f.Mend = stateFailed, err.Error(), "the device does not do what a training needs first: look for other programs that use it, and at the system's log"
		} else if d.ISA == "portable" {
			f.State, f.Mend = stateNote, "no vector instructions that the library knows: training works and is slow"
		}
		list = append(list, f)
	}
	return list
}

// whyNoDevice is what a back end without devices answers to who asks for one.
func whyNoDevice(library *bindings.Library) string {
	ctx, err := library.NewContext(bindings.ContextOptions{Threads: 1})
	if err != nil {
		return "none: " + err.Error()
	}
	ctx.Close()
	return "none"
}

// exercise takes a device into use and moves bytes there and back.
func exercise(library *bindings.Library, device int) error {
	ctx, err := library.NewContext(bindings.ContextOptions{Device: device, Threads: 1})
	if err != nil {
		return err
	}
	defer ctx.Close()
	want := []byte("there and back")
	buffer, err := ctx.NewBuffer(1 << 20)
	if err != nil {
		return err
	}
	defer buffer.Close()
	got := make([]byte, len(want))
	if err := errors.Join(buffer.Write(64, want), buffer.Read(64, got)); err != nil {
		return err
	}
	if string(got) != string(want) {
		return fmt.Errorf("wrote %q and read %q", want, got)
	}
	return nil
}

const littleDisk = 1 << 30

// examineDisk looks at the folder of results, or at the nearest folder above it that exists.
func examineDisk(dir string) []finding {
	dir, err := filepath.Abs(dir)
	for err == nil {
		if info, statErr := os.Stat(dir); statErr == nil && info.IsDir() || dir == filepath.Dir(dir) {
			break
		}
		dir = filepath.Dir(dir)
	}
	disk := finding{Check: "disk", State: stateOK}
	var stat unix.Statfs_t
	if err == nil {
		err = unix.Statfs(dir, &stat)
	}
	if err != nil {
		disk.State, disk.Found, disk.Mend = stateFailed, err.Error(), "give another --out"
		return []finding{disk}
	}
	free := int64(stat.Bavail) * int64(stat.Bsize)
	disk.Found = fmt.Sprintf("%s free at %s", bytesText(free), dir)
	if free < littleDisk {
		disk.State, disk.Mend = stateNote, "free some space: a study writes checkpoints; `anynetx study plan` says how much"
	}
	lock := finding{Check: "locks", State: stateOK, Found: "a second process is kept out"}
	if err := tryLock(dir); err != nil {
		lock.State, lock.Found, lock.Mend = stateFailed, err.Error(), "give an --out that is writable, on a file system with locks: a study must keep a second coordinator out"
	}
	return []finding{disk, lock}
}

// tryLock writes a file, and locks it twice, which must fail.
func tryLock(dir string) (err error) {
	file, err := os.CreateTemp(dir, ".anynetx-doctor-*")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.Remove(file.Name())) }()
	_, err = file.WriteString("can be removed\n")
	if err = errors.Join(err, file.Sync(), file.Close()); err != nil {
		return err
	}
	first, second := flock.New(file.Name()), flock.New(file.Name())
	defer first.Unlock()
	defer second.Unlock()
	if ok, err := first.TryLock(); err != nil || !ok {
		return fmt.Errorf("a new file cannot be locked: %w", errors.Join(err))
	}
	ok, err := second.TryLock()
	if err != nil {
		return err
	}
	if ok {
		return errors.New("a file could be locked twice: locks have no effect here")
	}
	return nil
}

// examineDTypes looks for a device for each dtype of a study's tasks.
func examineDTypes(study *runner.Study) (list []finding) {
	devices, _ := listDevices()
	for _, t := range study.Tasks {
		f := finding{Check: "dtype " + t.DType, State: stateOK}
		if slices.ContainsFunc(list, func(g finding) bool { return g.Check == f.Check }) {
			continue
		}
		var able []string
		for _, d := range devices {
			if d.BackEnd == "reference" {
				continue // nobody would wait for it
			}
			ctx, err := openDevice(d.ID, 1)
			if err == nil {
				if engine.CheckDType(ctx, t.DType) == nil {
					able = append(able, d.ID)
				}
				ctx.Close()
			}
		}
		f.Found = strings.Join(able, ", ")
		if len(able) == 0 {
			f.State, f.Found, f.Mend = stateFailed, "no device here can train in it", "give the study's tasks another dtype: "+strings.Join(engine.DTypes(), ", ")
		}
		list = append(list, f)
	}
	return list
}

func examineDataset(name, dir string) finding {
	f := finding{Check: "data set " + name, State: stateOK}
	files, err := datasets.Verify(name, dir)
	if err != nil {
		f.State, f.Found, f.Mend = stateFailed, err.Error(), fmt.Sprintf("`anynetx data fetch %s --data %s` downloads what is built in", name, dir)
		return f
	}
	f.Found = fmt.Sprintf("%d files, all sound", len(files))
	return f
}

// surveyDatasets says which data sets are here; without a study none is needed.
func surveyDatasets(dir string) finding {
	f := finding{Check: "data sets", State: stateOK}
	here := preparedSets(dir)
	for _, s := range datasets.List() {
		if _, err := datasets.Open(s.Name, dir); err == nil {
			here = append(here, s.Name)
		}
	}
	f.Found = strings.Join(here, ", ")
	if len(here) == 0 {
		f.State, f.Found, f.Mend = stateNote, "none", "`anynetx data list` says where each comes from"
	}
	return f
}

// studyDatasets are the data sets that the tasks of a study name, each once.
func studyDatasets(study *runner.Study) (names []string) {
	for _, t := range study.Tasks {
		if !slices.Contains(names, t.Dataset) {
			names = append(names, t.Dataset)
		}
	}
	return names
}
