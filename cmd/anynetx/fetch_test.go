package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"anynetx/datasets"
)

func sha(b []byte) string { s := sha256.Sum256(b); return hex.EncodeToString(s[:]) }

func gzipped(t *testing.T, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	if _, err := z.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestFetchRemovesWhatKilledDownloadsLeft(t *testing.T) {
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte("pixels")) }))
	defer server.Close()
	dir := t.TempDir()
	old, young := filepath.Join(dir, "small", ".images.part-1"), filepath.Join(dir, "small", ".images.part-2")
	if err := os.MkdirAll(filepath.Dir(old), 0o777); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{old, young} {
		if err := os.WriteFile(path, []byte("pix"), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	then := time.Now().Add(-longestDownload - time.Minute)
	if err := os.Chtimes(old, then, then); err != nil {
		t.Fatal(err)
	}
	spec := datasets.Spec{Name: "small", Files: []datasets.File{{Name: "images", Bytes: 6, SHA256: sha([]byte("pixels")), URL: server.URL + "/images"}}}
	if err := (downloader{client: newClient(server.Client().Transport), log: io.Discard}).fetch(t.Context(), spec, dir); err != nil {
		t.Fatal(err)
	}
	left, err := os.ReadDir(filepath.Dir(old))
	if err != nil || len(left) != 2 || left[0].Name() != filepath.Base(young) || left[1].Name() != "images" {
		t.Errorf("%v %v; want what may be another download's, and the file", left, err)
	}
}

func TestFetchFiles(t *testing.T) {
	content := bytes.Repeat([]byte("pixels "), 1000)
	served := map[string][]byte{"/right.gz": gzipped(t, content), "/wrong.gz": gzipped(t, append([]byte("x"), content[1:]...)),
		"/long.gz": gzipped(t, append(content, 'x')), "/cut.gz": gzipped(t, content)[:40], "/plain": content}
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/down" {
			http.Redirect(w, r, "http://"+r.Host+"/right.gz", http.StatusFound)
			return
		}
		body, ok := served[r.URL.Path]
		if !ok {
			http.NotFound(w, r)
			return
		}
		w.Write(body)
	}))
	defer server.Close()
	d := downloader{client: newClient(server.Client().Transport), log: io.Discard}
	for _, c := range []struct{ url, wantError string }{
		{"/right.gz", ""}, {"/plain", ""}, {"/wrong.gz", "on record"}, {"/long.gz", "on record"}, {"/cut.gz", "unexpected EOF"},
		{"/absent.gz", "404"}, {"/down", "not followed"},
	} {
		dir := t.TempDir()
		spec := datasets.Spec{Name: "small", Files: []datasets.File{{Name: "images", Bytes: int64(len(content)), SHA256: sha(content), URL: server.URL + c.url}}}
		err := d.fetch(t.Context(), spec, dir)
		if c.wantError == "" && err != nil || c.wantError != "" && (err == nil || !strings.Contains(err.Error(), c.wantError)) {
			t.Errorf("%s: %v, want %q", c.url, err, c.wantError)
		}
		left, _ := filepath.Glob(filepath.Join(dir, "small", "*"))
		hidden, _ := filepath.Glob(filepath.Join(dir, "small", ".*"))
		if want := map[bool]int{true: 1, false: 0}[c.wantError == ""]; len(left) != want || len(hidden) > 0 {
			t.Errorf("%s left %v %v", c.url, left, hidden)
		}
	}
	spec := datasets.Spec{Name: "small", Files: []datasets.File{{Name: "images", Bytes: 1, SHA256: sha(content), URL: "http" + strings.TrimPrefix(server.URL, "https") + "/plain"}}}
	if err := d.fetch(t.Context(), spec, t.TempDir()); err == nil || !strings.Contains(err.Error(), "not an https address") {
		t.Errorf("plain http: %v", err)
	}
}

func TestFetchArchiveTakesWhatTheSpecNamesAndNothingElse(t *testing.T) {
	content := []byte("records")
	var tarred bytes.Buffer
	w := tar.NewWriter(&tarred)
	for _, h := range []struct {
		tar.Header
		body string
	}{
		{tar.Header{Name: "../evil", Size: 4, Typeflag: tar.TypeReg}, "evil"},
		{tar.Header{Name: "set/link", Linkname: "../evil", Typeflag: tar.TypeSymlink}, ""},
		{tar.Header{Name: "set/readme", Size: 2, Typeflag: tar.TypeReg}, "hi"},
		{tar.Header{Name: "set/a.bin", Size: 7, Typeflag: tar.TypeReg}, string(content)},
	} {
		h.Mode = 0o644
		if err := w.WriteHeader(&h.Header); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, h.body); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	archive := gzipped(t, tarred.Bytes())
	asked := 0
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { asked++; w.Write(archive) }))
	defer server.Close()
	d := downloader{client: newClient(server.Client().Transport), log: io.Discard}
	spec := datasets.Spec{Name: "small",
		Archive: &datasets.Download{Name: "small.tar.gz", Folder: "set", Bytes: int64(len(archive)), SHA256: sha(archive), URL: server.URL},
		Files:   []datasets.File{{Name: "a.bin", Bytes: 7}}}
	dir := t.TempDir()
	for range 2 { // the second time the archive is there
		if err := d.fetch(t.Context(), spec, dir); err != nil {
			t.Fatal(err)
		}
	}
	if asked != 1 {
		t.Errorf("downloaded %d times", asked)
	}
	var files []string
	filepath.Walk(dir, func(path string, info os.FileInfo, err error) error {
		if err == nil && !info.IsDir() {
			name, _ := filepath.Rel(dir, path)
			files = append(files, name)
		}
		return nil
	})
	if got := strings.Join(files, " "); got != "small/set/a.bin small/small.tar.gz" {
		t.Errorf("files are %q", got)
	}
	spec.Archive.SHA256 = sha(content)
	dir = t.TempDir()
	if err := d.fetch(t.Context(), spec, dir); err == nil || !strings.Contains(err.Error(), "it was not kept") {
		t.Errorf("wrong archive: %v", err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "small", "*")); len(left) > 0 {
		t.Errorf("a wrong archive left %v", left)
	}
	spec.Archive.SHA256 = sha(archive)
	spec.Files[0].Bytes = 8
	if err := d.fetch(t.Context(), spec, t.TempDir()); err == nil || !strings.Contains(err.Error(), "7 bytes, 8 are on record") {
		t.Errorf("wrong size: %v", err)
	}
	spec.Files[0] = datasets.File{Name: "b.bin", Bytes: 7}
	if err := d.fetch(t.Context(), spec, t.TempDir()); err == nil || !strings.Contains(err.Error(), "holds no set/b.bin") {
		t.Errorf("missing file: %v", err)
	}
}
