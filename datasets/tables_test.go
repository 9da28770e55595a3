package datasets

import (
	"bytes"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"anynetx/random"
	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"
	"pgregory.net/rapid"
)

// blank is a set without pixels, enough for tables.
func blank(images, h, w int) *Set {
	s := Split{Labels: make([]int32, images)}
	return &Set{Name: "blank", Classes: []string{"a", "b"}, H: h, W: w, C: 1, Train: s, Test: s}
}

// column takes one number of every row.
func column(table []int32, c int) []int {
	var v []int
	for i := c; i < len(table); i += Columns {
		v = append(v, int(table[i]))
	}
	return v
}

// wantUniform asserts by a chi-square test that values are uniform over lo..hi. A right law fails it once in 10^6 seeds; these are fixed.
func wantUniform(t *testing.T, name string, values []int, lo, hi int) {
	t.Helper()
	counts := map[int]int{}
	for _, v := range values {
		if v < lo || v > hi {
			t.Fatalf("%s: %d lies outside %d..%d", name, v, lo, hi)
		}
		counts[v]++
	}
	cells := hi - lo + 1
	want := float64(len(values)) / float64(cells)
	chi := 0.0
	for v := lo; v <= hi; v++ {
		d := float64(counts[v]) - want
		chi += d * d / want
	}
	freedom := float64(cells - 1)
	if limit := freedom + 4.9*math.Sqrt(2*freedom) + 16; chi > limit {
		t.Errorf("%s: not uniform over %d..%d: chi-square %.1f, limit %.1f: %v", name, lo, hi, chi, limit, counts)
	}
}

