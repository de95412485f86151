package main

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/rutter-project/rutter/cmd/rutter/internal/remote"
	"github.com/rutter-project/rutter/cmd/rutter/internal/standalone"
)

// completer offers what the cluster has to the shell: names of objects, namespaces, marks.
// Without a cluster that answers it offers what needs none.
type completer struct{ cfg *standalone.Config }

// completionPatience is how long somebody who pressed a key is made to wait.
const completionPatience = 2 * time.Second

// instantFlags are flags that take an instant, in all commands.
var instantFlags = []string{"from", "to", "at", "since", "until", "good", "bad"}

// register completes the flags that mean the same in all commands below c.
func (o completer) register(c *cobra.Command) {
	offer := func(flag string, values cobra.CompletionFunc) {
		if c.Flags().Lookup(flag) == nil {
			return
		}
		if err := c.RegisterFlagCompletionFunc(flag, values); err != nil {
			panic("completion of --" + flag + " of " + c.Name() + " is there already")
		}
	}
	offer("namespace", o.namespaces)
	offer("context", o.contexts)
	for _, flag := range instantFlags {
		offer(flag, o.instants)
	}
	for _, child := range c.Commands() {
		o.register(child)
	}
}

// ask asks the server that a command would ask.
func (o completer) ask(cmd *cobra.Command, ask func(ctx context.Context, s *remote.Server) ([]string, error)) []string {
	s, err := o.operator(cmd).connect()
	if err != nil {
		return nil
	}
	defer s.Close()
	ctx, cancel := context.WithTimeout(cmd.Context(), completionPatience)
	defer cancel()
	values, err := ask(ctx, s)
	if err != nil {
		return nil
	}
	slices.Sort(values)
	return values
}

// operator is that of a command. Commands that can't choose a server ask this machine's.
func (o completer) operator(cmd *cobra.Command) *operator {
	text := func(flag string) string {
		if f := cmd.Flags().Lookup(flag); f != nil && f.Value.Type() == "string" {
			return f.Value.String()
		}
		return ""
	}
	found := &operator{cluster: o.cfg, kubeconfig: text("kubeconfig"), context: text("context"), namespace: text("namespace")}
	if cmd.Flags().Lookup("kubeconfig") == nil {
		found.kubeconfig = o.cfg.Kubeconfig()
	}
	return found
}

func (o completer) names(cmd *cobra.Command, resource, namespace string) []string {
	return o.ask(cmd, func(ctx context.Context, s *remote.Server) ([]string, error) {
		r, err := s.Find(resource)
		if err != nil {
			return nil, err
		}
		if namespace == "" {
			namespace = o.operator(cmd).in(s)
		}
		return s.Names(ctx, r, namespace)
	})
}

func (o completer) namespaces(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	return o.names(cmd, "namespaces", ""), cobra.ShellCompDirectiveNoFileComp
}

func (o completer) marks(cmd *cobra.Command) []string {
	return o.ask(cmd, func(ctx context.Context, s *remote.Server) ([]string, error) {
		marks, err := s.Marks(ctx)
		var names []string
		for name := range marks.Values {
			names = append(names, name)
		}
		return names, err
	})
}

// instants offers marks, and how others begin.
func (o completer) instants(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	return append(o.marks(cmd), "now", "-5m", "-1h", "-1d", "rev-"), cobra.ShellCompDirectiveNoFileComp
}

// instant completes the first argument.
func (o completer) instant(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveDefault // a command, and its files
	}
	return o.instants(cmd, args, typed)
}

// mark completes the first argument with a mark that is there.
func (o completer) mark(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return o.marks(cmd), cobra.ShellCompDirectiveNoFileComp
}

func (o completer) contexts(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.WarnIfAllMissing = false
	rules.ExplicitPath = o.operator(cmd).kubeconfig
	cfg, err := rules.Load()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var names []string
	for name := range cfg.Contexts {
		names = append(names, name)
	}
	slices.Sort(names)
	return names, cobra.ShellCompDirectiveNoFileComp
}

// object completes RESOURCE, and behind a slash the names of its objects.
func (o completer) object(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return o.objects(cmd, args, typed)
}

// objects is object for commands that take many.
func (o completer) objects(cmd *cobra.Command, _ []string, typed string) ([]string, cobra.ShellCompDirective) {
	resource, _, named := strings.Cut(typed, "/")
	if !named {
		return shortResources, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
	}
	names := o.names(cmd, resource, "")
	for i, name := range names {
		names[i] = resource + "/" + name
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

// kind completes the first argument with a resource.
func (o completer) kind(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return shortResources, cobra.ShellCompDirectiveNoFileComp
}
