#!/usr/bin/env python3
"""Applies one line of mutations.txt to a copy of the kernels and prints what it is; --cases prints which cases it needs."""
import re
import sys

fields = [f.strip().replace("\\|", "|").replace("\\n", "\n") for f in re.split(r"(?<!\\)\|", sys.argv[2])]
file, text, replacement, cases, what = fields
if sys.argv[1] == "--cases":
    print(cases)
    sys.exit()
path = f"{sys.argv[1]}/{file}"
source = open(path).read()
if text not in source:
    sys.exit(f"mutations.txt: {file} has no {text!r}")
open(path, "w").write(source.replace(text, replacement, 1))
print(what)
