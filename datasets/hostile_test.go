package datasets

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"image/png"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// claims changes what a picture says of its size: nothing else of it fits then.
func claims(t testing.TB, picture []byte, w, h int) []byte {
	t.Helper()
	data := bytes.Clone(picture)
	if bytes.HasPrefix(data, []byte("\x89PNG")) {
		binary.BigEndian.PutUint32(data[16:], uint32(w))
		binary.BigEndian.PutUint32(data[20:], uint32(h))
		binary.BigEndian.PutUint32(data[29:], crc32.ChecksumIEEE(data[12:29]))
		return data
	}
	frame := frameOf(t, data)
	binary.BigEndian.PutUint16(frame[5:], uint16(h))
	binary.BigEndian.PutUint16(frame[7:], uint16(w))
	return data
}

// twelveBits makes a baseline JPEG one of 12 bits a colour, which is of the extended kind.
func twelveBits(t testing.TB, picture []byte) []byte {
	t.Helper()
	data := bytes.Clone(picture)
	frame := frameOf(t, data)
	frame[1], frame[4] = 0xc1, 12
	return data
}

// frameOf is a JPEG from its frame header on: marker, length, bits, height, width.
func frameOf(t testing.TB, data []byte) []byte {
	t.Helper()
	i := bytes.Index(data, []byte{0xff, 0xc0})
	if i < 0 {
		t.Fatal("no frame in a JPEG")
	}
	return data[i:]
}

const hostileVariable = "ANX_DATASETS_TEST_HOSTILE" // what the process that is limited reads: a folder, or a file

// Images that claim to be huge take no more memory than one large image may: the process has a limit under which it dies of more.
func TestHostileImagesInBoundedMemory(t *testing.T) {
	if path := os.Getenv(hostileVariable); path != "" {
		readUnderLimit(t, path)
		return
	}
	photo := picture(t, "jpg", 40, 40, red)
	bomb := claims(t, picture(t, "png", 4, 4, red), 20000, 20000)
	source := t.TempDir()
	imageFolder(t, source)
	bad := map[string][]byte{"train/red/bomb.png": bomb, "train/red/12.jpg": twelveBits(t, photo), "train/red/cut.jpg": photo[:len(photo)/2], "train/red/huge.jpg": claims(t, photo, 65000, 65000)}
	for i := range 8 { // just small enough to be read
		bad[fmt.Sprintf("train/red/large%d.jpg", i)] = claims(t, photo, 65000, 1000)
	}
	writeFiles(t, source, bad)
	limited := func(path string) (string, error) {
		c := exec.Command(os.Args[0], "-test.run=^TestHostileImagesInBoundedMemory$", "-test.v")
		c.Env = append(os.Environ(), hostileVariable+"="+path)
		out, err := c.CombinedOutput()
		return string(out), err
	}
	if out, err := limited(source); err != nil || !strings.Contains(out, fmt.Sprintf("%d are bad", len(bad))) || !strings.Contains(out, "12.jpg") {
		t.Errorf("%v\n%s", err, out)
	}
	// The control: what happens without a look at the header.
	single := filepath.Join(t.TempDir(), "bomb.png")
	if err := os.WriteFile(single, bomb, 0o666); err != nil {
		t.Fatal(err)
	}
	if out, err := limited(single); err == nil || !strings.Contains(out, "out of memory") {
		t.Errorf("the limit limits nothing: %v\n%s", err, out)
	}
}

// readUnderLimit prepares a folder, or decodes a file as it is, in a gigabyte.
func readUnderLimit(t *testing.T, path string) {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Skip("SKIPPED: no /proc here to tell how much memory is in use")
	}
	var kib uint64
	for line := range strings.Lines(string(status)) {
		fmt.Sscanf(line, "VmSize: %d kB", &kib)
	}
	limit := kib<<10 + 1<<30
	if err := syscall.Setrlimit(syscall.RLIMIT_AS, &syscall.Rlimit{Cur: limit, Max: limit}); err != nil {
		t.Fatal(err)
	}
	if strings.HasSuffix(path, ".png") {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		_, err = png.Decode(bytes.NewReader(data))
		t.Fatalf("decoded: %v", err)
	}
	runtime.GOMAXPROCS(8) // so many images at a time
	report, err := Prepare(Preparation{Source: path, Destination: t.TempDir(), Name: "x", Size: 8, SkipBad: true})
	if err != nil {
		t.Fatal(err)
	}
	if report.TrainImages != 10 || !slices.ContainsFunc(report.Bad, func(s string) bool { return strings.Contains(s, "8 bits") }) {
		t.Errorf("%+v", report)
	}
	fmt.Printf("%d are bad: %s\n", len(report.Bad), strings.Join(report.Bad, "; "))
}

// turns counts who came in and who left.
type turns struct{ in, out int }

func (l *turns) Lock()   { l.in++ }
func (l *turns) Unlock() { l.out++ }

// Large images are in memory one at a time: each waits for its turn and gives it up, also if it is damaged. Others do not wait.
func TestLargeImagesTakeTurns(t *testing.T) {
	photo := picture(t, "jpg", 40, 40, red)
	for want, data := range [][]byte{photo, claims(t, photo, 65000, 1000)} {
		var l turns
		_, _ = decodeImage(data, 4, &l)
		if l.in != want || l.out != want {
			t.Errorf("an image took %d turns and left %d, want %d", l.in, l.out, want)
		}
	}
}
