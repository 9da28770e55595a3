package verify

import (
	"errors"
	"strings"
	"testing"

	"anynetx/bindings"
	"anynetx/bindings/conformance"
)

// find is the first case whose name contains the text.
func find(t *testing.T, text string) conformance.Case {
	for _, c := range conformance.Cases() {
		if strings.Contains(c.Name, text) {
			return c
		}
	}
	t.Fatalf("no case %q", text)
	return conformance.Case{}
}

func wantStatus(t *testing.T, err error, status bindings.Status, text string) {
	t.Helper()
	var native *bindings.Error
	if !errors.As(err, &native) || native.Status != status || !strings.Contains(err.Error(), text) {
		t.Errorf("the error is %v; want status %v and %q", err, status, text)
	}
}

// TestFaultsOfData: what only the device sees (a row of the table, a label) is an error of the run that reads it first.
func TestFaultsOfData(t *testing.T) {
	ctx := open(t, backend())
	for _, column := range []struct {
		at   int
		text string
	}{{bindings.SampleImage, "names image 9999"}, {bindings.SampleH, "rectangle"}, {bindings.SampleFlip, "flip 9999"}} {
		c := find(t, "input whole")
		c.Tensors = append([]conformance.Tensor(nil), c.Tensors...)
		for i := range c.Tensors {
			if c.Tensors[i].Name != "samples" {
				continue
			}
			data := append([]byte(nil), c.Tensors[i].Data...)
			value := int32(9999)
			if column.at == bindings.SampleH {
				value = 0
			}
			copy(data[4*(5*bindings.SampleColumns+column.at):], bindings.Bytes([]int32{value}))
			c.Tensors[i].Data = data
		}
		_, err := runCase(ctx, &c)
		wantStatus(t, err, bindings.InvalidArgument, column.text)
	}
	c := find(t, "xent")
	c.Tensors = append([]conformance.Tensor(nil), c.Tensors...)
	for i := range c.Tensors {
		if c.Tensors[i].Name == "y" {
			c.Tensors[i].Data = append([]byte(nil), c.Tensors[i].Data...)
			copy(c.Tensors[i].Data, bindings.Bytes([]int32{-3}))
		}
	}
	_, err := runCase(ctx, &c)
	wantStatus(t, err, bindings.InvalidArgument, "label of row 0 is -3")
}

// TestOutOfMemory: a buffer that does not fit is a status, and the context stays usable.
func TestOutOfMemory(t *testing.T) {
	ctx := open(t, backend())
	_, err := ctx.NewBuffer(1 << 46)
	wantStatus(t, err, bindings.OutOfMemory, "wanted")
	if b, err := ctx.NewBuffer(1 << 10); err != nil {
		t.Error(err)
	} else {
		b.Close()
	}
}

func TestWrongDevices(t *testing.T) {
	library, err := bindings.Load(backend())
	if err != nil {
		t.Skip(err)
	}
	_, err = library.NewContext(bindings.ContextOptions{Device: 99})
	wantStatus(t, err, bindings.InvalidArgument, "device 99")
	_, err = library.NewContext(bindings.ContextOptions{ISA: "sm_10"})
	wantStatus(t, err, bindings.Unsupported, "sm_10")
}
