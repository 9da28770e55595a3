package runner

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"anynetx/anynetx"

	"golang.org/x/term"
)

// Progress is told how a study gets on: by one goroutine, often.
type Progress interface {
	Update(Snapshot)
	Note(text string) // something worth a line of its own
	Close()
}

type noProgress struct{}

func (noProgress) Update(Snapshot) {}
func (noProgress) Note(string)     {}
func (noProgress) Close()          {}

// Modes of NewProgress.
const (
	ProgressAuto  = "auto"  // terminal if the file is one, else plain
	ProgressTTY   = "tty"   // some lines that are drawn again and again
	ProgressPlain = "plain" // a line now and then
	ProgressJSON  = "json"  // a JSON object a line
	ProgressNone  = "none"
)

// NewProgress shows progress on a file.
func NewProgress(f io.Writer, mode string) (Progress, error) {
	file, isFile := f.(*os.File)
	terminal := isFile && term.IsTerminal(int(file.Fd()))
	switch mode {
	case ProgressAuto:
		if terminal && os.Getenv("TERM") != "dumb" {
			return &terminalProgress{out: f, file: file}, nil
		}
		return &plainProgress{out: f}, nil
	case ProgressTTY:
		if !terminal {
			file = nil
		}
		return &terminalProgress{out: f, file: file}, nil
	case ProgressPlain:
		return &plainProgress{out: f}, nil
	case ProgressJSON:
		return &jsonProgress{out: json.NewEncoder(f)}, nil
	case ProgressNone:
		return noProgress{}, nil
	}
	return nil, anynetx.Inputf("progress is %q, must be %s, %s, %s, %s or %s", mode, ProgressAuto, ProgressTTY, ProgressPlain, ProgressJSON, ProgressNone)
}

// jsonProgress writes {"kind":"progress", ...} at most once a second and {"kind":"note","text":...}.
type jsonProgress struct {
	out  *json.Encoder
	last time.Time
	held *Snapshot
}

func (p *jsonProgress) Update(s Snapshot) {
	p.held = &s
	if time.Since(p.last) >= time.Second {
		p.flush()
	}
}

func (p *jsonProgress) flush() {
	if p.held == nil {
		return
	}
	p.last = time.Now()
	p.out.Encode(struct {
		Kind string `json:"kind"`
		Snapshot
	}{"progress", *p.held})
	p.held = nil
}

func (p *jsonProgress) Note(text string) {
	p.out.Encode(map[string]string{"kind": "note", "text": text})
}

func (p *jsonProgress) Close() { p.flush() }

// plainProgress writes a line when a run has ended, at most every 5 seconds, and otherwise every minute.
type plainProgress struct {
	out  io.Writer
	last time.Time
	done int
	held string
}

func (p *plainProgress) Update(s Snapshot) {
	p.held = headline(s)
	since := time.Since(p.last)
	if since >= time.Minute || since >= 5*time.Second && s.Done+s.Failed != p.done {
		p.done = s.Done + s.Failed
		p.flush()
	}
}

func (p *plainProgress) flush() {
	if p.held != "" {
		fmt.Fprintln(p.out, p.held)
		p.last, p.held = time.Now(), ""
	}
}

func (p *plainProgress) Note(text string) { fmt.Fprintln(p.out, printable(text)) }
func (p *plainProgress) Close()           { p.flush() }

// terminalProgress draws some lines over the ones before.
type terminalProgress struct {
	out   io.Writer
	file  *os.File // nil: width unknown
	last  time.Time
	lines int
	held  *Snapshot
}

func (p *terminalProgress) Update(s Snapshot) {
	p.held = &s
	if time.Since(p.last) >= 200*time.Millisecond {
		p.draw()
	}
}

