// Package live shows a study in a browser while it runs, and its numbers to Prometheus. It reads the study folder alone and changes
// nothing: there is no request that does.
package live

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"embed"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"anynetx/anynetx"
	"anynetx/runner"
)

//go:embed page.html page.css page.js
var assets embed.FS

// Server serves one study folder.
type Server struct {
	URL string // what a browser is to open, with the token if one is needed

	listener net.Listener
	token    string // "" on loopback
	source   interface{ Look() (*runner.View, error) }
	session  string // tells the results of this server from those of one before it

	mu     sync.Mutex
	looked time.Time
	state  *state
	err    error
}

// Times of the live view.
const (
	lookEvery = time.Second // at most so often are the files looked at, however many watch
	sendEvery = 2 * time.Second
)

// Listen opens an address such as 127.0.0.1:8080 (port 0: a free one). Beyond loopback a random token is asked of whoever comes.
func Listen(dir, address string) (*Server, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, anynetx.Inputf("--serve is %q, must be an address with a port, such as 127.0.0.1:8080", address)
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return nil, anynetx.Inputf("--serve %s: %w; take another port, or 0 for any that is free", address, err)
	}
	s := &Server{listener: listener, source: runner.NewWatcher(dir), session: secret()[:8]}
	port := listener.Addr().(*net.TCPAddr).Port
	if ip := net.ParseIP(host); host == "localhost" || ip != nil && ip.IsLoopback() {
		s.URL = fmt.Sprintf("http://%s/", net.JoinHostPort(host, strconv.Itoa(port)))
		return s, nil
	}
	s.token = secret()
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = hostName()
	}
	s.URL = fmt.Sprintf("http://%s/?token=%s", net.JoinHostPort(host, strconv.Itoa(port)), s.token)
	return s, nil
}

func secret() string {
	b := make([]byte, 16)
	rand.Read(b)
	return hex.EncodeToString(b)
}

// Serve answers until the context ends.
func (s *Server) Serve(ctx context.Context) error {
	server := &http.Server{Handler: s.Handler(), ReadHeaderTimeout: 10 * time.Second, MaxHeaderBytes: 16 << 10,
		BaseContext: func(net.Listener) context.Context { return ctx }} // so that event streams end too
	stop := context.AfterFunc(ctx, func() {
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		if server.Shutdown(end) != nil {
			server.Close()
		}
	})
	defer stop()
	if err := server.Serve(s.listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("live view: %w", err)
	}
	return nil
}

// Handler is all that the server answers.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", s.file("page.html", "text/html; charset=utf-8"))
	mux.HandleFunc("GET /page.css", s.file("page.css", "text/css; charset=utf-8"))
	mux.HandleFunc("GET /page.js", s.file("page.js", "text/javascript; charset=utf-8"))
	mux.HandleFunc("GET /events", s.events)
	mux.HandleFunc("GET /api/status.json", s.status)
	mux.HandleFunc("GET /metrics", s.metrics)
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	return s.guard(mux)
}

const cookieName = "anynetx_token"

// guard lets in who may see the study: on loopback, requests that name loopback as their host (a page elsewhere that points its own
// name at this machine does not); beyond it, those that know the token.
func (s *Server) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cache-Control", "no-store")
		if s.token == "" {
			host := r.Host
			if name, _, err := net.SplitHostPort(host); err == nil {
				host = name
			}
			if ip := net.ParseIP(strings.Trim(host, "[]")); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
				http.Error(w, "this view answers to localhost and 127.0.0.1 only", http.StatusForbidden)
				return
			}
		} else if r.URL.Path != "/healthz" && !s.known(w, r) {
			http.Error(w, "open the address with ?token=... that `anynetx` printed when it began to serve", http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// known looks for the token in the address (then a cookie remembers it), in a cookie, and in the header that scrapers send.
func (s *Server) known(w http.ResponseWriter, r *http.Request) bool {
	same := func(t string) bool { return subtle.ConstantTimeCompare([]byte(t), []byte(s.token)) == 1 }
	if same(r.URL.Query().Get("token")) {
		http.SetCookie(w, &http.Cookie{Name: cookieName, Value: s.token, Path: "/", HttpOnly: true, SameSite: http.SameSiteStrictMode})
		return true
	}
	if c, err := r.Cookie(cookieName); err == nil && same(c.Value) {
		return true
	}
	return same(strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "))
}

func (s *Server) file(name, kind string) http.HandlerFunc {
	text, err := assets.ReadFile(name)
	if err != nil {
		panic(err) // the embed line above names it
	}
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", kind)
		w.Write(text)
	}
}

// look is the state of now, or of a moment ago.
func (s *Server) look() (*state, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if time.Since(s.looked) < lookEvery {
		return s.state, s.err
	}
	v, err := s.source.Look()
	s.looked, s.err = time.Now(), err
	if err == nil {
		s.state = newState(v, s.state)
	}
	return s.state, s.err
}

func (s *Server) status(w http.ResponseWriter, _ *http.Request) {
	state, err := s.look()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(state)
}

// events is a stream: `state` every other second, `results` with those that are new. The ID of an event says how many results the
// browser has, so that a connection that broke goes on where it was.
func (s *Server) events(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/event-stream")
	out := http.NewResponseController(w)
	sent := -1
	if n, err := strconv.Atoi(strings.TrimPrefix(r.Header.Get("Last-Event-ID"), s.session+"-")); err == nil {
		sent = max(0, n)
	}
	ticker := time.NewTicker(sendEvery)
	defer ticker.Stop()
	for {
		state, err := s.look()
		if err != nil {
			send(w, "trouble", "", err.Error())
		} else {
			if now := len(state.results); now != sent {
				from := max(0, sent)
				if from > now { // the study was planned anew
					from = 0
				}
				send(w, "results", fmt.Sprintf("%s-%d", s.session, now), map[string]any{"from": from, "rows": state.results[from:]})
				sent = now
			}
			send(w, "state", "", state)
		}
		if out.Flush() != nil {
			return
		}
		select {
		case <-r.Context().Done():
			return
		case <-ticker.C:
		}
	}
}

func send(w http.ResponseWriter, event, id string, value any) {
	text, err := json.Marshal(value)
	if err != nil {
		return // only numbers that are not finite, which no table holds
	}
	if id != "" {
		fmt.Fprintf(w, "id: %s\n", id)
	}
	fmt.Fprintf(w, "event: %s\ndata: %s\n\n", event, text)
}
