package main

import (
	"fmt"
	"io"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// Set by the build: -ldflags "-X main.version=… -X main.commit=… -X main.date=…".
var version, commit, date string

// buildInfo says what this binary is.
type buildInfo struct {
	Version    string `json:"version"`
	Commit     string `json:"commit"`
	Date       string `json:"built"`
	Go         string `json:"go"`
	Kubernetes string `json:"kubernetes"`
}

func build() buildInfo {
	b := buildInfo{Version: version, Commit: commit, Date: date, Go: runtime.Version(), Kubernetes: "1.37"}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			switch {
			case s.Key == "vcs.revision" && b.Commit == "":
				b.Commit = s.Value
			case s.Key == "vcs.time" && b.Date == "":
				b.Date = s.Value
			}
		}
	}
	if b.Version == "" {
		b.Version = "development build"
	}
	return b
}

func newVersion() *cobra.Command {
	var output string
	c := &cobra.Command{
		Use: "version", Short: "Print the version",
		Long: `Version says what this program was built from, and which Kubernetes API it serves. It asks
no cluster.

Exit code 0: printed. 2: it could not be done.`,
		Example: "  rutter version\n  rutter version -o json | jq -r .commit",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkPlain(output); err != nil {
				return err
			}
			return writeVersion(cmd.OutOrStdout(), output, build())
		},
	}
	plainOutput(c, &output)
	return c
}

func writeVersion(w io.Writer, form string, b buildInfo) error {
	switch form {
	case "json":
		return writeJSON(w, b)
	case "yaml":
		return writeYAML(w, b)
	}
	_, err := fmt.Fprintf(w, "rutter %s\ncommit %s\nbuilt %s with %s\nKubernetes API %s\n", b.Version, b.Commit, b.Date, b.Go, b.Kubernetes)
	return err
}
