package live

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"anynetx/runner"
)

// scripted is a study whose view the test sets.
type scripted struct {
	mu   sync.Mutex
	view *runner.View
	err  error
}

func (s *scripted) Look() (*runner.View, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.view, s.err
}

func (s *scripted) set(v *runner.View, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.view, s.err = v, err
}

// viewOf is a study of two tasks with some architectures done on both; their order is the same, but for the last.
func viewOf(done int) *runner.View {
	busy, rate, memory, power := 97.5, 812.0, int64(3<<30), 310.5
	ten, two := 10.0, 2.5
	best := func(arch string, e runner.TestError) *runner.Result {
		return &runner.Result{ArchID: arch, TestError: e}
	}
	v := &runner.View{
		Status: &runner.StudyStatus{Study: `shoes "and" bags`, Dir: "study", Runs: 20, Done: 2 * done, Failed: 1, Running: 1, FailureClasses: map[string]int{"diverged": 1},
			Tasks:  []runner.TaskStatus{{Task: "ten", Runs: 10, Done: done, Best: best("a0", runner.TestError{Top1: &ten})}, {Task: "two", Runs: 10, Done: done, Failed: 1, Best: best("a1", runner.TestError{Top5: &two})}},
			Active: []runner.ActiveRun{{RunID: "r", Task: "two", ArchID: "a9", Host: "h", Device: "GPU-1", Epoch: 1, Epochs: 4}}},
		ImagesPerSecond: rate,
		Devices: []*runner.DeviceHistory{{Host: "h", Device: "GPU-1", Samples: []runner.DeviceSample{
			{Time: time.Now().Add(-20 * time.Second)}, {Time: time.Now(), Utilisation: &busy, ImagesPerSec: &rate, MemoryUsed: &memory, PowerW: &power}}}},
		Events: []runner.Event{{Time: time.Now(), Kind: "xid", Text: "<script>alert(1)</script>"}},
	}
	for i := range done {
		arch, y := "a"+string(rune('0'+i)), float64(20+i)
		if i == done-1 {
			y = 1
		}
		v.Results = append(v.Results, runner.RunResult{Task: "ten", ArchID: arch, Error: float64(10 + i)}, runner.RunResult{Task: "two", ArchID: arch, Error: y})
	}
	return v
}

func serve(t *testing.T, token string) (*scripted, *httptest.Server) {
	t.Helper()
	source := &scripted{view: viewOf(4)}
	s := &Server{source: source, token: token, session: "s"}
	h := httptest.NewServer(s.Handler())
	t.Cleanup(h.Close)
	return source, h
}

