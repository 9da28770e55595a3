package main

import (
	"archive/tar"
	"bufio"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"anynetx/anynetx"
	"anynetx/datasets"
	"anynetx/runner"
)

func dataFetch(c *cli.Context) error {
	names, dir := c.Args().Slice(), c.String("data")
	if c.IsSet("study") {
		study, err := runner.ReadStudy(c.String("study"))
		if err != nil {
			return err
		}
		names = append(names, studyDatasets(study)...)
	}
	if len(names) == 0 {
		return anynetx.Inputf("data fetch takes the names of data sets, or --study; `anynetx data list` shows them")
	}
	for _, name := range names {
		if _, err := datasets.Open(name, dir); err == nil {
			fmt.Fprintf(c.App.ErrWriter, "%s is here already\n", name)
			continue
		}
		specs := datasets.List()
		i := slices.IndexFunc(specs, func(s datasets.Spec) bool { return s.Name == name })
		if i < 0 {
			_, err := datasets.Open(name, dir) // says where it was looked for, and what is wrong with what was found
			return err
		}
		d := downloader{client: newClient(http.DefaultTransport), log: c.App.ErrWriter}
		if err := d.fetch(c.Context, specs[i], dir); err != nil {
			return fmt.Errorf("fetch %s: %w", name, err)
		}
		if _, err := datasets.Verify(name, dir); err != nil {
			return err
		}
		fmt.Fprintf(c.App.ErrWriter, "%s is here and sound\n", name)
	}
	return nil
}

// downloader brings the files of a data set into dir/<name>. A file appears under its name only when its SHA-256 was right.
type downloader struct {
	client *http.Client
	log    io.Writer
}

const longestDownload = time.Hour

func newClient(transport http.RoundTripper) *http.Client {
	return &http.Client{Transport: transport, Timeout: longestDownload, CheckRedirect: func(r *http.Request, via []*http.Request) error {
		if r.URL.Scheme != "https" || len(via) > 10 {
			return fmt.Errorf("redirected to %s, which is not followed", r.URL)
		}
		return nil
	}}
}

func (d downloader) fetch(ctx context.Context, spec datasets.Spec, dir string) error {
	folder := filepath.Join(dir, spec.Name)
	if err := os.MkdirAll(folder, 0o777); err != nil {
		return fmt.Errorf("%w; --data names another folder for data sets", err)
	}
	if err := removeParts(folder); err != nil {
		return err
	}
	if a := spec.Archive; a != nil {
		return d.fetchArchive(ctx, spec, folder)
	}
	for _, f := range spec.Files {
		if f.URL == "" || f.SHA256 == "" {
			return anynetx.Inputf("there is no address or no checksum on record for %s: get it from %s by hand, into %s", f.Name, spec.Source, folder)
		}
		name := f.Name
		if strings.HasSuffix(f.URL, ".gz") {
			name += ".gz"
		}
		target := filepath.Join(folder, name)
		// Compressed files are smaller than their content, but for a header.
		err := d.download(ctx, f.URL, target, f.Bytes+1<<20, func(part string) error { return checkContent(part, f.Bytes, f.SHA256) })
		if err != nil {
			return err
		}
	}
	return nil
}

// removeParts removes what downloads that were killed left in a folder: nothing came to it for longer than a download may take.
func removeParts(folder string) error {
	parts, err := filepath.Glob(filepath.Join(folder, ".*.part-*"))
	for _, path := range parts {
		if info, e := os.Stat(path); e == nil && time.Since(info.ModTime()) > longestDownload {
			err = errors.Join(err, os.Remove(path))
		}
	}
	return err
}

