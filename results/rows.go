package results

import (
	"cmp"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// Row is a row by column name, for callers without a struct. Values are integers, floats, strings, bools, time.Time, pointers to
// these, or nil for NULL.
type Row map[string]any

// column is the values of one column: ints also hold bools and microseconds.
type column struct {
	valid   []bool
	ints    []int64
	floats  []float64
	strings []string
}

// columns is rows turned on their side.
type columns struct {
	table *Table
	rows  int
	data  []column
}

func newColumns(t *Table, rows int) *columns {
	c := &columns{table: t, rows: rows, data: make([]column, len(t.Columns))}
	for i := range c.data {
		c.data[i].allocate(t.Columns[i].Type, rows)
	}
	return c
}

// as is the rows in a later version of their table: columns that have come since hold NULL.
func (c *columns) as(t *Table) *columns {
	if len(t.Columns) == len(c.table.Columns) {
		c.table = t
		return c
	}
	now := newColumns(t, c.rows)
	for i, col := range t.Columns {
		if old := c.table.column(col.Name); old >= 0 {
			now.data[i] = c.data[old]
		}
	}
	return now
}

func (c *column) allocate(t Type, rows int) {
	c.valid = make([]bool, rows)
	switch t {
	case Float64:
		c.floats = make([]float64, rows)
	case String:
		c.strings = make([]string, rows)
	default:
		c.ints = make([]int64, rows)
	}
}

var timeType = reflect.TypeFor[time.Time]()

// fieldsOf maps each column to a field of the struct, -1 where there is none; a tag without a column is an error.
func fieldsOf(t *Table, s reflect.Type) ([]int, error) {
	fields := make([]int, len(t.Columns))
	for i := range fields {
		fields[i] = -1
	}
	for i := range s.NumField() {
		name, ok := s.Field(i).Tag.Lookup("col")
		if !ok {
			continue
		}
		c := t.column(name)
		if c < 0 {
			return nil, fmt.Errorf("%s.%s: table %s has no column %q", s, s.Field(i).Name, t.Name, name)
		}
		if !fits(t.Columns[c].Type, s.Field(i).Type) {
			return nil, fmt.Errorf("%s.%s is a %s, but column %s of table %s is %s", s, s.Field(i).Name, s.Field(i).Type, name, t.Name, t.Columns[c].Type)
		}
		fields[c] = i
	}
	return fields, nil
}

func fits(t Type, f reflect.Type) bool {
	if f.Kind() == reflect.Pointer {
		f = f.Elem()
	}
	switch t {
	case Int64, Int32:
		return f.Kind() == reflect.Int || f.Kind() == reflect.Int64 || f.Kind() == reflect.Int32
	case Float64:
		return f.Kind() == reflect.Float64 || f.Kind() == reflect.Float32
	case String:
		return f.Kind() == reflect.String
	case Bool:
		return f.Kind() == reflect.Bool
	default:
		return f == timeType
	}
}

// toColumns turns a []struct with `col` tags or a []Row on its side.
func toColumns(t *Table, rows any) (*columns, error) {
	if r, ok := rows.([]Row); ok {
		return rowsToColumns(t, r)
	}
	v := reflect.ValueOf(rows)
	if v.Kind() != reflect.Slice || v.Type().Elem().Kind() != reflect.Struct {
		return nil, fmt.Errorf("table %s: rows are a %T, must be a slice of structs or []results.Row", t.Name, rows)
	}
	fields, err := fieldsOf(t, v.Type().Elem())
	if err != nil {
		return nil, err
	}
	c := newColumns(t, v.Len())
	for i, col := range t.Columns {
		if fields[i] < 0 && !col.Nullable {
			return nil, fmt.Errorf("%s has no field for column %s of table %s, which is not nullable", v.Type().Elem(), col.Name, t.Name)
		}
		for r := range v.Len() {
			if fields[i] < 0 {
				continue
			}
			if err := c.data[i].set(col, r, v.Index(r).Field(fields[i])); err != nil {
				return nil, fmt.Errorf("table %s: row %d: %w", t.Name, r, err)
			}
		}
	}
	return c, nil
}

func rowsToColumns(t *Table, rows []Row) (*columns, error) {
	c := newColumns(t, len(rows))
	for r, row := range rows {
		found := 0
		for i, col := range t.Columns {
			value, ok := row[col.Name]
			if ok {
				found++
			}
			if err := c.data[i].set(col, r, reflect.ValueOf(value)); err != nil {
				return nil, fmt.Errorf("table %s: row %d: %w", t.Name, r, err)
			}
		}
		if found != len(row) {
			for name := range row {
				if t.column(name) < 0 {
					return nil, fmt.Errorf("table %s: row %d: there is no column %q", t.Name, r, name)
				}
			}
		}
	}
	return c, nil
}

// set stores one value. NULL is a nil, and in a nullable column also a NaN, an empty string and the zero time.
func (c *column) set(col Column, r int, v reflect.Value) error {
	for v.IsValid() && (v.Kind() == reflect.Pointer || v.Kind() == reflect.Interface) {
		v = v.Elem()
	}
	if v.IsValid() && !fits(col.Type, v.Type()) {
		return fmt.Errorf("column %s is %s, the value a %s", col.Name, col.Type, v.Type())
	}
	null := !v.IsValid()
	switch {
	case null:
	case col.Type == Float64:
		f := v.Float()
		if math.IsInf(f, 0) {
			return fmt.Errorf("column %s: the value is %v; store NULL for a number that could not be measured", col.Name, f)
		}
		null = math.IsNaN(f)
		c.floats[r] = f
	case col.Type == String:
		s := v.String()
		if !utf8.ValidString(s) {
			return fmt.Errorf("column %s: the text %q is not UTF-8", col.Name, s)
		}
		null = s == "" && col.Nullable
		c.strings[r] = s
	case col.Type == Bool:
		if v.Bool() {
			c.ints[r] = 1
		}
	case col.Type == Timestamp:
		t := v.Interface().(time.Time)
		null = t.IsZero()
		c.ints[r] = t.UnixMicro()
	default:
		c.ints[r] = v.Int()
		if col.Type == Int32 && int64(int32(c.ints[r])) != c.ints[r] {
			return fmt.Errorf("column %s: %d does not fit into int32", col.Name, c.ints[r])
		}
	}
	if null && !col.Nullable {
		return fmt.Errorf("column %s is NULL, NaN or missing, but not nullable", col.Name)
	}
	c.valid[r] = !null
	if null {
		c.clear(r)
	}
	return nil
}

func (c *column) clear(r int) {
	switch {
	case c.floats != nil:
		c.floats[r] = 0
	case c.strings != nil:
		c.strings[r] = ""
	default:
		c.ints[r] = 0
	}
}

// get stores a value into a field. NULL is nil in a pointer, NaN in a float, "" in a string, the zero time; elsewhere it is an error.
func (c *column) get(col Column, r int, f reflect.Value) error {
	pointer := f.Kind() == reflect.Pointer
	if !c.valid[r] {
		switch {
		case pointer, f.Kind() == reflect.String, f.Type() == timeType:
			f.SetZero()
		case f.Kind() == reflect.Float64 || f.Kind() == reflect.Float32:
			f.SetFloat(math.NaN())
		default:
			return fmt.Errorf("row %d: column %s is NULL and the program has no place for that", r, col.Name)
		}
		return nil
	}
	if pointer {
		f.Set(reflect.New(f.Type().Elem()))
		f = f.Elem()
	}
	switch col.Type {
	case Float64:
		f.SetFloat(c.floats[r])
	case String:
		f.SetString(c.strings[r])
	case Bool:
		f.SetBool(c.ints[r] != 0)
	case Timestamp:
		f.Set(reflect.ValueOf(time.UnixMicro(c.ints[r]).UTC()))
	default:
		if f.OverflowInt(c.ints[r]) {
			return fmt.Errorf("row %d: column %s: %d does not fit into %s", r, col.Name, c.ints[r], f.Type())
		}
		f.SetInt(c.ints[r])
	}
	return nil
}

// fromColumns is toColumns backwards; T may be Row.
func fromColumns[T any](c *columns) ([]T, error) {
	rows := make([]T, c.rows)
	if generic, ok := any(rows).([]Row); ok {
		for r := range generic {
			generic[r] = c.row(r)
		}
		return rows, nil
	}
	v := reflect.ValueOf(rows)
	if v.Type().Elem().Kind() != reflect.Struct {
		return nil, fmt.Errorf("table %s cannot be read into %T, only into structs or results.Row", c.table.Name, rows)
	}
	fields, err := fieldsOf(c.table, v.Type().Elem())
	if err != nil {
		return nil, err
	}
	for i, col := range c.table.Columns {
		for r := range rows {
			if fields[i] < 0 {
				break
			}
			if err := c.data[i].get(col, r, v.Index(r).Field(fields[i])); err != nil {
				return nil, fmt.Errorf("table %s: %w", c.table.Name, err)
			}
		}
	}
	return rows, nil
}

func (c *columns) row(r int) Row {
	row := Row{}
	for i, col := range c.table.Columns {
		d := &c.data[i]
		switch {
		case !d.valid[r]:
			row[col.Name] = nil
		case col.Type == Float64:
			row[col.Name] = d.floats[r]
		case col.Type == String:
			row[col.Name] = d.strings[r]
		case col.Type == Bool:
			row[col.Name] = d.ints[r] != 0
		case col.Type == Timestamp:
			row[col.Name] = time.UnixMicro(d.ints[r]).UTC()
		default:
			row[col.Name] = d.ints[r]
		}
	}
	return row
}

// append adds the rows of other.
func (c *columns) append(other *columns) {
	c.rows += other.rows
	for i := range c.data {
		c.data[i].valid = append(c.data[i].valid, other.data[i].valid...)
		c.data[i].ints = append(c.data[i].ints, other.data[i].ints...)
		c.data[i].floats = append(c.data[i].floats, other.data[i].floats...)
		c.data[i].strings = append(c.data[i].strings, other.data[i].strings...)
	}
}

// take is the given rows in the given order.
func (c *columns) take(rows []int) *columns {
	out := newColumns(c.table, len(rows))
	for i := range c.data {
		from, to := &c.data[i], &out.data[i]
		for k, r := range rows {
			to.valid[k] = from.valid[r]
			switch {
			case from.floats != nil:
				to.floats[k] = from.floats[r]
			case from.strings != nil:
				to.strings[k] = from.strings[r]
			default:
				to.ints[k] = from.ints[r]
			}
		}
	}
	return out
}

// compare orders two rows by the given columns; NULL comes first.
func (c *columns) compare(a, b int, by []int) int {
	for _, i := range by {
		d := &c.data[i]
		if d.valid[a] != d.valid[b] {
			if d.valid[b] {
				return -1
			}
			return 1
		}
		var order int
		switch {
		case d.floats != nil:
			order = cmp.Compare(d.floats[a], d.floats[b])
		case d.strings != nil:
			order = strings.Compare(d.strings[a], d.strings[b])
		default:
			order = cmp.Compare(d.ints[a], d.ints[b])
		}
		if order != 0 {
			return order
		}
	}
	return 0
}

// describe names a row by its key, for errors.
func (c *columns) describe(r int) string {
	row := c.row(r)
	var parts []string
	for _, i := range c.table.key() {
		parts = append(parts, fmt.Sprintf("%s %v", c.table.Columns[i].Name, row[c.table.Columns[i].Name]))
	}
	return strings.Join(parts, ", ")
}

func (c *columns) all() []int {
	all := make([]int, len(c.table.Columns))
	for i := range all {
		all[i] = i
	}
	return all
}

// duplicate finds two rows with one key, in a table that has one.
func (c *columns) duplicate() (int, bool) {
	if len(c.table.Key) == 0 {
		return 0, false
	}
	order := make([]int, c.rows)
	for i := range order {
		order[i] = i
	}
	key := c.table.key()
	slices.SortFunc(order, func(a, b int) int { return c.compare(a, b, key) })
	for i := 1; i < len(order); i++ {
		if c.compare(order[i-1], order[i], key) == 0 {
			return order[i], true
		}
	}
	return 0, false
}
