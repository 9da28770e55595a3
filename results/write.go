package results

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
)

// ErrExists marks the refusal to change a committed file.
var ErrExists = errors.New("the file exists with other contents")

// Write commits rows (a []struct with `col` tags or a []Row) as a file of a table: it appears whole or not at all, and a file that
// exists is left as it is, which is an error unless it holds the same bytes. meta goes to the footer and must not depend on time or place
// where the table is a function of its inputs. In a nullable column a NaN, an empty string and a zero time are stored as NULL.
func Write(path, table string, rows any, meta map[string]string) error {
	return write(path, table, rows, meta, false)
}

// Replace is Write for files that a later state supersedes (tasks, tables of the analysis).
func Replace(path, table string, rows any, meta map[string]string) error {
	return write(path, table, rows, meta, true)
}

func write(path, table string, rows any, meta map[string]string, replace bool) error {
	t, err := Tables().Table(table)
	if err != nil {
		return fmt.Errorf("cannot write %s: %w", path, err)
	}
	c, err := toColumns(t, rows)
	if err != nil {
		return fmt.Errorf("cannot write %s: %w", path, err)
	}
	return commit(path, c, meta, replace)
}

// commit encodes and writes: temporary file in the same folder, fsync, read back, rename, fsync of the folder.
func commit(path string, c *columns, meta map[string]string, replace bool) error {
	return commitSteps(path, c, meta, replace, func(string) {})
}

// commitSteps calls step before each thing that a kill may prevent, or a disk spoil.
func commitSteps(path string, c *columns, meta map[string]string, replace bool, step func(string)) error {
	if c.rows > maxRows {
		return fmt.Errorf("cannot write %s: %d rows are more than the %d that are read again: split them", path, c.rows, int64(maxRows))
	}
	if r, twice := c.duplicate(); twice {
		return fmt.Errorf("cannot write %s: table %s: two rows have %s", path, c.table.Name, c.describe(r))
	}
	data, err := encode(c, meta)
	if err != nil {
		return fmt.Errorf("cannot write %s: table %s: %w", path, c.table.Name, err)
	}
	if !replace {
		if old, err := os.ReadFile(path); err == nil {
			return same(path, old, data, c)
		}
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
		return fmt.Errorf("cannot write %s: %w", path, err)
	}
	temporary, err := writeTemporary(path, data)
	if err != nil {
		return err
	}
	defer os.Remove(temporary) // of no effect after a rename
	step("verify " + temporary)
	if err := verify(temporary, data, c); err != nil {
		return fmt.Errorf("cannot write %s: what was read back differs from what was written (%w): check the disk", path, err)
	}
	step("publish " + path)
	if err := publish(temporary, path, data, c, replace); err != nil {
		return err
	}
	step("sync " + path)
	return syncFolder(filepath.Dir(path))
}

func writeTemporary(path string, data []byte) (name string, err error) {
	suffix := make([]byte, 6)
	rand.Read(suffix) // never fails
	name = path + ".tmp-" + hex.EncodeToString(suffix)
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
	if err != nil {
		return "", fmt.Errorf("cannot write %s: %w", path, err)
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err != nil {
		os.Remove(name)
		return "", fmt.Errorf("cannot write %s: %w", path, err)
	}
	return name, nil
}

func verify(temporary string, data []byte, c *columns) error {
	back, err := os.ReadFile(temporary)
	if err != nil {
		return err
	}
	if !bytes.Equal(back, data) {
		return fmt.Errorf("%d bytes, not the %d written", len(back), len(data))
	}
	got, _, err := decode(c.table, back)
	if err != nil {
		return err
	}
	if got.rows != c.rows {
		return fmt.Errorf("%d rows of %d", got.rows, c.rows)
	}
	return nil
}

// publish gives the file its name. A hard link refuses to replace a file that another process committed in the meantime; a file system
// without links gets a look and a rename.
func publish(temporary, path string, data []byte, c *columns, replace bool) error {
	if !replace {
		err := os.Link(temporary, path)
		if err == nil {
			return nil
		}
		if old, e := os.ReadFile(path); e == nil {
			return same(path, old, data, c)
		} else if !errors.Is(e, fs.ErrNotExist) {
			return fmt.Errorf("cannot write %s: %w", path, e)
		}
	}
	if err := os.Rename(temporary, path); err != nil {
		return fmt.Errorf("cannot write %s: %w", path, err)
	}
	return nil
}

// same is an error unless the file that is there holds what was to be written, in the same bytes or in an earlier version of the schema.
func same(path string, old, data []byte, c *columns) error {
	if bytes.Equal(old, data) {
		return nil
	}
	if there, meta, err := decode(c.table, old); err == nil && meta[MetaSchemaVersion] != strconv.Itoa(Tables().Version) && there.sha256() == c.sha256() {
		return nil
	}
	return fmt.Errorf("cannot write %s: %w (%d bytes there, %d to write); a committed result is never changed: move it away if it is wrong",
		path, ErrExists, len(old), len(data))
}

func syncFolder(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("cannot open folder %s to make its new file last: %w", dir, err)
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("cannot make the new file in folder %s last: %w", dir, err)
	}
	return nil
}
