package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"github.com/rutter-project/rutter/bus"
	"github.com/rutter-project/rutter/cmd/rutter/internal/standalone"
	"github.com/rutter-project/rutter/schemas"
)

// clusterScoped are the built-in resources without a namespace.
var clusterScoped = map[resourceName]bool{
	{"", "nodes"}: true, {"", "namespaces"}: true,
	{"rbac.authorization.k8s.io", "clusterroles"}: true, {"rbac.authorization.k8s.io", "clusterrolebindings"}: true,
	{"storage.k8s.io", "storageclasses"}: true, {"storage.k8s.io", "csidrivers"}: true, {"storage.k8s.io", "csinodes"}: true,
	{"storage.k8s.io", "volumeattachments"}: true, {"storage.k8s.io", "volumeattributesclasses"}: true,
	{"scheduling.k8s.io", "priorityclasses"}: true, {"node.k8s.io", "runtimeclasses"}: true,
	{"certificates.k8s.io", "certificatesigningrequests"}: true,
	{"networking.k8s.io", "ingressclasses"}:               true, {"networking.k8s.io", "ipaddresses"}: true, {"networking.k8s.io", "servicecidrs"}: true,
	{"flowcontrol.apiserver.k8s.io", "flowschemas"}: true, {"flowcontrol.apiserver.k8s.io", "prioritylevelconfigurations"}: true,
	{"admissionregistration.k8s.io", "validatingwebhookconfigurations"}: true, {"admissionregistration.k8s.io", "mutatingwebhookconfigurations"}: true,
	{"admissionregistration.k8s.io", "validatingadmissionpolicies"}: true, {"admissionregistration.k8s.io", "validatingadmissionpolicybindings"}: true,
	{"admissionregistration.k8s.io", "mutatingadmissionpolicies"}: true, {"admissionregistration.k8s.io", "mutatingadmissionpolicybindings"}: true,
}

func newLog(cfg *standalone.Config) *cobra.Command {
	var namespace, output string
	c := &cobra.Command{
		Use:   "log RESOURCE[.GROUP]/NAME",
		Short: "List the changes of one object",
		Long: `Log lists every change of one object that the event stream holds, oldest first: at
which revision, by whom, and because of which revision. Objects that were deleted are
found as well.`,
		Example: "  rutter log deploy/web -n shop\n  rutter log node/worker-1\n  rutter log deploy/web -o json",
		Args:    cobra.ExactArgs(1),

		ValidArgsFunction: completeResource,
		RunE: func(cmd *cobra.Command, args []string) error {
			key, err := logKey(args[0], namespace)
			if err != nil {
				return err
			}
			var client *bus.Client
			before := func(e schemas.Event) (schemas.Event, error) { return client.Before(cmd.Context(), e) }
			write, err := eventWriter(cmd.OutOrStdout(), output, before)
			if err != nil {
				return err
			}
			if client, err = standalone.Operator(cmd.Context(), *cfg, zerolog.Nop()); err != nil {
				return err
			}
			defer client.Close()
			err = client.Log(cmd.Context(), key, write)
			if errors.Is(err, bus.ErrNotFound) {
				fmt.Fprintf(cmd.ErrOrStderr(), "No changes of %s in the stream.\n", objectName(key))
				return errFound
			}
			return err
		},
	}
	c.Flags().Uint16Var(&cfg.BusPort, "bus-port", cfg.BusPort, "TCP port of the event bus (NATS)")
	c.Flags().StringVarP(&namespace, "namespace", "n", "default", "the object's namespace")
	outputFlag(c, &output)
	return c
}

func logKey(arg, namespace string) (schemas.Key, error) {
	resource, name, ok := strings.Cut(arg, "/")
	if !ok || name == "" || strings.Contains(name, "/") {
		return schemas.Key{}, fmt.Errorf("%q names no object; give RESOURCE/NAME, such as deploy/web", arg)
	}
	r, err := parseResource(resource)
	if err != nil {
		return schemas.Key{}, err
	}
	if clusterScoped[r] {
		namespace = ""
	}
	return schemas.Key{Group: r.group, Resource: r.resource, Namespace: namespace, Name: name}, nil
}
