// Package random draws numbers as a function of a name and a counter.
//
// Nothing in anynetx keeps the state of a generator: a stream is named by the seed and by what it is for ("init", data set,
// architecture, replicate ...), and its n-th number depends on that name and on n alone. So results do not depend on the order in
// which things happen, on the number of workers, or on being killed and resumed.
package random

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math"
	"math/bits"
)

// Stream is a sequence of numbers; the zero Stream is not valid, use New.
type Stream struct{ key [2]uint64 }

// New names a stream. Parts are separated unambiguously, so New(1, "a", "bc") and New(1, "ab", "c") differ.
func New(seed uint64, parts ...any) Stream {
	h := sha256.New()
	fmt.Fprintf(h, "anynetx stream 1\n%d\n", seed)
	for _, p := range parts {
		text := fmt.Sprint(p)
		fmt.Fprintf(h, "%d:%s\n", len(text), text)
	}
	sum := h.Sum(nil)
	return Stream{[2]uint64{binary.LittleEndian.Uint64(sum), binary.LittleEndian.Uint64(sum[8:])}}
}

// Uint64 is the i-th number of the stream: two rounds of a keyed 64-bit mixer (the finaliser of SplitMix64).
func (s Stream) Uint64(i uint64) uint64 { return mix(mix(i*0x9e3779b97f4a7c15+s.key[0]) ^ s.key[1]) }

func mix(z uint64) uint64 {
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// Below is a number in [0, n), from the high bits of the i-th number; the bias is below n / 2^64.
func (s Stream) Below(i, n uint64) uint64 {
	high, _ := bits.Mul64(s.Uint64(i), n)
	return high
}

// Float64 is a multiple of 2^-53 in [0, 1).
func (s Stream) Float64(i uint64) float64 { return float64(s.Uint64(i)>>11) * 0x1p-53 }

// Normal is the i-th standard normal number (Box-Muller on the numbers 2i and 2i+1).
func (s Stream) Normal(i uint64) float64 {
	u := 1 - s.Float64(2*i) // in (0, 1]
	return math.Sqrt(-2*math.Log(u)) * math.Cos(2*math.Pi*s.Float64(2*i+1))
}

// Permutation is a uniform permutation of 0..n-1 (Fisher-Yates from the top).
func (s Stream) Permutation(n int) []int32 {
	p := make([]int32, n)
	for i := range p {
		p[i] = int32(i)
	}
	for i := n - 1; i > 0; i-- {
		j := s.Below(uint64(i), uint64(i)+1)
		p[i], p[j] = p[j], p[i]
	}
	return p
}
