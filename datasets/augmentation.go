package datasets

import (
	"math"

	"anynetx/anynetx"
)

// The ways to cut a training image.
const (
	CropNone    = "none"    // the whole image, resized where the resolution is another
	CropPadded  = "padded"  // a window of the resolution's size, anywhere in the image with a border of Padding pixels; the paper's and pycls's for CIFAR
	CropResized = "resized" // a window of random area and ratio, resized; for test, the centre of the image resized to TestResize
)

// Augmentation says how samples are cut and flipped; zero values mean the usual ones named here.
type Augmentation struct {
	Flip       bool       `yaml:"flip" json:"flip"`                                   // left to right, every second image on average
	Crop       string     `yaml:"crop" json:"crop"`                                   // "none" (also ""), "padded" or "resized"
	Padding    int        `yaml:"padding,omitempty" json:"padding,omitempty"`         // of "padded": pixels on each side; what lies outside is the mean colour
	Area       [2]float64 `yaml:"area,omitempty,flow" json:"area,omitzero"`           // of "resized": part of the image's area; [0.08, 1]
	Ratio      [2]float64 `yaml:"ratio,omitempty,flow" json:"ratio,omitzero"`         // of "resized": width to height; [3/4, 4/3]
	TestResize int        `yaml:"test_resize,omitempty" json:"test_resize,omitempty"` // of "resized": short side of a test image before its centre is cut; 8/7 of the resolution, so 256 for 224
}

const (
	maxResolution = 4096
	maxPadding    = 4096
)

// withDefaults fills in the values that zero stands for.
func (a Augmentation) withDefaults(resolution int) Augmentation {
	if a.Crop == "" {
		a.Crop = CropNone
	}
	if a.Area == [2]float64{} {
		a.Area = [2]float64{0.08, 1}
	}
	if a.Ratio == [2]float64{} {
		a.Ratio = [2]float64{3.0 / 4, 4.0 / 3}
	}
	if a.TestResize == 0 {
		a.TestResize = (resolution*8 + 3) / 7
	}
	return a
}

// Validate says what is wrong with an augmentation, given the network's resolution. TrainTable and TestTable expect a valid one.
func (a Augmentation) Validate(resolution int) error {
	if resolution < 1 || resolution > maxResolution {
		return anynetx.Inputf("resolution %d cannot be used: it must lie in 1 to %d", resolution, maxResolution)
	}
	switch a.Crop {
	case "", CropNone, CropPadded, CropResized:
	default:
		return anynetx.Inputf("augmentation: crop is %q, it must be none, padded or resized", a.Crop)
	}
	if a.Padding < 0 || a.Padding > maxPadding {
		return anynetx.Inputf("augmentation: padding is %d, it must lie in 0 to %d", a.Padding, maxPadding)
	}
	if a.Padding > 0 && a.Crop != CropPadded {
		return anynetx.Inputf("augmentation: padding is for crop padded, and crop is %q", a.Crop)
	}
	if (a.Area != [2]float64{} || a.Ratio != [2]float64{} || a.TestResize != 0) && a.Crop != CropResized {
		return anynetx.Inputf("augmentation: area, ratio and test_resize are for crop resized, and crop is %q", a.Crop)
	}
	a = a.withDefaults(resolution)
	if !(a.Area[0] > 0 && a.Area[0] <= a.Area[1] && a.Area[1] <= 1) {
		return anynetx.Inputf("augmentation: area is %v, it must be two numbers, the smaller first, above 0 and up to 1", a.Area)
	}
	if !(a.Ratio[0] > 0 && a.Ratio[0] <= a.Ratio[1] && a.Ratio[1] <= 100 && a.Ratio[0] >= 0.01) {
		return anynetx.Inputf("augmentation: ratio is %v, it must be two numbers, the smaller first, in 0.01 to 100", a.Ratio)
	}
	if a.TestResize < resolution || a.TestResize > 2*maxResolution {
		return anynetx.Inputf("augmentation: test_resize is %d, it must lie in %d (the resolution) to %d", a.TestResize, resolution, 2*maxResolution)
	}
	return nil
}

// resizedWindow draws a window as torchvision's RandomResizedCrop does: ten tries at an area uniform in a.Area and a ratio log-uniform in
// a.Ratio; if none fits, the largest centred window within a.Ratio. unit(k) is the k-th number in [0, 1) of this sample, below(k, n) in [0, n).
func (a Augmentation) resizedWindow(h, w int, logLow, logRange float64, unit func(uint64) float64, below func(k, n uint64) uint64) (y, x, height, width int) {
	area := float64(h) * float64(w)
	for try := range uint64(10) {
		// The conversions keep compilers from fusing multiply and add, which some machines would and others would not.
		target := area * (a.Area[0] + float64(unit(2*try)*(a.Area[1]-a.Area[0])))
		ratio := math.Exp(logLow + float64(unit(2*try+1)*logRange))
		width = int(math.RoundToEven(math.Sqrt(target * ratio)))
		height = int(math.RoundToEven(math.Sqrt(target / ratio)))
		if width > 0 && width <= w && height > 0 && height <= h {
			return int(below(20, uint64(h-height+1))), int(below(21, uint64(w-width+1))), height, width
		}
	}
	height, width = h, w
	if ratio := float64(w) / float64(h); ratio < a.Ratio[0] {
		height = max(1, int(math.RoundToEven(float64(w)/a.Ratio[0])))
	} else if ratio > a.Ratio[1] {
		width = max(1, int(math.RoundToEven(float64(h)*a.Ratio[1])))
	}
	return (h - height) / 2, (w - width) / 2, height, width
}
