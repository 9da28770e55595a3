"""`make bench-cpu`: training speed of anynetx beside PyTorch on this machine's CPU, interleaved network by network in one run.

Both train the same networks, sampled with a fixed seed: 16 of the default space at 32 px (batch 128), 8 of them at 224 px (batch 16), and 4
of a space with every group width from 1 to 32, kept apart. PyTorch is measured as eager NCHW and NHWC, as one process with all threads
and as one single-threaded process per core, fp32 and bf16, and compiled on some networks; its best of these is what counts. anynetx is one
single-threaded trainer per core. Writes bench/results/cpu-<machine>-<date>.json; bench/cpu_report.py makes tables and pictures of it.

python bench/cpu.py --python VENV/bin/python [--mode full|quick|smoke] [--seconds S] [--only default|integer]
"""
import argparse
import datetime
import json
import os
import pathlib
import platform
import re
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
MALLOC = {"MALLOC_MMAP_MAX_": "0", "MALLOC_MMAP_THRESHOLD_": "4294967296", "MALLOC_TRIM_THRESHOLD_": "8589934592"}
SETTINGS = {32: dict(batch=128, classes=10), 224: dict(batch=16, classes=1000)}
# Counts of networks; seconds of a measurement; seconds of one that only has to show that a form is slower.
MODES = {
    "full": {"default": {32: 16, 224: 8}, "integer": {32: 4, 224: 4}, "compile": {32: 4, 224: 2}, "threads": 4, "memory": 8,
             "seconds": 2.5, "screen": 1.2, "ops": 0.05, "machine": 2},
    "quick": {"default": {32: 4, 224: 2}, "integer": {32: 1, 224: 1}, "compile": {32: 1, 224: 0}, "threads": 1, "memory": 1,
              "seconds": 1.5, "screen": 0.7, "ops": 0.01, "machine": 1},
    "smoke": {"default": {32: 1, 224: 0}, "integer": {32: 0, 224: 0}, "compile": {32: 0, 224: 0}, "threads": 1, "memory": 0,
              "seconds": 0.5, "screen": 0.3, "ops": 0, "machine": 0.4},
}
SPACES = {"default": [], "integer": ["--space", str(HERE / "integer-group-widths.yaml")]}
SEED = "1"


def say(*text):
    print(time.strftime("%H:%M:%S"), *text, file=sys.stderr, flush=True)


class Peer:
    """One PyTorch process that does as it is told."""

    def __init__(self, python, threads, build):
        env = {**os.environ, **MALLOC, "OMP_NUM_THREADS": str(threads), "TORCHINDUCTOR_CACHE_DIR": str(build / "inductor")}
        self.process = subprocess.Popen([python, str(HERE / "cpu_peer.py"), str(threads)], env=env, text=True,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        self.threads = threads
        self.hello = self.answer()

    def tell(self, job):
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"a PyTorch process with {self.threads} threads ended with status {self.process.wait()}; try it alone: "
                             "python bench/cpu_peer.py 1")
        return json.loads(line)

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def measure_peer(peers, job, seconds):
    """All of peers at once: the sum of their images per second."""
    if job.get("compile"):  # one after the other: the second finds the first's code in the cache
        prepared = []
        for p in peers:
            p.tell(job)
            prepared.append(p.answer())
    else:
        for p in peers:
            p.tell(job)
        prepared = [p.answer() for p in peers]
    failed = [a["error"] for a in prepared if "error" in a]
    if failed:
        return {"error": failed[0]}
    for p in peers:
        p.tell({"do": "measure", "seconds": seconds})
    answers = [p.answer() for p in peers]
    failed = [a["error"] for a in answers if "error" in a]
    if failed:
        return {"error": failed[0]}
    return {"images_per_second": sum(a["images_per_second"] for a in answers), "step_ms": [a["step_ms"] for a in answers],
            "steps": sum(a["steps"] for a in answers), "prepared_s": max(a["prepared_s"] for a in prepared)}


