// Command testsummary reads `go test -json` on standard input and prints what a reader wants: one line per package, the whole
// output of what failed, every skip with its reason, and one closing line that counts. Its exit code is 1 if anything failed or
// nothing ran.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
)

func main() {
	s, err := summarise(os.Stdin, os.Stdout)
	if err != nil {
		fmt.Fprintln(os.Stderr, "testsummary:", err)
		os.Exit(1)
	}
	if s.failed > 0 || s.passed == 0 {
		os.Exit(1)
	}
}

// event is a line of `go test -json`.
type event struct {
	Action     string
	Package    string
	ImportPath string
	Test       string
	Output     string
	Elapsed    float64
}

type summary struct{ passed, failed, skipped int }

// summarise copies package lines and failures to w while they come, and ends with skips and counts.
func summarise(r io.Reader, w io.Writer) (summary, error) {
	var s summary
	output := map[[2]string][]string{} // by package and test; a package's own lines are under test ""
	parent := map[[2]string]bool{}     // tests that have subtests: they are not counted, the subtests are
	failedChild := map[[2]string]bool{}
	failedTests := map[string]int{}
	var skips []string
	in := bufio.NewScanner(r)
	in.Buffer(nil, 16<<20)
	for in.Scan() {
		var e event
		if err := json.Unmarshal(in.Bytes(), &e); err != nil || e.Action == "" {
			fmt.Fprintln(w, in.Text()) // not of go test: a compiler's message, a child's stray line
			continue
		}
		key := [2]string{e.Package, e.Test}
		switch e.Action {
		case "build-output":
			fmt.Fprint(w, e.Output)
		case "output":
			output[key] = append(output[key], e.Output)
		case "run":
			if i := strings.LastIndex(e.Test, "/"); i > 0 {
				parent[[2]string{e.Package, e.Test[:i]}] = true
			}
		case "pass", "fail", "skip":
			if e.Test == "" {
				s.packageDone(w, e, output[key], failedTests[e.Package])
				delete(output, key)
				continue
			}
			lines := output[key]
			delete(output, key)
			switch {
			case e.Action == "fail":
				failedTests[e.Package]++
				fmt.Fprint(w, strings.Join(lines, ""))
				if !failedChild[key] {
					s.failed++
				}
				if i := strings.LastIndex(e.Test, "/"); i > 0 {
					failedChild[[2]string{e.Package, e.Test[:i]}] = true
				}
			case parent[key]:
			case e.Action == "skip":
				s.skipped++
				skips = append(skips, fmt.Sprintf("%s %s: %s", e.Package, e.Test, skipReason(lines)))
			default:
				s.passed++
			}
		}
	}
	if err := in.Err(); err != nil {
		return s, fmt.Errorf("read the test output: %w", err)
	}
	for _, lines := range unfinished(output) { // the stream ended inside a test: go test was killed
		s.failed++
		fmt.Fprint(w, lines)
	}
	if len(skips) > 0 {
		slices.Sort(skips)
		fmt.Fprintf(w, "\n%d skipped, and why:\n", len(skips))
		for _, line := range skips {
			fmt.Fprintln(w, "  "+line)
		}
	}
	fmt.Fprintf(w, "\n%d passed, %d failed, %d skipped\n", s.passed, s.failed, s.skipped)
	return s, nil
}

// packageDone prints a package's closing line; a package that failed without a failed test (it did not build, it crashed) counts as one.
func (s *summary) packageDone(w io.Writer, e event, lines []string, failedTests int) {
	switch {
	case e.Action == "fail" && failedTests == 0:
		s.failed++
		fmt.Fprint(w, strings.Join(lines, ""))
		fmt.Fprintf(w, "FAIL\t%s\t%.1fs\n", e.Package, e.Elapsed)
	case e.Action == "fail":
		fmt.Fprintf(w, "FAIL\t%s\t%.1fs\n", e.Package, e.Elapsed)
	case e.Action == "skip":
		fmt.Fprintf(w, "?   \t%s\t[no test files]\n", e.Package)
	default:
		fmt.Fprintf(w, "ok  \t%s\t%.1fs\n", e.Package, e.Elapsed)
	}
}

// skipReason is what t.Skip was told.
func skipReason(lines []string) string {
	var reason []string
	for _, line := range lines {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "=== ") || strings.HasPrefix(line, "--- ") {
			continue
		}
		if file, text, ok := strings.Cut(line, ": "); ok && strings.Contains(file, ".go:") {
			line = text
		}
		reason = append(reason, line)
	}
	if len(reason) == 0 {
		return "no reason given"
	}
	return strings.Join(reason, " ")
}

// unfinished is the output of tests that began and never ended.
func unfinished(output map[[2]string][]string) []string {
	var out []string
	for key, lines := range output {
		if key[1] != "" && slices.ContainsFunc(lines, func(l string) bool { return strings.HasPrefix(l, "=== RUN") }) {
			out = append(out, fmt.Sprintf("--- FAIL: %s (never ended)\n%s", key[1], strings.Join(lines, "")))
		}
	}
	slices.Sort(out)
	return out
}
