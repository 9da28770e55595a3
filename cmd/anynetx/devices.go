package main

import (
	"errors"
	"fmt"
	"io/fs"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"

	"anynetx/anynetx"
	"anynetx/bindings"
)

func devicesCommand() *cli.Command {
	return &cli.Command{
		Name:  "devices",
		Usage: "the devices that networks can be trained on",
		Description: "Example:\n\nanynetx devices --json\n\nID is what --devices of `anynetx study run` takes. GPUs are listed by their UUIDs too, with what the NVIDIA driver says of them:\n" +
			"memory and processes, load, temperature, power, what holds the clocks back, memory errors, and their MIG devices.",
		Flags:  []cli.Flag{&cli.BoolFlag{Name: "json", Usage: "an array on standard output"}},
		Action: devices,
	}
}

type deviceJSON struct {
	ID          string `json:"id"`
	BackEnd     string `json:"back_end"`
	Name        string `json:"name"`
	Model       string `json:"model"`
	ISA         string `json:"isa"`
	Units       int    `json:"units"`
	MemoryBytes int64  `json:"memory_bytes"`

	GPU *gpuJSON `json:"gpu,omitempty"` // what the NVIDIA driver says, of the devices that it lists
}

// listDevices asks every back end that is built; problems are of back ends that are there and do not answer.
func listDevices() (list []deviceJSON, problems []error) {
	list = []deviceJSON{}
	for _, name := range backEnds() {
		library, err := bindings.Load(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		var found []bindings.DeviceInfo
		if err == nil {
			found, err = library.Devices()
			if err == nil && len(found) == 0 {
				err = fmt.Errorf("%s devices: %s", name, whyNoDevice(library))
			}
		}
		if err != nil {
			problems = append(problems, err)
		}
		for i, d := range found {
			list = append(list, deviceJSON{fmt.Sprintf("%s:%d", name, i), name, d.Name, d.Model, d.ISA, d.Units, d.MemoryBytes, nil})
		}
	}
	return list, problems
}

func devices(c *cli.Context) error {
	list, problems := listDevices()
	gpus, problem := listGPUs()
	if problem != nil {
		problems = append(problems, problem)
	}
	for _, err := range problems {
		fmt.Fprintf(c.App.ErrWriter, "anynetx: %v\n", err)
	}
	if len(list)+len(gpus) == 0 {
		if len(problems) > 0 {
			return errReported
		}
		return fmt.Errorf("no back end is built: run `make build`, or set ANX_LIBRARY_DIR to the directory of libanx_cpu.so")
	}
	if c.Bool("json") {
		return writeJSON(c.App.Writer, append(list, gpus...))
	}
	g := newGrid("id", "name", "model", "instruction set", ">units", ">memory")
	for _, d := range list {
		g.row(d.ID, d.Name, d.Model, d.ISA, d.Units, bytesText(d.MemoryBytes))
	}
	if err := g.print(c.App.Writer); err != nil || len(gpus) == 0 {
		return err
	}
	fmt.Fprintln(c.App.Writer)
	return printGPUs(c.App.Writer, gpus)
}

// harness is the CUDA back end on the processor, for tests: it is not listed.
const harness = "cuda_host"

// openDevice takes a device into use by its ID: "cpu:0", or "cpu" for the first. Threads of 0 are all cores.
func openDevice(id string, threads int) (*bindings.Context, error) {
	name, number, numbered := strings.Cut(id, ":")
	index := 0
	if numbered {
		var err error
		if index, err = strconv.Atoi(number); err != nil || index < 0 {
			return nil, anynetx.Inputf("device is %q, must be like cpu:0; `anynetx devices` shows them", id)
		}
	}
	if !slices.Contains(backEnds(), name) && name != harness {
		return nil, anynetx.Inputf("device is %q, must be of %s; `anynetx devices` shows them", id, strings.Join(backEnds(), ", "))
	}
	switch {
	case threads < 0 || threads > 4096:
		return nil, anynetx.Inputf("threads is %d, must be 0 (all cores) to 4096", threads)
	case threads == 0:
		threads = runtime.NumCPU()
	}
	library, err := bindings.Load(name)
	if err != nil {
		return nil, err
	}
	found, err := library.Devices()
	if err != nil {
		return nil, err
	}
	if len(found) == 0 {
		return nil, anynetx.Inputf("device is %q, but of %s devices there are %s", id, name, whyNoDevice(library))
	}
	if index >= len(found) {
		return nil, anynetx.Inputf("device is %q, but %s has %d; `anynetx devices` shows them", id, name, len(found))
	}
	return library.NewContext(bindings.ContextOptions{Device: index, Threads: threads})
}
