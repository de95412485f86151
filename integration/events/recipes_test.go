// Package events tests the log as others meet it: with stock NATS clients, through
// `rutter tap` and `rutter export`, and with grep.
package events

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
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
	return startCommand(t, exec.Command(program), env...)
}

func startCommand(t *testing.T, cmd *exec.Cmd, env ...string) *running {
	t.Helper()
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
	out, err := c.Rutter("tap", "cm/menu", "-n", "default", "--since", "rev-1", "--limit", "2", "-o", "diff")
	require.NoError(t, err, out)
	require.Regexp(t, `^\S+ \d+ ADDED default configmaps/menu by admin \(kubectl-create\)\n\S+ \d+ MODIFIED default configmaps/menu by admin \(kubectl-patch\)\n    ~ data.soup: "leek" → "pea"\n$`, out)
	out, err = c.Rutter("tap", "cm", "--since", "rev-1", "--manager", "kubectl-patch", "--limit", "1", "-o", "cloudevents")
	require.NoError(t, err, out)
	require.Contains(t, out, `"type":"dev.rutter.resource.v1.updated"`)
	require.Contains(t, out, `"recordedtime":"`)
	out, err = c.Rutter("tap", "cm", "--user", "nobody", "--since", "rev-1", "--timeout", "500ms", "-o", "ndjson")
	var exit *exec.ExitError
	require.ErrorAs(t, err, &exit)
	require.Equal(t, 1, exit.ExitCode())
	require.Empty(t, out)
}

// TestOthersNamespacesAreDenied: what RBAC does not open, the bus does not either, live or
// past.
func TestOthersNamespacesAreDenied(t *testing.T) {
	c := cluster.New(t, "--no-node")
	c.Start()
	env := map[string]string{}
	for _, pair := range reader(t, c) {
		name, value, _ := strings.Cut(pair, "=")
		env[name] = value
	}
	refused := make(chan error, 10)
	nc, err := nats.Connect(env["BUS"], nats.RootCAs(env["CA"]), nats.Token(env["TOKEN"]), nats.CustomInboxPrefix("_INBOX.u.system:serviceaccount:shop:reader"),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { refused <- err }))
	require.NoError(t, err)
	defer nc.Close()
	for _, subject := range []string{"live.h._.configmaps.default.*", "live.h._.secrets.shop.*", "live.h.>", "live.n.*", "_INBOX.u.admin.>"} {
		_, err := nc.SubscribeSync(subject)
		require.NoError(t, err)
		require.ErrorIs(t, within(t, refused), nats.ErrPermissionViolation, subject)
	}
	for _, filter := range []string{"h._.configmaps.default.*", "h._.secrets.shop.*", "h.>"} {
		require.NoError(t, nc.Publish("bus.API.CONSUMER.CREATE.ARCHIVE.x."+filter, nil))
		require.ErrorIs(t, within(t, refused), nats.ErrPermissionViolation, filter)
	}
}

func within(t *testing.T, errs <-chan error) error {
	t.Helper()
	select {
	case err := <-errs:
		return err
	case <-time.After(patience):
		t.Fatal("nothing was refused")
		return nil
	}
}

// TestExportGoesOnWhereItWasKilled sends a cluster's changes to a small receiver; that each
// comes once at least and in order is tested closer to the code.
func TestExportGoesOnWhereItWasKilled(t *testing.T) {
	c := cluster.New(t, "--no-node")
	c.Start()
	bodies := make(chan string, 1000)
	receiver := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err == nil {
			bodies <- string(body)
		}
	}))
	defer receiver.Close()
	state := filepath.Join(t.TempDir(), "position")
	export := func() *exec.Cmd {
		cmd := exec.Command(c.Program(), "export", receiver.URL, "cm", "-n", "default", "--since", "rev-1",
			"--kubeconfig", c.Kubeconfig(), "--state", state)
		cmd.Stderr = os.Stderr
		require.NoError(t, cmd.Start())
		t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
		return cmd
	}
	wait := func(word string) {
		t.Helper()
		for {
			select {
			case body := <-bodies:
				if strings.Contains(body, word) {
					return
				}
			case <-time.After(patience):
				t.Fatalf("%s did not come", word)
			}
		}
	}
	c.Kubectl("create", "configmap", "first")
	first := export()
	wait("core/configmaps/default/first")
	require.NoError(t, first.Process.Kill())
	_ = first.Wait()
	c.Kubectl("create", "configmap", "second")
	second := export()
	wait("core/configmaps/default/second")
	require.NoError(t, second.Process.Signal(os.Interrupt))
	require.NoError(t, second.Wait(), "exit code 0 when interrupted")
}
