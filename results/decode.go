package results

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strconv"

	"github.com/apache/arrow/go/v15/arrow/memory"
	"github.com/apache/arrow/go/v15/parquet"
	"github.com/apache/arrow/go/v15/parquet/file"
)

// Bounds of what a file may ask for: far above any study, far below what would trouble the machine.
const (
	maxFileBytes   = 1 << 30
	maxRows        = 20_000_000
	maxRowGroups   = 10_000
	maxDecodeBytes = 2 << 30 // of one file's pages, counted where the library allocates them
)

// decode is the rows and footer of a file. A damaged or hostile one gives an error: the library runs in this goroutine under recover,
// and what it may allocate is bounded.
func decode(t *Table, data []byte) (c *columns, meta map[string]string, err error) {
	defer recovered(&err)
	r, err := open(data)
	if err != nil {
		return nil, nil, err
	}
	meta = map[string]string{}
	kv := r.MetaData().KeyValueMetadata()
	for i, k := range kv.Keys() {
		meta[k] = kv.Values()[i]
	}
	version, err := strconv.Atoi(meta[MetaSchemaVersion])
	switch newest := Tables().Version; {
	case err != nil || version < 1:
		return nil, nil, fmt.Errorf("it has schema version %q, which no program writes", meta[MetaSchemaVersion])
	case version > newest:
		return nil, nil, newerError(version)
	}
	now := t
	t = t.at(version)
	if err := check(t, r, meta); err != nil {
		return nil, nil, err
	}
	c = newColumns(t, int(r.NumRows()))
	row := 0
	for g := range r.NumRowGroups() {
		group := r.RowGroup(g)
		n := int(group.NumRows())
		for i, col := range t.Columns {
			chunk, err := group.Column(i)
			if err != nil {
				return nil, nil, fmt.Errorf("row group %d: column %s: %w", g, col.Name, err)
			}
			if err := readColumn(chunk, col, &c.data[i], row, n); err != nil {
				return nil, nil, fmt.Errorf("row group %d: column %s: %w", g, col.Name, err)
			}
		}
		row += n
	}
	if got := c.sha256(); got != meta[MetaSHA256] {
		return nil, nil, fmt.Errorf("its values have SHA-256 %s, the footer says %q: the file is damaged", got, meta[MetaSHA256])
	}
	return c.as(now), meta, nil
}

// newerError is the version of the schema of a file that a later program wrote.
type newerError int

func (e newerError) Error() string {
	return fmt.Sprintf("it has schema version %d, this program reads up to %d: use the program that wrote it, or a later one", int(e), Tables().Version)
}

var magic = []byte("PAR1")

func open(data []byte) (*file.Reader, error) {
	n := len(data)
	if n < 12 {
		return nil, fmt.Errorf("%d bytes are too few for a Parquet file", n)
	}
	if !bytes.Equal(data[:4], magic) || !bytes.Equal(data[n-4:], magic) {
		return nil, fmt.Errorf("it does not begin and end with PAR1, so it is not a Parquet file or was cut short")
	}
	if length := int64(binary.LittleEndian.Uint32(data[n-8:])); length > int64(n-12) {
		return nil, fmt.Errorf("byte %d: the footer claims %d bytes of the file's %d", n-8, length, n)
	}
	props := parquet.NewReaderProperties(&boundedAllocator{next: memory.NewGoAllocator(), left: maxDecodeBytes})
	props.BufferSize = 4096 // one is allocated for each column
	return file.NewParquetReader(bytes.NewReader(data), file.WithReadProps(props))
}

