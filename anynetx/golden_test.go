package anynetx

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// golden reads a file that scripts/golden_anynetx.py made.
func golden(t *testing.T, name string, into any) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, into); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
}

type goldenStages [Stages][4]int // d w b g

func (s goldenStages) architecture() Architecture {
	var a Architecture
	for i, v := range s {
		a[i] = Stage{v[0], v[1], v[2], v[3]}
	}
	return a
}

func (c goldenCounts) complexity() Complexity { return Complexity{c[0], c[1], c[2]} }

type goldenCounts [3]int64 // FLOPs, parameters, activations

func TestGoldenFilesAreTheScripts(t *testing.T) {
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("no python3 to recompute the golden numbers with")
	}
	out, err := exec.Command(python, filepath.Join("..", "scripts", "golden_anynetx.py"), "--check").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s; run scripts/golden_anynetx.py and look at the difference", err, out)
	}
}
