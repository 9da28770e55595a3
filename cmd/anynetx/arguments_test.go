package main

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"

	"anynetx/anynetx"
)

func testApp() *cli.App {
	return &cli.App{Name: "anynetx", Flags: []cli.Flag{&cli.BoolFlag{Name: "version"}}, Commands: []*cli.Command{
		{Name: "study", Subcommands: []*cli.Command{
			{Name: "run", ArgsUsage: "FILE", Flags: []cli.Flag{
				&cli.StringFlag{Name: "out", Aliases: []string{"o"}}, &cli.IntFlag{Name: "workers"}, &cli.BoolFlag{Name: "json"}}},
			{Name: "status", ArgsUsage: "DIR"},
		}},
		{Name: "devices", Flags: []cli.Flag{&cli.BoolFlag{Name: "json"}, &choiceFlag{&cli.StringFlag{Name: "by"}, "name", []string{"age"}}}},
		{Name: "worker", Hidden: true},
	}}
}

func TestArrange(t *testing.T) {
	for in, want := range map[string]string{
		"":                                      "",
		"--version":                             "--version",
		"devices --json":                        "devices --json",
		"study run f.yaml --out d":              "study run --out d -- f.yaml",
		"study run --out d f.yaml":              "study run --out d -- f.yaml",
		"study run f.yaml --out=d --json":       "study run --out=d --json -- f.yaml",
		"study run f.yaml -o d --workers -2":    "study run -o d --workers -2 -- f.yaml",
		"study run --json f.yaml --out --json":  "study run --json --out --json -- f.yaml", // a value may look like a flag
		"study run --out d -- --odd-name":       "study run --out d -- --odd-name",
		"study run - --out d":                   "study run --out d -- -",
		"study run f.yaml -h":                   "study run --help",
		"study run --help --out d f.yaml":       "study run --help",
		"study --help":                          "study --help",
		"devices --by":                          "devices --by=name", // a choice that has a value without one
		"devices --by age --json":               "devices --by=age --json",
		"devices --by --json":                   "devices --by=name --json",
		"devices --by=size":                     "devices --by=size",
		"-h":                                    "--help",
		"study run f.yaml --json=false --out d": "study run --json=false --out d -- f.yaml",
	} {
		got, err := arrange(testApp(), append([]string{"anynetx"}, strings.Fields(in)...))
		if err != nil || strings.Join(got[1:], " ") != want {
			t.Errorf("%q became %q (%v), want %q", in, strings.Join(got[1:], " "), err, want)
		}
	}
}

func TestArrangeRefuses(t *testing.T) {
	for in, want := range map[string]string{
		"stuudy run":                       "anynetx has no verb \"stuudy\", did you mean `study`?",
		"study rum f":                      "anynetx study has no verb \"rum\", did you mean `run`?",
		"study":                            "anynetx study needs one of the verbs run, status",
		"zzzzzz":                           "anynetx has no verb \"zzzzzz\"; see",
		"workr":                            "anynetx has no verb \"workr\"; see", // hidden verbs are not suggested
		"study run f --worker 2":           "anynetx study run has no flag --worker, did you mean --workers?",
		"devices --by size":                "anynetx devices takes no argument, but got \"size\"",
		"study run f --frobnicate=2":       "anynetx study run has no flag --frobnicate; see",
		"study run f --out":                "--out is the last word and has no value",
		"devices now":                      "anynetx devices takes no argument, but got \"now\"",
		"study --json status d":            "anynetx study has no flag --json",
		"study run f --out d -x --workers": "has no flag -x",
	} {
		_, err := arrange(testApp(), append([]string{"anynetx"}, strings.Fields(in)...))
		if err == nil || !strings.Contains(err.Error(), want) || !errors.Is(err, anynetx.ErrInput) {
			t.Errorf("%q: %v, want an input error with %q", in, err, want)
		}
	}
}

// Every verb of the real program explains itself with an example, on standard output and with exit code 0.
func TestEveryVerbHasHelpAndExample(t *testing.T) {
	var visit func(path []string, commands []*cli.Command)
	visit = func(path []string, commands []*cli.Command) {
		for _, c := range commands {
			words := append(path[:len(path):len(path)], c.Name)
			var out, problems strings.Builder
			if code := run(context.Background(), append(words, "--help"), &out, &problems); code != exitDone || problems.Len() > 0 {
				t.Errorf("%v --help: exit code %d, standard error %q", words, code, problems.String())
			}
			if len(c.Subcommands) > 0 {
				visit(words, c.Subcommands)
				continue
			}
			if !c.Hidden && (!strings.Contains(out.String(), "Example") || strings.Count(out.String(), strings.Join(words, " ")) < 2) {
				t.Errorf("%v --help shows no example:\n%s", words, out.String())
			}
		}
	}
	visit([]string{"anynetx"}, newApp(io.Discard, io.Discard).Commands)
}

func TestNumbersForReaders(t *testing.T) {
	for _, c := range [][2]string{
		{thousands(5157512), "5,157,512"}, {thousands(-1000), "-1,000"}, {thousands(0), "0"}, {thousands(999), "999"},
		{si(398.7e6), "398.70 M"}, {si(12), "12"}, {bytesText(1023), "1023 B"}, {bytesText(3 << 19), "1.5 MiB"},
		{durationText(200e9), "3 min 20 s"}, {durationText(1500e6), "1.5 s"}, {durationText(3600e9 * 49), "2 d 1 h"},
	} {
		if c[0] != c[1] {
			t.Errorf("got %q, want %q", c[0], c[1])
		}
	}
}
