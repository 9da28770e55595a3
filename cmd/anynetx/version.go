package main

import (
	"errors"
	"io/fs"
	"runtime"
	"runtime/debug"

	"github.com/urfave/cli/v2"

	"anynetx/bindings"
)

// backEnds are the libraries that the program knows of, the one to train with first.
func backEnds() []string { return []string{"cpu", "reference", "cuda"} }

func versionCommand() *cli.Command {
	return &cli.Command{
		Name:        "version",
		Usage:       "what this program and its libraries were built from",
		Description: "Example:\n\nanynetx version --json\n\nThe hash of a library is the provenance that every result of it carries.",
		Flags:       []cli.Flag{&cli.BoolFlag{Name: "json", Usage: "one object on standard output"}},
		Action:      printVersion,
	}
}

type versionJSON struct {
	Version   string        `json:"version"`
	Commit    string        `json:"commit"`
	Modified  bool          `json:"modified"`
	Go        string        `json:"go"`
	Platform  string        `json:"platform"`
	Libraries []libraryJSON `json:"libraries"`
	Modules   []moduleJSON  `json:"modules"`
}

type libraryJSON struct {
	Name   string `json:"name"`
	Found  bool   `json:"found"`
	Path   string `json:"path,omitempty"`
	SHA256 string `json:"sha256,omitempty"`
	Error  string `json:"error,omitempty"`
}

type moduleJSON struct {
	Path    string `json:"path"`
	Version string `json:"version"`
}

func versionInfo() versionJSON {
	v := versionJSON{Version: "unknown", Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH, Modules: []moduleJSON{}}
	if info, ok := debug.ReadBuildInfo(); ok {
		v.Version = info.Main.Version
		for _, s := range info.Settings {
			switch s.Key {
			case "vcs.revision":
				v.Commit = s.Value
			case "vcs.modified":
				v.Modified = s.Value == "true"
			}
		}
		for _, d := range info.Deps {
			v.Modules = append(v.Modules, moduleJSON{d.Path, d.Version})
		}
	}
	for _, name := range backEnds() {
		l := libraryJSON{Name: name}
		switch library, err := bindings.Load(name); {
		case err == nil:
			l.Found, l.Path, l.SHA256 = true, library.Path, library.SHA256
		case !errors.Is(err, fs.ErrNotExist): // a library that is there but does not load
			l.Error = err.Error()
		}
		v.Libraries = append(v.Libraries, l)
	}
	return v
}

func printVersion(c *cli.Context) error {
	v := versionInfo()
	if c.Bool("json") {
		return writeJSON(c.App.Writer, v)
	}
	commit := v.Commit
	switch {
	case commit == "":
		commit = "not recorded in this build"
	case v.Modified:
		commit += " with changes"
	}
	rows := [][2]string{{"anynetx", v.Version}, {"commit", commit}, {"built with", v.Go + " for " + v.Platform}}
	for _, l := range v.Libraries {
		text := "not built"
		switch {
		case l.Found:
			text = l.SHA256[:16] + "  " + l.Path
		case l.Error != "":
			text = "does not load: " + l.Error
		}
		rows = append(rows, [2]string{"library " + l.Name, text})
	}
	return pairs(c.App.Writer, rows...)
}
