package main

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
)

// writeJSON writes one value, indented, and a newline.
func writeJSON(w io.Writer, value any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	if err := e.Encode(value); err != nil {
		return fmt.Errorf("write the JSON to standard output: %w", err)
	}
	return nil
}

// write is fmt.Fprintf whose failure (a full disk, a closed pipe) is not lost.
func write(w io.Writer, format string, args ...any) error {
	if _, err := fmt.Fprintf(w, format, args...); err != nil {
		return fmt.Errorf("write to standard output: %w", err)
	}
	return nil
}

// grid is a table in the making: numbers to the right, words to the left.
type grid struct {
	head table.Row
	t    table.Writer
}

// newGrid names the columns; a name that starts with ">" is a column of numbers.
func newGrid(columns ...string) *grid {
	g := &grid{t: table.NewWriter()}
	var configs []table.ColumnConfig
	for i, c := range columns {
		name, number := strings.CutPrefix(c, ">")
		g.head = append(g.head, name)
		align := text.AlignLeft
		if number {
			align = text.AlignRight
		}
		configs = append(configs, table.ColumnConfig{Number: i + 1, Align: align, AlignHeader: align, AlignFooter: align})
	}
	g.t.AppendHeader(g.head)
	g.t.SetColumnConfigs(configs)
	style := table.StyleLight
	style.Format.Header = text.FormatDefault
	style.Format.Footer = text.FormatDefault
	style.Options.DrawBorder = false
	style.Options.SeparateColumns = false
	style.Box.PaddingLeft, style.Box.PaddingRight = "", "  "
	g.t.SetStyle(style)
	g.t.SuppressTrailingSpaces()
	return g
}

func (g *grid) row(cells ...any) { g.t.AppendRow(cells) }

func (g *grid) total(cells ...any) { g.t.AppendFooter(cells) }

func (g *grid) print(w io.Writer) error { return write(w, "%s\n", g.t.Render()) }

// pairs prints names and values below each other, values aligned.
func pairs(w io.Writer, rows ...[2]string) error {
	width := 0
	for _, r := range rows {
		width = max(width, len(r[0]))
	}
	for _, r := range rows {
		if err := write(w, "%-*s  %s\n", width, r[0], r[1]); err != nil {
			return err
		}
	}
	return nil
}

// thousands groups digits: 5157512 is 5,157,512.
func thousands[T int | int64 | uint64 | int32](n T) string {
	s := fmt.Sprint(n)
	sign := ""
	if s[0] == '-' {
		sign, s = "-", s[1:]
	}
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return sign + s
}

// counted is "1 thread" or "2 threads".
func counted(n int, word string) string {
	if n != 1 {
		word += "s"
	}
	return thousands(n) + " " + word
}

// si is a number with three digits and a decimal prefix: 400.0 M.
func si(x float64) string {
	for _, step := range []struct {
		size float64
		unit string
	}{{1e12, " T"}, {1e9, " G"}, {1e6, " M"}, {1e3, " k"}} {
		if math.Abs(x) >= step.size {
			return strconv.FormatFloat(x/step.size, 'f', 2, 64) + step.unit
		}
	}
	return strconv.FormatFloat(x, 'f', -1, 64)
}

// bytesText is a size in binary units: 12.5 MiB.
func bytesText(n int64) string {
	x, unit := float64(n), "B"
	for _, u := range []string{"KiB", "MiB", "GiB", "TiB"} {
		if math.Abs(x) < 1024 {
			break
		}
		x, unit = x/1024, u
	}
	if unit == "B" {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%.1f %s", x, unit)
}

// durationText rounds to what a reader needs: 48 s, 3 min 20 s, 5 h 12 min, 3 d 4 h.
func durationText(d time.Duration) string {
	switch {
	case d < 10*time.Second:
		return fmt.Sprintf("%.1f s", d.Seconds())
	case d < time.Minute:
		return fmt.Sprintf("%.0f s", d.Seconds())
	case d < time.Hour:
		return fmt.Sprintf("%d min %d s", int(d.Minutes()), int(d.Seconds())%60)
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h %d min", int(d.Hours()), int(d.Minutes())%60)
	default:
		return fmt.Sprintf("%d d %d h", int(d.Hours())/24, int(d.Hours())%24)
	}
}

// joinInts is "1,2,7,12", as the flags take it.
func joinInts(list []int) string {
	parts := make([]string, len(list))
	for i, n := range list {
		parts[i] = strconv.Itoa(n)
	}
	return strings.Join(parts, ",")
}
