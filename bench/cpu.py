"""`make bench-cpu`: training speed of anynetx beside PyTorch on this machine's CPU, interleaved network by network in one run.

Both train the same networks, sampled with a fixed seed: 16 of the default space at 32 px (batch 128), 8 of them at 224 px (batch 16), and 4
of a space with every group width from 1 to 32, kept apart. PyTorch is measured as eager NCHW and NHWC, as one process with all threads
and as one single-threaded process per core, fp32 and bf16, and compiled on some networks; its best of these is what counts. anynetx is one
single-threaded trainer per core. Writes bench/results/cpu-<machine>-<date>.json; bench/cpu_report.py makes tables and pictures of it.

The work is a list of parts. The file is written anew after each, so that a run that is cut off keeps what it measured; a part that fails or
for which no time is left is named in it with the reason, and the run goes on.

python bench/cpu.py --python VENV/bin/python [--mode full|quick|smoke] [--minutes M] [--seconds S] [--only default|integer]
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
# Counts of networks; seconds of a measurement, and of one that only has to show that a form is slower; minutes after which nothing new is begun.
MODES = {
    "full": {"default": {32: 16, 224: 8}, "integer": {32: 4, 224: 4}, "compile": {32: 4, 224: 1}, "slow": 2, "threads": 4, "memory": 8,
             "seconds": 2.5, "screen": 1.2, "ops": 0.05, "machine": 2, "minutes": 24},
    "quick": {"default": {32: 4, 224: 2}, "integer": {32: 1, 224: 1}, "compile": {32: 1, 224: 0}, "slow": 1, "threads": 1, "memory": 1,
              "seconds": 1.5, "screen": 0.7, "ops": 0.01, "machine": 1, "minutes": 7},
    "smoke": {"default": {32: 1, 224: 1}, "integer": {32: 0, 224: 0}, "compile": {32: 0, 224: 0}, "slow": 1, "threads": 1, "memory": 1,
              "seconds": 0.3, "screen": 0.2, "ops": 0.001, "machine": 0.4, "minutes": 10},
}
COMPILE_MINUTES = 2.5  # what one more compiled network may take
SPACES = {"default": [], "integer": ["--space", str(HERE / "integer-group-widths.yaml")]}
SEED = "1"


def say(*text):
    print(time.strftime("%H:%M:%S"), *text, file=sys.stderr, flush=True)


class Failed(Exception):
    """A part could not be measured; the text says why."""


class Peer:
    """One PyTorch process that does as it is told."""

    def __init__(self, python, threads, build):
        env = {**os.environ, **MALLOC, "OMP_NUM_THREADS": str(threads), "TORCHINDUCTOR_CACHE_DIR": str(build / "inductor")}
        self.process = subprocess.Popen([python, str(HERE / "cpu_peer.py"), str(threads)], env=env, text=True,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        self.threads = threads
        self.hello = self.answer()

    def tell(self, job):
        try:
            self.process.stdin.write(json.dumps(job) + "\n")
            self.process.stdin.flush()
        except OSError:
            pass  # it has ended; answer() says how

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            raise Failed(f"a PyTorch process with {self.threads} threads ended with status {self.process.wait()}; try it alone: python bench/cpu_peer.py 1")
        return json.loads(line)

    def close(self):
        try:
            self.process.stdin.close()
        except OSError:
            pass
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Crew:
    """The PyTorch processes: single-threaded ones for all cores, and one with a thread per core. Started when needed, anew after a failure."""

    def __init__(self, python, cores, build):
        self.start = lambda threads: Peer(python, threads, build)
        self.cores, self.peers = cores, None

    def __call__(self):
        if self.peers is None:
            self.peers = [self.start(1) for _ in range(self.cores)], [self.start(self.cores)]
        return self.peers

    def close(self):
        for p in sum(self.peers or ([], []), []):
            p.close()
        self.peers = None


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
            raise Failed(f"{' '.join([self.program, *arguments])}: exit code {done.returncode}: {done.stderr.strip()}")
        return json.loads(done.stdout)

    def network(self, n, resolution, seconds, *more):
        s = SETTINGS[resolution]
        listed = lambda name: ",".join(map(str, n[name]))
        return self.json("bench", "network", "--depths", listed("depths"), "--widths", listed("widths"), "--bottlenecks", listed("bottlenecks"),
                         "--group-widths", listed("group_widths"), "--resolution", str(resolution), "--classes", str(s["classes"]),
                         "--batch", str(s["batch"]), "--seconds", str(seconds), *more)


def job_of(n, resolution, layout, dtype="fp32", compiled=False, do="prepare"):
    return {"do": do, "network": n, "resolution": resolution, "layout": layout, "dtype": dtype, "compile": compiled, **SETTINGS[resolution]}


KEEP = ("images_per_second", "step_ms", "fraction_of_peak", "fma_peak_gflops", "gflops", "arena_bytes", "state_bytes", "workspace_bytes", "steps")


def mean_of(runs):
    """One record of several measurements of the same network."""
    total = {**runs[-1], "images_per_second": sum(r["images_per_second"] for r in runs) / len(runs), "runs": [r["images_per_second"] for r in runs]}
    for k in ("fraction_of_peak", "fma_peak_gflops"):
        total[k] = sum(r[k] for r in runs) / len(runs) if all(r[k] for r in runs) else None
    return total


def compiled_form(crew, result, n, resolution, seconds):
    """Adds the compiled form to what is known of a network, in the layout that was faster for it."""
    eager = {k.split()[1]: v.get("images_per_second", 0) for k, v in result["peer"].items() if k.startswith("fp32") and k.endswith("core")}
    layout = max(eager, key=eager.get)
    result["peer"][f"fp32 {layout} one per core, compiled"] = measure_peer(crew()[0], job_of(n, resolution, layout, compiled=True), seconds)


def compare(ours, crew, n, resolution, mode, compiled, slow_forms):
    """One network: ours, every form of the peer, ours again. Forms known to be slow are shown to be so on some networks only."""
    one, every = crew()
    measure = lambda dtype: {k: v for k, v in ours.network(n, resolution, mode["seconds"] / 2, "--processes", "0", "--threads", "1", "--dtype", dtype).items() if k in KEEP}
    result = {"id": n["id"], "resolution": resolution, "network": n, "anynetx": {"fp32": None, "bf16": None}, "peer": {}}
    peer, before = result["peer"], measure("fp32")
    for layout in ("nhwc", "nchw") if slow_forms else ("nhwc",):
        first = mode["seconds"] if layout == "nhwc" else mode["screen"]
        peer[f"fp32 {layout} one per core"] = measure_peer(one, job_of(n, resolution, layout), first)
        peer[f"fp32 {layout} all threads"] = measure_peer(every, job_of(n, resolution, layout), mode["screen"])
    result["anynetx"]["fp32"] = mean_of([before, measure("fp32")])
    try:
        before = measure("bf16")
    except Failed as e:
        result["bf16_missing"], before = str(e), None
    for layout in ("nhwc", "nchw") if slow_forms else ("nhwc",):
        peer[f"bf16 {layout} one per core"] = measure_peer(one, job_of(n, resolution, layout, "bf16"), mode["seconds"] if layout == "nhwc" else mode["screen"])
    if before:
        result["anynetx"]["bf16"] = mean_of([before, measure("bf16")])
    if compiled:
        compiled_form(crew, result, n, resolution, mode["seconds"])
    return result


def memory(python, ours_result, n, resolution, cores, build):
    """The most memory a PyTorch process holds, fresh for each network, beside what anynetx plans."""
    p = Peer(python, cores, build)
    try:
        p.tell(job_of(n, resolution, "nhwc", do="memory"))
        a = p.answer()
    finally:
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


class Run:
    """The result file and its parts: each is measured, or missing for a reason."""

    def __init__(self, report, path, minutes):
        self.report, self.path, self.start, self.minutes = report, path, time.time(), minutes
        report["missing"] = {}

    def left(self):
        return self.minutes - (time.time() - self.start) / 60

    def save(self):
        self.report["minutes"] = (time.time() - self.start) / 60
        temporary = self.path.with_suffix(".unfinished")
        temporary.write_text(json.dumps(self.report, indent=1) + "\n")
        temporary.replace(self.path)

    def part(self, name, needs_minutes, measure):
        """True if measure() came to its end."""
        done = False
        if self.left() < needs_minutes:
            self.report["missing"][name] = f"no time was left of {self.minutes:g} minutes"
        else:
            self.report["missing"][name] = "the run was cut off"  # should it be so
            self.save()
            try:
                measure()
                done = True
                del self.report["missing"][name]
            except (Failed, KeyError, ValueError, OSError) as e:
                self.report["missing"][name] = f"{type(e).__name__}: {e}" if not isinstance(e, Failed) else str(e)
        if not done:
            say(f"{name} is missing: {self.report['missing'][name]}")
        self.save()
        return done


def rows_of(report, space, resolution):
    return [r for r in report[space] if r["resolution"] == resolution]


def populations(run, ours, crew, mode, space):
    try:
        networks = ours.json("sample", *SPACES[space], "--count", str(max(1, *mode[space].values())), "--seed", SEED)
    except Failed as e:
        run.report["missing"][f"{space} space"] = str(e)
        return
    for resolution, count in mode[space].items():
        for i, n in enumerate(networks[:count]):
            def measure():
                compiled = space == "default" and i < mode["compile"][resolution]
                r = compare(ours, crew, n, resolution, mode, compiled, slow_forms=i < mode["slow"])
                run.report[space].append(r)
                if "bf16_missing" in r:
                    run.report["missing"]["bf16"] = r.pop("bf16_missing")
                best = max((v.get("images_per_second", 0), k) for k, v in r["peer"].items() if k.startswith("fp32"))
                mine = r["anynetx"]["fp32"]["images_per_second"]
                say(f"{space} {resolution} px {i + 1}/{count} {n['id']}: anynetx {mine:.1f}, PyTorch {best[0]:.1f} ({best[1]}): {mine / best[0]:.2f}x")
            if not run.part(f"{space} space, {resolution} px, network {i + 1}", 0, measure):
                crew.close()  # whatever state they were in


def threads_of(ours, r, resolution, seconds, cores):
    """One thread and all, in turns, the better of two each; beside them one model per core, which shows what the memory allows."""
    speed = lambda threads: ours.network(r["network"], resolution, seconds, "--threads", str(threads))["images_per_second"]
    pairs = [(speed(1), speed(cores)) for _ in range(2)]
    one, every = max(p[0] for p in pairs), max(p[1] for p in pairs)
    return {"id": r["id"], "resolution": resolution, "threads": cores, "one": one, "all": every, "gain": every / one,
            "processes": r["anynetx"]["fp32"]["images_per_second"], "processes_gain": r["anynetx"]["fp32"]["images_per_second"] / one}


def details(run, ours, crew, mode, python, cores, build):
    """What is measured on some of the networks, and single ops."""
    report = run.report

    def kinds(resolution):
        detail = ours.network(median_of(report["default"], resolution), resolution, mode["seconds"], "--threads", "1", "--ops")
        report["kinds"].append({k: detail[k] for k in ("id", "resolution", "batch", "images_per_second", "fraction_of_peak", "kinds", "slowest")})

    def ops():
        say("single ops")
        report["ops"] = ours.json("bench", "ops", "--seconds", str(mode["ops"]))

    for resolution in SETTINGS:
        rows = rows_of(report, "default", resolution)
        if rows:
            run.part(f"time by kind of op, {resolution} px", 0, lambda: kinds(resolution))
        for r in rows[:mode["threads"]]:
            run.part(f"threads, {resolution} px, {r['id']}", 0, lambda: report["threads"].append(threads_of(ours, r, resolution, mode["screen"], cores)))
    run.part("single ops", 0, ops)
    for r in rows_of(report, "default", 224)[:mode["memory"]]:
        run.part(f"memory, {r['id']}", 0, lambda: report["memory"].append(memory(python, r["anynetx"]["fp32"], r["network"], 224, cores, build)))


def more_compiled(run, crew, mode):
    """Compiles further networks at 224 px while there is time."""
    for r in rows_of(run.report, "default", 224)[mode["compile"][224]:]:
        if run.left() < COMPILE_MINUTES:
            return
        if not run.part(f"compiled, 224 px, {r['id']}", COMPILE_MINUTES, lambda: compiled_form(crew, r, r["network"], 224, mode["seconds"])):
            crew.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--anynetx", default=str(HERE.parent / "bin" / "anynetx"))
    parser.add_argument("--python", default=sys.executable, help="the interpreter that has PyTorch")
    parser.add_argument("--mode", choices=MODES, default="full")
    parser.add_argument("--minutes", type=float, help="begin nothing new after so many, instead of the mode's")
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
    load = os.getloadavg()[0]
    if load > 0.5:
        say(f"the machine is not idle: load {load:.1f}; times will be of little worth")
    ours, crew = Anynetx(arguments.anynetx), Crew(arguments.python, cores, build)
    report = {"date": datetime.date.today().isoformat(), "mode": arguments.mode, "machine": machine_name(), "cores": cores,
              "system": f"{platform.system()} {platform.release()}", "load_at_start": load, "malloc": MALLOC, "seed": int(SEED),
              "settings": SETTINGS, "seconds": mode["seconds"], **{space: [] for space in SPACES}, "kinds": [], "threads": [], "memory": [], "ops": None}
    slug = re.sub(r"[^a-z0-9]+", "-", f"{report['machine']} {cores} cores".lower()).strip("-")
    suffix = "" if arguments.mode == "full" else "-" + arguments.mode
    out = pathlib.Path(arguments.out) if arguments.out else HERE / "results" / f"cpu-{slug}-{report['date']}{suffix}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    run = Run(report, out, arguments.minutes or mode["minutes"])
    try:  # without these there is nothing to report
        report["version"] = ours.json("version")
        report["peaks"] = ours.json("bench", "machine", "--seconds", str(mode["machine"]))
        report["torch"] = crew()[0][0].hello["torch"]
        if arguments.only != "integer":
            populations(run, ours, crew, mode, "default")
            details(run, ours, crew, mode, arguments.python, cores, build)
        if arguments.only != "default":
            populations(run, ours, crew, mode, "integer")
        more_compiled(run, crew, mode)
    except Failed as e:
        raise SystemExit(str(e))
    finally:
        crew.close()
    report["load_at_end"] = os.getloadavg()[0]
    run.save()
    say(f"{report['minutes']:.1f} minutes; {len(report['missing'])} parts are missing")
    print(out)


if __name__ == "__main__":
    main()
