package main

import (
	"strings"
	"testing"
)

func TestSummary(t *testing.T) {
	const ok = `{"Action":"start","Package":"p"}
{"Action":"run","Package":"p","Test":"TestA"}
{"Action":"run","Package":"p","Test":"TestA/x"}
{"Action":"output","Package":"p","Test":"TestA/x","Output":"noise of a passing test\n"}
{"Action":"pass","Package":"p","Test":"TestA/x","Elapsed":0.1}
{"Action":"pass","Package":"p","Test":"TestA","Elapsed":0.1}
{"Action":"run","Package":"p","Test":"TestB"}
{"Action":"output","Package":"p","Test":"TestB","Output":"=== RUN   TestB\n"}
{"Action":"output","Package":"p","Test":"TestB","Output":"    b_test.go:7: needs a GPU\n"}
{"Action":"output","Package":"p","Test":"TestB","Output":"--- SKIP: TestB (0.00s)\n"}
{"Action":"skip","Package":"p","Test":"TestB","Elapsed":0}
{"Action":"pass","Package":"p","Elapsed":1.5}
{"Action":"skip","Package":"empty","Elapsed":0}
`
	cases := []struct {
		name, in string
		want     summary
		contains []string
		lacks    []string
	}{
		{"passing", ok, summary{1, 0, 1}, []string{"ok  \tp\t1.5s", "p TestB: needs a GPU", "\n1 passed, 0 failed, 1 skipped\n", "no test files"}, []string{"noise"}},
		{"failing", ok + `{"Action":"run","Package":"q","Test":"TestC"}
{"Action":"output","Package":"q","Test":"TestC","Output":"    c_test.go:3: wrong\n"}
{"Action":"fail","Package":"q","Test":"TestC","Elapsed":0}
{"Action":"fail","Package":"q","Elapsed":0}
`, summary{1, 1, 1}, []string{"c_test.go:3: wrong", "FAIL\tq"}, nil},
		{"does not build", `{"Action":"build-output","ImportPath":"q","Output":"q.go:1: syntax error\n"}
{"Action":"fail","Package":"q","Elapsed":0}
`, summary{0, 1, 0}, []string{"q.go:1: syntax error", "FAIL\tq"}, nil},
		{"killed", `{"Action":"run","Package":"q","Test":"TestC"}
{"Action":"output","Package":"q","Test":"TestC","Output":"=== RUN   TestC\n"}
`, summary{0, 1, 0}, []string{"TestC (never ended)"}, nil},
		{"crash with a failed parent", `{"Action":"run","Package":"q","Test":"TestC"}
{"Action":"run","Package":"q","Test":"TestC/x"}
{"Action":"fail","Package":"q","Test":"TestC/x","Elapsed":0}
{"Action":"fail","Package":"q","Test":"TestC","Elapsed":0}
{"Action":"fail","Package":"q","Elapsed":0}
`, summary{0, 1, 0}, nil, nil},
		{"parent fails, subtest passes", `{"Action":"run","Package":"q","Test":"TestC"}
{"Action":"run","Package":"q","Test":"TestC/x"}
{"Action":"pass","Package":"q","Test":"TestC/x","Elapsed":0}
{"Action":"fail","Package":"q","Test":"TestC","Elapsed":0}
{"Action":"fail","Package":"q","Elapsed":0}
`, summary{1, 1, 0}, nil, nil},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			var out strings.Builder
			got, err := summarise(strings.NewReader(c.in), &out)
			if err != nil || got != c.want {
				t.Fatalf("got %+v %v, want %+v\n%s", got, err, c.want, out.String())
			}
			for _, want := range c.contains {
				if !strings.Contains(out.String(), want) {
					t.Errorf("output lacks %q:\n%s", want, out.String())
				}
			}
			for _, not := range c.lacks {
				if strings.Contains(out.String(), not) {
					t.Errorf("output has %q:\n%s", not, out.String())
				}
			}
		})
	}
}
