package results

import (
	"bytes"
	"fmt"

	"maps"
	"slices"
	"strconv"

	"github.com/apache/arrow/go/v15/parquet"
	"github.com/apache/arrow/go/v15/parquet/compress"
	"github.com/apache/arrow/go/v15/parquet/file"
)

// Footer keys that every file has.
const (
	MetaSchemaVersion = "anynetx.schema_version"
	MetaTable         = "anynetx.table"
	MetaUnits         = "anynetx.units" // JSON: column to unit
	MetaStudy         = "anynetx.study" // name of the study, set by the caller
)

// createdBy is fixed: the file is a function of its rows.
const createdBy = "anynetx version 1.0.0"

// encode is the bytes of a file: one row group, PLAIN with dictionaries, zstd. Nothing in them depends on time or place.
func encode(c *columns, meta map[string]string) (data []byte, err error) {
	defer recovered(&err)
	node, err := c.table.node()
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	w := file.NewParquetWriter(&out, node, file.WithWriterProps(parquet.NewWriterProperties(
		parquet.WithCompression(compress.Codecs.Zstd), parquet.WithDictionaryDefault(true), parquet.WithCreatedBy(createdBy),
		parquet.WithVersion(parquet.V2_LATEST), parquet.WithMaxRowGroupLength(int64(maxRows)))))
	for _, kv := range footer(c.table, meta) {
		if err := w.AppendKeyValueMetadata(kv[0], kv[1]); err != nil {
			return nil, err
		}
	}
	if c.rows > 0 {
		group := w.AppendRowGroup()
		for i, col := range c.table.Columns {
			chunk, err := group.NextColumn()
			if err != nil {
				return nil, err
			}
			if err := writeColumn(chunk, col, &c.data[i]); err != nil {
				return nil, fmt.Errorf("column %s: %w", col.Name, err)
			}
			if err := chunk.Close(); err != nil {
				return nil, fmt.Errorf("column %s: %w", col.Name, err)
			}
		}
		if err := group.Close(); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

func footer(t *Table, meta map[string]string) [][2]string {
	all := maps.Clone(meta)
	if all == nil {
		all = map[string]string{}
	}
	all[MetaSchemaVersion] = strconv.Itoa(Tables().Version)
	all[MetaTable] = t.Name
	all[MetaUnits] = t.units()
	var pairs [][2]string
	for _, k := range slices.Sorted(maps.Keys(all)) {
		pairs = append(pairs, [2]string{k, all[k]})
	}
	return pairs
}

func writeColumn(w file.ColumnChunkWriter, col Column, c *column) error {
	var levels []int16
	if col.Nullable {
		levels = make([]int16, len(c.valid))
		for r, v := range c.valid {
			if v {
				levels[r] = 1
			}
		}
	}
	var err error
	switch w := w.(type) {
	case *file.Int64ColumnChunkWriter:
		_, err = w.WriteBatch(present(c, c.ints, func(v int64) int64 { return v }), levels, nil)
	case *file.Int32ColumnChunkWriter:
		_, err = w.WriteBatch(present(c, c.ints, func(v int64) int32 { return int32(v) }), levels, nil)
	case *file.BooleanColumnChunkWriter:
		_, err = w.WriteBatch(present(c, c.ints, func(v int64) bool { return v != 0 }), levels, nil)
	case *file.Float64ColumnChunkWriter:
		_, err = w.WriteBatch(present(c, c.floats, func(v float64) float64 { return v }), levels, nil)
	case *file.ByteArrayColumnChunkWriter:
		_, err = w.WriteBatch(present(c, c.strings, func(v string) parquet.ByteArray { return parquet.ByteArray(v) }), levels, nil)
	default:
		err = fmt.Errorf("no writer for type %s (%T)", col.Type, w)
	}
	return err
}

// present is the values that are not NULL, the form in which Parquet stores them.
func present[F, T any](c *column, values []F, convert func(F) T) []T {
	out := make([]T, 0, len(values))
	for r, v := range values {
		if c.valid[r] {
			out = append(out, convert(v))
		}
	}
	return out
}

// recovered turns a panic of the Parquet library into an error.
func recovered(err *error) {
	if p := recover(); p != nil {
		if e, ok := p.(error); ok {
			*err = fmt.Errorf("the Parquet library gave up: %w", e)
		} else {
			*err = fmt.Errorf("the Parquet library gave up: %v", p)
		}
	}
}
