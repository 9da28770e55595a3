package runner

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// errStudyFolder marks errors of the study folder's disk: no fault of a run, so the worker stops instead of failing run after run.
var errStudyFolder = errors.New("the study folder cannot be used")

type folderError struct{ error }

func (e folderError) Is(target error) bool { return target == errStudyFolder }
func (e folderError) Unwrap() error        { return e.error }

// diskError says what to do about a failed write; the path is in err already.
func diskError(err error) error {
	switch {
	case err == nil || errors.Is(err, errStudyFolder):
		return err
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		err = fmt.Errorf("%w; free space there and run the same command again, nothing committed is lost", err)
	case errors.Is(err, syscall.EROFS), errors.Is(err, fs.ErrPermission):
		err = fmt.Errorf("%w; make the study folder writable and run the same command again", err)
	case errors.Is(err, syscall.EIO):
		err = fmt.Errorf("%w; the disk reports an error: mend it, then run the same command again", err)
	}
	return folderError{err}
}

// writeFile makes a file appear whole or not at all: temporary name in the same folder, fsync, rename, fsync of the folder. hook, if not
// nil, is told of each step and may make it fail.
func writeFile(path, suffix string, hook func(string) error, fill func(io.Writer) error) (err error) {
	dir, base := filepath.Split(path)
	temporary := filepath.Join(dir, "."+base+".tmp-"+suffix)
	f, err := os.OpenFile(temporary, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o666)
	if err != nil {
		return diskError(err)
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(temporary)
		}
	}()
	if err := fill(f); err != nil {
		return diskError(err)
	}
	if err := tell(hook, base+" written"); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return diskError(err)
	}
	if err := f.Close(); err != nil {
		return diskError(err)
	}
	if err := tell(hook, base+" synced"); err != nil {
		return err
	}
	if err := os.Rename(temporary, path); err != nil {
		return diskError(err)
	}
	if err := tell(hook, base+" renamed"); err != nil {
		return err
	}
	return syncFolder(dir)
}

func writeBytes(path, suffix string, data []byte) error {
	return writeFile(path, suffix, nil, func(w io.Writer) error {
		_, err := w.Write(data)
		return err
	})
}

// createOnce makes a file with these contents unless there is one, atomically: a reader never sees half of it, and of several writers
// one wins. It says whether this one did.
func createOnce(path, suffix string, data []byte) (bool, error) {
	temporary := filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".tmp-"+suffix)
	if err := os.WriteFile(temporary, data, 0o666); err != nil {
		os.Remove(temporary)
		return false, diskError(err)
	}
	defer os.Remove(temporary)
	err := link(temporary, path)
	if errors.Is(err, syscall.ENOTSUP) || errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.ENOSYS) { // no hard links here
		var f *os.File
		if f, err = os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666); err == nil {
			_, err = f.Write(data)
			err = errors.Join(err, f.Close())
		}
	}
	if errors.Is(err, fs.ErrExist) {
		return false, nil
	}
	return err == nil, diskError(err)
}

// link is os.Link for network file systems, where the reply to a link that was made may be lost and the request sent again: then the file
// that is in the way is our own.
func link(old, new string) error {
	err := os.Link(old, new)
	if !errors.Is(err, fs.ErrExist) {
		return err
	}
	ours, err1 := os.Stat(old)
	there, err2 := os.Stat(new)
	if err1 == nil && err2 == nil && os.SameFile(ours, there) {
		return nil
	}
	return err
}

func syncFolder(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return diskError(err)
	}
	defer d.Close()
	if err := d.Sync(); err != nil && !errors.Is(err, syscall.EINVAL) { // some network file systems cannot
		return diskError(err)
	}
	return nil
}

// tell tells a test's hook of a step; what it returns is what the disk said.
func tell(hook func(string) error, point string) error {
	if hook == nil {
		return nil
	}
	return diskError(hook(point))
}
