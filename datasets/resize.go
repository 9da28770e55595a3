package datasets

import (
	"bytes"
	"errors"
	"fmt"
	"image"
	"image/draw"
	"image/jpeg" // the two formats that are read
	_ "image/png"
	"io"
	"os"
	"sync"
)

// loadImage reads a PNG or JPEG file and returns size x size pixels of 3 bytes: the short side resized to size, the centre of the long
// one. Errors name the file.
func loadImage(path string, size int, large sync.Locker) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("%s cannot be read: %w", path, err)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	if info.Size() > maxImageBytes {
		return nil, fmt.Errorf("%s has %d bytes, more than the %d that are read", path, info.Size(), int64(maxImageBytes))
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("%s cannot be read: %w", path, err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxImageBytes))
	if err != nil {
		return nil, fmt.Errorf("%s cannot be read: %w", path, err)
	}
	pixels, err := decodeImage(data, size, large)
	if err != nil {
		return nil, fmt.Errorf("%s %w", path, err)
	}
	return pixels, nil
}

// decodeImage looks at the header first: a small file can claim, and decode to, any number of pixels, and a progressive JPEG can go over
// them any number of times. Images above largePixels hold the lock while they are in memory.
func decodeImage(data []byte, size int, large sync.Locker) ([]byte, error) {
	config, format, err := image.DecodeConfig(bytes.NewReader(data))
	if unsupported := jpeg.UnsupportedError(""); errors.As(err, &unsupported) {
		return nil, fmt.Errorf("is a JPEG of a kind that is not read (%w); convert it to an ordinary one, of 8 bits a colour", err)
	}
	if err != nil {
		return nil, fmt.Errorf("is not a PNG or JPEG image: %w", err)
	}
	pixels := int64(config.Width) * int64(config.Height)
	if config.Width < 1 || config.Height < 1 || pixels > maxImagePixels {
		return nil, fmt.Errorf("has %d x %d pixels, outside the 1 to %d that are read", config.Width, config.Height, maxImagePixels)
	}
	if scans := bytes.Count(data, []byte{0xff, 0xda}); format == "jpeg" && scans > maxScans {
		return nil, fmt.Errorf("has %d scans, more than the %d that are read", scans, maxScans)
	}
	if pixels > largePixels {
		large.Lock()
		defer large.Unlock()
	}
	decoded, _, err := image.Decode(bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("is damaged: %w", err)
	}
	bounds := decoded.Bounds()
	line := image.NewRGBA(image.Rect(0, 0, bounds.Dx(), 1)) // alpha-premultiplied: what is transparent becomes black
	return shrink(bounds.Dy(), bounds.Dx(), size, func(y int) []byte {
		draw.Draw(line, line.Rect, decoded, image.Pt(bounds.Min.X, bounds.Min.Y+y), draw.Src)
		return line.Pix
	}), nil
}

// taps are the source pixels that make one output pixel, and their weights.
type taps struct {
	first   int
	weights []int64
	sum     int64
}

// triangle returns the taps of output pixels [from, from+count) when `in` pixels are resized to `out`: linear interpolation where the
// image grows, a triangle of two source steps where it shrinks (so that every pixel counts). Weights are whole numbers, the distances in
// units of 1/(2 out): no rounding, the same on every machine.
func triangle(in, out, from, count int) []taps {
	wide := int64(2 * max(in, out))
	result := make([]taps, count)
	for k := range result {
		middle := (2*int64(from+k) + 1) * int64(in)
		distance := func(j int64) int64 {
			d := (2*j+1)*int64(out) - middle
			return max(d, -d)
		}
		at := middle / (2 * int64(out))
		first, last := at, at
		for first > 0 && distance(first-1) < wide {
			first--
		}
		for last < int64(in)-1 && distance(last+1) < wide {
			last++
		}
		t := taps{first: int(first)}
		for j := first; j <= last; j++ {
			weight := wide - distance(j)
			t.weights = append(t.weights, weight)
			t.sum += weight
		}
		result[k] = t
	}
	return result
}

// shrink resizes an image so that its short side is size, and cuts the centre out: size x size x 3 bytes. row(y) gives a row of the
// image, 4 bytes a pixel, and may reuse the memory of the last.
func shrink(h, w, size int, row func(y int) []byte) []byte {
	newH, newW := size, size
	if h < w {
		newW = max(size, (2*w*size+h)/(2*h))
	} else {
		newH = max(size, (2*h*size+w)/(2*w))
	}
	columns := triangle(w, newW, (newW-size)/2, size)
	rows := triangle(h, newH, (newH-size)/2, size)
	top := rows[0].first
	bottom := rows[size-1].first + len(rows[size-1].weights)
	narrow := make([]byte, (bottom-top)*size*3)
	for y := top; y < bottom; y++ {
		line := row(y)
		for x, t := range columns {
			var r, g, b int64
			for i, weight := range t.weights {
				p := line[4*(t.first+i):]
				r, g, b = r+weight*int64(p[0]), g+weight*int64(p[1]), b+weight*int64(p[2])
			}
			o := narrow[((y-top)*size+x)*3:]
			o[0], o[1], o[2] = byte((r+t.sum/2)/t.sum), byte((g+t.sum/2)/t.sum), byte((b+t.sum/2)/t.sum)
		}
	}
	result := make([]byte, size*size*3)
	for y, t := range rows {
		for x := range size * 3 {
			var v int64
			for i, weight := range t.weights {
				v += weight * int64(narrow[(t.first-top+i)*size*3+x])
			}
			result[y*size*3+x] = byte((v + t.sum/2) / t.sum)
		}
	}
	return result
}
