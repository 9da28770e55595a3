package verify

import (
	"os"
	"testing"

	"anynetx/bindings"
	"anynetx/bindings/conformance"
)

// variant is the case with other values: those of every float tensor and of the images moved on by some places, and other slots.
func variant(c conformance.Case, model int) conformance.Case {
	c.Tensors = append([]conformance.Tensor(nil), c.Tensors...)
	c.Slots = append([]float64(nil), c.Slots...)
	for i := range c.Tensors {
		t := &c.Tensors[i]
		if size := t.DType.Bytes(); t.Data != nil && t.DType != bindings.I32 {
			if t.Layout == bindings.Activation {
				size = 4
			}
			by := model * size % len(t.Data)
			t.Data = append(append([]byte(nil), t.Data[by:]...), t.Data[:by]...)
		}
	}
	for _, o := range c.Ops {
		if s := o.Slot[0]; s >= 0 {
			switch o.Kind {
			case bindings.Input: // rows in front may be bad on purpose
			case bindings.Xent:
				c.Slots[s] = max(c.Slots[s]-float64(model), min(c.Slots[s], 1))
			default:
				c.Slots[s] /= float64(1 + model)
			}
		}
	}
	return c
}

// TestModels: the models of one launch get the bits that each of them gets alone, in every op, on the reference too.
func TestModels(t *testing.T) {
	for _, dtype := range []bindings.DType{bindings.F16, bindings.F32, bindings.BF16} {
		t.Run(dtype.String(), func(t *testing.T) {
			t.Parallel()
			seen, ran := map[string]int{}, map[string]int{}
			every := 24 // of each family; a GPU has time for all
			if backend() == "cuda" || os.Getenv("ANX_CASES") != "" {
				every = 1
			} else if dtype != bindings.F16 {
				every = 96
			}
			for _, name := range []string{backend(), "reference"} {
				ctx := open(t, name)
				for i, c := range cases(t) {
					if seen[name+c.Family]++; (seen[name+c.Family]-1)%every != 0 {
						continue
					}
					device, host := c.InDType(dtype)
					if name == "reference" {
						device = host
					}
					models := []conformance.Case{device, variant(device, 1), variant(device, 2)}[:2+i%2]
					together, err := runModels(ctx, models)
					if err != nil {
						t.Error(err)
						continue
					}
					for m := range models {
						alone, err := runCase(ctx, &models[m])
						if err == nil {
							err = conformance.SameBits(&device, alone, together[m])
						}
						if err != nil {
							t.Errorf("%s, model %d of %d: %v", name, m, len(models), err)
						}
					}
					ran[c.Family]++
				}
			}
			t.Logf("cases whose models agree, by family: %v", ran)
		})
	}
}
