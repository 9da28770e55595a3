package conformance

import (
	"fmt"
	"math"
	"testing"

	"anynetx/bindings"
)

// probe is a bound case whose inputs can be varied.
type probe struct {
	*Bound
	t *testing.T
}

func newProbe(t *testing.T, ctx *bindings.Context, c *Case) *probe {
	t.Helper()
	b, err := Bind(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	return &probe{b, t}
}

// id is the number of a tensor by its name.
func (p *probe) id(name string) int {
	for i := range p.Case.Tensors {
		if p.Case.Tensors[i].Name == name {
			return i
		}
	}
	p.t.Fatalf("case %s has no tensor %q", p.Case.Name, name)
	return -1
}

// values is what a tensor of the case holds before it runs.
func (p *probe) values(name string) []float32 { return float32s(p.Case.Tensors[p.id(name)].Data) }

// run is the outputs by name after a run from the original contents, but for one tensor, which may be "".
func (p *probe) run(name string, values []float32) map[string][]float64 {
	p.t.Helper()
	if err := p.Reset(); err != nil {
		p.t.Fatal(err)
	}
	if name != "" {
		if err := p.write(p.id(name), bindings.Bytes(values)); err != nil {
			p.t.Fatal(err)
		}
	}
	if err := p.Run(); err != nil {
		p.t.Fatal(err)
	}
	if name == "" {
		if _, err := p.Collect(); err != nil {
			p.t.Fatal(err)
		}
	}
	results := map[string][]float64{}
	for i := range p.Case.Tensors {
		t := &p.Case.Tensors[i]
		if !t.Output {
			continue
		}
		data := make([]byte, t.Elements()*t.DType.Bytes())
		var err error
		if t.Layout == bindings.Activation {
			activation := make([]float32, t.Elements())
			err = p.context.Unpack(p.tensor(i), p.buffer, activation)
			data = bindings.Bytes(activation)
		} else {
			err = p.buffer.Read(p.spans[i].offset, data)
		}
		if err != nil {
			p.t.Fatal(err)
		}
		results[t.Name] = decode(data, t.DType)
	}
	return results
}

// check compares a gradient of loss, which is a function of the case's outputs, with central differences of step h at up to 24 elements
// of the tensor name, spread over it. An element may be off by tolerance, all together by a quarter of it, of the gradient's rms.
func (p *probe) check(name string, gradient []float64, h, tolerance float64, loss func(outputs map[string][]float64) float64) {
	p.t.Helper()
	values := p.values(name)
	if len(values) != len(gradient) {
		p.t.Fatalf("case %s: %d values of %s, %d of its gradient", p.Case.Name, len(values), name, len(gradient))
	}
	rms := 0.0
	for _, g := range gradient {
		rms += g * g
	}
	rms = math.Sqrt(rms / float64(len(gradient)))
	if rms == 0 {
		p.t.Fatalf("case %s: the gradient of %s is all zero", p.Case.Name, name)
	}
	count, squares := min(24, len(values)), 0.0
	for i := range count {
		at := i * len(values) / count
		moved := append([]float32(nil), values...)
		moved[at] = values[at] + float32(h)
		up, step := loss(p.run(name, moved)), float64(moved[at])
		moved[at] = values[at] - float32(h)
		down := loss(p.run(name, moved))
		step -= float64(moved[at])
		got := (up - down) / step
		squares += (got - gradient[at]) * (got - gradient[at])
		if math.Abs(got-gradient[at]) > tolerance*(rms+math.Abs(gradient[at])) {
			p.t.Errorf("case %s: the gradient of %s[%d] is %.7g, differences give %.7g (rms %.3g)", p.Case.Name, name, at, gradient[at], got, rms)
		}
	}
	if off := math.Sqrt(squares / float64(count)); off > tolerance/4*rms {
		p.t.Errorf("case %s: the gradient of %s is off by %.3g (rms of %d elements), its rms is %.3g", p.Case.Name, name, off, count, rms)
	}
}

func dot(a []float32, b []float64) float64 {
	sum := 0.0
	for i := range a {
		sum += float64(a[i]) * b[i]
	}
	return sum
}

// transplant puts the contents of one case's tensor into another's.
func transplant(to *Case, name string, from *Case, fromName string) {
	for i := range to.Tensors {
		for j := range from.Tensors {
			if to.Tensors[i].Name == name && from.Tensors[j].Name == fromName {
				to.Tensors[i].Data = from.Tensors[j].Data
			}
		}
	}
}

func TestConvGradients(t *testing.T) {
	ctx := reference(t)
	for _, s := range []convShape{
		grouped(2, 5, 4, 3, 3, 1), grouped(2, 7, 5, 2, 5, 2), {2, 4, 5, 10, 12, 1, 1, 10}, {2, 5, 7, 6, 4, 1, 2, 6}, {2, 9, 8, 3, 5, 7, 2, 3}, {2, 1, 1, 9, 7, 1, 1, 9},
		{2, 5, 5, 6, 9, 3, 2, 2},
	} {
		for _, affine := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s affine=%t", s, affine), func(t *testing.T) {
				// L = sum of G Y is linear in W and bias, and piecewise linear in X.
				forwardCase := convFwd(s, convOptions{affine: affine, bias: true})
				backwardCase := convBwd(s, convOptions{affine: affine, bias: true, sums: affine})
				for _, name := range []string{"X", "s", "t", "W"} {
					transplant(&backwardCase, name, &forwardCase, name)
				}
				forward, backward := newProbe(t, ctx, &forwardCase), newProbe(t, ctx, &backwardCase)
				g := backward.values("G")
				loss := func(outputs map[string][]float64) float64 { return dot(g, outputs["Y"]) }
				results := backward.run("", nil)
				dx := results["dX"]
				if affine {
					// dX is the gradient behind s X + t: that of X is s times it.
					scale, x, mean := forward.values("s"), forward.values("X"), backward.values("mean")
					sums := make([]float64, 2*s.c)
					dx = append([]float64(nil), dx...)
					for i := range dx {
						sums[i%s.c] += dx[i]
						sums[s.c+i%s.c] += dx[i] * (float64(x[i]) - float64(mean[i%s.c]))
						dx[i] *= float64(scale[i%s.c])
					}
					for i, want := range sums {
						if math.Abs(results["sums"][i]-want) > 1e-9*(1+math.Abs(want)) {
							t.Errorf("sums[%d] is %.12g, want %.12g", i, results["sums"][i], want)
						}
					}
				}
				forward.check("X", dx, 0x1p-13, 2e-2, loss)
				forward.check("W", results["dW"], 0.25, 1e-4, loss)
				forward.check("bias", results["dbias"], 0.25, 1e-4, loss)
			})
		}
	}
}