func TestTableGolden(t *testing.T) {
	// A change here changes the bits of every run.
	got := TrainTable(blank(4, 32, 32), Augmentation{Flip: true, Crop: CropPadded, Padding: 4}, 32, random.New(1, "golden"), 2)
	want := []int32{0, -3, 3, 32, 32, 0, 0, 0, 1, 4, 0, 32, 32, 0, 0, 0, 3, 2, -2, 32, 32, 1, 0, 0, 2, 1, 3, 32, 32, 0, 0, 0}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	got = TrainTable(blank(2, 256, 320), Augmentation{Crop: CropResized}, 224, random.New(1, "golden"), 0)
	want = []int32{1, 0, 29, 247, 263, 0, 0, 0, 0, 8, 75, 149, 189, 0, 0, 0}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestTrainTableRows(t *testing.T) {
	const n = 40_000
	stream := random.New(5, "tables")
	set := blank(n, 32, 36)
	table := TrainTable(set, Augmentation{Flip: true, Crop: CropPadded, Padding: 4}, 32, stream, 0)
	if len(table) != n*Columns {
		t.Fatalf("%d numbers", len(table))
	}
	order := column(table, 0)
	wantUniform(t, "first tenth of the order", bins(order[:n/10], n/20), 0, 19)
	slices.Sort(order)
	for i, v := range order {
		if v != i {
			t.Fatalf("image %d is not there exactly once", i)
		}
	}
	wantUniform(t, "y", column(table, 1), -4, 4)
	wantUniform(t, "x", column(table, 2), -4, 8)
	wantUniform(t, "flip", column(table, 5), 0, 1)
	var joint []int
	for i, y := range column(table, 1) {
		joint = append(joint, ((y+4)*13+column(table[i*Columns:(i+1)*Columns], 2)[0]+4)*2+int(table[i*Columns+5]))
	}
	wantUniform(t, "y, x and flip together", joint, 0, 9*13*2-1)
	if slices.Max(column(table, 3)) != 32 || slices.Min(column(table, 4)) != 32 || slices.Max(column(table, 6)) != 0 || slices.Max(column(table, 7)) != 0 {
		t.Error("size or reserved columns")
	}
}

func bins(values []int, width int) []int {
	var b []int
	for _, v := range values {
		b = append(b, v/width)
	}
	return b
}

func TestTrainTableIsNamed(t *testing.T) {
	stream := random.New(5, "tables")
	a := Augmentation{Flip: true, Crop: CropResized}
	row := func(table []int32, image int) []int32 {
		i := slices.Index(column(table, 0), image)
		return table[i*Columns : (i+1)*Columns]
	}
	first := TrainTable(blank(300, 40, 40), a, 32, stream, 1)
	if !slices.Equal(first, TrainTable(blank(300, 40, 40), a, 32, stream, 1)) {
		t.Fatal("not a function of its inputs")
	}
	// An image's numbers are its own, whatever else the set holds.
	more := TrainTable(blank(500, 40, 40), a, 32, stream, 1)
	other := TrainTable(blank(300, 40, 40), a, 32, stream, 2)
	another := TrainTable(blank(300, 40, 40), a, 32, random.New(6, "tables"), 1)
	same := 0
	for i := range 300 {
		if !slices.Equal(row(first, i), row(more, i)) {
			t.Fatalf("image %d depends on the size of the set", i)
		}
		if slices.Equal(row(first, i), row(other, i)) || slices.Equal(row(first, i), row(another, i)) {
			same++
		}
	}
	if same > 10 {
		t.Errorf("%d of 300 rows are the same in another epoch or stream", same)
	}
	if slices.Equal(column(first, 0), column(other, 0)) {
		t.Error("two epochs have one order")
	}
	// The caller's memory is used, and what stands before stays.
	dst := append(make([]int32, 0, 3+300*Columns), 7, 7, 7)
	got := AppendTrainTable(dst, blank(300, 40, 40), a, 32, stream, 1)
	if &got[0] != &dst[0] || got[2] != 7 || !slices.Equal(got[3:], first) {
		t.Error("append")
	}
	for i := range dst[:cap(dst)] {
		dst[:cap(dst)][i] = 99 // leftovers of an earlier epoch
	}
	if got := AppendTrainTable(dst[:0], blank(300, 40, 40), a, 32, stream, 1); !slices.Equal(got, first) {
		t.Error("leftovers show")
	}
}

func TestRandomResizedCrop(t *testing.T) {
	const n, h0, w0 = 60_000, 1000, 1200
	table := TrainTable(blank(n, h0, w0), Augmentation{Crop: CropResized}, 64, random.New(2, "tables"), 0)
	var area, ratio, places []int
	for i := range n {
		r := table[i*Columns : (i+1)*Columns]
		y, x, h, w := int(r[1]), int(r[2]), int(r[3]), int(r[4])
		if y < 0 || x < 0 || h < 1 || w < 1 || y+h > h0 || x+w > w0 || r[5] != 0 {
			t.Fatalf("row %v", r)
		}
		a, q := float64(h*w)/(h0*w0), float64(w)/float64(h)
		if a < 0.079 || a > 1 || q < 0.745 || q > 1.34 {
			t.Fatalf("row %v: area %v ratio %v", r, a, q)
		}
		if a >= 0.1 && a < 0.5 { // these fit whatever the ratio, so both laws show undistorted
			area = append(area, int((a-0.1)/0.05))
			ratio = append(ratio, min(3, max(0, int((math.Log(q)/math.Log(4.0/3)+1)*2))))
			places = append(places, min(3, 4*y/(h0-h))*4+min(3, 4*x/(w0-w)))
		}
	}
	wantUniform(t, "area", area, 0, 7)
	wantUniform(t, "log of the ratio", ratio, 0, 3)
	wantUniform(t, "places", places, 0, 15)
	// Large windows fit less often: how often, tells a simulation of the law's text.
	source := rand.New(rand.NewPCG(1, 2))
	below := 0
	for range n {
		for {
			a, q := 0.08+0.92*source.Float64(), math.Pow(4.0/3, 2*source.Float64()-1)
			if math.Sqrt(a*h0*w0*q) <= w0 && math.Sqrt(a*h0*w0/q) <= h0 {
				if a >= 0.1 && a < 0.5 {
					below++
				}
				break
			}
		}
	}
	if math.Abs(float64(below-len(area))) > 5*math.Sqrt(n/2) {
		t.Errorf("%d of the windows have 0.1 to 0.5 of the area, %d were expected", len(area), below)
	}
	// Nothing of the whole area and ratio 1 fits: the largest centred square.
	square := Augmentation{Crop: CropResized, Area: [2]float64{1, 1}, Ratio: [2]float64{1, 1}}
	for _, c := range []struct {
		h, w int
		want []int32
	}{{10, 100, []int32{0, 45, 10, 10}}, {100, 10, []int32{45, 0, 10, 10}}} {
		if diff := cmp.Diff(c.want, TrainTable(blank(1, c.h, c.w), square, 8, random.New(2, "t"), 0)[1:5]); diff != "" {
			t.Error(diff)
		}
	}
}

func TestWindows(t *testing.T) {
	for _, c := range []struct {
		name        string
		h, w        int
		a           Augmentation
		resolution  int
		train, test []int32 // y x h w; nil: not one window
	}{
		{"same size", 32, 32, Augmentation{}, 32, []int32{0, 0, 32, 32}, []int32{0, 0, 32, 32}},
		{"resized", 28, 28, Augmentation{Crop: CropNone}, 32, []int32{0, 0, 28, 28}, []int32{0, 0, 28, 28}},
		{"small in the middle", 28, 28, Augmentation{Crop: CropPadded}, 32, []int32{-2, -2, 32, 32}, []int32{-2, -2, 32, 32}},
		{"just enough padding", 28, 28, Augmentation{Crop: CropPadded, Padding: 2}, 32, []int32{-2, -2, 32, 32}, []int32{-2, -2, 32, 32}},
		{"odd", 27, 30, Augmentation{Crop: CropPadded}, 32, []int32{-3, -1, 32, 32}, []int32{-3, -1, 32, 32}},
		{"moving", 28, 28, Augmentation{Crop: CropPadded, Padding: 4}, 32, nil, []int32{-2, -2, 32, 32}},
		{"224 of 256", 256, 256, Augmentation{Crop: CropResized}, 224, nil, []int32{16, 16, 224, 224}},
		{"test resize", 256, 256, Augmentation{Crop: CropResized, TestResize: 224}, 224, nil, []int32{0, 0, 256, 256}},
		{"112 of 256", 256, 256, Augmentation{Crop: CropResized}, 112, nil, []int32{16, 16, 224, 224}},
		{"rounded", 100, 90, Augmentation{Crop: CropResized, TestResize: 73}, 64, nil, []int32{10, 5, 79, 79}}, // 64 * 90 / 73 = 78.9
		{"oblong", 256, 320, Augmentation{Crop: CropResized}, 224, nil, []int32{16, 48, 224, 224}},
	} {
		if err := c.a.Validate(c.resolution); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		set := blank(20, c.h, c.w)
		test := TestTable(set, c.a, c.resolution)
		train := TrainTable(set, c.a, c.resolution, random.New(1, "w"), 0)
		for i := range 20 {
			r := test[i*Columns : (i+1)*Columns]
			if !slices.Equal(r[1:5], c.test) || int(r[0]) != i || r[5] != 0 {
				t.Errorf("%s: test row %v, want %v", c.name, r, c.test)
				break
			}
			if r := train[i*Columns : (i+1)*Columns]; c.train != nil && !slices.Equal(r[1:5], c.train) {
				t.Errorf("%s: training row %v, want %v", c.name, r, c.train)
				break
			}
		}
	}
}

func TestPaddedWindowsStayNearTheImage(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := rapid.IntRange(1, 60).Draw(t, "h")
		w := rapid.IntRange(1, 60).Draw(t, "w")
		padding := rapid.IntRange(0, 10).Draw(t, "padding")
		resolution := rapid.IntRange(1, 60).Draw(t, "resolution")
		table := TrainTable(blank(30, h, w), Augmentation{Crop: CropPadded, Padding: padding}, resolution, random.New(rapid.Uint64().Draw(t, "seed")), 0)
		inside := func(at, side int) bool {
			if resolution <= side+2*padding {
				return at >= -padding && at+resolution <= side+padding
			}
			before, after := -at, at+resolution-side
			return before-after == 0 || before-after == 1
		}
		for i := range 30 {
			if r := table[i*Columns:]; !inside(int(r[1]), h) || !inside(int(r[2]), w) {
				t.Fatalf("%v", r[:Columns])
			}
		}
	})
}

