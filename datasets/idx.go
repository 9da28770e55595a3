package datasets

import (
	"encoding/binary"

	"anynetx/anynetx"
)

// decodeIDX checks an IDX file of unsigned bytes against the sizes it must have and returns what follows the header.
func decodeIDX(place string, data []byte, sizes ...int) ([]byte, error) {
	header := 4 + 4*len(sizes)
	if len(data) < header {
		return nil, anynetx.Inputf("%s: it ends at byte %d, inside the header of %d bytes; fetch the file again", place, len(data), header)
	}
	// two zeros, the type 8 for unsigned bytes, the number of sizes
	if magic, want := binary.BigEndian.Uint32(data), uint32(0x0800+len(sizes)); magic != want {
		return nil, anynetx.Inputf("%s: it begins with %08x at byte 0, where an IDX file of unsigned bytes with %d sizes has %08x; this is not the file its name says",
			place, magic, len(sizes), want)
	}
	total := 1
	for i, want := range sizes {
		at := 4 + 4*i
		if got := binary.BigEndian.Uint32(data[at:]); uint64(got) != uint64(want) {
			return nil, anynetx.Inputf("%s: the size at byte %d is %d, this data set has %d there; the file is damaged or of another data set", place, at, got, want)
		}
		total *= want
	}
	switch body := data[header:]; {
	case len(body) < total:
		return nil, anynetx.Inputf("%s: it is truncated at byte %d of %d; fetch the file again", place, len(data), header+total)
	case len(body) > total:
		return nil, anynetx.Inputf("%s: there are further bytes after byte %d, where it should end; fetch the file again", place, header+total)
	default:
		return body, nil
	}
}

// decodeLabels turns one byte per image into labels below classes.
func decodeLabels(place string, data []byte, classes int) ([]int32, error) {
	labels := make([]int32, len(data))
	for row, b := range data {
		if int(b) >= classes {
			return nil, anynetx.Inputf("%s: row %d is class %d, but there are only classes 0 to %d; the file is damaged or of another data set", place, row, b, classes-1)
		}
		labels[row] = int32(b)
	}
	return labels, nil
}