// D = al G + be Y + de and add: the same op without them must say the same about D, plus add where it is not masked.
func TestConvBackwardFoldsBatchNormAndAdd(t *testing.T) {
	ctx := reference(t)
	s := grouped(2, 5, 5, 3, 4, 2)
	folded := convBwd(s, convOptions{affine: true, sums: true, bias: true, bn: true, add: true})
	plainCase := convBwd(s, convOptions{affine: true, sums: true, bias: true})
	p := newProbe(t, ctx, &folded)
	g, y, al, be, de, add := p.values("G"), p.values("Y"), p.values("al"), p.values("be"), p.values("de"), p.values("add")
	d := make([]float32, len(g))
	for i := range d {
		k := i % s.k
		d[i] = float32(float64(al[k])*float64(g[i]) + float64(be[k])*float64(y[i]) + float64(de[k]))
	}
	for _, name := range []string{"X", "s", "t", "mean", "W"} {
		transplant(&plainCase, name, &folded, name)
	}
	plainCase.Tensors[0].Data = bindings.Bytes(d)
	want, got := newProbe(t, ctx, &plainCase).run("", nil), p.run("", nil)
	x, scale, shift := p.values("X"), p.values("s"), p.values("t")
	for i := range want["dX"] {
		if c := i % s.c; scale[c]*x[i]+shift[c] > 0 {
			want["dX"][i] += float64(add[i])
		}
	}
	for _, name := range []string{"dX", "dW", "dbias"} {
		for i, w := range want[name] {
			if math.Abs(got[name][i]-w) > 2e-6*(1+math.Abs(w)) {
				t.Errorf("%s[%d] is %.9g, want %.9g", name, i, got[name][i], w)
			}
		}
	}
}

