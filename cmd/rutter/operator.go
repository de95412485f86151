package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/rutter-project/rutter/cmd/rutter/internal/past"
	"github.com/rutter-project/rutter/cmd/rutter/internal/remote"
	"github.com/rutter-project/rutter/cmd/rutter/internal/standalone"
	"github.com/rutter-project/rutter/schemas"
)

// operator is what the commands that look at the past share: which server, and which
// namespace.
type operator struct {
	cluster    *standalone.Config
	kubeconfig string
	context    string
	namespace  string
}

// serverFlags say which server is asked.
func (o *operator) serverFlags(c *cobra.Command) {
	c.Flags().StringVar(&o.kubeconfig, "kubeconfig", "", "kubeconfig file (default: $KUBECONFIG, else that of this machine's cluster)")
	c.Flags().StringVar(&o.context, "context", "", "context of the kubeconfig (default: the current one)")
}

func (o *operator) flags(c *cobra.Command) {
	o.serverFlags(c)
	c.Flags().StringVarP(&o.namespace, "namespace", "n", "", "namespace (default: the context's)")
}

func (o *operator) connect() (*remote.Server, error) {
	return remote.Connect(remote.Config{Kubeconfig: o.kubeconfig, Context: o.context, Fallback: o.cluster.Kubeconfig()})
}

// ask connects, once the form of output is known to be right.
func (o *operator) ask(output string, fn func(s *remote.Server) error) error {
	if err := checkPlain(output); err != nil {
		return err
	}
	s, err := o.connect()
	if err != nil {
		return err
	}
	defer s.Close()
	return fn(s)
}

// object reads RESOURCE/NAME.
func (o *operator) object(s *remote.Server, arg string) (remote.Resource, schemas.Key, error) {
	resource, name, err := splitObject(arg)
	if err != nil {
		return remote.Resource{}, schemas.Key{}, err
	}
	r, err := s.Find(resource)
	if err != nil {
		return remote.Resource{}, schemas.Key{}, err
	}
	return r, r.Key(o.in(s), name), nil
}

// in is the namespace that is looked into.
func (o *operator) in(s *remote.Server) string {
	if o.namespace != "" {
		return o.namespace
	}
	return s.Namespace()
}

func splitObject(arg string) (resource, name string, err error) {
	resource, name, ok := strings.Cut(arg, "/")
	if !ok || resource == "" || name == "" || strings.Contains(name, "/") {
		return "", "", fmt.Errorf("%q names no object; give RESOURCE/NAME, such as deploy/web", arg)
	}
	return resource, name, nil
}

// resolve asks the server what an instant means, and says so: later answers are of that.
func resolve(cmd *cobra.Command, s *remote.Server, flag, text string) (remote.Instant, error) {
	at, err := past.ParseInstant(text, time.Now())
	if err != nil {
		return remote.Instant{}, fmt.Errorf("%s %w", flag, err)
	}
	found, err := s.Resolve(cmd.Context(), at.Text)
	if err != nil {
		return remote.Instant{}, fmt.Errorf("%s %s: %w", flag, text, err)
	}
	if text != found.Text() {
		fmt.Fprintf(cmd.ErrOrStderr(), "%s %s is %s (%s)\n", flag, text, found.Text(), pastClock.text(found.Time))
	}
	return found, nil
}
