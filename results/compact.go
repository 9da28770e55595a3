package results

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
)

// compactedName is the one file that a folder of parts becomes. Run identifiers are hashes, so it meets no part's name.
const compactedName = "compacted.parquet"

// Compacted says what Compact did.
type Compacted struct {
	Folders int   // folders whose parts were joined
	Files   int   // parts that were joined and removed
	Rows    int64 // rows of the joined files
}

// Compact joins the many small files of a study: one file for each folder of a table. Nobody may write to the study meanwhile; reading is
// fine. Whenever it is interrupted, every row is in at least one file, ReadTable counts it once, and the next Compact finishes.
func Compact(study string) (Compacted, error) {
	return compact(study, func(string) {})
}

// compact calls step before each thing that a kill may prevent.
func compact(study string, step func(string)) (Compacted, error) {
	var done Compacted
	for i := range Tables().Tables {
		t := &Tables().Tables[i]
		if t.Layout == LayoutFile {
			continue
		}
		files, err := Files(study, t.Name)
		if err != nil {
			return done, err
		}
		folders := map[string][]string{}
		var order []string
		for _, f := range files {
			dir := filepath.Dir(f)
			if folders[dir] == nil {
				order = append(order, dir)
			}
			folders[dir] = append(folders[dir], f)
		}
		for _, dir := range order {
			if err := removeTemporary(dir); err != nil {
				return done, err
			}
			rows, removed, err := compactFolder(t, dir, folders[dir], step)
			if err != nil {
				return done, err
			}
			if removed > 0 {
				done.Folders++
				done.Files += removed
				done.Rows += int64(rows)
			}
		}
	}
	return done, nil
}

func compactFolder(t *Table, dir string, files []string, step func(string)) (rows, removed int, err error) {
	target := filepath.Join(dir, compactedName)
	if len(files) == 1 && files[0] == target {
		return 0, 0, nil
	}
	parts := make([]*columns, len(files))
	meta := map[string]string{}
	for i, f := range files {
		part, m, err := readFile(t, f)
		if err != nil {
			return 0, 0, fmt.Errorf("compaction stopped, nothing was removed from %s: %w", dir, err)
		}
		parts[i] = part
		shared(meta, m, i == 0)
	}
	all, err := merge(t, files, parts)
	if err != nil {
		return 0, 0, fmt.Errorf("compaction stopped, nothing was removed from %s: %w", dir, err)
	}
	step("write " + target)
	if err := commitSteps(target, all, meta, true, step); err != nil {
		return 0, 0, err
	}
	back, _, err := readFile(t, target)
	if err != nil {
		return 0, 0, fmt.Errorf("compaction stopped, nothing was removed from %s: %w", dir, err)
	}
	for i, part := range parts {
		if !back.contains(part) {
			return 0, 0, fmt.Errorf("compaction stopped, nothing was removed from %s: %s lacks rows of %s: check the disk", dir, target, files[i])
		}
	}
	for _, f := range files {
		if f == target {
			continue
		}
		step("remove " + f)
		if err := os.Remove(f); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return all.rows, removed, fmt.Errorf("cannot remove %s, whose rows are now also in %s (they count once): %w", f, target, err)
		}
		removed++
	}
	return all.rows, removed, syncFolder(dir)
}

// shared keeps what all footers agree on.
func shared(meta, other map[string]string, first bool) {
	if first {
		maps.Copy(meta, other)
		return
	}
	for k, v := range meta {
		if other[k] != v {
			delete(meta, k)
		}
	}
}

// contains says whether every row of part is one of c's, which are in order of their key.
func (c *columns) contains(part *columns) bool {
	both := newColumns(c.table, 0)
	both.append(c)
	both.append(part)
	key, every := c.table.key(), c.all()
	for r := c.rows; r < both.rows; r++ {
		low, high := 0, c.rows
		for low < high {
			if mid := (low + high) / 2; both.compare(mid, r, key) < 0 {
				low = mid + 1
			} else {
				high = mid
			}
		}
		if low == c.rows || both.compare(low, r, every) != 0 {
			return false
		}
	}
	return true
}

// removeTemporary removes what a killed writer left. Such files never had a committed name.
func removeTemporary(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("cannot list folder %s: %w", dir, err)
	}
	for _, e := range entries {
		if strings.Contains(e.Name(), ".parquet.tmp-") && !e.IsDir() {
			if err := os.Remove(filepath.Join(dir, e.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("cannot remove what an interrupted write left: %w", err)
			}
		}
	}
	return nil
}