func get(t *testing.T, url string, change func(*http.Request)) (int, string, http.Header) {
	t.Helper()
	r, err := http.NewRequest("GET", url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if change != nil {
		change(r)
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer.StatusCode, string(body), answer.Header
}

func TestPageStandsAlone(t *testing.T) {
	_, h := serve(t, "")
	for _, path := range []string{"/", "/page.css", "/page.js"} {
		code, body, header := get(t, h.URL+path, nil)
		if code != 200 || !strings.HasPrefix(header.Get("Content-Security-Policy"), "default-src 'none'") {
			t.Errorf("%s: status %d, policy %q", path, code, header.Get("Content-Security-Policy"))
		}
		if strings.Contains(strings.ReplaceAll(body, "http://www.w3.org/2000/svg", ""), "://") {
			t.Errorf("%s asks another server for something", path)
		}
		if strings.Contains(body, "innerHTML") || strings.Contains(body, " style=") || strings.Contains(body, " onclick=") {
			t.Errorf("%s has what the policy forbids, or takes text for HTML", path)
		}
	}
	if code, _, _ := get(t, h.URL+"/elsewhere", nil); code != 404 {
		t.Errorf("an unknown path gives %d", code)
	}
	for _, method := range []string{"POST", "PUT", "DELETE"} {
		r, _ := http.NewRequest(method, h.URL+"/api/status.json", nil)
		answer, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		answer.Body.Close()
		if answer.StatusCode != 405 {
			t.Errorf("%s gives %d, want 405: the view changes nothing", method, answer.StatusCode)
		}
	}
}

func TestWhoMayLook(t *testing.T) {
	_, local := serve(t, "")
	for _, host := range []string{"rebound.example", "rebound.example:8080", "192.0.2.7:8080", "[2001:db8::7]:8080"} {
		if code, _, _ := get(t, local.URL, func(r *http.Request) { r.Host = host }); code != 403 {
			t.Errorf("a page that points the name %s at loopback gets %d, want 403", host, code)
		}
	}
	for _, host := range []string{"localhost:1", "127.0.0.1:1", "[::1]:1", "localhost"} {
		if code, _, _ := get(t, local.URL, func(r *http.Request) { r.Host = host }); code != 200 {
			t.Errorf("host %s gets %d", host, code)
		}
	}
	_, h := serve(t, "secret")
	for name, c := range map[string]struct {
		path   string
		change func(*http.Request)
		want   int
	}{
		"nothing":      {"/", nil, 401},
		"wrong":        {"/?token=secre", nil, 401},
		"address":      {"/?token=secret", nil, 200},
		"header":       {"/metrics", func(r *http.Request) { r.Header.Set("Authorization", "Bearer secret") }, 200},
		"cookie":       {"/api/status.json", func(r *http.Request) { r.AddCookie(&http.Cookie{Name: cookieName, Value: "secret"}) }, 200},
		"wrong cookie": {"/api/status.json", func(r *http.Request) { r.AddCookie(&http.Cookie{Name: cookieName, Value: ""}) }, 401},
		"health":       {"/healthz", nil, 200},
	} {
		if code, _, _ := get(t, h.URL+c.path, c.change); code != c.want {
			t.Errorf("%s: status %d, want %d", name, code, c.want)
		}
	}
	_, _, header := get(t, h.URL+"/?token=secret", nil)
	if c := header.Get("Set-Cookie"); !strings.Contains(c, "HttpOnly") || !strings.Contains(c, "SameSite=Strict") {
		t.Errorf("cookie %q", c)
	}
}

func TestMetrics(t *testing.T) {
	_, h := serve(t, "")
	_, body, _ := get(t, h.URL+"/metrics", nil)
	for _, line := range []string{
		`anynetx_runs{study="shoes \"and\" bags",task="two",status="open"} 5`,
		`anynetx_runs_failed{study="shoes \"and\" bags",class="diverged"} 1`,
		`anynetx_best_test_top1_error_percent{study="shoes \"and\" bags",task="ten"} 10`,
		`anynetx_best_test_top5_error_percent{study="shoes \"and\" bags",task="two"} 2.5`,
		`anynetx_rank_correlation{study="shoes \"and\" bags",task="two"} -0.2`,
		`anynetx_device_memory_used_bytes{study="shoes \"and\" bags",host="h",device="GPU-1"} 3.221225472e+09`,
		`anynetx_device_power_watts{study="shoes \"and\" bags",host="h",device="GPU-1"} 310.5`,
		"# TYPE anynetx_images_per_second gauge",
	} {
		if !strings.Contains(body, line+"\n") {
			t.Errorf("no line %s in\n%s", line, body)
		}
	}
	seen := map[string]bool{}
	for line := range strings.Lines(body) {
		if name, ok := strings.CutPrefix(line, "# TYPE "); ok {
			if seen[name] {
				t.Errorf("%s is announced twice", name)
			}
			seen[name] = true
		} else if !strings.HasPrefix(line, "#") && !seen[line[:strings.IndexByte(line, '{')]+" gauge\n"] {
			t.Errorf("%s comes before its type", line)
		}
	}
}

type event struct{ name, id, data string }

func readEvent(t *testing.T, b *bufio.Reader) event {
	t.Helper()
	var e event
	for {
		line, err := b.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		switch key, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ": "); key {
		case "event":
			e.name = value
		case "id":
			e.id = value
		case "data":
			e.data = value
		case "":
			return e
		}
	}
}

// behind is the first event behind those of some kinds, which a slow reader may have to come.
func behind(t *testing.T, b *bufio.Reader, kinds ...string) (e event) {
	t.Helper()
	for range 20 {
		if e = readEvent(t, b); !slices.Contains(kinds, e.name) {
			break
		}
	}
	return e
}

// A stream begins with all results, goes on with new ones, and takes up where a broken one ended.
func TestStream(t *testing.T) {
	source, h := serve(t, "")
	open := func(last string) (*bufio.Reader, func()) {
		ctx, stop := context.WithCancel(t.Context())
		r, _ := http.NewRequestWithContext(ctx, "GET", h.URL+"/events", nil)
		r.Header.Set("Last-Event-ID", last)
		answer, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		return bufio.NewReader(answer.Body), func() { stop(); answer.Body.Close() }
	}
	rows := func(e event) (from, n int) {
		var v struct {
			From int
			Rows []result
		}
		if err := json.Unmarshal([]byte(e.data), &v); err != nil || e.name != "results" {
			t.Fatalf("%s %s: %v", e.name, e.data, err)
		}
		return v.From, len(v.Rows)
	}
	b, stop := open("")
	if from, n := rows(readEvent(t, b)); from != 0 || n != 8 {
		t.Errorf("begins with %d results from %d on, want 8 from 0", n, from)
	}
	if e := readEvent(t, b); e.name != "state" || !strings.Contains(e.data, `"n":4,"rho":-0.2`) || strings.Contains(e.data, "<script>") {
		t.Errorf("state %s", e.data)
	}
	source.set(viewOf(5), nil)
	e := behind(t, b, "state")
	if from, n := rows(e); from != 8 || n != 2 {
		t.Errorf("goes on with %d results from %d on, want 2 from 8", n, from)
	}
	if e := readEvent(t, b); e.name != "state" || !strings.Contains(e.data, `"n":5,"rho":`) {
		t.Errorf("the correlation of five is not there: %s", e.data)
	}
	stop()
	for last, want := range map[string]int{e.id: 10, "another-10": 0, "s-99": 0} {
		b, stop := open(last)
		if first := readEvent(t, b); want == 10 {
			if first.name != "state" {
				t.Errorf("a stream that had all is sent %s again", first.name)
			}
		} else if from, n := rows(first); from != want || n != 10 {
			t.Errorf("a stream that had %s begins with %d results from %d on", last, n, from)
		}
		stop()
	}
	source.set(nil, errors.New("study is not a study folder"))
	time.Sleep(lookEvery)
	b, stop = open("")
	defer stop()
	if e := behind(t, b, "results", "state"); e.name != "trouble" || !strings.Contains(e.data, "not a study folder") {
		t.Errorf("%s %s", e.name, e.data)
	}
}

func TestListen(t *testing.T) {
	for _, address := range []string{"8080", "nowhere.invalid:1", "127.0.0.1:99999"} {
		if _, err := Listen(t.TempDir(), address); err == nil || !strings.Contains(err.Error(), "--serve") {
			t.Errorf("%s: %v", address, err)
		}
	}
	local, err := Listen(t.TempDir(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- local.Serve(ctx) }()
	if code, _, _ := get(t, local.URL+"healthz", nil); code != 200 || local.token != "" {
		t.Errorf("status %d, token %q", code, local.token)
	}
	answer, err := http.Get(local.URL + "events") // a stream that is open does not keep the server from ending
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	open, err := Listen(t.TempDir(), ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer open.listener.Close()
	if len(open.token) < 32 || !strings.HasSuffix(open.URL, "?token="+open.token) {
		t.Errorf("beyond loopback: address %s", open.URL)
	}
}
