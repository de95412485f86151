// Package integration tests the built binary as its users meet it: a newcomer with
// kubectl, an operator who kills it, a script that feeds it nonsense.
package integration

import (
	"context"
	"os"
	"strings"
	"testing"

	"github.com/rutter-project/rutter/integration/images"
)

var (
	// image is the reference of the test image, with the tags v1 and v2.
	image string
	// registry serves it and what tests add.
	registry *images.Registry
)

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "rutter-images-")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	program, err := images.Build(context.Background(), images.Program, dir)
	if err != nil {
		panic(err)
	}
	registry, err = images.Serve("", "")
	if err != nil {
		panic(err)
	}
	defer registry.Close()
	for _, tag := range []string{"busy:v1", "busy:v2"} {
		img, err := images.Assemble(images.Options{Files: map[string]string{"/busy": program}, Entrypoint: []string{"/busy"}, Env: []string{"PATH=/", "TAG=" + tag}})
		if err != nil {
			panic(err)
		}
		ref, err := registry.Push(context.Background(), tag, img)
		if err != nil {
			panic(err)
		}
		image = strings.TrimSuffix(strings.TrimSuffix(ref, ":v1"), ":v2")
	}
	return m.Run()
}
