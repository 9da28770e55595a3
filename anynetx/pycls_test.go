package anynetx

import (
	"encoding/json"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"
	"pgregory.net/rapid"
)

// Every network can be read back from its export by the rules of pycls: inner width round(w m), groups inner / g.
func TestPyclsReadsBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, s := drawArchitecture(t), drawSetting(t)
		n := build(t, a, s)
		var file struct {
			MODEL struct {
				TYPE        string
				NUM_CLASSES int
			} `yaml:"MODEL"`
			ANYNET struct {
				STEM_TYPE  Stem
				STEM_W     int
				BLOCK_TYPE string
				DEPTHS     []int
				WIDTHS     []int
				STRIDES    [4]int
				BOT_MULS   []float64
				GROUP_WS   []int
			} `yaml:"ANYNET"`
			TRAIN, TEST struct{ IM_SIZE int }
		}
		// The library looks for lower-case keys where no tag says otherwise; values have no upper case but in names of keys.
		text := n.Pycls()
		for _, key := range []string{"TYPE", "NUM_CLASSES", "STEM_TYPE", "STEM_W", "BLOCK_TYPE", "DEPTHS", "WIDTHS", "STRIDES", "BOT_MULS", "GROUP_WS", "IM_SIZE", "TRAIN", "TEST"} {
			text = strings.ReplaceAll(text, key+":", strings.ToLower(key)+":")
		}
		text = strings.ReplaceAll(text, "STEM_type", "stem_type")
		text = strings.ReplaceAll(text, "BLOCK_type", "block_type")
		decoder := yaml.NewDecoder(strings.NewReader(text))
		decoder.KnownFields(true)
		if err := decoder.Decode(&file); err != nil {
			t.Fatalf("%v in %s", err, text)
		}
		var back Architecture
		for i := range back {
			inner := int(math.RoundToEven(float64(file.ANYNET.WIDTHS[i]) * file.ANYNET.BOT_MULS[i]))
			if inner != a[i].InnerWidth() {
				t.Fatalf("stage %d: pycls takes inner width %d, not %d", i+1, inner, a[i].InnerWidth())
			}
			back[i] = Stage{file.ANYNET.DEPTHS[i], file.ANYNET.WIDTHS[i], int(math.Round(1 / file.ANYNET.BOT_MULS[i])), file.ANYNET.GROUP_WS[i]}
		}
		setting := Setting{file.ANYNET.STEM_TYPE, file.ANYNET.STEM_W, file.ANYNET.STRIDES, file.TRAIN.IM_SIZE, file.MODEL.NUM_CLASSES}
		if back != a || setting != s {
			t.Fatalf("%v, %+v comes back as %v, %+v", a, s, back, setting)
		}
		if file.MODEL.TYPE != "anynet" || file.ANYNET.BLOCK_TYPE != "res_bottleneck_block" || file.TEST.IM_SIZE < file.TRAIN.IM_SIZE {
			t.Fatalf("export is %s", n.Pycls())
		}
	})
}

func TestPyclsText(t *testing.T) {
	n := build(t, Architecture{{1, 32, 1, 16}, {2, 64, 2, 16}, {7, 160, 4, 40}, {12, 384, 1, 16}}, DefaultSetting())
	want := `MODEL:
  TYPE: anynet
  NUM_CLASSES: 1000
ANYNET:
  STEM_TYPE: res_stem_in
  STEM_W: 32
  BLOCK_TYPE: res_bottleneck_block
  DEPTHS: [1, 2, 7, 12]
  WIDTHS: [32, 64, 160, 384]
  STRIDES: [1, 2, 2, 2]
  BOT_MULS: [1.0, 0.5, 0.25, 1.0]
  GROUP_WS: [16, 16, 40, 16]
TRAIN:
  IM_SIZE: 224
TEST:
  IM_SIZE: 256
`
	comment, got, _ := strings.Cut(n.Pycls(), "\n")
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if !strings.HasPrefix(comment, "# anynetx "+n.Architecture.ID()+": ") {
		t.Errorf("first line is %q", comment)
	}
}

func TestSummary(t *testing.T) {
	a := Architecture{{1, 32, 1, 16}, {2, 64, 2, 16}, {7, 160, 4, 40}, {12, 384, 1, 16}}
	got, err := json.Marshal(Summarize(a, Complexity{3, 4, 5}))
	want := `{"id":"` + a.ID() + `","depths":[1,2,7,12],"widths":[32,64,160,384],"bottlenecks":[1,2,4,1],"group_widths":[16,16,40,16],"flops":3,"params":4,"activations":5}`
	if err != nil || string(got) != want {
		t.Errorf("%s, want %s (%v)", got, want, err)
	}
	if back := Summarize(a, Complexity{}).Architecture(); back != a {
		t.Errorf("%v comes back as %v", a, back)
	}
}
