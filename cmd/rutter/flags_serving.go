package main

import (
	"github.com/spf13/cobra"

	"github.com/rutter-project/rutter/apiserver"
)

// servingFlags say how connections to the API server are served, and how they end. Their
// names and defaults are kube-apiserver's.
func servingFlags(c *cobra.Command, cfg *apiserver.ServingConfig) {
	f := c.Flags()
	f.IntVar(&cfg.MaxStreams, "http2-max-streams-per-connection", cfg.MaxStreams, "how many requests a client may have under way on a connection")
	f.Float64Var(&cfg.GoawayChance, "goaway-chance", cfg.GoawayChance, "how likely a request has its client connect anew, so that a load balancer can choose again; at most 0.02")
	f.DurationVar(&cfg.ShutdownDelay, "shutdown-delay-duration", cfg.ShutdownDelay, "for how long the API is served after the stop was asked for, while /readyz fails")
	f.BoolVar(&cfg.ShutdownRetryAfter, "shutdown-send-retry-after", cfg.ShutdownRetryAfter, "answer later requests with 429 until those before them are answered, instead of taking no more connections")
}