// check compares the footer with the schema of its version and the bounds.
func check(t *Table, r *file.Reader, meta map[string]string) error {
	if name := meta[MetaTable]; name != t.Name {
		return fmt.Errorf("it holds table %q, not %q", name, t.Name)
	}
	if n := r.NumRows(); n < 0 || n > maxRows {
		return fmt.Errorf("the footer claims %d rows, at most %d are read", n, int64(maxRows))
	}
	if n := r.NumRowGroups(); n > maxRowGroups {
		return fmt.Errorf("the footer claims %d row groups, at most %d are read", n, maxRowGroups)
	}
	s := r.MetaData().Schema
	if s.NumColumns() != len(t.Columns) {
		return fmt.Errorf("it has %d columns, table %s has %d", s.NumColumns(), t.Name, len(t.Columns))
	}
	for i, col := range t.Columns {
		physical, logical := col.Type.parquet()
		c := s.Column(i)
		wantLevel := int16(0)
		if col.Nullable {
			wantLevel = 1
		}
		if c.Path() != col.Name || c.PhysicalType() != physical || c.MaxDefinitionLevel() != wantLevel || c.MaxRepetitionLevel() != 0 ||
			(logical != nil && !logical.Equals(c.LogicalType())) {
			return fmt.Errorf("column %d is %s %s, table %s has %s %s there", i, c.Path(), c.PhysicalType(), t.Name, col.Name, col.Type)
		}
	}
	var rows int64
	for g := range r.NumRowGroups() {
		n := r.MetaData().RowGroups[g].GetNumRows()
		if n < 0 || n > r.NumRows() {
			return fmt.Errorf("row group %d claims %d rows of %d", g, n, r.NumRows())
		}
		if got := len(r.MetaData().RowGroups[g].GetColumns()); got != len(t.Columns) {
			return fmt.Errorf("row group %d has %d columns, table %s has %d", g, got, t.Name, len(t.Columns))
		}
		for i, chunk := range r.MetaData().RowGroups[g].GetColumns() {
			if chunk == nil || chunk.MetaData == nil || chunk.MetaData.NumValues != n {
				return fmt.Errorf("row group %d: column %s does not hold the %d values of its rows", g, t.Columns[i].Name, n)
			}
		}
		rows += n
	}
	if rows != r.NumRows() {
		return fmt.Errorf("the row groups hold %d rows, the footer claims %d", rows, r.NumRows())
	}
	return nil
}

// readColumn reads the n values of a chunk to rows from, from+1, ...
func readColumn(r file.ColumnChunkReader, col Column, c *column, from, n int) error {
	switch r := r.(type) {
	case *file.Int64ColumnChunkReader:
		return readValues(r.ReadBatch, col, c, from, n, func(row int, v int64) { c.ints[row] = v })
	case *file.Int32ColumnChunkReader:
		return readValues(r.ReadBatch, col, c, from, n, func(row int, v int32) { c.ints[row] = int64(v) })
	case *file.BooleanColumnChunkReader:
		return readValues(r.ReadBatch, col, c, from, n, func(row int, v bool) {
			if v {
				c.ints[row] = 1
			}
		})
	case *file.Float64ColumnChunkReader:
		return readValues(r.ReadBatch, col, c, from, n, func(row int, v float64) { c.floats[row] = v })
	case *file.ByteArrayColumnChunkReader:
		return readValues(r.ReadBatch, col, c, from, n, func(row int, v parquet.ByteArray) { c.strings[row] = string(v) })
	}
	return fmt.Errorf("no reader for %T", r)
}

type readBatch[T any] func(n int64, values []T, definition, repetition []int16) (int64, int, error)

func readValues[T any](read readBatch[T], col Column, c *column, from, n int, put func(row int, v T)) error {
	const batch = 8192
	values, levels := make([]T, min(n, batch)), make([]int16, min(n, batch))
	if !col.Nullable {
		levels = nil
	}
	for row := from; row < from+n; {
		want := min(batch, from+n-row)
		total, got, err := read(int64(want), values[:want], levels, nil)
		if err != nil {
			return err
		}
		if total <= 0 || total > int64(want) || got < 0 || int64(got) > total {
			return fmt.Errorf("it ends after %d of %d values", row-from, n)
		}
		next := 0
		for k := range int(total) {
			valid := !col.Nullable || levels[k] == 1
			if valid {
				if next == got {
					return fmt.Errorf("row %d has no value", row+k)
				}
				put(row+k, values[next])
				next++
			}
			c.valid[row+k] = valid
		}
		if next != got {
			return fmt.Errorf("it holds more values than rows")
		}
		row += int(total)
	}
	return nil
}

// boundedAllocator refuses a file that asks for too much in all; decode recovers its panic.
type boundedAllocator struct {
	next memory.Allocator
	left int
}

func (a *boundedAllocator) take(n int) {
	if n < 0 || n > a.left {
		panic(fmt.Errorf("its pages claim more than %d bytes", int64(maxDecodeBytes)))
	}
	a.left -= n
}

func (a *boundedAllocator) Allocate(n int) []byte { a.take(n); return a.next.Allocate(n) }
func (a *boundedAllocator) Free(b []byte)         { a.next.Free(b); a.left += cap(b) }
func (a *boundedAllocator) Reallocate(n int, b []byte) []byte {
	if n > cap(b) {
		a.take(n - cap(b))
	}
	return a.next.Reallocate(n, b)
}
