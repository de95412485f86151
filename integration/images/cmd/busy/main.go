// Command busy is the program inside test images. Its arguments are steps,
// performed one after the other:
//
//	echo=TEXT      print TEXT and a newline to stdout
//	err=TEXT       print TEXT and a newline to stderr
//	count=N        print the numbers below N, one a line
//	tick=DURATION  print the numbers from 0 on, one per DURATION, for ever
//	env            print the environment, sorted
//	cat=FILE       print FILE
//	write=FILE=TEXT  write TEXT to FILE
//	append=FILE=TEXT append TEXT and a newline to FILE
//	id             print uid, gid, groups, effective capabilities and seccomp mode
//	hostname       print the host name
//	stdin          copy stdin to stdout until it ends
//	sleep=DURATION wait
//	serve=PORT     serve HTTP: / says the host name, /file?path=P the content of P, /healthz fails while /tmp/unhealthy exists
//	get=URL        print what an HTTP GET on a new connection answers
//	wait           wait for SIGTERM, then go on with the next step
//	stubborn       wait and ignore SIGTERM
//	exit=CODE      end
//
// Without any step it waits for SIGTERM.
package main

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"sort"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func main() {
	steps := os.Args[1:]
	if len(steps) == 0 {
		steps = []string{"wait"}
	}
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM, syscall.SIGUSR1)
	for _, step := range steps {
		verb, arg, _ := strings.Cut(step, "=")
		if err := do(verb, arg, term); err != nil {
			fmt.Fprintln(os.Stderr, "busy:", err)
			os.Exit(1)
		}
	}
}

func do(verb, arg string, term <-chan os.Signal) error {
	switch verb {
	case "echo":
		fmt.Println(arg)
	case "err":
		fmt.Fprintln(os.Stderr, arg)
	case "count":
		return count(arg)
	case "tick":
		return tick(arg, term)
	case "env":
		env := os.Environ()
		sort.Strings(env)
		fmt.Println(strings.Join(env, "\n"))
	case "cat":
		data, err := os.ReadFile(arg)
		if err != nil {
			return err
		}
		_, err = os.Stdout.Write(data)
		return err
	case "write", "append":
		return write(verb, arg)
	case "id":
		return id()
	case "hostname":
		name, err := os.Hostname()
		fmt.Println(name)
		return err
	case "stdin":
		_, err := io.Copy(os.Stdout, os.Stdin)
		return err
	case "sleep":
		d, err := time.ParseDuration(arg)
		time.Sleep(d)
		return err
	case "serve":
		go serve(arg)
	case "get":
		return get(arg)
	case "wait":
		fmt.Println("got", <-term)
	case "stubborn":
		for {
			fmt.Println("ignored", <-term)
		}
	case "exit":
		code, err := strconv.Atoi(arg)
		if err != nil {
			return err
		}
		os.Exit(code)
	default:
		return fmt.Errorf("unknown step %q", verb)
	}
	return nil
}

// get prints one answer. Each call connects anew: what is tested is connecting.
func get(url string) error {
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get(url)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	fmt.Println(strings.TrimSpace(string(body)))
	return nil
}

func count(arg string) error {
	n, err := strconv.Atoi(arg)
	w := bufio.NewWriter(os.Stdout)
	for i := range n {
		_, _ = fmt.Fprintln(w, i) // Flush tells
	}
	if err != nil {
		return err
	}
	return w.Flush()
}

func tick(arg string, term <-chan os.Signal) error {
	d, err := time.ParseDuration(arg)
	if err != nil {
		return err
	}
	for i := 0; ; i++ {
		fmt.Println(i)
		select {
		case <-term:
			return nil
		case <-time.After(d):
		}
	}
}

func write(verb, arg string) error {
	file, text, _ := strings.Cut(arg, "=")
	flags := os.O_CREATE | os.O_WRONLY | os.O_TRUNC
	if verb == "append" {
		flags, text = os.O_CREATE|os.O_WRONLY|os.O_APPEND, text+"\n"
	}
	f, err := os.OpenFile(file, flags, 0o644)
	if err != nil {
		return err
	}
	if _, err := f.WriteString(text); err != nil {
		return err
	}
	return f.Close()
}

func id() error {
	groups, err := os.Getgroups()
	if err != nil {
		return err
	}
	fmt.Println("uid", os.Getuid(), "gid", os.Getgid(), "groups", groups)
	data, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return err
	}
	for _, line := range strings.Split(string(data), "\n") {
		if strings.HasPrefix(line, "CapEff") || strings.HasPrefix(line, "Seccomp:") || strings.HasPrefix(line, "NoNewPrivs") {
			fmt.Println(line)
		}
	}
	return nil
}

func serve(port string) {
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		name, _ := os.Hostname()
		_, _ = fmt.Fprintln(w, name) // a client that left needs no answer
	})
	mux.HandleFunc("/file", func(w http.ResponseWriter, r *http.Request) { http.ServeFile(w, r, r.URL.Query().Get("path")) })
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) {
		if _, err := os.Stat("/tmp/unhealthy"); err == nil {
			http.Error(w, "unhealthy", http.StatusInternalServerError)
			return
		}
		_, _ = fmt.Fprintln(w, "ok") // the same
	})
	srv := &http.Server{Addr: ":" + port, Handler: mux, ReadHeaderTimeout: time.Minute}
	if err := srv.ListenAndServe(); err != nil {
		fmt.Fprintln(os.Stderr, "busy:", err)
		os.Exit(1)
	}
}
