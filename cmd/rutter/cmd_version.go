package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// Set by the build: -ldflags "-X main.version=… -X main.commit=… -X main.date=…".
var version, commit, date string

// buildInfo says what this binary is.
type buildInfo struct{ Version, Commit, Date, Go string }

func build() buildInfo {
	b := buildInfo{Version: version, Commit: commit, Date: date, Go: runtime.Version()}
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
	return &cobra.Command{
		Use: "version", Short: "Print the version", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			b := build()
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "rutter %s\ncommit %s\nbuilt %s with %s\nKubernetes API 1.37\n", b.Version, b.Commit, b.Date, b.Go)
			return err
		},
	}
}
