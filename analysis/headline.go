package analysis

import (
	"fmt"
	"math"
	"strings"
)

// verdict is how far the reference's ranking carries over to another task.
type verdict struct {
	Word string // for a label
	Text string // for a sentence
}

// ceilingKnown reports whether the replicates bound the ceiling away from 0; if not, they cannot say what noise allows.
func (c *Correlation) ceilingKnown() bool { return c.Ceiling > 0 && c.CeilingLow > 0 }

// overCeiling is rho with the noise of training taken out, NaN where the ceiling does not say how much that is.
func (c *Correlation) overCeiling() float64 {
	if !c.ceilingKnown() {
		return nan
	}
	return c.Rho / c.Ceiling
}

// judge reads rho beside its interval and ceiling. The bounds are ours and stated in the report.
func (c *Correlation) judge() verdict {
	share := c.Rho
	if c.ceilingKnown() {
		share = c.RhoOverCeiling
	}
	switch {
	case c.Reason != "":
		return verdict{"unknown", "cannot be said"}
	case math.IsNaN(c.Low):
		return verdict{"too few", "cannot be said with so few architectures"}
	case c.High < 0:
		return verdict{"reversed", "is reversed"}
	case c.Low <= 0:
		return verdict{"not shown", "is not shown to carry over"}
	case share >= 0.8:
		return verdict{"carries over", "carries over"}
	case share >= 0.5:
		return verdict{"partly", "carries over in part"}
	default:
		return verdict{"weakly", "carries over weakly"}
	}
}

// namedTasks is how many tasks a headline names with their numbers; of more it only gives counts.
const namedTasks = 4

// Headline answers the question of a study in a sentence or two.
func (a *Analysis) Headline() string {
	reference := a.Tasks[0].Name
	if len(a.Tasks) == 1 {
		return fmt.Sprintf("The study has the single task %s, so there is no second ranking to compare with.", reference)
	}
	var order []string
	tasks := map[string][]string{}
	for j := 1; j < len(a.Tasks); j++ {
		c := a.correlation(0, j)
		v := c.judge().Text
		if tasks[v] == nil {
			order = append(order, v)
		}
		name := a.Tasks[j].Name
		if c.Reason == "" && len(a.Tasks) <= namedTasks+1 {
			name += fmt.Sprintf(" (ρ = %s", number(c.Rho))
			switch {
			case c.ceilingKnown():
				name += fmt.Sprintf(", ceiling %s", number(c.Ceiling))
			case !math.IsNaN(c.CeilingLow):
				name += fmt.Sprintf(", ceiling unsure: %s", span(c.CeilingLow, c.CeilingHigh))
			}
			name += ")"
		}
		tasks[v] = append(tasks[v], name)
	}
	var parts []string
	for _, v := range order {
		word := "to"
		if v == "is reversed" || strings.HasPrefix(v, "cannot") {
			word = "for"
		}
		names := list(tasks[v])
		if n := len(tasks[v]); len(a.Tasks) > namedTasks+1 && n > 2 {
			names = fmt.Sprintf("%d of %d tasks", n, len(a.Tasks)-1)
		}
		parts = append(parts, fmt.Sprintf("%s %s %s", v, word, names))
	}
	return fmt.Sprintf("The ranking of architectures on %s %s.", reference, strings.Join(parts, "; it "))
}

func list(items []string) string {
	if len(items) < 2 {
		return strings.Join(items, "")
	}
	return strings.Join(items[:len(items)-1], ", ") + " and " + items[len(items)-1]
}
