package main

import (
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"anynetx/anynetx"
)

// arrange puts the flags of the command that args name in front of its arguments: cli takes every word behind the first argument
// for an argument, flags included. It also refuses unknown verbs and flags, because cli would print its help to standard output.
func arrange(app *cli.App, args []string) ([]string, error) {
	path, flags, commands, takes := args[:1:1], app.Flags, app.Commands, app.Commands == nil
	where := app.Name
	var given, words []string
	for i := 1; i < len(args); i++ {
		arg := args[i]
		if arg == "--" {
			words = append(words, args[i+1:]...)
			break
		}
		if len(arg) > 1 && arg[0] == '-' {
			name, _, hasValue := strings.Cut(strings.TrimLeft(arg, "-"), "=")
			flag := findFlag(flags, name)
			if flag == nil {
				return nil, anynetx.Inputf("%s has no flag %s%s; see `%s --help`", where, flagText(arg), suggestFlag(flags, name), where)
			}
			if choice, ok := flag.(*choiceFlag); ok && !hasValue {
				if i+1 < len(args) && slices.Contains(choice.choices, args[i+1]) {
					i++
					given = append(given, arg+"="+args[i])
				} else {
					given = append(given, arg+"="+choice.bare)
				}
				continue
			}
			given = append(given, arg)
			if !hasValue && takesValue(flag) {
				if i++; i == len(args) {
					return nil, anynetx.Inputf("%s is the last word and has no value; see `%s --help`", arg, where)
				}
				given = append(given, args[i])
			}
			continue
		}
		if len(commands) > 0 {
			command := findCommand(commands, arg)
			if command == nil {
				return nil, anynetx.Inputf("%s has no verb %q%s; see `%s --help`", where, arg, suggestCommand(commands, arg), where)
			}
			path = append(append(path, given...), command.Name)
			given, flags, commands, takes = nil, command.Flags, command.Subcommands, command.ArgsUsage != ""
			where += " " + command.Name
			continue
		}
		words = append(words, arg)
	}
	help := slices.ContainsFunc(given, func(g string) bool { return g == "-h" || g == "--help" || g == "-help" })
	switch {
	case help:
		return append(path, "--help"), nil
	case len(words) > 0 && !takes:
		return nil, anynetx.Inputf("%s takes no argument, but got %q; see `%s --help`", where, words[0], where)
	case len(commands) > 0 && len(path) > 1:
		return nil, anynetx.Inputf("%s needs one of the verbs %s; see `%s --help`", where, strings.Join(verbs(commands), ", "), where)
	}
	out := append(path, given...)
	if len(words) > 0 {
		out = append(append(out, "--"), words...)
	}
	return out, nil
}

// choiceFlag takes one of some words or nothing: `--profile graph`, `--profile`.
type choiceFlag struct {
	*cli.StringFlag
	bare    string // its value with nothing behind it
	choices []string
}

func findFlag(flags []cli.Flag, name string) cli.Flag {
	if slices.Contains(cli.HelpFlag.Names(), name) {
		return cli.HelpFlag
	}
	for _, f := range flags {
		if slices.Contains(f.Names(), name) {
			return f
		}
	}
	return nil
}

func takesValue(flag cli.Flag) bool {
	f, ok := flag.(cli.DocGenerationFlag)
	return ok && f.TakesValue()
}

func findCommand(commands []*cli.Command, name string) *cli.Command {
	for _, c := range commands {
		if c.HasName(name) {
			return c
		}
	}
	return nil
}

func verbs(commands []*cli.Command) []string {
	var names []string
	for _, c := range commands {
		if !c.Hidden {
			names = append(names, c.Name)
		}
	}
	return names
}

func flagText(arg string) string { name, _, _ := strings.Cut(arg, "="); return name }

func suggestFlag(flags []cli.Flag, name string) string {
	var names []string
	for _, f := range flags {
		names = append(names, f.Names()...)
	}
	if best := nearest(names, name); best != "" {
		return ", did you mean --" + best + "?"
	}
	return ""
}

func suggestCommand(commands []*cli.Command, name string) string {
	if best := nearest(verbs(commands), name); best != "" {
		return ", did you mean `" + best + "`?"
	}
	return ""
}

// nearest is the candidate with the fewest edits away from word, or "" if even that one is another word altogether.
func nearest(candidates []string, word string) string {
	best, least := "", 1+len(word)/2
	for _, c := range candidates {
		if d := edits(c, word); d < least || len(word) > 2 && strings.HasPrefix(c, word) && best == "" {
			best, least = c, d
		}
	}
	return best
}

// edits counts the insertions, deletions and replacements of bytes between two words.
func edits(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j+1]+1, row[j]+1)
		}
	}
	return row[len(b)]
}
