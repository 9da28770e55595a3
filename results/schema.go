// Package results writes and reads the Parquet tables of a study: schema.yaml says which tables and columns there are, a file appears
// whole or not at all, and the same rows give the same bytes. It knows nothing of what the columns mean.
package results

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"fmt"
	"slices"
	"sync"

	"github.com/apache/arrow/go/v15/parquet"
	"github.com/apache/arrow/go/v15/parquet/schema"
	"go.yaml.in/yaml/v3"
)

//go:embed schema.yaml
var schemaYAML []byte

// Schema is all tables of a study.
type Schema struct {
	Version int     `yaml:"version"`
	Tables  []Table `yaml:"tables"`
}

// Table is one table: its columns in the order of its files.
type Table struct {
	Name        string   `yaml:"name"`
	Layout      Layout   `yaml:"layout"`
	Key         []string `yaml:"key"` // empty: all columns
	Description string   `yaml:"description"`
	Columns     []Column `yaml:"columns"`
}

// Column is one column.
type Column struct {
	Name        string `yaml:"name"`
	Type        Type   `yaml:"type"`
	Unit        string `yaml:"unit"`
	Nullable    bool   `yaml:"nullable"`
	Since       int    `yaml:"since"` // the first version of the schema that has it; 0: all
	Description string `yaml:"description"`
}

// Layout says where the files of a table lie in a study folder.
type Layout string

// The layouts of schema.yaml.
const (
	LayoutFile    Layout = "file"    // <table>.parquet
	LayoutFolder  Layout = "folder"  // <table>/*.parquet
	LayoutDataset Layout = "dataset" // <table>/dataset=<d>/*.parquet
)

// Type is the type of a column.
type Type string

// The types of schema.yaml.
const (
	Int64     Type = "int64"
	Int32     Type = "int32"
	Float64   Type = "float64"
	String    Type = "string"
	Bool      Type = "bool"
	Timestamp Type = "timestamp_us"
)

var loadSchema = sync.OnceValues(func() (*Schema, error) { return parseSchema(schemaYAML) })

// Tables is the schema of this program.
func Tables() *Schema {
	s, err := loadSchema()
	if err != nil {
		panic(err) // the file is part of the program and a test reads it
	}
	return s
}

func parseSchema(text []byte) (*Schema, error) {
	var s Schema
	d := yaml.NewDecoder(bytes.NewReader(text))
	d.KnownFields(true)
	if err := d.Decode(&s); err != nil {
		return nil, fmt.Errorf("schema.yaml: %w", err)
	}
	if s.Version < 1 {
		return nil, fmt.Errorf("schema.yaml: version is %d, must be at least 1", s.Version)
	}
	tables := map[string]bool{}
	for _, t := range s.Tables {
		if tables[t.Name] || t.Name == "" {
			return nil, fmt.Errorf("schema.yaml: table %q has no name or comes twice", t.Name)
		}
		tables[t.Name] = true
		if !slices.Contains([]Layout{LayoutFile, LayoutFolder, LayoutDataset}, t.Layout) {
			return nil, fmt.Errorf("schema.yaml: table %s: layout %q is none of file, folder, dataset", t.Name, t.Layout)
		}
		seen := map[string]Column{}
		for _, c := range t.Columns {
			if _, twice := seen[c.Name]; twice || c.Name == "" || c.Description == "" {
				return nil, fmt.Errorf("schema.yaml: table %s: column %q has no name, no description or comes twice", t.Name, c.Name)
			}
			seen[c.Name] = c
			if !slices.Contains([]Type{Int64, Int32, Float64, String, Bool, Timestamp}, c.Type) {
				return nil, fmt.Errorf("schema.yaml: table %s: column %s: type %q is not known", t.Name, c.Name, c.Type)
			}
			if c.Since < 0 || c.Since > s.Version || c.Since > 0 && !c.Nullable {
				return nil, fmt.Errorf("schema.yaml: table %s: column %s: since is %d, must be a version up to %d, of a nullable column", t.Name, c.Name, c.Since, s.Version)
			}
		}
		for _, k := range t.Key {
			if c, ok := seen[k]; !ok || c.Nullable {
				return nil, fmt.Errorf("schema.yaml: table %s: key %s is not a column or nullable", t.Name, k)
			}
		}
		if c, ok := seen["dataset"]; t.Layout == LayoutDataset && (!ok || c.Type != String || c.Nullable) {
			return nil, fmt.Errorf("schema.yaml: table %s: layout dataset needs a string column dataset", t.Name)
		}
	}
	return &s, nil
}

// Table finds a table by its name.
func (s *Schema) Table(name string) (*Table, error) {
	for i := range s.Tables {
		if s.Tables[i].Name == name {
			return &s.Tables[i], nil
		}
	}
	return nil, fmt.Errorf("there is no table %q in schema.yaml", name)
}

// at is the table as it was in a version of the schema.
func (t *Table) at(version int) *Table {
	old := *t
	old.Columns = slices.DeleteFunc(slices.Clone(t.Columns), func(c Column) bool { return c.Since > version })
	return &old
}

func (t *Table) column(name string) int {
	return slices.IndexFunc(t.Columns, func(c Column) bool { return c.Name == name })
}

// key is the columns that tell rows apart.
func (t *Table) key() []int {
	var key []int
	for i, c := range t.Columns {
		if len(t.Key) == 0 || slices.Contains(t.Key, c.Name) {
			key = append(key, i)
		}
	}
	return key
}

// units is the footer's copy of what the names say, as JSON with sorted keys.
func (t *Table) units() string {
	units := map[string]string{}
	for _, c := range t.Columns {
		if c.Unit != "" {
			units[c.Name] = c.Unit
		}
	}
	text, _ := json.Marshal(units) // a map of strings cannot fail
	return string(text)
}

func (t *Table) node() (*schema.GroupNode, error) {
	var fields schema.FieldList
	for _, c := range t.Columns {
		n, err := c.node()
		if err != nil {
			return nil, fmt.Errorf("table %s: column %s: %w", t.Name, c.Name, err)
		}
		fields = append(fields, n)
	}
	return schema.NewGroupNode("schema", parquet.Repetitions.Required, fields, -1)
}

func (c Column) repetition() parquet.Repetition {
	if c.Nullable {
		return parquet.Repetitions.Optional
	}
	return parquet.Repetitions.Required
}

func (c Column) node() (schema.Node, error) {
	physical, logical := c.Type.parquet()
	if logical == nil {
		return schema.NewPrimitiveNode(c.Name, c.repetition(), physical, -1, -1)
	}
	return schema.NewPrimitiveNodeLogical(c.Name, c.repetition(), logical, physical, -1, -1)
}

func (t Type) parquet() (parquet.Type, schema.LogicalType) {
	switch t {
	case Int64:
		return parquet.Types.Int64, nil
	case Int32:
		return parquet.Types.Int32, nil
	case Float64:
		return parquet.Types.Double, nil
	case Bool:
		return parquet.Types.Boolean, nil
	case Timestamp:
		return parquet.Types.Int64, schema.NewTimestampLogicalType(true, schema.TimeUnitMicros)
	default:
		return parquet.Types.ByteArray, schema.StringLogicalType{}
	}
}
