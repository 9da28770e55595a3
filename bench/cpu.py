"""`make bench-cpu`: training speed of anynetx beside PyTorch on this machine's CPU, interleaved network by network in one run.

Both train the same networks, sampled with a fixed seed: 16 of the default space at 32 px (batch 128), 8 of them at 224 px (batch 16), and 4
of a space with every group width from 1 to 32, kept apart. PyTorch is measured as one single-threaded process per core in NHWC, fp32 and bf16; on some
networks also in NCHW, as one process with all threads, and compiled; its best counts. anynetx is one single-threaded trainer per core.
Writes bench/results/cpu-<machine>-<date>.json; bench/cpu_report.py makes tables and pictures of it.

The work is a list of parts, the most valuable first, each with the time it should take on two idle cores: the plan, printed at the start. A part for
which no time is left, or that fails, is named in the file with the reason, and the run goes on; the file is written anew after each. A visit to a network
measures ours, PyTorch, and ours again: where the two of ours differ by more than 15 %, something disturbed it, and it is made again at the end.

python bench/cpu.py --python VENV/bin/python [--mode full|quick|smoke] [--minutes M] [--seconds S] [--only default|integer]
"""
import argparse
import datetime
import json
import os
import pathlib
import platform
import re
import resource
import select
import signal
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
MALLOC = {"MALLOC_MMAP_MAX_": "0", "MALLOC_MMAP_THRESHOLD_": "4294967296", "MALLOC_TRIM_THRESHOLD_": "8589934592"}
SETTINGS = {32: dict(batch=128, classes=10), 224: dict(batch=16, classes=1000)}
# Counts of networks; seconds of a measurement; minutes after which nothing is begun that would not end within them.
MODES = {
    "full": {"default": {32: 16, 224: 8}, "integer": {32: 4, 224: 4}, "compile": {32: 4, 224: 4}, "slow": 2, "threads": 4, "memory": 8,
             "seconds": 1.6, "ops": 0.04, "machine": 2, "minutes": 24},
    "quick": {"default": {32: 4, 224: 2}, "integer": {32: 1, 224: 1}, "compile": {32: 1, 224: 0}, "slow": 1, "threads": 1, "memory": 1,
              "seconds": 1.2, "ops": 0.01, "machine": 1, "minutes": 7},
    "smoke": {"default": {32: 1, 224: 1}, "integer": {32: 0, 224: 0}, "compile": {32: 0, 224: 0}, "slow": 1, "threads": 1, "memory": 1,
              "seconds": 0.2, "ops": 0.001, "machine": 0.4, "minutes": 10},
}
SPACES = {"default": [], "integer": ["--space", str(HERE / "integer-group-widths.yaml")]}
SEED = "1"
DISTURBED = 0.15  # of ours before and after
DTYPES = ("fp32", "bf16")
USUAL = "nhwc one per core"  # PyTorch's fastest form on all networks so far, but for compiled ones
SLOW = {"fp32": ("nhwc all threads", "nchw one per core", "nchw all threads"), "bf16": ("nchw one per core",)}
COMPILED = USUAL + ", compiled"
# Seconds beyond those of measuring: starting, warming up, and steps that are longer than the measurement.
EXTRA = {(32, "fp32"): 3, (32, "bf16"): 3, (224, "fp32"): 12, (224, "bf16"): 8}
SLOW_EXTRA = {(32, "fp32"): 5, (32, "bf16"): 3, (224, "fp32"): 12, (224, "bf16"): 5}
COMPILE_EXTRA = 50  # less when its code is in the cache of an earlier run
LIMIT = 240         # seconds after which a PyTorch process that does not answer is given up


def say(*text):
    print(time.strftime("%H:%M:%S"), *text, file=sys.stderr, flush=True)


class Failed(Exception):
    """A part could not be measured; the text says why."""


