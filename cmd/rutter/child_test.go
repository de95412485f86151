package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// child is a program that the commands run: a client of the API that KUBECONFIG names.
//
//	get PATH          prints the answer
//	rutter ARGUMENT…  is the program itself
//	exit CODE         exits
//	replicas N SKIP   exits with 0 if the deployment has N replicas, with 125 at SKIP
//	anonymous PATH    asks without a token
func child(args []string) int {
	if args[0] == "rutter" {
		return run(context.Background(), args[1:], os.Stdout, os.Stderr)
	}
	cfg, err := clientcmd.BuildConfigFromFlags("", os.Getenv("KUBECONFIG"))
	if err != nil {
		fmt.Println(err)
		return 200
	}
	switch args[0] {
	case "exit":
		code, _ := strconv.Atoi(args[1])
		return code
	case "anonymous":
		cfg.BearerToken = ""
		return childGet(cfg, args[1], os.Stdout)
	case "get":
		info, err := os.Stat(os.Getenv("KUBECONFIG"))
		if err != nil {
			return 201
		}
		fmt.Println(os.Getenv("RUTTER_INSTANT"), info.Mode().Perm())
		return childGet(cfg, args[1], os.Stdout)
	case "replicas":
		if os.Getenv("RUTTER_INSTANT") == args[2] {
			return bisectSkip
		}
		var text strings.Builder
		if code := childGet(cfg, "/apis/apps/v1/namespaces/shop/deployments/web", &text); code != 0 {
			return code
		}
		if strings.Contains(text.String(), `"replicas":`+args[1]) {
			return 0
		}
		return 1
	}
	return 202
}

func childGet(cfg *rest.Config, path string, out io.Writer) int {
	client, err := rest.HTTPClientFor(cfg)
	if err != nil {
		return 203
	}
	r, err := http.NewRequestWithContext(context.Background(), http.MethodGet, cfg.Host+path, nil)
	if err != nil {
		return 204
	}
	answer, err := client.Do(r)
	if err != nil {
		fmt.Println(err)
		return 205
	}
	defer answer.Body.Close()
	_, _ = io.Copy(out, answer.Body)
	if answer.StatusCode != http.StatusOK {
		return 1
	}
	return 0
}
