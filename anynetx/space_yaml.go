package anynetx

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

const maxSpaceBytes = 1 << 20 // of a space file

// ParseSpace reads a space file; name is only for messages. A top-level part that is left out is the paper's.
func ParseSpace(data []byte, name string) (Space, error) {
	if len(data) > maxSpaceBytes {
		return Space{}, Inputf("%s: %d bytes, a space file has at most %d: is it another file?", name, len(data), maxSpaceBytes)
	}
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	var document, second yaml.Node
	switch err := decoder.Decode(&document); {
	case errors.Is(err, io.EOF):
		return Space{}, Inputf("%s: is empty; a space file with only {} stands for the paper's space", name)
	case err != nil:
		return Space{}, Inputf("%s: is not valid YAML: %s", name, strings.TrimPrefix(err.Error(), "yaml: "))
	}
	if err := decoder.Decode(&second); !errors.Is(err, io.EOF) {
		if err != nil {
			return Space{}, Inputf("%s: is not valid YAML: %s", name, strings.TrimPrefix(err.Error(), "yaml: "))
		}
		return Space{}, Inputf("%s:%d: a second document starts here; a space file has one", name, second.Line)
	}
	return spaceReader{name}.space(document.Content[0])
}

// UnmarshalYAML reads a space that is part of another file, under the rules of ParseSpace.
func (s *Space) UnmarshalYAML(node *yaml.Node) error {
	space, err := spaceReader{}.space(node)
	if err == nil {
		*s = space
	}
	return err
}

// spaceReader walks the tree by hand: so every error has its line, unknown and repeated keys are errors also where a space is part
// of another file, and no alias is ever expanded.
type spaceReader struct{ file string }

func (r spaceReader) fail(node *yaml.Node, format string, args ...any) error {
	place := fmt.Sprintf("line %d", node.Line)
	if r.file != "" {
		place = fmt.Sprintf("%s:%d", r.file, node.Line)
	}
	return Inputf("%s: %w", place, fmt.Errorf(format, args...))
}

func (r spaceReader) space(node *yaml.Node) (Space, error) {
	var s Space
	parts := []string{"depth", "width", "bottleneck", "group_width", "compatibility", "setting", "band"}
	fields, err := r.fields(node, "a space", parts...)
	if err != nil {
		return s, err
	}
	if len(fields) < len(parts) {
		s = DefaultSpace() // its file leaves out nothing
	}
	for _, law := range s.laws() {
		if value, given := fields[law.name]; given {
			if *law.law, err = r.law(value, law.name); err != nil {
				return s, err
			}
			if err := law.validate(); err != nil {
				return s, r.fail(value, "%w", err)
			}
		}
	}
	if value, given := fields["compatibility"]; given {
		text, err := r.text(value, "compatibility", string(CompatibilityPycls))
		if err != nil {
			return s, err
		}
		s.Compatibility = Compatibility(text)
	}
	if value, given := fields["setting"]; given {
		if s.Setting, err = r.setting(value); err != nil {
			return s, err
		}
	}
	if value, given := fields["band"]; given {
		if s.Band, err = r.band(value); err != nil {
			return s, err
		}
	}
	return s, nil
}

func (r spaceReader) law(node *yaml.Node, name string) (Law, error) {
	fields, err := r.fields(node, name, "law", "low", "high", "quantum", "values")
	if err != nil {
		return Law{}, err
	}
	if fields["law"] == nil {
		return Law{}, r.fail(node, "%s has no law: write law: log_uniform, uniform or choice", name)
	}
	kind, err := r.text(fields["law"], "law of "+name, "log_uniform", "uniform", "choice")
	if err != nil {
		return Law{}, err
	}
	needed := []string{"low", "high"}
	if kind == "choice" {
		needed = []string{"values"}
	}
	for _, key := range needed {
		if fields[key] == nil {
			return Law{}, r.fail(node, "%s, law %s, has no %s: add it", name, kind, key)
		}
	}
	for key, value := range fields {
		if key != "law" && !slices.Contains(needed, key) && (kind == "choice" || key != "quantum") {
			return Law{}, r.fail(value, "%s, law %s, has no use for %s: remove it", name, kind, key)
		}
	}
	var law Law
	if kind == "choice" {
		values, err := r.wholes(fields["values"], "values of "+name)
		if err != nil {
			return Law{}, err
		}
		law, err = Choice(values...)
		if err != nil {
			return Law{}, r.fail(fields["values"], "%s: %w", name, err)
		}
		return law, nil
	}
	numbers := map[string]int{"quantum": 1}
	for _, key := range []string{"low", "high", "quantum"} {
		if fields[key] != nil {
			number, err := r.small(fields[key], key+" of "+name)
			if err != nil {
				return Law{}, err
			}
			numbers[key] = number
		}
	}
	if kind == "uniform" {
		law, err = Uniform(numbers["low"], numbers["high"], numbers["quantum"])
	} else {
		law, err = LogUniform(numbers["low"], numbers["high"], numbers["quantum"])
	}
	if err != nil {
		return Law{}, r.fail(node, "%s: %w", name, err)
	}
	return law, nil
}

