package runner

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"anynetx/anynetx"
	"anynetx/results"

	"github.com/gofrs/flock"
)

// folderLocks keep people from working at cross purposes; the kernel drops them with their process.
//
//	lock         of `study run`, which may alter the plan: one at a time
//	work/joined  shared by all that `study join`ed; held alone, for a moment, by whoever alters or tidies what they rely on
//
// Results need neither: leases fence them. So where locks do not work, as on some network file systems, the work goes on without them.
type folderLocks struct {
	dir     string
	try     tryLock // nil: flock
	missing bool    // locks do not work in this folder
}

// tryLock takes the lock on a file, unless another process has it.
type tryLock func(path string, share bool) (release func(), got bool, err error)

func tryFlock(path string, share bool) (func(), bool, error) {
	lock := flock.New(path)
	try := lock.TryLock
	if share {
		try = lock.TryRLock
	}
	got, err := try()
	return func() { lock.Unlock() }, got, err
}

func (l *folderLocks) take(name string, share bool) (func(), bool, error) {
	try := l.try
	if try == nil {
		try = tryFlock
	}
	release, got, err := try(filepath.Join(l.dir, name), share)
	switch {
	case errors.Is(err, syscall.ENOLCK), errors.Is(err, syscall.ENOSYS), errors.Is(err, syscall.EOPNOTSUPP):
		l.missing = true
		return func() {}, true, nil
	case err != nil:
		return nil, false, diskError(fmt.Errorf("lock %s of the study folder: %w", name, err))
	case !got:
		return nil, false, nil
	}
	return release, true, nil
}

type lockHolder struct {
	Host    string    `json:"host"`
	PID     int       `json:"pid"`
	Started time.Time `json:"started_utc"`
}

// coordinator keeps a second `study run` out.
func (l *folderLocks) coordinator() (release func(), err error) {
	path := filepath.Join(l.dir, "lock")
	release, got, err := l.take("lock", false)
	if err != nil {
		return nil, err
	}
	if !got {
		text := "another process"
		if data, err := os.ReadFile(path); err == nil {
			var h lockHolder
			if json.Unmarshal(data, &h) == nil && h.PID != 0 {
				text = fmt.Sprintf("process %d on %s since %s", h.PID, h.Host, h.Started.Format(time.DateTime))
			}
		}
		return nil, anynetx.Inputf("%s is being worked on by %s; wait for it or stop it (Ctrl-C there), `anynetx study status %s` shows how far it is", l.dir, text, l.dir)
	}
	host, _ := os.Hostname()
	data, _ := json.Marshal(lockHolder{host, os.Getpid(), time.Now().UTC()})
	if err := os.WriteFile(path, append(data, '\n'), 0o666); err != nil { // in place: the lock belongs to this very file
		release()
		return nil, diskError(err)
	}
	return release, nil
}

// join is held by those who work beside others. Who holds it alone does so for a moment, so it is worth a short wait.
func (l *folderLocks) join(ctx context.Context) (release func(), err error) {
	for range 100 {
		release, got, err := l.take(filepath.Join("work", "joined"), true)
		if got || err != nil {
			return release, err
		}
		select {
		case <-ctx.Done():
			return nil, ErrStopped
		case <-time.After(100 * time.Millisecond):
		}
	}
	return nil, anynetx.Inputf("%s is being altered or compacted; join it when that is done", l.dir)
}

// alone says whether nobody has joined, and keeps it so until release.
func (l *folderLocks) alone() (release func(), alone bool, err error) {
	if err := os.MkdirAll(filepath.Join(l.dir, "work"), 0o777); err != nil {
		return nil, false, diskError(err)
	}
	return l.take(filepath.Join("work", "joined"), false)
}

// joinStudy opens a study folder to work in it beside others.
func joinStudy(ctx context.Context, locks *folderLocks) (*Store, func(), error) {
	if _, err := OpenStore(locks.dir); err != nil { // before anything is made in a folder that is none
		return nil, nil, err
	}
	release, err := locks.join(ctx)
	if err != nil {
		return nil, nil, err
	}
	store, err := OpenStore(locks.dir) // as it is now that nobody alters it
	if err != nil {
		release()
		return nil, nil, err
	}
	return store, release, nil
}

// exclusive keeps everybody else out, for what none of them may see half done.
func (l *folderLocks) exclusive() (release func(), err error) {
	coordinator, err := l.coordinator()
	if err != nil {
		return nil, err
	}
	joined, alone, err := l.alone()
	if err == nil && !alone {
		err = anynetx.Inputf("others have joined the work on %s; stop them first (`anynetx study status %s` shows them), they go on afterwards", l.dir, l.dir)
	}
	if err != nil {
		coordinator()
		return nil, err
	}
	return func() { joined(); coordinator() }, nil
}

// Compact puts the many small files of a study's tables into few, while nobody works on the study.
func Compact(dir string) (results.Compacted, error) {
	var none results.Compacted
	if _, err := OpenStore(dir); err != nil {
		return none, err
	}
	release, err := (&folderLocks{dir: dir}).exclusive()
	if err != nil {
		return none, err
	}
	defer release()
	done, err := results.Compact(dir)
	return done, diskError(err)
}
