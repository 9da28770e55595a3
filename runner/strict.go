package runner

import (
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"anynetx/anynetx"

	"go.yaml.in/yaml/v3"
)

// inputAt is an error in a study file that names the line; the file's name is put in front by Parse.
type inputAt struct {
	line int
	text string
}

func (e inputAt) Error() string        { return fmt.Sprintf("line %d: %s", e.line, e.text) }
func (e inputAt) Is(target error) bool { return target == anynetx.ErrInput }

func at(n *yaml.Node, format string, args ...any) error {
	return inputAt{n.Line, fmt.Sprintf(format, args...)}
}

// decode fills out from a node as yaml does, but refuses what yaml lets pass: unknown keys (at any depth, with their line and the
// nearest known one), anchors and aliases (they make small files large), nulls where a value belongs.
func decode(n *yaml.Node, what string, out any) error {
	if err := known(n, what, reflect.TypeOf(out).Elem()); err != nil {
		return err
	}
	return lineOf(n.Decode(out), n)
}

var unmarshalerType = reflect.TypeFor[yaml.Unmarshaler]()

func known(n *yaml.Node, what string, t reflect.Type) error {
	if n.Kind == yaml.AliasNode || n.Anchor != "" {
		return at(n, "anchors and aliases are not read here; write the value out, or put it under \"defaults\"")
	}
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if n.Tag == "!!null" {
		return at(n, "%s has no value; give one or remove the line", what)
	}
	if reflect.PointerTo(t).Implements(unmarshalerType) || t == reflect.TypeFor[yaml.Node]() {
		return nil // looked at by its owner
	}
	switch t.Kind() {
	case reflect.Struct:
		if n.Kind != yaml.MappingNode {
			return at(n, "%s must be a list of \"key: value\" lines (%s)", what, strings.Join(keys(t), ", "))
		}
		for i := 0; i+1 < len(n.Content); i += 2 {
			key, value := n.Content[i], n.Content[i+1]
			field, ok := fieldOf(t, key.Value)
			if !ok {
				return unknown(key, what, keys(t))
			}
			if err := known(value, key.Value, field.Type); err != nil {
				return err
			}
		}
	case reflect.Map:
		for i := 0; n.Kind == yaml.MappingNode && i+1 < len(n.Content); i += 2 {
			if err := known(n.Content[i+1], n.Content[i].Value, t.Elem()); err != nil {
				return err
			}
		}
	case reflect.Slice, reflect.Array:
		for _, c := range n.Content {
			if err := known(c, what, t.Elem()); err != nil {
				return err
			}
		}
	}
	return nil
}

func unknown(key *yaml.Node, what string, list []string) error {
	nearest, best := "", 3
	for _, k := range list {
		if d := distance(k, key.Value); d < best {
			nearest, best = k, d
		}
	}
	if nearest != "" {
		return at(key, "unknown key %q in %s; did you mean %q?", key.Value, what, nearest)
	}
	return at(key, "unknown key %q in %s; known are %s", key.Value, what, strings.Join(list, ", "))
}

func keys(t reflect.Type) []string {
	var list []string
	for i := range t.NumField() {
		f := t.Field(i)
		name, options, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		switch {
		case name == "-" || !f.IsExported():
		case options == "inline":
			list = append(list, keys(f.Type)...)
		case name == "":
			list = append(list, strings.ToLower(f.Name))
		default:
			list = append(list, name)
		}
	}
	return list
}

func fieldOf(t reflect.Type, key string) (reflect.StructField, bool) {
	for i := range t.NumField() {
		f := t.Field(i)
		name, options, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		if options == "inline" {
			if g, ok := fieldOf(f.Type, key); ok {
				return g, true
			}
			continue
		}
		if name == "" {
			name = strings.ToLower(f.Name)
		}
		if name == key && name != "-" && f.IsExported() {
			return f, true
		}
	}
	return reflect.StructField{}, false
}

// distance is Levenshtein's.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		corner := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := corner
			if a[i] != b[j] {
				change++
			}
			corner = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

var yamlLine = regexp.MustCompile(`line (\d+): (.*)`)

// lineOf turns yaml's own errors ("yaml: unmarshal errors:\n  line 3: cannot unmarshal !!str `x` into int") into ours.
func lineOf(err error, n *yaml.Node) error {
	if err == nil {
		return nil
	}
	if e, ok := err.(inputAt); ok {
		return e
	}
	line := 0
	if n != nil {
		line = n.Line
	}
	text := err.Error()
	if m := yamlLine.FindStringSubmatch(text); m != nil {
		line, _ = strconv.Atoi(m[1])
		text = m[2]
	}
	text = strings.TrimPrefix(text, "yaml: ")
	text = strings.ReplaceAll(text, "cannot unmarshal !!", "the value is of the wrong kind: a YAML ")
	if i := strings.Index(text, " into "); i >= 0 {
		into := text[i+6:]
		switch {
		case strings.HasPrefix(into, "int"), strings.HasPrefix(into, "uint"):
			into = "a whole number"
		case strings.HasPrefix(into, "float"):
			into = "a number"
		case into == "bool":
			into = "true or false"
		case strings.HasPrefix(into, "["):
			into = "a list"
		case strings.HasPrefix(into, "map"):
			into = "names with values"
		}
		text = text[:i] + " where " + into + " is expected"
	}
	return inputAt{line, text}
}

// oneOf says whether value is in the list, and what the list is if not.
func oneOf(n *yaml.Node, what, value string, list ...string) error {
	if slices.Contains(list, value) {
		return nil
	}
	return at(n, "%s is %q, must be %s", what, value, strings.Join(list, " or "))
}
