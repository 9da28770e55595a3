package datasets

import "anynetx/anynetx"

// decodeCIFAR appends the records of a file of CIFAR's binary version: the label bytes (the last one counts), then the image channel by
// channel. labelClasses says how many values each label byte has.
func decodeCIFAR(split *Split, place string, data []byte, labelClasses []int, h, w, channels int) error {
	pixels, front := h*w, len(labelClasses)
	record := front + channels*pixels
	if len(data)%record != 0 {
		return anynetx.Inputf("%s: its %d bytes are not a multiple of %d, the size of a record: record %d is truncated; fetch the file again",
			place, len(data), record, len(data)/record)
	}
	at := len(split.Images)
	split.Images = append(split.Images, make([]byte, len(data)/record*channels*pixels)...)
	out := split.Images[at:]
	for row := range len(data) / record {
		r := data[row*record : (row+1)*record]
		for i, classes := range labelClasses {
			if int(r[i]) >= classes {
				return anynetx.Inputf("%s: label %d of row %d (byte %d) is class %d, but there are only classes 0 to %d; the file is damaged or of another data set",
					place, i, row, row*record+i, r[i], classes-1)
			}
		}
		split.Labels = append(split.Labels, int32(r[front-1]))
		image := out[row*channels*pixels:]
		for c := range channels {
			for i, v := range r[front+c*pixels : front+(c+1)*pixels] {
				image[i*channels+c] = v
			}
		}
	}
	return nil
}