class Peer:
    """One PyTorch process that does as it is told. It starts when needed, anew after it was given up."""

    def __init__(self, python, threads, build):
        self.threads, self.log, self.process = threads, build / "peer.log", None
        self.command = [python, str(HERE / "cpu_peer.py"), str(threads)]
        self.env = {**os.environ, **MALLOC, "OMP_NUM_THREADS": str(threads), "TORCHINDUCTOR_CACHE_DIR": str(build / "inductor")}

    def start(self):
        if self.process is None:
            with open(self.log, "a") as log:
                self.process = subprocess.Popen(self.command, env=self.env, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
                                                start_new_session=True)
            self.hello = self.answer()
            if "crash" in self.hello:
                raise Failed(f"`{' '.join(self.command)}` {self.hello['crash']}: {self.log} has what it said")

    def tell(self, job):
        self.start()
        try:
            self.process.stdin.write(json.dumps(job) + "\n")
            self.process.stdin.flush()
        except OSError:
            pass  # it has ended; answer() says how

    def answer(self):
        if not select.select([self.process.stdout], [], [], LIMIT)[0]:
            self.kill()
            return {"crash": f"gave no answer in {LIMIT} seconds"}
        line = self.process.stdout.readline()
        if line:
            return json.loads(line)
        status = self.process.wait()
        self.process = None
        return {"crash": f"ended with status {status}"}

    def close(self):
        if self.process is None:
            return
        try:
            self.process.stdin.close()
        except OSError:
            pass
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.kill()
        self.process = None

    def kill(self):
        """With its fork."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.process = None


class Crew:
    """The PyTorch processes: single-threaded ones for all cores, and one with a thread per core."""

    def __init__(self, python, cores, build):
        self.one = [Peer(python, 1, build) for _ in range(cores)]
        self.every = [Peer(python, cores, build)]

    def measure(self, r, dtype, form, seconds):
        """All processes of a form at once: the sum of their images per second. One that crashes is tried once more."""
        peers = self.every if "all threads" in form else self.one
        job = job_of(r, layout=form[:4], dtype=dtype, compile="compiled" in form)
        result = self.attempt(peers, job, seconds)
        if "crash" in result:
            say(f"PyTorch, {form}, {dtype}, {r['id']} at {r['resolution']} px: {result['crash']}")
            again = self.attempt(peers, job, seconds)
            result = {**again, "crashes": [a["crash"] for a in (result, again) if "crash" in a]}
        return result

    def attempt(self, peers, job, seconds):
        if job["compile"]:  # one after the other: the second finds the first's code in the cache
            prepared = []
            for p in peers:
                p.tell(job)
                prepared.append(p.answer())
        else:
            prepared = ask(peers, job)
        failed = next((a for a in prepared if "images_per_second" not in a and "prepared_s" not in a), None)
        if failed:
            return failed
        answers = ask(peers, {"do": "measure", "seconds": seconds})
        failed = next((a for a in answers if "images_per_second" not in a), None)
        if failed:
            return failed
        return {"images_per_second": sum(a["images_per_second"] for a in answers), "step_ms": [a["step_ms"] for a in answers],
                "steps": sum(a["steps"] for a in answers), "prepared_s": max(a["prepared_s"] for a in prepared)}

    def memory(self, r):
        """The most memory that a PyTorch process with all threads has held on a network."""
        answer = ask(self.every, job_of(r, do="memory"))[0]
        return answer.get("peak_bytes"), self.every[0].hello["resident"]

    def close(self):
        for p in self.one + self.every:
            p.close()


def ask(peers, job):
    for p in peers:
        p.tell(job)
    return [p.answer() for p in peers]


def job_of(r, layout="nhwc", dtype="fp32", compile=False, do="prepare"):
    return {"do": do, "network": r["network"], "resolution": r["resolution"], "layout": layout, "dtype": dtype, "compile": compile, **SETTINGS[r["resolution"]]}


KEEP = ("images_per_second", "step_ms", "fraction_of_peak", "fma_peak_gflops", "arena_bytes", "state_bytes", "workspace_bytes", "steps")


class Anynetx:
    def __init__(self, program):
        self.program = program

    def json(self, *arguments):
        done = subprocess.run([self.program, *arguments, "--json"], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        if done.returncode != 0:
            raise Failed(f"{' '.join([self.program, *arguments])}: exit code {done.returncode}: {done.stderr.strip()}")
        return json.loads(done.stdout)

    def network(self, r, seconds, *more):
        n, resolution = r["network"], r["resolution"]
        s = SETTINGS[resolution]
        listed = lambda name: ",".join(map(str, n[name]))
        return self.json("bench", "network", "--depths", listed("depths"), "--widths", listed("widths"), "--bottlenecks", listed("bottlenecks"),
                         "--group-widths", listed("group_widths"), "--resolution", str(resolution), "--classes", str(s["classes"]),
                         "--batch", str(s["batch"]), "--seconds", str(seconds), *more)

    def speed(self, r, seconds, *more):
        """Like the peer's: images per second of the median step."""
        a = self.network(r, seconds, *more)
        median = a["processes"] * a["batch"] * 1e3 / a["step_ms"]
        if a["fraction_of_peak"]:
            a["fraction_of_peak"] *= median / a["images_per_second"]
        return {k: a[k] for k in KEEP} | {"images_per_second": median}


