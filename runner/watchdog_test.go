package runner

import (
	"testing"
	"time"
)

func TestWatchdog(t *testing.T) {
	s := &slot{}
	progress := func(steps int64, expect float64) *Message {
		return &Message{Kind: "progress", RunID: "r", Steps: steps, Expect: expect}
	}
	limits := HangLimits{Factor: 10, FloorSeconds: 20, StartSeconds: 100}
	for _, c := range []struct {
		name   string
		last   *Message
		silent float64 // seconds
		hangs  bool
	}{
		{"starting", &Message{Kind: "start", RunID: "r"}, 99, false},
		{"never starts", &Message{Kind: "start", RunID: "r"}, 101, true},
		{"fast steps, under the floor", progress(5, 0.01), 19, false},
		{"fast steps, over the floor", progress(5, 0.01), 21, true},
		{"slow steps", progress(5, 30), 299, false},
		{"slow steps, too slow", progress(5, 30), 301, true},
		{"ended", &Message{Kind: "end", RunID: "r"}, 1e6, false},
	} {
		w := watchdog{limits: limits}
		w.hear(s, &Message{Kind: "start", RunID: "r"}, second(0))
		w.hear(s, c.last, second(0))
		var got []hang
		for at := 0.0; at <= c.silent; at++ { // it is looked at each second
			got = w.overdue(second(at))
		}
		if (len(got) > 0) != c.hangs {
			t.Errorf("%s: %+v", c.name, got)
		}
	}
	// While the coordinator itself is stopped, nobody is judged by the silence.
	w := watchdog{limits: limits}
	w.hear(s, progress(5, 0.01), second(0))
	for at := range 10 {
		w.overdue(second(float64(at)))
	}
	behind := progress(5, 0.01) // of a run that is heard of right behind the pause
	behind.RunID = "behind"
	w.hear(s, behind, second(1000))
	if got := w.overdue(second(1000)); len(got) != 0 {
		t.Errorf("after a pause of the coordinator: %+v", got)
	}
	for at := 1001.0; at <= 1021; at++ {
		want := 0
		if at > 1011 {
			want++
		}
		if at > 1020 {
			want++
		}
		if got := w.overdue(second(at)); len(got) != want {
			t.Errorf("%v seconds after: %+v, want %d", at-1000, got, want)
		}
	}
	w.gone(s)
	if got := w.overdue(second(1012)); len(got) != 0 {
		t.Errorf("a run of a process that is gone hangs: %+v", got)
	}
}

func TestPace(t *testing.T) {
	var p pace
	if p.median() != 0 || p.end(10) != 0 {
		t.Error("nothing was measured, but something is expected")
	}
	for range 100 {
		p.step(2 * time.Second)
	}
	for range 10 {
		p.step(time.Hour) // outliers, such as a checkpoint on a slow disk
	}
	if p.median() != 2 || p.end(10) != 20 || p.steps != 110 {
		t.Errorf("median %v, end %v, %d steps", p.median(), p.end(10), p.steps)
	}
}
