package anynetx

import (
	"strings"

	"pgregory.net/rapid"
)

func contains(err error, text string) bool { return err != nil && strings.Contains(err.Error(), text) }

// drawStage draws a stage as a law would, compatible or not.
func drawStage(t *rapid.T) Stage {
	return Stage{
		Depth:      rapid.IntRange(1, 4).Draw(t, "depth"),
		Width:      rapid.IntRange(1, 300).Draw(t, "width"),
		Bottleneck: rapid.IntRange(1, 8).Draw(t, "bottleneck"),
		GroupWidth: rapid.IntRange(1, 64).Draw(t, "group width"),
	}
}

func drawArchitecture(t *rapid.T) Architecture {
	var a Architecture
	for i := range a {
		a[i] = compatible(drawStage(t))
	}
	return a
}

func drawSetting(t *rapid.T) Setting {
	s := Setting{
		Stem:       rapid.SampledFrom([]Stem{ResStemIN, SimpleStemIN, ResStemCifar}).Draw(t, "stem"),
		StemWidth:  rapid.IntRange(1, 70).Draw(t, "stem width"),
		Resolution: rapid.IntRange(1, 70).Draw(t, "resolution"),
		Classes:    rapid.IntRange(2, 20).Draw(t, "classes"),
	}
	for i := range s.Strides {
		s.Strides[i] = rapid.IntRange(1, 2).Draw(t, "stride")
	}
	return s
}