class Anynetx:
    def __init__(self, program):
        self.program = program

    def json(self, *arguments):
        done = subprocess.run([self.program, *arguments, "--json"], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        if done.returncode != 0:
            raise SystemExit(f"{' '.join([self.program, *arguments])}: exit code {done.returncode}: {done.stderr.strip()}")
        return json.loads(done.stdout)

    def network(self, n, resolution, seconds, *more):
        s = SETTINGS[resolution]
        listed = lambda name: ",".join(map(str, n[name]))
        return self.json("bench", "network", "--depths", listed("depths"), "--widths", listed("widths"), "--bottlenecks", listed("bottlenecks"),
                         "--group-widths", listed("group_widths"), "--resolution", str(resolution), "--classes", str(s["classes"]),
                         "--batch", str(s["batch"]), "--seconds", str(seconds), *more)


def job_of(n, resolution, layout, dtype="fp32", compiled=False, do="prepare"):
    return {"do": do, "network": n, "resolution": resolution, "layout": layout, "dtype": dtype, "compile": compiled, **SETTINGS[resolution]}


def compare(ours, crew, n, resolution, mode, compiled, slow_forms):
    """One network: ours, every form of the peer, ours again. Forms known to be slow are shown to be so on some networks only."""
    one, every = crew
    keep = ("images_per_second", "step_ms", "fraction_of_peak", "fma_peak_gflops", "gflops", "arena_bytes", "state_bytes", "workspace_bytes", "steps")
    ours_now = lambda: {k: v for k, v in ours.network(n, resolution, mode["seconds"] / 2, "--processes", "0", "--threads", "1").items() if k in keep}
    runs, peer = [ours_now()], {}
    for dtype, layouts in (("fp32", ("nhwc", "nchw")), ("bf16", ("nhwc", "nchw"))):
        for layout in layouts:
            if dtype == "bf16" and layout == "nchw" and not slow_forms:
                continue
            first = mode["seconds"] if layout == "nhwc" else mode["screen"]
            peer[f"{dtype} {layout} one per core"] = measure_peer(one, job_of(n, resolution, layout, dtype), first)
            if dtype == "fp32" and (layout == "nhwc" or slow_forms):
                peer[f"{dtype} {layout} all threads"] = measure_peer(every, job_of(n, resolution, layout, dtype), mode["screen"])
    if compiled:
        eager = {k.split()[1]: v.get("images_per_second", 0) for k, v in peer.items() if k.startswith("fp32") and k.endswith("core")}
        layout = max(eager, key=eager.get)
        peer[f"fp32 {layout} one per core, compiled"] = measure_peer(one, job_of(n, resolution, layout, compiled=True), mode["seconds"])
    runs.append(ours_now())
    total = {**runs[-1], "images_per_second": sum(r["images_per_second"] for r in runs) / 2, "runs": [r["images_per_second"] for r in runs]}
    for k in ("fraction_of_peak", "fma_peak_gflops"):
        total[k] = sum(r[k] for r in runs) / 2 if all(r[k] for r in runs) else None
    return {"id": n["id"], "resolution": resolution, "network": n, "anynetx": {"fp32": total, "bf16": None}, "peer": peer}


def memory(python, ours_result, n, resolution, cores, build):
    """The most memory a PyTorch process holds, fresh for each network, beside what anynetx plans."""
    p = Peer(python, cores, build)
    p.tell(job_of(n, resolution, "nhwc", do="memory"))
    a = p.answer()
    p.close()
    return {"id": n["id"], "resolution": resolution, "peer_peak_bytes": a.get("peak_bytes"), "peer_import_bytes": p.hello["resident"],
            **{k: ours_result[k] for k in ("arena_bytes", "state_bytes", "workspace_bytes")}}


def median_of(results, resolution):
    rows = sorted((r for r in results if r["resolution"] == resolution), key=lambda r: r["anynetx"]["fp32"]["images_per_second"])
    return rows[len(rows) // 2]["network"] if rows else None


def machine_name():
    text = pathlib.Path("/proc/cpuinfo").read_text() if os.path.exists("/proc/cpuinfo") else ""
    found = re.search(r"model name\s*:\s*(.*)", text)
    return found.group(1).strip() if found else platform.processor() or platform.machine()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--anynetx", default=str(HERE.parent / "bin" / "anynetx"))
    parser.add_argument("--python", default=sys.executable, help="the interpreter that has PyTorch")
    parser.add_argument("--mode", choices=MODES, default="full")
    parser.add_argument("--seconds", type=float, help="of a measurement, instead of the mode's")
    parser.add_argument("--only", choices=SPACES, help="one of the two populations")
    parser.add_argument("--out", help="the JSON file; default bench/results/cpu-<machine>-<date>.json")
    arguments = parser.parse_args()
    mode = dict(MODES[arguments.mode])
    if arguments.seconds:
        mode["seconds"], mode["screen"] = arguments.seconds, arguments.seconds / 2
    build = HERE.parent / "build" / "bench"
    build.mkdir(parents=True, exist_ok=True)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    start, load = time.time(), os.getloadavg()[0]
    if load > 0.5:
        say(f"the machine is not idle: load {load:.1f}; times will be of little worth")
    ours = Anynetx(arguments.anynetx)
    report = {"date": datetime.date.today().isoformat(), "mode": arguments.mode, "machine": machine_name(), "cores": cores,
              "system": f"{platform.system()} {platform.release()}", "load_at_start": load, "malloc": MALLOC, "seed": int(SEED),
              "settings": SETTINGS, "seconds": mode["seconds"], "version": ours.json("version")}
    report["peaks"] = ours.json("bench", "machine", "--seconds", str(mode["machine"]))
    crew = [Peer(arguments.python, 1, build) for _ in range(cores)], [Peer(arguments.python, cores, build)]
    report["torch"] = crew[0][0].hello["torch"]
    try:
        for space in SPACES:
            report[space] = []
            if arguments.only not in (None, space):
                continue
            networks = ours.json("sample", *SPACES[space], "--count", str(max(1, *mode[space].values())), "--seed", SEED)
            for resolution, count in mode[space].items():
                for i, n in enumerate(networks[:count]):
                    compiled = space == "default" and i < mode["compile"][resolution]
                    r = compare(ours, crew, n, resolution, mode, compiled, slow_forms=i < 4)
                    report[space].append(r)
                    (build / "unfinished.json").write_text(json.dumps(report))  # what there is, should the run be cut off
                    best = max((v.get("images_per_second", 0), k) for k, v in r["peer"].items() if k.startswith("fp32"))
                    mine = r["anynetx"]["fp32"]["images_per_second"]
                    say(f"{space} {resolution} px {i + 1}/{count} {n['id']}: anynetx {mine:.1f}, PyTorch {best[0]:.1f} ({best[1]}): {mine / best[0]:.2f}x")
    finally:
        for p in crew[0] + crew[1]:
            p.close()
    report["threads"], report["memory"], report["kinds"] = [], [], []
    for resolution in SETTINGS:
        rows = [r for r in report["default"] if r["resolution"] == resolution]
        for r in rows[:mode["threads"]]:
            single, several = (ours.network(r["network"], resolution, mode["screen"], "--threads", t)["images_per_second"] for t in ("1", str(cores)))
            report["threads"].append({"id": r["id"], "resolution": resolution, "threads": cores, "one": single, "all": several, "gain": several / single})
        if resolution == 224:
            for r in rows[:mode["memory"]]:
                report["memory"].append(memory(arguments.python, r["anynetx"]["fp32"], r["network"], resolution, cores, build))
        if rows:
            n = median_of(rows, resolution)
            detail = ours.network(n, resolution, mode["seconds"], "--threads", "1", "--ops")
            report["kinds"].append({k: detail[k] for k in ("id", "resolution", "batch", "images_per_second", "fraction_of_peak", "kinds", "slowest")})
    say("single ops")
    report["ops"] = ours.json("bench", "ops", "--seconds", str(mode["ops"])) if mode["ops"] else None
    report["minutes"] = (time.time() - start) / 60
    report["load_at_end"] = os.getloadavg()[0]
    slug = re.sub(r"[^a-z0-9]+", "-", f"{report['machine']} {cores} cores".lower()).strip("-")
    suffix = "" if arguments.mode == "full" else "-" + arguments.mode
    out = pathlib.Path(arguments.out) if arguments.out else HERE / "results" / f"cpu-{slug}-{report['date']}{suffix}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(report, indent=1) + "\n")
    say(f"{report['minutes']:.1f} minutes")
    print(out)


if __name__ == "__main__":
    main()