func TestPoolGradient(t *testing.T) {
	ctx := reference(t)
	for _, size := range [][2]int{{7, 6}, {4, 4}, {1, 1}, {2, 3}} {
		h, w, c := size[0], size[1], 3
		forwardCase, backwardCase := poolFwd(2, h, w, c, tiesRare), poolBwd(2, h, w, c, tiesRare)
		// All values of a map differ, by 1/64 at least: no ties, and no kink within the step.
		b := newBuilder("pool gradient", fmt.Sprint(h, w))
		values := make([]float32, 2*h*w*c)
		for i, place := range b.stream.Permutation(len(values)) {
			values[i] = float32(int(place)-len(values)/2) / 64
		}
		forwardCase.Tensors[0].Data = bindings.Bytes(values)
		for _, name := range []string{"S", "s", "t"} {
			transplant(&backwardCase, name, &forwardCase, name)
		}
		forward, backward := newProbe(t, ctx, &forwardCase), newProbe(t, ctx, &backwardCase)
		dx0, scale, mean := backward.values("dX0"), forward.values("s"), backward.values("mean")
		results := backward.run("", nil)
		gradient := append([]float64(nil), results["G"]...)
		sums := make([]float64, 2*c)
		for i := range gradient {
			sums[i%c] += gradient[i]
			sums[c+i%c] += gradient[i] * (float64(values[i]) - float64(mean[i%c]))
			gradient[i] *= float64(scale[i%c])
		}
		for i, want := range sums {
			if math.Abs(results["sums"][i]-want) > 1e-9*(1+math.Abs(want)) {
				t.Errorf("sums[%d] is %.12g, want %.12g", i, results["sums"][i], want)
			}
		}
		forward.check("S", gradient, 0x1p-13, 1e-4, func(outputs map[string][]float64) float64 { return dot(dx0, outputs["X0"]) })
	}
}

func TestXentGradient(t *testing.T) {
	ctx := reference(t)
	for _, o := range []xentOptions{{valid: 6, scale: 1, gradient: true}, {valid: 4, scale: 1024, gradient: true, smoothing: 0.1}} {
		c := xent(6, 11, o)
		p := newProbe(t, ctx, &c)
		p.check("logits", p.run("", nil)["dlogits"], 0x1p-8, 1e-4, func(outputs map[string][]float64) float64 {
			return outputs["counters"][bindings.LossSum] * o.scale / float64(o.valid)
		})
	}
}

// The whole step, end to end: the mean loss against every parameter's gradient, through stems with and without pooling, projections,
// strides, batch norms (whose statistics move with the weights) and both joins. ReLUs bend, so the step is small and the tolerance wide;
// a wrong term is off by tens of per cent.
func TestProgramGradients(t *testing.T) {
	ctx := reference(t)
	for _, o := range []networkOptions{
		{n: 8, side: 8, g: 3, stride: 2, pool: true, projection: true, live: true},
		{n: 8, side: 7, g: 2, stride: 2, projection: true, live: true},
		{n: 8, side: 5, g: 5, stride: 1, live: true},
	} {
		c := networkCase(o)
		t.Run(c.Name, func(t *testing.T) {
			p := newProbe(t, ctx, &c)
			results := p.run("", nil)
			checked := 0
			for i := range c.Tensors {
				name := c.Tensors[i].Name
				gradient, ok := results["d "+name]
				if !ok || c.Tensors[i].Data == nil {
					continue
				}
				checked++
				p.check(name, gradient, 0x1p-10, 8e-2, func(outputs map[string][]float64) float64 {
					return outputs["counters"][bindings.LossSum] / float64(o.n)
				})
			}
			if want := 14 + 3*map[bool]int{true: 1}[o.projection]; checked != want {
				t.Errorf("%d parameters were checked, want %d", checked, want)
			}
		})
	}
}
