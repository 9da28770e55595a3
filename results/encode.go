package results

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"math"
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
	MetaSHA256        = "anynetx.values_sha256"
	MetaStudy         = "anynetx.study" // name of the study, set by the caller
)

// compressRows is where compression begins to pay: the pages of a run's file hold a few bytes, which zstd only makes longer, and the library
// sets up an encoder for each of them (15 ms a file).
const compressRows = 64

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
	codec := compress.Codecs.Zstd
	if c.rows < compressRows {
		codec = compress.Codecs.Uncompressed
	}
	w := file.NewParquetWriter(&out, node, file.WithWriterProps(parquet.NewWriterProperties(
		parquet.WithCompression(codec), parquet.WithCompressionLevel(1), parquet.WithDictionaryDefault(true), parquet.WithCreatedBy(createdBy),
		parquet.WithVersion(parquet.V2_LATEST), parquet.WithMaxRowGroupLength(int64(maxRows)))))
	for _, kv := range footer(c, meta) {
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

func footer(c *columns, meta map[string]string) [][2]string {
	all := maps.Clone(meta)
	if all == nil {
		all = map[string]string{}
	}
	all[MetaSchemaVersion] = strconv.Itoa(Tables().Version)
	all[MetaTable] = c.table.Name
	all[MetaUnits] = c.table.units()
	all[MetaSHA256] = c.sha256()
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

// sha256 is over all values in a form of its own, so that damage shows whatever page or codec it hit.
func (c *columns) sha256() string {
	h := sha256.New()
	var b [9]byte
	for i := range c.data {
		d := &c.data[i]
		fmt.Fprintf(h, "%s %s %d\n", c.table.Columns[i].Name, c.table.Columns[i].Type, c.rows)
		for r, valid := range d.valid {
			var v uint64
			switch {
			case d.floats != nil:
				v = math.Float64bits(d.floats[r])
			case d.strings != nil:
				v = uint64(len(d.strings[r]))
			default:
				v = uint64(d.ints[r])
			}
			b[0] = 0
			if valid {
				b[0] = 1
			}
			binary.LittleEndian.PutUint64(b[1:], v)
			h.Write(b[:])
			if d.strings != nil {
				io.WriteString(h, d.strings[r])
			}
		}
	}
	return hex.EncodeToString(h.Sum(nil))
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
