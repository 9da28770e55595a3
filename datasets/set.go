// Package datasets finds, checks and reads data sets, cuts subsets out of them, and draws the sample tables that steer crop and flip.
//
// A set lies in memory as bytes; nothing here knows networks. Whatever is random is a function of a named stream (package random).
package datasets

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math"
	"math/big"
	"strings"
	"unicode"
	"unicode/utf8"

	"anynetx/anynetx"
)

// Set is a data set in memory.
type Set struct {
	Name        string
	Classes     []string
	H, W, C     int // C: 1 or 3
	Train, Test Split
	Mean, Std   [3]float64 // of the training pixels, in 0..1; one channel is repeated. A channel without variance has Std 1.
}

// Split is a list of images, [count][H][W][C], and their labels.
type Split struct {
	Images []byte
	Labels []int32
}

// PerClass counts the images of each class.
func (s Split) PerClass(classes int) []int {
	counts := make([]int, classes)
	for _, l := range s.Labels {
		counts[l]++
	}
	return counts
}

// Digest is a SHA-256 over everything a training run sees of the set: sizes, class names, pixels, labels. It reads the whole set.
func (s *Set) Digest() string {
	h := sha256.New()
	fmt.Fprintf(h, "anynetx set 1\n%d %d %d %d %d %d\n", s.H, s.W, s.C, len(s.Classes), len(s.Train.Labels), len(s.Test.Labels))
	for _, c := range s.Classes {
		fmt.Fprintf(h, "%d:%s\n", len(c), c)
	}
	for _, split := range []Split{s.Train, s.Test} {
		h.Write(split.Images)
		h.Write(labelBytes(split.Labels))
	}
	return hex.EncodeToString(h.Sum(nil))
}

func labelBytes(labels []int32) []byte {
	b := make([]byte, 0, 4*len(labels))
	for _, l := range labels {
		b = binary.LittleEndian.AppendUint32(b, uint32(l))
	}
	return b
}

// finish checks what every reader must deliver, and fills in Mean and Std. place names the files in errors.
func (s *Set) finish(place string) error {
	if s.H < 1 || s.W < 1 || s.C != 1 && s.C != 3 {
		return anynetx.Inputf("%s: images of %d x %d pixels and %d channels cannot be used: at least 1 x 1 and 1 or 3 channels are needed", place, s.H, s.W, s.C)
	}
	if len(s.Classes) < 2 {
		return anynetx.Inputf("%s: there are %d classes, at least 2 are needed", place, len(s.Classes))
	}
	seen := map[string]bool{}
	for i, c := range s.Classes {
		if c == "" || seen[c] || strings.ContainsFunc(c, unicode.IsControl) || !utf8.ValidString(c) {
			return anynetx.Inputf("%s: class %d is called %q, which is empty, there twice or not printable; give it another name", place, i, c)
		}
		seen[c] = true
	}
	pixels := s.H * s.W * s.C
	for _, split := range []struct {
		name string
		Split
	}{{"training", s.Train}, {"test", s.Test}} {
		if len(split.Labels) == 0 {
			return anynetx.Inputf("%s: there are no %s images", place, split.name)
		}
		if len(split.Images) != len(split.Labels)*pixels {
			return anynetx.Inputf("%s: %d bytes of %s images do not fit %d labels: %d bytes were expected",
				place, len(split.Images), split.name, len(split.Labels), len(split.Labels)*pixels)
		}
		for row, l := range split.Labels {
			if l < 0 || int(l) >= len(s.Classes) {
				return anynetx.Inputf("%s: row %d of the %s labels is class %d, but there are only classes 0 to %d; the file is damaged or of another data set",
					place, row, split.name, l, len(s.Classes)-1)
			}
		}
	}
	s.Mean, s.Std = statistics(s.Train.Images, s.C)
	return nil
}

// statistics is exact up to the last rounding: sums are whole numbers, so no order of summation shows.
func statistics(images []byte, channels int) (mean, std [3]float64) {
	var counts [3][256]uint64
	if channels == 1 {
		var a, b, c, d [256]uint64 // four tables, lest runs of equal pixels wait for each other
		i := 0
		for ; i+4 <= len(images); i += 4 {
			a[images[i]]++
			b[images[i+1]]++
			c[images[i+2]]++
			d[images[i+3]]++
		}
		for ; i < len(images); i++ {
			a[images[i]]++
		}
		for v := range 256 {
			counts[0][v] = a[v] + b[v] + c[v] + d[v]
		}
	} else {
		for i := 0; i+3 <= len(images); i += 3 {
			counts[0][images[i]]++
			counts[1][images[i+1]]++
			counts[2][images[i+2]]++
		}
	}
	for ch := range 3 {
		if ch >= channels {
			mean[ch], std[ch] = mean[0], std[0]
			continue
		}
		var n, sum, squares uint64
		for v := range uint64(256) {
			n += counts[ch][v]
			sum += counts[ch][v] * v
			squares += counts[ch][v] * v * v
		}
		if n == 0 {
			std[ch] = 1
			continue
		}
		big1 := func(v uint64) *big.Int { return new(big.Int).SetUint64(v) }
		mean[ch], _ = new(big.Rat).SetFrac(big1(sum), new(big.Int).Mul(big1(n), big.NewInt(255))).Float64()
		// variance = (n squares - sum^2) / (255 n)^2
		up := new(big.Int).Sub(new(big.Int).Mul(big1(n), big1(squares)), new(big.Int).Mul(big1(sum), big1(sum)))
		down := new(big.Int).Mul(big1(n), big.NewInt(255))
		variance, _ := new(big.Rat).SetFrac(up, down.Mul(down, down)).Float64()
		std[ch] = math.Sqrt(variance)
		if variance == 0 {
			std[ch] = 1
		}
	}
	return mean, std
}