func TestAugmentationsThatCannotBe(t *testing.T) {
	for _, c := range []struct {
		a          Augmentation
		resolution int
		says       string
	}{
		{Augmentation{Crop: "centre"}, 32, `"centre"`},
		{Augmentation{}, 0, "resolution 0"},
		{Augmentation{}, 5000, "resolution 5000"},
		{Augmentation{Crop: CropPadded, Padding: -1}, 32, "padding is -1"},
		{Augmentation{Padding: 4}, 32, "padding is for crop padded"},
		{Augmentation{Crop: CropPadded, TestResize: 40}, 32, "crop resized"},
		{Augmentation{Crop: CropResized, Area: [2]float64{0, 1}}, 32, "area is [0 1]"},
		{Augmentation{Crop: CropResized, Area: [2]float64{0.5, 0.1}}, 32, "area"},
		{Augmentation{Crop: CropResized, Area: [2]float64{0.5, 1.1}}, 32, "area"},
		{Augmentation{Crop: CropResized, Area: [2]float64{math.NaN(), 1}}, 32, "area"},
		{Augmentation{Crop: CropResized, Ratio: [2]float64{2, 1}}, 32, "ratio"},
		{Augmentation{Crop: CropResized, Ratio: [2]float64{1, math.Inf(1)}}, 32, "ratio"},
		{Augmentation{Crop: CropResized, Ratio: [2]float64{1, math.NaN()}}, 32, "ratio"},
		{Augmentation{Crop: CropResized, TestResize: 31}, 32, "test_resize is 31"},
	} {
		wantInput(t, c.a.Validate(c.resolution), c.says)
	}
}

func TestAugmentationInYAML(t *testing.T) {
	for _, a := range []Augmentation{{}, {Flip: true, Crop: CropPadded, Padding: 4}, {Crop: CropResized, Area: [2]float64{0.2, 1}, Ratio: [2]float64{1, 2}, TestResize: 256}} {
		text, err := yaml.Marshal(a)
		if err != nil {
			t.Fatal(err)
		}
		var back Augmentation
		d := yaml.NewDecoder(bytes.NewReader(text))
		d.KnownFields(true)
		if err := d.Decode(&back); err != nil || back != a {
			t.Errorf("%+v became %+v through %q: %v", a, back, text, err)
		}
	}
	if err := yaml.Unmarshal([]byte("area: [0.1, 0.5, 1]"), new(Augmentation)); err == nil {
		t.Error("three numbers are no range")
	}
}

func BenchmarkTrainTable(b *testing.B) {
	set := blank(60_000, 28, 28)
	for _, crop := range []string{CropNone, CropPadded, CropResized} {
		b.Run(crop, func(b *testing.B) {
			var table []int32
			for epoch := range b.N {
				table = AppendTrainTable(table[:0], set, Augmentation{Flip: true, Crop: crop}, 28, random.New(1, "bench"), epoch)
			}
		})
	}
}
