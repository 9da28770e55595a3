package main

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"

	"anynetx/anynetx"
	"anynetx/bindings"
)

func profileFlags() []cli.Flag {
	return []cli.Flag{
		&choiceFlag{&cli.StringFlag{Name: "profile", Usage: "for nsys and ncu: kernel by kernel in ranges of domain anynetx; `graph`: as it trains else (docs/cuda.md)"}, "ranges", []string{"graph"}},
		&cli.StringFlag{Name: "profile-steps", Usage: "with --profile: training steps `A:B`, A up to but without B from 0 on, are what the profiler records", DefaultText: "all"},
	}
}

// profiler tells a profiler outside what to see of a training; a nil one says nothing.
type profiler struct {
	device      *bindings.Context
	ranges      bindings.Trace
	first, last int // recorded: from first up to but without last
	next        int // training step
}

// profilerOf is what the flags ask for; nil: nothing.
func profilerOf(c *cli.Context, device *bindings.Context) (*profiler, error) {
	p := &profiler{device: device, last: math.MaxInt}
	switch mode := c.String("profile"); mode {
	case "":
		if c.IsSet("profile-steps") {
			return nil, anynetx.Inputf("--profile-steps needs --profile or --profile graph")
		}
		return nil, nil
	case "ranges":
		p.ranges = bindings.TraceRanges
	case "graph":
	default:
		return nil, anynetx.Inputf("--profile is %q, must be --profile or --profile graph", mode)
	}
	if text := c.String("profile-steps"); text != "" {
		a, b, _ := strings.Cut(text, ":")
		first, err := strconv.Atoi(a)
		last, err2 := strconv.Atoi(b)
		if err != nil || err2 != nil || first < 0 || last <= first {
			return nil, anynetx.Inputf("--profile-steps is %q, must be like 10:20: steps 10 to 19", text)
		}
		p.first, p.last = first, last
	}
	err := device.Trace(p.ranges)
	var native *bindings.Error
	if errors.As(err, &native) && native.Status == bindings.Unsupported {
		return nil, anynetx.Inputf("--profile: the %s back end shows a profiler nothing of its own; `anynetx bench network --ops` says where its time goes", device.Library().Name)
	}
	if err != nil {
		return nil, fmt.Errorf("--profile: %w", err)
	}
	return p, nil
}

// step is called before each training step.
func (p *profiler) step() error {
	if p == nil {
		return nil
	}
	at := p.next
	p.next++
	switch at {
	case p.first:
		return p.device.Trace(p.ranges | bindings.TraceRecord)
	case p.last:
		return p.device.Trace(p.ranges)
	}
	return nil
}

// end ends what is still recorded.
func (p *profiler) end() error {
	if p == nil {
		return nil
	}
	return p.device.Trace(0)
}
