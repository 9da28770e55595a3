package bindings

import "testing"

func TestLayouts(t *testing.T) {
	for _, f := range layouts() {
		if f.offset != f.cOffset || f.size != f.cSize {
			t.Errorf("%s: offset %d and size %d in Go, %d and %d in C", f.name, f.offset, f.size, f.cOffset, f.cSize)
		}
	}
	// Every field is listed: those of a struct follow each other without a gap but for alignment.
	for _, whole := range []string{"tensor", "op"} {
		total, end := uintptr(0), uintptr(0)
		for _, f := range layouts() {
			if f.name == whole {
				total = f.size
			}
			if len(f.name) > len(whole) && f.name[:len(whole)+1] == whole+"." {
				if f.offset != end {
					t.Errorf("%s lies at byte %d, the field before it ends at %d", f.name, f.offset, end)
				}
				end = f.offset + f.size
			}
		}
		if end != total || total == 0 {
			t.Errorf("the fields of %s end at byte %d of %d", whole, end, total)
		}
	}
}