func (p *terminalProgress) draw() {
	if p.held == nil {
		return
	}
	s := *p.held
	width, height := 100, 24
	if p.file != nil {
		if w, h, err := term.GetSize(int(p.file.Fd())); err == nil && w > 0 && h > 0 {
			width, height = w, h
		}
	}
	lines := []string{bar(s, width), headline(s)}
	for _, g := range s.GPUs {
		lines = append(lines, gpuLine(g))
	}
	for i, r := range s.Running {
		if len(lines)+1 >= height-1 {
			lines = append(lines, fmt.Sprintf("  and %d more", len(s.Running)-i))
			break
		}
		text := fmt.Sprintf("  %-10s %-20s %s  epoch %d/%d  %3.0f %%", r.Device, r.Task, r.ArchID, r.Epoch, r.Epochs, 100*r.Share)
		if _, known := r.Percent(); known {
			text += "  error " + r.Text()
		}
		lines = append(lines, text)
	}
	var text strings.Builder
	p.erase(&text)
	for _, line := range lines {
		runes := []rune(line)
		text.WriteString(string(runes[:min(len(runes), width-1)]) + "\n")
	}
	io.WriteString(p.out, text.String())
	p.last, p.lines, p.held = time.Now(), len(lines), nil
}

// erase goes back to the first line and clears to the end of the screen.
func (p *terminalProgress) erase(text *strings.Builder) {
	if p.lines > 0 {
		fmt.Fprintf(text, "\x1b[%dA\x1b[J", p.lines)
	}
	p.lines = 0
}

func (p *terminalProgress) Note(note string) {
	var text strings.Builder
	p.erase(&text)
	text.WriteString(printable(note) + "\n")
	io.WriteString(p.out, text.String())
}

func (p *terminalProgress) Close() { p.draw() }

func bar(s Snapshot, width int) string {
	cells := max(10, min(60, width-20))
	share := 0.0
	if s.Runs > 0 {
		share = float64(s.Done + s.Failed)
		for _, r := range s.Running {
			share += r.Share
		}
		share = min(1, share/float64(s.Runs))
	}
	full := int(share * float64(cells))
	return fmt.Sprintf("%s %s%s %3.0f %%", s.Study, strings.Repeat("█", full), strings.Repeat("░", cells-full), 100*share)
}

// gpuLine is a GPU in a line: "  GPU-1b2c3d4e   97 % busy  23.4 of 79.6 GiB  61 °C  310 W  812 images/s".
func gpuLine(g DeviceSample) string {
	text := fmt.Sprintf("  %-12.12s", g.Device)
	part := func(v *float64, format string) {
		if v != nil {
			text += fmt.Sprintf("  "+format, *v)
		}
	}
	part(g.Utilisation, "%3.0f %% busy")
	if g.MemoryUsed != nil && g.MemoryTotal != nil {
		text += fmt.Sprintf("  %4.1f of %.1f GiB", float64(*g.MemoryUsed)/(1<<30), float64(*g.MemoryTotal)/(1<<30))
	}
	part(g.TempC, "%2.0f °C")
	part(g.PowerW, "%3.0f W")
	part(g.ImagesPerSec, "%.0f images/s")
	return text
}

// headline says it all in a line.
func headline(s Snapshot) string {
	text := fmt.Sprintf("%d/%d runs done", s.Done, s.Runs)
	if s.Failed > 0 {
		text += fmt.Sprintf(", %d failed (%s)", s.Failed, countsText(s.FailureClasses))
	}
	if s.ImagesPerSecond > 0 {
		text += fmt.Sprintf(", %.0f images/s", s.ImagesPerSecond)
	}
	if s.Done+s.Failed < s.Runs {
		switch {
		case s.Remaining != nil:
			text += ", about " + DurationText(*s.Remaining) + " left"
		case s.Workers > 0:
			text += ", time left not known yet"
		}
	}
	var best []string
	for _, task := range s.Tasks {
		if b, ok := s.Best[task]; ok {
			best = append(best, task+" "+b.Text())
		}
	}
	if len(best) > 3 {
		best = append(best[:3], "...")
	}
	if len(best) > 0 {
		text += ", best error: " + strings.Join(best, ", ")
	}
	return text
}

// DurationText is "45 s", "12 min", "3 h 20 min", "5 d 4 h".
func DurationText(seconds float64) string {
	s := int(seconds + 0.5)
	switch {
	case s < 90:
		return fmt.Sprintf("%d s", s)
	case s < 90*60:
		return fmt.Sprintf("%d min", (s+30)/60)
	case s < 48*3600:
		return fmt.Sprintf("%d h %d min", s/3600, s%3600/60)
	}
	if s < 30*86400 {
		return fmt.Sprintf("%d d %d h", s/86400, s%86400/3600)
	}
	return fmt.Sprintf("%d d", s/86400)
}

// printable drops control characters, which a data set's or a library's text may hold.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, text)
}
