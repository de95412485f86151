package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
)

// profileSeconds is how long the processor is watched.
const profileSeconds = 5

var notInFileNames = regexp.MustCompile(`[^A-Za-z0-9]+`)

// profile begins to note what the API server of a side uses its processor for, if that is
// wanted. What it returns waits until that is written. It costs some of what is measured.
func (p plan) profile(ctx context.Context, s *side, what string) (wait func() error) {
	if p.profiles == "" {
		return func() error { return nil }
	}
	done := make(chan error, 1)
	go func() {
		done <- p.save(ctx, s, what+" cpu", fmt.Sprintf("/debug/pprof/profile?seconds=%d", profileSeconds))
	}()
	return func() error { return <-done }
}

// save writes what an API server tells of itself into the folder of profiles.
func (p plan) save(ctx context.Context, s *side, what, path string) error {
	if p.profiles == "" {
		return nil
	}
	text, err := s.exchange(ctx, http.MethodGet, path, asJSON, "")
	if err != nil {
		return err
	}
	name := notInFileNames.ReplaceAllString(s.Name+" "+what, "-") + ".pprof"
	return os.WriteFile(filepath.Join(p.profiles, name), []byte(text), 0o600)
}
