package main

import (
	"context"
	"fmt"

	"github.com/urfave/cli/v2"

	"anynetx/live"
	"anynetx/runner"
)

func serveFlag() cli.Flag {
	return &cli.StringFlag{Name: "serve", Usage: "`ADDRESS` of a live view for browsers, such as 127.0.0.1:8080, with /metrics for Prometheus; beyond loopback it asks for a token"}
}

// serveStudy shows a study until a signal comes.
func serveStudy(c *cli.Context, dir string) error {
	server, err := live.Listen(dir, c.String("serve"))
	if err != nil {
		return err
	}
	fmt.Fprintf(c.App.ErrWriter, "live view: %s (Ctrl-C ends it)\n", server.URL)
	return server.Serve(c.Context)
}

// serveBeside shows the study that is being run; the study does not depend on it.
func serveBeside(c *cli.Context, dir string, progress runner.Progress) (stop func(), err error) {
	server, err := live.Listen(dir, c.String("serve"))
	if err != nil {
		return nil, err
	}
	progress.Note("live view: " + server.URL)
	ctx, cancel := context.WithCancel(c.Context)
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(ctx) }()
	return func() {
		cancel()
		if err := <-ended; err != nil {
			fmt.Fprintf(c.App.ErrWriter, "%v\n", err)
		}
	}, nil
}
