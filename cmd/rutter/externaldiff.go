package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"github.com/rutter-project/rutter/schemas"
)

// externalDiff shows differences with a program of the user's, which gets a directory for
// each instant. Its exit code 1 means differences, more means that it failed.
func externalDiff(cmd *cobra.Command, program, from, to string, changed []difference) error {
	dir, err := os.MkdirTemp("", "rutter-diff-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	for _, d := range changed {
		for side, object := range map[string]json.RawMessage{from: d.before, to: d.after} {
			if err := writeSide(filepath.Join(dir, side), d.Key, object); err != nil {
				return err
			}
		}
	}
	words := append(strings.Fields(program), filepath.Join(dir, from), filepath.Join(dir, to))
	run := exec.CommandContext(cmd.Context(), words[0], words[1:]...) //nolint:gosec // the user names the program, as for kubectl
	run.Stdout, run.Stderr = cmd.OutOrStdout(), cmd.ErrOrStderr()
	err = run.Run()
	var exit *exec.ExitError
	switch {
	case err == nil, errors.As(err, &exit) && exit.ExitCode() == 1:
		return errFound
	default:
		return fmt.Errorf("KUBECTL_EXTERNAL_DIFF %q: %w", program, err)
	}
}

// writeSide writes an object as YAML, without what the server keeps books with. The
// directory is there even if the object was not.
func writeSide(dir string, key schemas.Key, object json.RawMessage) error {
	if err := os.MkdirAll(dir, 0o700); err != nil || len(object) == 0 {
		return err
	}
	var fields map[string]any
	decoder := json.NewDecoder(bytes.NewReader(object))
	decoder.UseNumber()
	if err := decoder.Decode(&fields); err != nil {
		return fmt.Errorf("%s: %w", key, err)
	}
	if metadata, ok := fields["metadata"].(map[string]any); ok {
		for _, name := range []string{"managedFields", "resourceVersion", "generation"} {
			delete(metadata, name)
		}
	}
	text, err := yaml.Marshal(fields)
	if err != nil {
		return fmt.Errorf("%s: %w", key, err)
	}
	return os.WriteFile(filepath.Join(dir, strings.ReplaceAll(key.String(), "/", ".")), text, 0o600)
}
