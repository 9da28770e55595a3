package runner

import (
	"slices"
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
	// A data set may take as long as it likes to load, as long as it comes: for those that wait for it.
	loading := watchdog{limits: limits}
	loading.hear(s, &Message{Kind: "start", RunID: "waits"}, second(0))
	loading.hear(&slot{}, &Message{Kind: "start", RunID: "of another process"}, second(0))
	loading.hear(s, &Message{Kind: "progress", RunID: "steps", Steps: 5, Expect: 30}, second(0))
	for at := 0.0; at <= 600; at++ {
		var got []string
		for _, h := range loading.overdue(second(at)) {
			got = append(got, h.runID)
		}
		slices.Sort(got)
		var want []string
		if at > 100 {
			want = append(want, "of another process")
		}
		if at > 300 {
			want = append(want, "steps")
		}
		if at > 500 { // nothing came since 400
			want = append(want, "waits")
		}
		if !slices.Equal(got, want) {
			t.Fatalf("loading until 400: %v hang at %v s, want %v", got, at, want)
		}
		if at <= 400 {
			loading.hear(s, &Message{Kind: "loading"}, second(at))
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
