package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"anynetx/anynetx"
	"anynetx/results"
)

// populationRows are members as rows of the table architectures.
func populationRows(members []anynetx.Member, seed uint64) []results.Row {
	rows := make([]results.Row, len(members))
	for i, m := range members {
		row := results.Row{
			"arch_id": m.Architecture.ID(), "flops_mac": m.Complexity.FLOPs, "params": m.Complexity.Params,
			"activations": m.Complexity.Activations, "sample_index": int64(m.Index), "sampler_seed": int64(seed),
		}
		depth, width := 0, 0
		for k, s := range m.Architecture {
			depth, width = depth+s.Depth, width+s.Width
			for name, value := range map[string]int{"d": s.Depth, "w": s.Width, "b": s.Bottleneck, "g": s.GroupWidth} {
				row[fmt.Sprint(name, k+1)] = value
			}
		}
		row["depth_sum"], row["width_sum"] = depth, width
		rows[i] = row
	}
	return rows
}

// architectureRow is a row of the table architectures as far as it says which architecture it is.
type architectureRow struct {
	ID string `col:"arch_id"`
	D1 int    `col:"d1"`
	D2 int    `col:"d2"`
	D3 int    `col:"d3"`
	D4 int    `col:"d4"`
	W1 int    `col:"w1"`
	W2 int    `col:"w2"`
	W3 int    `col:"w3"`
	W4 int    `col:"w4"`
	B1 int    `col:"b1"`
	B2 int    `col:"b2"`
	B3 int    `col:"b3"`
	B4 int    `col:"b4"`
	G1 int    `col:"g1"`
	G2 int    `col:"g2"`
	G3 int    `col:"g3"`
	G4 int    `col:"g4"`
}

func (r architectureRow) architecture() anynetx.Architecture {
	stage := func(d, w, b, g int) anynetx.Stage {
		return anynetx.Stage{Depth: d, Width: w, Bottleneck: b, GroupWidth: g}
	}
	return anynetx.Architecture{stage(r.D1, r.W1, r.B1, r.G1), stage(r.D2, r.W2, r.B2, r.G2), stage(r.D3, r.W3, r.B3, r.G3), stage(r.D4, r.W4, r.B4, r.G4)}
}

// findArchitecture looks an ID, or the beginning of one, up in a study folder or a Parquet file of architectures.
func findArchitecture(from, id string) (anynetx.Architecture, error) {
	var none anynetx.Architecture
	path := from
	info, err := os.Stat(from)
	if err == nil && info.IsDir() {
		if path, err = results.Path(from, "architectures", "", ""); err != nil {
			return none, err
		}
		_, err = os.Stat(path)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return none, anynetx.Inputf("--from %s: %s does not exist; give a study folder or a file of `anynetx sample --out`", from, path)
	}
	if err != nil {
		return none, fmt.Errorf("--from: %w", err)
	}
	rows, err := results.Read[architectureRow](path, "architectures")
	if err != nil {
		return none, anynetx.Inputf("--from: %w", err)
	}
	var found []architectureRow
	for _, r := range rows {
		if strings.HasPrefix(r.ID, id) {
			found = append(found, r)
		}
	}
	if i := slices.IndexFunc(found, func(r architectureRow) bool { return r.ID == id }); i >= 0 {
		found = found[i : i+1]
	}
	switch {
	case id == "":
		return none, anynetx.Inputf("--arch is empty: give the ID of one of the %d architectures in %s", len(rows), path)
	case len(found) == 0:
		return none, anynetx.Inputf("--arch %s: none of the %d architectures in %s has this ID", id, len(rows), path)
	case len(found) > 1:
		return none, anynetx.Inputf("--arch %s: %d architectures in %s begin like this; give more of the ID", id, len(found), path)
	}
	a := found[0].architecture()
	if a.ID() != found[0].ID {
		return none, anynetx.Inputf("%s says that %s is %q, but the ID of that is %s: the file has been changed, sample it again", path, found[0].ID, a, a.ID())
	}
	return a, nil
}
