// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * The maps that all probe objects share, and nothing else: made first, so that the
 * objects with the programs can be loaded side by side.
 */
#include "exec.bpf.h"
#include "data.bpf.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";