func (r spaceReader) setting(node *yaml.Node) (Setting, error) {
	s := DefaultSetting()
	fields, err := r.fields(node, "setting", "stem", "stem_width", "strides", "resolution", "classes")
	if err != nil {
		return s, err
	}
	if value := fields["stem"]; value != nil {
		text, err := r.text(value, "stem", string(ResStemIN), string(SimpleStemIN), string(ResStemCifar))
		if err != nil {
			return s, err
		}
		s.Stem = Stem(text)
	}
	for key, into := range map[string]*int{"stem_width": &s.StemWidth, "resolution": &s.Resolution, "classes": &s.Classes} {
		if value := fields[key]; value != nil {
			if *into, err = r.small(value, key); err != nil {
				return s, err
			}
		}
	}
	if value := fields["strides"]; value != nil {
		strides, err := r.wholes(value, "strides")
		if err != nil {
			return s, err
		}
		if len(strides) != Stages {
			return s, r.fail(value, "strides has %d values, must have %d, one for each stage", len(strides), Stages)
		}
		s.Strides = [Stages]int(strides)
	}
	if err := s.Validate(); err != nil {
		return s, r.fail(node, "setting: %w", err)
	}
	return s, nil
}

func (r spaceReader) band(node *yaml.Node) (Band, error) {
	var b Band
	fields, err := r.fields(node, "band", "flops", "params", "activations")
	if err != nil {
		return b, err
	}
	for _, part := range []struct {
		name string
		into *Range
	}{{"flops", &b.FLOPs}, {"params", &b.Params}, {"activations", &b.Activations}} {
		value := fields[part.name]
		if value == nil {
			continue
		}
		bounds, err := r.fields(value, "band of "+part.name, "low", "high")
		if err != nil {
			return b, err
		}
		for key, into := range map[string]*int64{"low": &part.into.Low, "high": &part.into.High} {
			if bounds[key] != nil {
				if *into, err = r.whole(bounds[key], key+" of "+part.name); err != nil {
					return b, err
				}
			}
		}
		if err := part.into.validate(part.name); err != nil {
			return b, r.fail(value, "%w", err)
		}
	}
	return b, nil
}

// fields are the values of a mapping by key; every key must be one of those allowed, and come once.
func (r spaceReader) fields(node *yaml.Node, name string, allowed ...string) (map[string]*yaml.Node, error) {
	if node.Kind != yaml.MappingNode {
		return nil, r.fail(node, "%s must be a mapping with the keys %s", name, strings.Join(allowed, ", "))
	}
	fields := map[string]*yaml.Node{}
	for i := 0; i < len(node.Content); i += 2 {
		key, value := node.Content[i], node.Content[i+1]
		if key.Kind != yaml.ScalarNode || !slices.Contains(allowed, key.Value) {
			return nil, r.fail(key, "%s has no key %.40q; its keys are %s", name, key.Value, strings.Join(allowed, ", "))
		}
		if fields[key.Value] != nil {
			return nil, r.fail(key, "%s has the key %s twice: remove one", name, key.Value)
		}
		if value.Kind == yaml.AliasNode {
			return nil, r.fail(value, "%s of %s is an alias: write the value out", key.Value, name)
		}
		fields[key.Value] = value
	}
	return fields, nil
}

func (r spaceReader) text(node *yaml.Node, name string, allowed ...string) (string, error) {
	if node.Kind != yaml.ScalarNode || !slices.Contains(allowed, node.Value) {
		return "", r.fail(node, "%s is %.40q, must be %s", name, node.Value, strings.Join(allowed, " or "))
	}
	return node.Value, nil
}

// whole reads 400e6 as well as 400000000 and 400_000_000.
func (r spaceReader) whole(node *yaml.Node, name string) (int64, error) {
	if node.Kind == yaml.ScalarNode && (node.Tag == "!!int" || node.Tag == "!!float") {
		text := strings.ReplaceAll(node.Value, "_", "")
		if v, err := strconv.ParseInt(text, 10, 64); err == nil {
			return v, nil
		}
		if v, err := strconv.ParseFloat(text, 64); err == nil && v == math.Trunc(v) && math.Abs(v) < 1<<53 {
			return int64(v), nil
		}
	}
	return 0, r.fail(node, "%s is %.40q, must be a whole number", name, node.Value)
}

func (r spaceReader) small(node *yaml.Node, name string) (int, error) {
	v, err := r.whole(node, name)
	if err == nil && v != int64(int32(v)) {
		err = r.fail(node, "%s is %d, which is out of any range", name, v)
	}
	return int(v), err
}

func (r spaceReader) wholes(node *yaml.Node, name string) ([]int, error) {
	if node.Kind != yaml.SequenceNode {
		return nil, r.fail(node, "%s must be a list of whole numbers, like [1, 2, 4]", name)
	}
	list := make([]int, len(node.Content))
	for i, item := range node.Content {
		v, err := r.small(item, fmt.Sprintf("value %d of %s", i+1, name))
		if err != nil {
			return nil, err
		}
		list[i] = v
	}
	return list, nil
}
