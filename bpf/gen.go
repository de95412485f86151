package bpf

//go:generate go run github.com/cilium/ebpf/cmd/bpf2go -target bpfel -cc clang-19 -strip llvm-strip-19 -cflags "-O2 -g -Wall -Wextra -Werror -Wno-unused-parameter -Wno-missing-declarations -I/usr/include/x86_64-linux-gnu -I/usr/include/aarch64-linux-gnu" -type svc_flags -type backend_flags -type nat_flags -type route_flags -type node_flags Netproxy netproxy.c
