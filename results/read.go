package results

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"
)

// DamagedError is a file that exists but cannot be read as what it should be.
type DamagedError struct {
	Path  string
	Cause error
}

func (e *DamagedError) Error() string {
	return fmt.Sprintf("%s cannot be read: %v. Restore the file from a copy, or move it out of the study folder to go on without its rows", e.Path, e.Cause)
}

func (e *DamagedError) Unwrap() error { return e.Cause }

// Path is where the file of a table lies; dataset and name are used by the layouts that have them.
func Path(study, table, dataset, name string) (string, error) {
	t, err := Tables().Table(table)
	if err != nil {
		return "", err
	}
	switch t.Layout {
	case LayoutFile:
		return filepath.Join(study, table+".parquet"), nil
	case LayoutFolder:
		return filepath.Join(study, table, name+".parquet"), checkName(name)
	default:
		return filepath.Join(study, table, "dataset="+dataset, name+".parquet"), errors.Join(checkName(dataset), checkName(name))
	}
}

// checkName refuses what would leave the folder or confuse the readers of `dataset=...`.
func checkName(name string) error {
	plain := func(r rune) bool {
		return r >= '0' && r <= '9' || r >= 'A' && r <= 'Z' || r >= 'a' && r <= 'z' || strings.ContainsRune("._-", r)
	}
	if name == "" || name[0] == '.' || len(name) > 200 || strings.IndexFunc(name, func(r rune) bool { return !plain(r) }) >= 0 {
		return fmt.Errorf("%q cannot be the name of a file of results: use letters, digits, '.', '_' and '-', not beginning with '.'", name)
	}
	return nil
}

// Files lists the committed files of a table in a study folder, in order of their paths; none is not an error.
func Files(study, table string) ([]string, error) {
	t, err := Tables().Table(table)
	if err != nil {
		return nil, err
	}
	switch t.Layout {
	case LayoutFile:
		path := filepath.Join(study, table+".parquet")
		if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
			return nil, nil
		}
		return []string{path}, nil
	case LayoutFolder:
		return parquetFiles(filepath.Join(study, table))
	}
	entries, err := os.ReadDir(filepath.Join(study, table))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("cannot list table %s: %w", table, err)
	}
	var files []string
	for _, e := range entries {
		if e.IsDir() && strings.HasPrefix(e.Name(), "dataset=") {
			f, err := parquetFiles(filepath.Join(study, table, e.Name()))
			if err != nil {
				return nil, err
			}
			files = append(files, f...)
		}
	}
	return files, nil
}

func parquetFiles(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("cannot list folder %s: %w", dir, err)
	}
	var files []string
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), ".parquet") && !e.IsDir() {
			files = append(files, filepath.Join(dir, e.Name()))
		}
	}
	return files, nil
}

// Read is the rows of one file, as structs with `col` tags or as Row. NULL is a nil pointer, and in other fields NaN, "" or the zero time.
func Read[T any](path, table string) ([]T, error) {
	t, err := Tables().Table(table)
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", path, err)
	}
	c, _, err := readFile(t, path)
	if err != nil {
		return nil, err
	}
	rows, err := fromColumns[T](c)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return rows, nil
}

// Metadata is the key-value pairs of a file's footer.
func Metadata(path, table string) (map[string]string, error) {
	t, err := Tables().Table(table)
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", path, err)
	}
	_, meta, err := readFile(t, path)
	return meta, err
}

// ReadTable is all rows of a table of a study folder, in order of their key, however they are spread over files: one per run, compacted,
// or both while a compaction was interrupted. A row found in several files counts once; two different rows with one key are an error.
// A table without files has no rows. The first file that cannot be read ends it with a *DamagedError.
func ReadTable[T any](study, table string) ([]T, error) {
	t, err := Tables().Table(table)
	if err != nil {
		return nil, err
	}
	c, err := readTable(t, study)
	if err != nil {
		return nil, err
	}
	rows, err := fromColumns[T](c)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", study, err)
	}
	return rows, nil
}

func readTable(t *Table, study string) (*columns, error) {
	files, err := Files(study, t.Name)
	for err == nil {
		c, failed := readFiles(t, files)
		if !errors.Is(failed, fs.ErrNotExist) {
			return c, failed
		}
		// A compaction has removed a part between the listing and the reading; its rows are in a file of a new listing.
		before := files
		if files, err = Files(study, t.Name); slices.Equal(files, before) {
			return nil, failed
		}
	}
	return nil, err
}

func readFiles(t *Table, files []string) (*columns, error) {
	parts := make([]*columns, len(files))
	var group errgroup.Group
	group.SetLimit(runtime.GOMAXPROCS(0))
	for i, path := range files {
		group.Go(func() (err error) {
			parts[i], _, err = readFile(t, path)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	return merge(t, files, parts)
}

// merge puts the rows of files into the order of their key, equal rows of different files once.
func merge(t *Table, files []string, parts []*columns) (*columns, error) {
	all := newColumns(t, 0)
	var origin []int
	for i, p := range parts {
		all.append(p)
		for range p.rows {
			origin = append(origin, i)
		}
	}
	key, every := t.key(), all.all()
	order := make([]int, all.rows)
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int {
		return cmp.Or(all.compare(a, b, key), cmp.Compare(origin[a], origin[b]), cmp.Compare(a, b))
	})
	keep := order[:0]
	for i, r := range order {
		if i == 0 || len(keep) == 0 {
			keep = append(keep, r)
			continue
		}
		last := keep[len(keep)-1]
		if all.compare(last, r, key) != 0 || (len(t.Key) == 0 && origin[last] == origin[r]) {
			keep = append(keep, r)
			continue
		}
		if all.compare(last, r, every) != 0 || origin[last] == origin[r] {
			return nil, fmt.Errorf("%s and %s hold different rows of table %s with %s. Find out which is right and move the other out of the study folder",
				files[origin[last]], files[origin[r]], t.Name, all.describe(r))
		}
	}
	return all.take(keep), nil
}

func readFile(t *Table, path string) (*columns, map[string]string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot read table %s: %w", t.Name, err)
	}
	if info.Size() > maxFileBytes || !info.Mode().IsRegular() {
		return nil, nil, &DamagedError{path, fmt.Errorf("it is not a regular file of at most %d bytes", int64(maxFileBytes))}
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot read table %s: %w", t.Name, err)
	}
	c, meta, err := decode(t, data)
	if err == nil {
		err = checkPlace(t, path, c)
	}
	if errors.As(err, new(newerError)) {
		return nil, nil, fmt.Errorf("%s cannot be read: %w", path, err)
	}
	if err != nil {
		return nil, nil, &DamagedError{path, err}
	}
	return c, meta, nil
}

// checkPlace compares the column dataset with the folder's name: readers may take either.
func checkPlace(t *Table, path string, c *columns) error {
	folder, ok := strings.CutPrefix(filepath.Base(filepath.Dir(path)), "dataset=")
	if t.Layout != LayoutDataset || !ok {
		return nil
	}
	for r, d := range c.data[t.column("dataset")].strings {
		if d != folder {
			return fmt.Errorf("row %d is of data set %q, its folder is of %q", r, d, folder)
		}
	}
	return nil
}