// download writes an address's content to target, if it has at most so many bytes and check is content with it.
func (d downloader) download(ctx context.Context, url, target string, limit int64, check func(path string) error) (err error) {
	if !strings.HasPrefix(url, "https://") {
		return fmt.Errorf("%s is not an https address, which is not downloaded; get it by hand as %s", url, target)
	}
	fmt.Fprintf(d.log, "downloading %s\n", url)
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	response, err := d.client.Do(request)
	if err != nil {
		return fmt.Errorf("%w; check the connection, or get the file by hand as %s", err, target)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %s; get the file from elsewhere as %s", url, response.Status, target)
	}
	part, err := os.CreateTemp(filepath.Dir(target), "."+filepath.Base(target)+".part-*")
	if err != nil {
		return err
	}
	defer func() {
		part.Close()
		if err != nil {
			os.Remove(part.Name())
		}
	}()
	n, err := io.Copy(part, io.LimitReader(response.Body, limit+1))
	if err != nil {
		return fmt.Errorf("%s broke off after %d bytes: %w; try again", url, n, err)
	}
	if n > limit {
		return fmt.Errorf("%s has more than %d bytes, so it is not the file on record", url, limit)
	}
	if err := errors.Join(part.Chmod(0o644), part.Sync(), part.Close()); err != nil {
		return err
	}
	if err := check(part.Name()); err != nil {
		return fmt.Errorf("%s: %w", url, err)
	}
	return os.Rename(part.Name(), target)
}

// checkContent holds a file, uncompressed if it is gzip's, against size and SHA-256.
func checkContent(path string, size int64, sha string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	buffered := bufio.NewReader(f)
	var content io.Reader = buffered
	if magic, err := buffered.Peek(2); err == nil && magic[0] == 0x1f && magic[1] == 0x8b {
		if content, err = gzip.NewReader(buffered); err != nil {
			return err
		}
	}
	hash := sha256.New()
	n, err := io.Copy(hash, io.LimitReader(content, size+1))
	if err != nil {
		return err
	}
	if got := hex.EncodeToString(hash.Sum(nil)); n != size || got != sha {
		return fmt.Errorf("the content has %d bytes and SHA-256 %s, on record are %d and %s: it was not kept", n, got, size, sha)
	}
	return nil
}

func (d downloader) fetchArchive(ctx context.Context, spec datasets.Spec, folder string) error {
	a := spec.Archive
	archive := filepath.Join(folder, a.Name)
	whole := func(path string) error {
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		hash := sha256.New()
		n, err := io.Copy(hash, f)
		if err != nil {
			return err
		}
		if got := hex.EncodeToString(hash.Sum(nil)); n != a.Bytes || got != a.SHA256 {
			return fmt.Errorf("it has %d bytes and SHA-256 %s, on record are %d and %s: it was not kept", n, got, a.Bytes, a.SHA256)
		}
		return nil
	}
	if whole(archive) != nil {
		if err := d.download(ctx, a.URL, archive, a.Bytes, whole); err != nil {
			return err
		}
	}
	return unpack(archive, spec, filepath.Join(folder, a.Folder))
}

// unpack takes the files of the spec, and nothing else, out of its archive.
func unpack(archive string, spec datasets.Spec, folder string) error {
	f, err := os.Open(archive)
	if err != nil {
		return err
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		return fmt.Errorf("%s: %w", archive, err)
	}
	if err := os.MkdirAll(folder, 0o777); err != nil {
		return err
	}
	wanted := map[string]datasets.File{}
	for _, file := range spec.Files {
		wanted[path.Join(spec.Archive.Folder, file.Name)] = file
	}
	entries := tar.NewReader(z)
	for len(wanted) > 0 {
		header, err := entries.Next()
		if errors.Is(err, io.EOF) {
			for name := range wanted {
				return fmt.Errorf("%s holds no %s", archive, name)
			}
		}
		if err != nil {
			return fmt.Errorf("%s: %w", archive, err)
		}
		name := path.Clean(header.Name)
		file, ok := wanted[name]
		if !ok || header.Typeflag != tar.TypeReg {
			continue
		}
		if header.Size != file.Bytes {
			return fmt.Errorf("%s: %s has %d bytes, %d are on record", archive, name, header.Size, file.Bytes)
		}
		if err := writeFile(filepath.Join(folder, file.Name), entries); err != nil {
			return err
		}
		delete(wanted, name)
	}
	return nil
}

// writeFile writes all of r to a file that appears whole or not at all.
func writeFile(path string, r io.Reader) error {
	part, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".part-*")
	if err != nil {
		return err
	}
	_, err = io.Copy(part, r)
	err = errors.Join(err, part.Chmod(0o644), part.Sync(), part.Close())
	if err == nil {
		err = os.Rename(part.Name(), path)
	}
	if err != nil {
		os.Remove(part.Name())
	}
	return err
}
