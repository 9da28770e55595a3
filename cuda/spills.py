#!/usr/bin/env python3
"""Reads `ptxas -v` output: a table of kernels on stdout, and failure where a kernel spills or keeps a stack frame."""
import re
import sys

# Kernels off the hot path whose double-precision library calls may take a stack frame.
COLD = ("cross_entropy", "norm_forward", "conv_direct", "set_slots")

rows, faults, kernel, target, frame = [], [], None, None, None
for line in open(sys.argv[1]):
    if m := re.search(r"Compiling entry function '(\S+)' for '(\S+)'", line):
        kernel, target, frame = m[1], m[2], None
    elif m := re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", line):
        frame = tuple(map(int, m.groups()))
    elif (m := re.search(r"Used (\d+) registers", line)) and kernel:
        name = re.sub(r"^_ZN3anx\d+", "", kernel)
        name = re.match(r"[a-z_0-9]+", name)[0] + ("<half>" if "6__half" in kernel else "<bf16>" if "bfloat16" in kernel else "<float>" if "IfE" in kernel else "")
        rows.append((target, name, int(m[1]), *(frame or (0, 0, 0))))
        if frame and any(frame) and not name.startswith(COLD):
            faults.append(rows[-1])
        kernel = None
print("target  registers  stack  spills  kernel")
for target, name, registers, stack, stores, loads in sorted(rows):
    print(f"{target:7} {registers:9} {stack:6} {stores + loads:7}  {name}")
if not rows:
    sys.exit("no kernel in the log")
for target, name, registers, stack, stores, loads in faults:
    print(f"{name} for {target}: a stack frame of {stack} bytes, {stores + loads} bytes of spills", file=sys.stderr)
sys.exit(1 if faults else 0)
