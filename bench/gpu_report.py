#!/usr/bin/env python3
"""What scripts/gpu_check.sh found, in short: NAME.json and NAME.md beside the files they are made of.

python bench/gpu_report.py [--parts FILE.tsv] [--commit ID] [--gpu TEXT] [--name report] FOLDER

Reads kernels.jsonl and cudnn.jsonl (BenchmarkKernels), speed.jsonl and ops.jsonl (bench/gpu.py) and peer.jsonl (bench/peers/pytorch_gpu.py), as far as they are
there, and the parts: state, name, seconds and text of each.
"""
import argparse
import json
import os
import statistics


def rows(path):
    return [json.loads(line) for line in open(path)] if os.path.exists(path) else []


def table(head, lines):
    return "\n".join(["| " + " | ".join(head) + " |", "|" + "---|" * len(head)] + ["| " + " | ".join(map(str, line)) + " |" for line in lines]) + "\n"


def harmonic_mean(values):
    return statistics.harmonic_mean(values) if values else None


def fallbacks(kernels):
    """Generic kernels: a miss, but for the head's filter gradient, the one op that has no other."""
    return {name: n - (name == "conv_direct_filter_gradient") for name, n in kernels.items() if name.startswith("conv_direct") and n > (name == "conv_direct_filter_gradient")}


def kernels_of(measured):
    """Rows by group width: fraction of copy bandwidth, forward and backward, at each side and stride."""
    cells = {}
    for r in measured:
        if r["r"] == 3 and r["c"] != 3:
            cells.setdefault(r["group"], {})[(r["side"], r["stride"], r["op"])] = r
    places = sorted({p for row in cells.values() for p in row}, key=lambda p: (p[2] != "conv_fwd", -p[0], p[1]))
    head = ["g"] + [f"{'forward' if op == 'conv_fwd' else 'backward'} {side} px{'/2' if stride == 2 else ''}" for side, stride, op in places]
    mark = lambda r: "" if r is None else f"{r['of_copy']:.2f}" + ("*" if "conv_direct" in r["kernels"] else "")
    return table(head, [[g] + [mark(cells[g].get(p)) for p in places] for g in sorted(cells)]) if cells else ""


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--parts")
    p.add_argument("--commit", default="")
    p.add_argument("--gpu", default="")
    p.add_argument("--name", default="report")
    p.add_argument("folder")
    a = p.parse_args()
    at = lambda name: os.path.join(a.folder, name)
    parts = [dict(zip(("state", "name", "seconds", "text"), line.rstrip("\n").split("\t"))) for line in open(a.parts)] if a.parts else []
    kernels, speed, peer = rows(at("kernels.jsonl")), rows(at("speed.jsonl")), rows(at("peer.jsonl"))
    text = [f"# GPU check\n\n{a.gpu or 'no GPU: a dry run'}; commit {a.commit or 'unknown'}\n"]
    if parts:
        count = {s: sum(x["state"] == s for x in parts) for s in ("passed", "FAILED", "skipped")}
        text += [f"{count['passed']} parts passed, {count['FAILED']} failed, {count['skipped']} skipped.\n", table(["part", "state", "s", ""], [[x["name"], x["state"], x["seconds"], x["text"].replace("|", "/")] for x in parts])]
    best = {}
    for r in peer:
        if "images_per_second" in r:
            key = (r["resolution"], r["network"])
            if r["images_per_second"] > best.get(key, {"images_per_second": 0})["images_per_second"]:
                best[key] = r
    summary = {}
    for resolution in sorted({r["resolution"] for r in speed}):
        latest = {r["network"]: r for r in speed if r["resolution"] == resolution}
        good = {i: r for i, r in latest.items() if "error" not in r}
        ratios = {i: r["images_per_second"] / best[(resolution, i)]["images_per_second"] for i, r in good.items() if (resolution, i) in best}
        s = summary[resolution] = {"networks": len(good), "failed": len(latest) - len(good), "images_per_second": harmonic_mean([r["images_per_second"] for r in good.values()]),
                                   "compared": len(ratios), "ratio": harmonic_mean(list(ratios.values())), "worst": min(ratios.values(), default=None)}
        text += [f"## Training at {resolution} px, {s['networks']} networks\n",
                 table(["network", "images/s", "step ms", "arena MiB", "peer's best", "ratio", "generic kernels"],
                       [[i, r["error"].replace("|", "/")[-80:], "", "", "", "", ""] if "error" in r else
                        [i, f"{r['images_per_second']:.0f}", f"{r['step_ms']:.3f}", f"{r['arena_bytes'] / 2**20:.0f}",
                         f"{best[(resolution, i)]['images_per_second']:.0f} ({best[(resolution, i)]['mode']} {best[(resolution, i)]['layout']})" if i in ratios else "",
                         f"{ratios[i]:.2f}" if i in ratios else "", fallbacks(r.get("kernels", {})) or ""] for i, r in sorted(latest.items())])]
        if ratios:
            text.append(f"Harmonic mean {s['ratio']:.2f}, worst {s['worst']:.2f}, of {s['compared']} networks that the peer trained too.\n")
    measured = [r for r in kernels if "op" in r]
    if measured:
        c = kernels[0]
        text += [f"## Grouped 3x3, fraction of the copy bandwidth ({c['copy_gb_per_s']:.0f} GB/s; {c['dot_bf16_gflops'] / 1e3:.0f} TFLOP/s of 16-bit products)\n\nA star: the generic kernel, a miss.\n",
                 kernels_of(measured), "## Other convolutions\n",
                 table(["op", "shape", "us", "of copy", "TFLOP/s", "kernels"], [[r["op"], f"{r['side']} px {r['c']}->{r['k']} {r['r']}x{r['r']}/{r['stride']}", f"{r['us']:.1f}", f"{r['of_copy']:.2f}", f"{r['tflops']:.1f}", r["kernels"]]
                                                                            for r in measured if r["r"] != 3 or r["c"] == 3])]
    with_cudnn = [r for r in rows(at("cudnn.jsonl")) if "op" in r]
    if with_cudnn:
        ours = {(r["op"], r["side"], r["c"], r["k"], r["r"], r["stride"], r["group"]): r["us"] for r in measured}
        text += ["## With cuDNN, beside our own kernels\n", table(["op", "shape", "us", "ours, us", "kernels"], [
            [r["op"], f"{r['side']} px {r['c']}->{r['k']} {r['r']}x{r['r']}/{r['stride']} g={r['group']}", f"{r['us']:.1f}",
             f"{u:.1f}" if (u := ours.get((r["op"], r["side"], r["c"], r["k"], r["r"], r["stride"], r["group"]))) else "", r["kernels"]] for r in with_cudnn])]
    for r in rows(at("ops.jsonl")):
        if "kinds" in r:
            text += [f"## Where a step goes: network {r['network']} at {r['resolution']} px, kernel by kernel\n", table(["kind of op", "ops", "ms", "share"], [[k["kind"], k["ops"], f"{k['ms']:.3f}", f"{100 * k['share']:.1f} %"] for k in r["kinds"]])]
    with open(at(a.name + ".json"), "w") as out:
        json.dump({"gpu": a.gpu, "commit": a.commit, "parts": parts, "ceilings": kernels[0] if kernels else None, "training": summary}, out, indent=1)
    with open(at(a.name + ".md"), "w") as out:
        out.write("\n".join(text))
    print(at(a.name + ".md"))


if __name__ == "__main__":
    main()
