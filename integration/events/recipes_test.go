// Package events tests the log as others meet it: with stock NATS clients, through
// `rutter tap` and `rutter export`, and with grep.
package events

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rutter-project/rutter/integration/cluster"
)

const patience = time.Minute

// recipe is the program printed in a page of docs/recipes, built.
func recipe(t *testing.T, name string) string {
	t.Helper()
	page, err := os.ReadFile(filepath.Join("..", "..", "docs", "recipes", name+".md"))
	require.NoError(t, err)
	blocks := regexp.MustCompile("(?s)```go\n(.*?)```").FindAllSubmatch(page, -1)
	require.Len(t, blocks, 1, "the page has one program")
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "main.go"), blocks[0][1], 0o600))
	program := filepath.Join(dir, name)
	out, err := exec.CommandContext(t.Context(), "go", "build", "-o", program, filepath.Join(dir, "main.go")).CombinedOutput()
	require.NoError(t, err, "%s", out)
	return program
}

// running is a program whose lines are read one by one.
type running struct {
	cmd   *exec.Cmd
	lines *bufio.Scanner
}

func start(t *testing.T, program string, env ...string) *running {
	t.Helper()
	cmd := exec.Command(program)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	r := &running{cmd: cmd, lines: bufio.NewScanner(out)}
	t.Cleanup(r.kill)
	return r
}

func (r *running) kill() {
	_ = r.cmd.Process.Kill()
	_ = r.cmd.Wait() // it may have been killed before
}

// next is the next line.
func (r *running) next(t *testing.T) string {
	t.Helper()
	timer := time.AfterFunc(patience, r.kill)
	defer timer.Stop()
	require.True(t, r.lines.Scan(), "no line came")
	return r.lines.Text()
}

func (r *running) rest(t *testing.T) []string {
	t.Helper()
	timer := time.AfterFunc(patience, r.kill)
	defer timer.Stop()
	var lines []string
	for r.lines.Scan() {
		lines = append(lines, r.lines.Text())
	}
	require.NoError(t, r.cmd.Wait())
	return lines
}

// reader is a service account that may watch ConfigMaps of the namespace "shop".
func reader(t *testing.T, c *cluster.Cluster) []string {
	t.Helper()
	c.Kubectl("create", "namespace", "shop")
	c.Kubectl("-n", "shop", "create", "serviceaccount", "reader")
	c.Kubectl("-n", "shop", "create", "role", "reader", "--verb=watch", "--resource=configmaps")
	c.Kubectl("-n", "shop", "create", "rolebinding", "reader", "--role=reader", "--serviceaccount=shop:reader")
	token := strings.TrimSpace(c.Kubectl("-n", "shop", "create", "token", "reader"))
	return []string{fmt.Sprintf("BUS=tls://127.0.0.1:%d", c.Bus), "CA=" + filepath.Join(c.Dir, "pki", "ca.crt"), "TOKEN=" + token}
}

// TestRecipesRunAsPrinted: the programs of docs/recipes, with the stock client library and
// the rights of a service account.
func TestRecipesRunAsPrinted(t *testing.T) {
	c := cluster.New(t, "--no-node")
	c.Start()
	env := reader(t, c)
	begin := time.Now()
	tap := start(t, recipe(t, "tap"), env...)
	require.Equal(t, "ready", tap.next(t))
	position := "POSITION=" + filepath.Join(t.TempDir(), "position")
	program := recipe(t, "pipeline")
	pipeline := start(t, program, append(env, position)...)

	c.Kubectl("-n", "default", "create", "configmap", "foreign")
	c.Kubectl("-n", "shop", "create", "configmap", "menu", "--from-literal=soup=leek")
	require.Regexp(t, `^ADDED core/configmaps/shop/menu revision \d+ by admin`, seek(t, tap, "menu"))
	require.Regexp(t, `^ADDED core/configmaps/shop/menu \d+$`, seek(t, pipeline, "menu"))

	pipeline.kill()
	c.Kubectl("-n", "shop", "patch", "configmap", "menu", "-p", `{"data":{"soup":"pea"}}`)
	c.Kill()
	c.Start()
	pipeline = start(t, program, append(env, position)...)
	require.Regexp(t, `^MODIFIED core/configmaps/shop/menu \d+$`, pipeline.next(t), "what happened while it was away, and nothing again")
	c.Kubectl("-n", "shop", "delete", "configmap", "menu")
	require.Regexp(t, `^DELETED core/configmaps/shop/menu \d+$`, pipeline.next(t))

	replay := start(t, recipe(t, "replay"), append(env, "SINCE="+begin.Format(time.RFC3339Nano))...)
	var menu []string
	for _, line := range replay.rest(t) {
		require.NotContains(t, line, "foreign")
		if strings.Contains(line, "/menu ") {
			menu = append(menu, line)
		}
	}
	require.Equal(t, []string{
		"ADDED core/configmaps/shop/menu map[soup:leek]", "MODIFIED core/configmaps/shop/menu map[soup:pea]", "DELETED core/configmaps/shop/menu map[soup:pea]",
	}, menu)
}

// seek is the next line about something; a namespace has ConfigMaps of its own.
func seek(t *testing.T, r *running, about string) string {
	t.Helper()
	for {
		line := r.next(t)
		require.NotContains(t, line, "foreign", "nothing of other namespaces comes")
		if strings.Contains(line, about) {
			return line
		}
	}
}

// TestTapFollowsTheCluster: the command's forms, filters and exit codes against a real
// cluster.
func TestTapFollowsTheCluster(t *testing.T) {
	c := cluster.New(t, "--no-node")
	c.Start()
	c.Kubectl("create", "configmap", "menu", "--from-literal=soup=leek")
	c.Kubectl("patch", "configmap", "menu", "-p", `{"data":{"soup":"pea"}}`)
	out, err := c.RutterBus("tap", "cm/menu", "-n", "default", "--since", "rev-1", "--limit", "2", "-o", "diff")
	require.NoError(t, err, out)
	require.Regexp(t, `^\S+ \d+ ADDED default configmaps/menu by admin \(kubectl-create\)\n\S+ \d+ MODIFIED default configmaps/menu by admin \(kubectl-patch\)\n    ~ data.soup: "leek" → "pea"\n$`, out)
	out, err = c.RutterBus("tap", "cm", "--since", "rev-1", "--manager", "kubectl-patch", "--limit", "1", "-o", "cloudevents")
	require.NoError(t, err, out)
	require.Contains(t, out, `"type":"dev.rutter.resource.v1.updated"`)
	require.Contains(t, out, `"recordedtime":"`)
	out, err = c.RutterBus("tap", "cm", "--user", "nobody", "--since", "rev-1", "--timeout", "500ms", "-o", "ndjson")
	var exit *exec.ExitError
	require.ErrorAs(t, err, &exit)
	require.Equal(t, 1, exit.ExitCode())
	require.Empty(t, out)
}
