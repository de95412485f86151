//go:build ignore

// SPDX-License-Identifier: GPL-2.0 OR MIT
// One object for all programs, so that they share one set of maps.
#include "np_maps.h"
#include "sock.h"
#include "pod.h"
#include "tunnel.h"
#include "uplink.h"

char np_license[] SEC("license") = "Dual MIT/GPL";
