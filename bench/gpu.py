#!/usr/bin/env python3
"""Training speed of anynetx on a GPU: the 16 networks of the default space (seed 1) that bench/peers/pytorch_gpu.py trains too.

python bench/gpu.py [--resolution 32|224] [--dtype fp16] [--count N] [--ops | --profile] [--program build/gpu/anynetx] [--out FILE.jsonl] [--peer FILE.jsonl]

One JSON object a network; with --peer a table beside the peer's best row of each. Needs no module and no Go; ANX_LIBRARY_DIR names the
folder of libanx_cuda.so. Steps are of `bench network`, which waits for the device after each. --ops adds where the time goes, --profile lets
a profiler around this program record one step, --dry trains a very small network instead, to see that everything runs.
"""
import argparse
import json
import subprocess
import sys


def networks(program, count):
    """Networks of the default space: (widths, depths, bottlenecks, group widths)."""
    text = subprocess.run([program, "sample", "--count", str(count), "--seed", "1", "--json"], check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout
    return [(n["widths"], n["depths"], n["bottlenecks"], n["group_widths"]) for n in json.loads(text)]


def best_of_peer(path, resolution):
    best = {}
    for line in open(path):
        row = json.loads(line)
        if row.get("resolution") == resolution and "images_per_second" in row:
            best[row["network"]] = max(best.get(row["network"], 0), row["images_per_second"])
    return best


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--resolution", type=int, default=32)
    p.add_argument("--batch", type=int, default=128)
    p.add_argument("--dtype", default="fp16")
    p.add_argument("--count", type=int, default=16)
    p.add_argument("--seconds", type=float, default=1)
    p.add_argument("--device", default="cuda:0")
    p.add_argument("--program", default="build/gpu/anynetx")
    p.add_argument("--out")
    p.add_argument("--peer")
    p.add_argument("--ops", action="store_true")
    p.add_argument("--profile", action="store_true")
    p.add_argument("--dry", action="store_true")
    a = p.parse_args()
    if a.dry:
        a.batch, a.resolution, a.seconds = 4, 32, 0.001
    peer, ratios, failed = best_of_peer(a.peer, a.resolution) if a.peer else {}, [], 0
    for i, (widths, depths, bottlenecks, groups) in enumerate([([16] * 4, [1] * 4, [1] * 4, [8] * 4)] if a.dry else networks(a.program, a.count)):
        command = [a.program, "bench", "network", "--device", a.device, "--dtype", a.dtype, "--resolution", str(a.resolution), "--classes", "10",
                   "--batch", str(a.batch), "--stem", "res_stem_in", "--seconds", str(a.seconds), "--json"]
        for flag, values in ("--widths", widths), ("--depths", depths), ("--bottlenecks", bottlenecks), ("--group-widths", groups):
            command += [flag, ",".join(map(str, values))]
        command += ["--ops"] * a.ops + ["--profile", "--profile-steps", "3:4"] * a.profile
        run = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        row = {"network": i, "resolution": a.resolution, "batch": a.batch, "dtype": a.dtype}
        if run.returncode:
            failed += 1
            row["error"] = run.stderr.strip()[-300:]
        else:
            row |= json.loads(run.stdout)
        if a.out:
            with open(a.out, "a") as out:
                out.write(json.dumps(row) + "\n")
        text = row.get("error") or f"{row['images_per_second']:10.0f} images/s  {row['step_ms']:8.3f} ms"
        if i in peer and "error" not in row:
            ratios.append(row["images_per_second"] / peer[i])
            text += f"  {ratios[-1]:6.2f} x the peer's {peer[i]:.0f}"
        print(f"{i:3d}  {text}", flush=True)
    if ratios:
        print(f"harmonic mean {len(ratios) / sum(1 / r for r in ratios):.2f}, worst {min(ratios):.2f}, of {len(ratios)} networks")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