def mean_of(runs):
    """One record of several measurements of the same network."""
    total = {**runs[-1], "images_per_second": sum(r["images_per_second"] for r in runs) / len(runs), "runs": [r["images_per_second"] for r in runs]}
    for k in ("fraction_of_peak", "fma_peak_gflops"):
        total[k] = sum(r[k] for r in runs) / len(runs) if all(r[k] for r in runs) else None
    return total


def beside_others(measure):
    """What measure returns, and how many processors others than its child had meanwhile, the host of a virtual machine among them."""
    def busy():
        fields = [int(f) for f in pathlib.Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
        own = resource.getrusage(resource.RUSAGE_CHILDREN)
        return (sum(fields) - fields[3] - fields[4]) / os.sysconf("SC_CLK_TCK") - own.ru_utime - own.ru_stime, time.monotonic()  # without idle, iowait
    (before, start), result, (after, end) = busy(), measure(), busy()
    return result, max(0.0, (after - before) / (end - start))


def visit(ours, crew, r, dtype, forms, seconds):
    """Adds to the record of a network: ours, forms of the peer, ours again, in one dtype."""
    measure = lambda: ours.speed(r, seconds / 2, "--processes", "0", "--threads", "1", "--dtype", dtype)
    before = measure()
    peer = {form: crew.measure(r, dtype, form, seconds) for form in forms}
    if not any("images_per_second" in v for v in peer.values()):  # all have failed: then the slower ones count
        peer |= {form: crew.measure(r, dtype, form, seconds) for form in SLOW[dtype] if form not in peer}
    runs = [before, measure()]
    speeds = [a["images_per_second"] for a in runs]
    r["visits"].append({"dtype": dtype, "spread": max(speeds) / min(speeds) - 1, "anynetx": mean_of(runs), "peer": peer})
    settle(r, dtype)


def settle(r, dtype):
    """The steadiest visit counts, of ours and of every form of the peer. A form that it lacks comes from another visit, times what ours gained or
    lost between the two, so that only figures that were measured side by side are compared."""
    visits = sorted((v for v in r["visits"] if v["dtype"] == dtype), key=lambda v: -v["spread"])
    counts = r["anynetx"][dtype] = visits[-1]["anynetx"]
    for v in visits:
        scale = counts["images_per_second"] / v["anynetx"]["images_per_second"]
        for form, measured in v["peer"].items():
            if "images_per_second" in measured:
                r["peer"][f"{dtype} {form}"] = {**measured, "images_per_second": measured["images_per_second"] * scale}
            else:
                r["peer"].setdefault(f"{dtype} {form}", measured)


def spread(r, dtype):
    """Of the steadiest visit."""
    return min((v["spread"] for v in r["visits"] if v["dtype"] == dtype), default=0)


def ratio(r, dtype):
    best = max((v.get("images_per_second", 0) for k, v in r["peer"].items() if k.startswith(dtype)), default=0)
    return r["anynetx"][dtype]["images_per_second"] / best if best and r["anynetx"][dtype] else None


def machine_name():
    text = pathlib.Path("/proc/cpuinfo").read_text() if os.path.exists("/proc/cpuinfo") else ""
    found = re.search(r"model name\s*:\s*(.*)", text)
    return found.group(1).strip() if found else platform.processor() or platform.machine()


class Run:
    """The result file, and the plan: each part is measured, or missing for a reason."""

    def __init__(self, report, path, minutes):
        self.report, self.path, self.start, self.minutes = report, path, time.time(), minutes
        report["missing"], report["plan"] = {}, []

    def left(self):
        """Seconds."""
        return self.minutes * 60 - (time.time() - self.start)

    def save(self):
        self.report["minutes"] = (time.time() - self.start) / 60
        temporary = self.path.with_suffix(".unfinished")
        temporary.write_text(json.dumps(self.report, indent=1) + "\n")
        temporary.replace(self.path)

    def stage(self, name, parts):
        """Carries out parts, (name, seconds, measure) each, as one entry of the plan."""
        begun, entry = time.time(), {"stage": name, "parts": len(parts), "planned_s": sum(p[1] for p in parts)}
        self.report["plan"].append(entry)
        missing = self.report["missing"]
        for part, seconds, measure in parts:
            if self.left() < seconds:
                missing[part] = f"no time was left of {self.minutes:g} minutes"
                continue
            missing[part] = "the run was cut off"  # should it be so
            self.save()
            try:
                measure()
                del missing[part]
            except (Failed, KeyError, ValueError, OSError) as e:
                missing[part] = str(e) if isinstance(e, Failed) else f"{type(e).__name__}: {e}"
                say(f"{part} is missing: {missing[part]}")
        entry["took_s"] = time.time() - begun
        say(f"{name}: {entry['took_s']:.0f} s of {entry['planned_s']:.0f} planned, {self.left() / 60:.1f} minutes left")
        self.save()


class Stages:
    """What is measured; each stage is a list of parts."""

    def __init__(self, report, ours, crew, mode, cores):
        self.report, self.ours, self.crew, self.mode, self.cores = report, ours, crew, mode, cores

    def sample(self):
        for space in SPACES:
            count = max(self.mode[space].values())
            networks = self.ours.json("sample", *SPACES[space], "--count", str(count), "--seed", SEED) if count else []
            for resolution, n in self.mode[space].items():
                self.report[space] += [{"id": a["id"], "resolution": resolution, "network": a, "anynetx": {"fp32": None, "bf16": None}, "peer": {}, "visits": []}
                                       for a in networks[:n]]

    def rows(self, space, resolution, count=None):
        return [r for r in self.report[space] if r["resolution"] == resolution][:count]

    def visits(self, kind, rows, dtypes, forms, extra):
        """extra: seconds beyond a plain visit's."""
        def part(r, dtype):
            def measure():
                visit(self.ours, self.crew, r, dtype, forms[dtype], self.mode["seconds"])
                say(f"  {r['id']} {r['resolution']} px {dtype}: anynetx {r['anynetx'][dtype]['images_per_second']:.1f} images/s, {ratio(r, dtype) or 0:.2f}x PyTorch"
                    + (", disturbed" if spread(r, dtype) > DISTURBED else ""))
            seconds = (1 + len(forms[dtype])) * self.mode["seconds"] + EXTRA[r["resolution"], dtype] + extra.get((r["resolution"], dtype), 0)
            return f"{kind}, {r['resolution']} px, {r['id']}, {dtype}", seconds, measure
        return [part(r, dtype) for r in rows for dtype in dtypes]

    def networks(self, space, resolution):
        return self.visits(f"{space} space", self.rows(space, resolution), DTYPES, {d: (USUAL,) for d in DTYPES}, {})

    def slow(self):
        rows = [r for resolution in SETTINGS for r in self.rows("default", resolution, self.mode["slow"])]
        return self.visits("slow forms", rows, DTYPES, SLOW, SLOW_EXTRA)

    def compiled(self, resolution):
        rows = self.rows("default", resolution, self.mode["compile"][resolution])
        return self.visits("compiled", rows, ("fp32",), {"fp32": (USUAL, COMPILED)}, {(resolution, "fp32"): COMPILE_EXTRA})

    def disturbed(self):
        """The most disturbed visits again; a compiled form too, where it was the peer's best."""
        found = sorted(((spread(r, d), r, d) for space in SPACES for r in self.report[space] for d in DTYPES if spread(r, d) > DISTURBED), key=lambda f: -f[0])
        parts = []
        for _, r, d in found:
            best = max(((v.get("images_per_second", 0), k) for k, v in r["peer"].items() if k.startswith(d)), default=(0, USUAL))[1]
            again = (USUAL, COMPILED) if best.endswith("compiled") else (USUAL,)
            parts += self.visits("again", [r], (d,), {d: again}, {(r["resolution"], d): COMPILE_EXTRA / 2} if COMPILED in again else {})
        return parts

    def kinds(self):
        def part(resolution):
            def measure():
                rows = sorted((r for r in self.rows("default", resolution) if r["anynetx"]["fp32"]), key=lambda r: r["anynetx"]["fp32"]["images_per_second"])
                if not rows:
                    raise Failed("no network was measured")
                detail = self.ours.network(rows[len(rows) // 2], self.mode["seconds"], "--threads", "1", "--ops")
                self.report["kinds"].append({k: detail[k] for k in ("id", "resolution", "batch", "images_per_second", "fraction_of_peak", "kinds", "slowest")})
            return f"time by kind of op, {resolution} px", self.mode["seconds"] + 3, measure
        return [part(resolution) for resolution in SETTINGS]

    def threads(self):
        """One thread and all, in turns, the best of three each; beside them one model per core, which shows what the memory allows.
        Who else runs takes from all threads what one alone does not miss, so that is counted."""
        def part(r):
            def measure():
                seconds = self.mode["seconds"] / 2
                speed = lambda threads: self.ours.speed(r, seconds, "--threads", str(threads))["images_per_second"]
                turns = []
                for _ in range(3):
                    one, (every, others) = speed(1), beside_others(lambda: speed(self.cores))
                    turns.append({"one": one, "all": every, "others": others / self.cores})
                one, every = max(t["one"] for t in turns), max(t["all"] for t in turns)
                processes = self.ours.speed(r, seconds, "--processes", "0", "--threads", "1")["images_per_second"]
                self.report["threads"].append({"id": r["id"], "resolution": r["resolution"], "threads": self.cores, "one": one, "all": every, "gain": every / one,
                                               "processes": processes, "processes_gain": processes / one, "turns": turns})
            return f"threads, {r['resolution']} px, {r['id']}", 3.5 * self.mode["seconds"] + 1.4 * EXTRA[r["resolution"], "fp32"], measure
        return [part(r) for resolution in SETTINGS for r in self.rows("default", resolution, self.mode["threads"])]

    def memory(self):
        """What anynetx plans, beside the most memory that a PyTorch process has held."""
        def part(r):
            def measure():
                if not r["anynetx"]["fp32"]:
                    raise Failed("the network was not measured")
                peak, before = self.crew.memory(r)
                self.report["memory"].append({"id": r["id"], "resolution": 224, "peer_peak_bytes": peak, "peer_import_bytes": before,
                                              **{k: r["anynetx"]["fp32"][k] for k in ("arena_bytes", "state_bytes", "workspace_bytes")}})
            return f"memory, {r['id']}", 5, measure
        return [part(r) for r in self.rows("default", 224, self.mode["memory"])]

    def ops(self):
        def measure():
            self.report["ops"] = self.ours.json("bench", "ops", "--seconds", str(self.mode["ops"]))
        return [("single ops", 1900 * self.mode["ops"] + 60, measure)]

    def all(self, only):
        """(name, parts of it), the most valuable first. Parts are made when their turn comes: the disturbed ones are not known before."""
        spaces = [only] if only else list(SPACES)
        for space in spaces:
            for resolution in SETTINGS:
                yield f"{space} space, {resolution} px", lambda: self.networks(space, resolution)
        if only == "integer":
            return
        yield "time by kind of op", self.kinds
        yield "threads", self.threads
        yield "single ops", self.ops
        yield "memory", self.memory
        yield "slow forms of PyTorch", self.slow
        yield "compiled, 32 px", lambda: self.compiled(32)
        yield "disturbed visits again", self.disturbed
        yield "compiled, 224 px", lambda: self.compiled(224)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--anynetx", default=str(HERE.parent / "bin" / "anynetx"))
    parser.add_argument("--python", default=sys.executable, help="the interpreter that has PyTorch")
    parser.add_argument("--mode", choices=MODES, default="full")
    parser.add_argument("--minutes", type=float, help="begin nothing that would not end within so many, instead of the mode's")
    parser.add_argument("--seconds", type=float, help="of a measurement, instead of the mode's")
    parser.add_argument("--only", choices=SPACES, help="one of the two populations")
    parser.add_argument("--out", help="the JSON file; default bench/results/cpu-<machine>-<date>.json")
    arguments = parser.parse_args()
    mode = dict(MODES[arguments.mode])
    if arguments.seconds:
        mode["seconds"] = arguments.seconds
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
    stages = Stages(report, ours, crew, mode, cores)
    try:  # without these there is nothing to report
        report["version"] = ours.json("version")
        for library in report["version"].get("libraries", []):
            if "path" in library:  # the same wherever the repository lies
                library["path"] = os.path.relpath(library["path"], HERE.parent)
        report["peaks"] = ours.json("bench", "machine", "--seconds", str(mode["machine"]))
        crew.one[0].start()
        report["torch"] = crew.one[0].hello["torch"]
        stages.sample()
        planned = [(name, sum(seconds for _, seconds, _ in parts())) for name, parts in stages.all(arguments.only)]
        say("the plan, seconds: " + "; ".join(f"{name} {seconds:.0f}" for name, seconds in planned) + f"; in all {sum(s for _, s in planned) / 60:.1f} of {run.minutes:g} minutes")
        for name, parts in stages.all(arguments.only):
            run.stage(name, parts())
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
