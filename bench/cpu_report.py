"""Tables and pictures of docs/performance.md from a result of bench/cpu.py. Needs nothing but Python.

python bench/cpu_report.py bench/results/cpu-....json [--page docs/performance.md]

Writes the tables beside the result (.md), the pictures (.svg), and puts both into the page between its markers.
"""
import argparse
import json
import os
import pathlib
import statistics

import svg

BEGIN, END = "<!-- begin: written by bench/cpu_report.py -->", "<!-- end -->"
GATES = {(32, "fp32"): 1.7, (224, "fp32"): 1.4, (32, "bf16"): 2.0, (224, "bf16"): 1.5}
WORST = 1.1
LARGE, SMALL = (28, 14, 7), (4, 2, 1)


def op_gate(o):
    """The least fraction of the peak that is asked of an op, if any."""
    if o["family"] == "grouped" and o["group"] > 1 and o["size"] in LARGE:
        return {"fwd": 0.70, "wgrad": 0.55}.get(o["pass"])
    if o["family"] == "1x1" and o["pass"] in ("fwd", "bwd"):
        return 0.75 if o["size"] in LARGE else 0.60 if o["size"] in SMALL else None
    return None


def harmonic(values):
    values = list(values)
    return len(values) / sum(1 / v for v in values) if values and min(values) > 0 else None


def speeds(result, dtype):
    """Images per second of every form of the peer that worked."""
    return {k: v["images_per_second"] for k, v in result["peer"].items() if k.startswith(dtype) and "images_per_second" in v}


def eager_best(result, dtype):
    return max((v for k, v in speeds(result, dtype).items() if "compiled" not in k), default=None)


def summary(results, resolution, dtype):
    """The figures of one population at one resolution; None where something was not measured."""
    rows = [r for r in results if r["resolution"] == resolution and speeds(r, dtype)]
    if not rows:
        return None
    s = {"networks": len(rows), "peer": harmonic(max(speeds(r, dtype).values()) for r in rows)}
    compiled = [r for r in rows if any("compiled" in k for k in speeds(r, dtype))]
    s["compile_gain"] = s["compiled_networks"] = None
    if compiled:
        gains = [max(speeds(r, dtype).values()) / eager_best(r, dtype) for r in compiled]
        s["compile_gain"], s["compiled_networks"] = statistics.geometric_mean(gains), len(compiled)
    ours = [r["anynetx"][dtype] for r in rows]
    s["anynetx"] = s["ratio"] = s["worst"] = s["peak"] = s["cautious"] = None
    if all(ours):
        s["anynetx"] = harmonic(o["images_per_second"] for o in ours)
        s["ratio"] = s["anynetx"] / s["peer"]
        s["worst"], s["worst_id"] = min((o["images_per_second"] / max(speeds(r, dtype).values()), r["id"]) for o, r in zip(ours, rows))
        s["peak"] = statistics.median(o["fraction_of_peak"] for o in ours) if all(o["fraction_of_peak"] for o in ours) else None
        # as if every network gained what compilation gained where it was tried
        lift = lambda r: max(max(speeds(r, dtype).values()), eager_best(r, dtype) * (s["compile_gain"] or 1))
        s["cautious"] = s["anynetx"] / harmonic(lift(r) for r in rows)
    return s


def number(v, form="{:.1f}"):
    return "not measured" if v is None else form.format(v)


def percent(v):
    return "" if v is None else f"{100 * v:.0f} %"


def table(head, rows):
    return "\n".join(["| " + " | ".join(head) + " |", "|" + "|".join("---" for _ in head) + "|"] + ["| " + " | ".join(map(str, r)) + " |" for r in rows]) + "\n"


def name_of(n):
    joined = lambda k: ",".join(map(str, n[k]))
    return f"d {joined('depths')}; w {joined('widths')}; b {joined('bottlenecks')}; g {joined('group_widths')}"


def headline(report):
    rows = []
    for space, label in (("default", "default space"), ("integer", "group widths 1..32")):
        for resolution in (32, 224):
            for dtype in ("fp32", "bf16"):
                s = summary(report[space], resolution, dtype)
                if not s:
                    continue
                gate = GATES.get((resolution, dtype))
                whole = not any(m.startswith(f"{space} space") for m in report["missing"])
                judged = report["mode"] == "full" and report["load_at_start"] <= 0.5 and whole
                verdict = "" if not gate or s["ratio"] is None else "not judged" if not judged else ("reached" if s["ratio"] >= gate and s["worst"] >= WORST else "**not reached**")
                rows.append([label, f"{resolution} px", dtype, s["networks"], number(s["anynetx"]), number(s["peer"]), number(s["ratio"], "{:.2f}x"),
                             number(s["cautious"], "{:.2f}x"), number(s["worst"], "{:.2f}x"), percent(s["peak"]), f"{gate}x, worst {WORST}x" if gate else "", verdict])
    return table(["networks", "images", "dtype", "count", "anynetx, images/s", "PyTorch's best, images/s", "ratio", "ratio, compile's gain given to all", "worst network",
                  "of the dtype's peak (median)", "gate", ""], rows)


BASE = "nhwc one per core"


def forms(report):
    """Each form of the peer beside one of them, on the networks where both were measured."""
    rows = []
    for resolution in (32, 224):
        for dtype in ("fp32", "bf16"):
            results = [r for space in ("default", "integer") for r in report[space] if r["resolution"] == resolution]
            for suffix in (BASE, "nhwc all threads", "nchw one per core", "nchw all threads", "compiled"):
                pairs = [(speeds(r, dtype)[k], speeds(r, dtype)[f"{dtype} {BASE}"]) for r in results for k in speeds(r, dtype)
                         if k.endswith(suffix) and f"{dtype} {BASE}" in speeds(r, dtype)]
                if pairs:
                    mean, base = harmonic(p[0] for p in pairs), harmonic(p[1] for p in pairs)
                    name = "NHWC one per core, compiled" if suffix == "compiled" else suffix.replace("nhwc", "NHWC").replace("nchw", "NCHW")
                    rows.append([f"{resolution} px", f"{dtype} {name}", len(pairs), number(mean), f"{mean / base:.2f}x"])
    return table(["images", "PyTorch's form", "networks", "images/s (harmonic mean)", "over NHWC, one per core, on the same networks"], rows)


def networks(report):
    rows = []
    for space in ("default", "integer"):
        for r in report[space]:
            for dtype in ("fp32", "bf16"):
                best = max(speeds(r, dtype).items(), key=lambda kv: kv[1], default=("", None))
                mine = r["anynetx"][dtype] or {"images_per_second": None, "fraction_of_peak": None}
                ratio = mine["images_per_second"] / best[1] if mine["images_per_second"] and best[1] else None
                spread = min((v["spread"] for v in r["visits"] if v["dtype"] == dtype), default=None)
                rows.append([f"`{r['id']}`", name_of(r["network"]), f"{r['resolution']} px", dtype, number(mine["images_per_second"]), number(best[1]), best[0].replace(f"{dtype} ", ""),
                             number(ratio, "{:.2f}x"), percent(mine["fraction_of_peak"]), percent(spread)])
    text = table(["network", "depths; widths; bottlenecks; group widths", "images", "dtype", "anynetx", "PyTorch", "its best form", "ratio", "of the dtype's peak", "before and after differ by"], rows)
    crashes = [f"* `{r['id']}` at {r['resolution']} px, {form}: {', '.join(v['crashes'])}\n" for space in ("default", "integer") for r in report[space]
               for form, v in r["peer"].items() if v.get("crashes")]
    return text + ("\nPyTorch crashed, and was tried once more:\n\n" + "".join(crashes) if crashes else "")


def plan(report):
    return table(["stage", "parts", "planned, s", "took, s"], [[p["stage"], p["parts"], f"{p['planned_s']:.0f}", number(p.get("took_s"), "{:.0f}")] for p in report["plan"]])


def kinds(report):
    text = "" if report["kinds"] else "Not measured in this run.\n"
    for k in report["kinds"]:
        others = sum(o["share"] for o in k["kinds"] if not o["convolution"])
        text += f"Median network at {k['resolution']} px, `{k['id']}`, one thread, {k['images_per_second']:.1f} images/s; what is not convolution takes {percent(others)}:\n\n"
        text += table(["kind of op", "ops", "ms of a step", "share", "of peak"],
                      [[o["kind"], o["ops"], f"{o['ms']:.2f}", f"{100 * o['share']:.1f} %", percent(o.get("fraction_of_peak"))] for o in k["kinds"]]) + "\n"
    return text


SIZES = (56, 28, 14, 7, 8, 4, 2, 1)
PASSES = ("fwd", "bwd", "wgrad", "dgrad")


def by_map(report, family, label, chosen, field):
    """A row per pass: lowest, median and highest fraction of the peak on each map."""
    rows = []
    for p in PASSES:
        cells = []
        for size in SIZES:
            v = [o[field] for o in report["ops"]["ops"] if o["family"] == family and o["pass"] == p and o["size"] == size and o.get(field) and chosen(o)]
            cells.append("" if not v else percent(v[0]) if len(v) == 1 else f"{100 * min(v):.0f}-{100 * statistics.median(v):.0f}-{100 * max(v):.0f} %")
        rows.append([label, p, *cells])
    return rows


def ops(report):
    if not report.get("ops"):
        return "Single ops were not measured in this run.\n"
    head = ["op", "pass", *(f"{s} px" for s in SIZES)]
    grouped = lambda field: sum((by_map(report, "grouped", f"grouped 3x3, stride {stride}, g {label}", lambda o: o["stride"] == stride and (o["group"] == 1) == (label == "= 1"), field)
                                 for stride in (1, 2) for label in ("= 1", "= 2..32")), [])
    text = "Lowest, median and highest fraction of the FMA peak; batches of 16 images on maps of 56 to 7 pixels, 128 on those of 8 to 1; `bwd` is both gradients, `wgrad` the weight's alone,\n"
    text += "`dgrad` their difference in time. FLOPs are counted as everywhere: every tap of the filter.\n\n"
    text += table(head, grouped("fraction_of_peak") + by_map(report, "1x1", "1x1", lambda o: o["stride"] == 1, "fraction_of_peak")) + "\n"
    text += "The same with only those taps counted that meet the map, the work that has to be done:\n\n" + table(head, grouped("fraction_inside")) + "\n"
    asked = [(o, op_gate(o)) for o in report["ops"]["ops"] if op_gate(o)]
    below = [[o["op"], o["pass"], f"{100 * o['fraction_of_peak']:.1f} %", percent(gate)] for o, gate in asked if o["fraction_of_peak"] < gate]
    text += "Gates: grouped 3x3 with g = 2..32 on maps of 28, 14 and 7 px 70 % forward, 55 % the weight gradient alone; 1x1 75 % there and 60 % on smaller ones, forward and both gradients.\n"
    text += f"{len(asked) - len(below)} of {len(asked)} reach them" + ("; what bounds the others: `docs/cpu.md`.\n\n" + table(["op", "pass", "of the peak", "gate"], below) if below else ".\n") + "\n"
    rest = [o for o in report["ops"]["ops"] if o["family"].startswith("stem") or o["family"] == "head" or o["family"] == "1x1" and o["stride"] > 1]
    text += table(["op", "pass", "us", "of peak"], [[o["op"], o["pass"], f"{o['us']:.0f}", percent(o.get("fraction_of_peak"))] for o in rest if o.get("fraction_of_peak")]) + "\n"
    moved = [o for o in report["ops"]["ops"] if o.get("fraction_of_copy")]
    return text + table(["op", "pass", "us", "GB/s", "of the copy bandwidth"], [[o["op"], o["pass"], f"{o['us']:.0f}", f"{o['gb_per_s']:.1f}", percent(o["fraction_of_copy"])] for o in moved])


def threads(report):
    if not report["threads"]:
        return "Not measured in this run.\n"
    def turns(t):
        """Of all threads: the lowest turn, and the most of the machine that others had in one; older results do not say."""
        return ([number(min(u["all"] for u in t["turns"])), f"{100 * max(u['others'] for u in t['turns']):.1f} %"] if "turns" in t else ["", ""])
    return ("Gate: 2 threads at least 1.8x of one. One model per core, which shares nothing but the memory, shows how much of the gap is the machine's. The best turn "
            "counts; where the slowest of all threads is far below it, somebody else had a part of the machine.\n\n"
            + table(["network", "images", "1 thread, images/s", "threads", "images/s", "slowest turn", "others had at most", "gain", "one model per core, images/s", "gain"],
                    [[f"`{t['id']}`", f"{t['resolution']} px", number(t["one"]), t["threads"], number(t["all"]), *turns(t), f"{t['gain']:.2f}x", number(t["processes"]), f"{t['processes_gain']:.2f}x"]
                     for t in report["threads"]]))


def memory(report):
    if not report["memory"]:
        return "Not measured in this run.\n"
    mb = lambda b: "not measured" if b is None else f"{b / 2**20:.0f} MiB"
    return table(["network", "images", "anynetx: arena", "weights, momentum, statistics", "workspace", "PyTorch: peak of the process", "of that, before the first network"],
                 [[f"`{m['id']}`", f"{m['resolution']} px, batch 16", mb(m["arena_bytes"]), mb(m["state_bytes"]), mb(m["workspace_bytes"]), mb(m["peer_peak_bytes"]), mb(m["peer_import_bytes"])]
                  for m in report["memory"]])


def pictures(report, stem):
    """The names of the pictures written."""
    names, colors = [], {"default": "#1f6fb4", "integer": "#d9730d"}
    for resolution in (32, 224):
        points = []
        for space in ("default", "integer"):
            for r in report[space]:
                best = max(speeds(r, "fp32").values(), default=None)
                if r["resolution"] == resolution and best:
                    points.append((best, r["anynetx"]["fp32"]["images_per_second"], colors[space], r["id"]))
        if points:
            path = f"{stem}-{resolution}px.svg"
            gate = GATES[(resolution, "fp32")]
            pathlib.Path(path).write_text(svg.scatter(points, f"Training at {resolution} px on {report['cores']} cores of {report['machine']}, fp32",
                                                      "PyTorch at its best, images/s", "anynetx, images/s", [(1, "equal"), (gate, f"{gate}x"), (2 * gate, f"{2 * gate:g}x")],
                                                      [(colors["default"], "default space"), (colors["integer"], "group widths 1..32")]))
            names.append(path)
    for stride in (1, 2) if report.get("ops") else ():
        lines = [(size, {o["group"]: o["fraction_inside"] for o in report["ops"]["ops"] if o["family"] == "grouped" and o["stride"] == stride and o["size"] == size and o["pass"] == "fwd"})
                 for size in SIZES]
        path = f"{stem}-groups-stride-{stride}.svg"
        pathlib.Path(path).write_text(svg.lines(lines, f"Grouped 3x3, stride {stride}, forward: fraction of the FMA peak (taps that meet the map) by group width", "group width", "of the peak"))
        names.append(path)
    return names


def page(report, images):
    p, one = report["peaks"], report["peaks"]["one_thread"]
    every, torch = p["all_cores"], report["torch"]
    text = f"Measured on {report['date']} (mode `{report['mode']}`, {report['minutes']:.0f} minutes) on {report['cores']} cores of {report['machine']}, {p['isa']}, {report['system']}; PyTorch {torch}.\n"
    if report["load_at_start"] > 0.5:
        text += f"\n**The machine was not idle (load {report['load_at_start']:.1f} at the start): these figures are of little worth.**\n"
    text += "\n" + table(["peak, measured in this run", "1 thread", f"{report['cores']} cores"],
                         [["fp32 multiply-add, GFLOP/s", number(one["fma_f32_gflops"]), number(every["fma_f32_gflops"])],
                          ["bf16 dot product, GFLOP/s", number(one["dot_bf16_gflops"]), number(every["dot_bf16_gflops"])],
                          ["memory copy, GB/s read and written", number(one["copy_gb_per_s"]), number(every["copy_gb_per_s"])],
                          ["memory read, GB/s", number(one["read_gb_per_s"]), number(every["read_gb_per_s"])]])
    if report["missing"]:
        text += "\nMissing in this run:\n\n" + "".join(f"* {name}: {why}\n" for name, why in report["missing"].items())
    text += "\n### Training beside PyTorch\n\n" + headline(report) + "\n" + "".join(f"![{pathlib.Path(i).stem}]({i})\n\n" for i in images)
    for title, part in (("Forms of PyTorch", forms), ("Every network", networks), ("Where the time goes", kinds), ("Single ops", ops), ("Threads of one model", threads), ("Memory", memory),
                        ("The run's plan", plan)):
        text += f"\n### {title}\n\n" + part(report)
    return text


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("result")
    parser.add_argument("--page", help="a Markdown file with the markers, to be brought up to date")
    arguments = parser.parse_args()
    report = json.loads(pathlib.Path(arguments.result).read_text())
    stem = arguments.result.removesuffix(".json")
    images = pictures(report, stem)
    beside = lambda folder: [pathlib.Path(os.path.relpath(i, folder)).as_posix() for i in images]
    pathlib.Path(stem + ".md").write_text("# Training speed on a CPU\n\n" + page(report, beside(pathlib.Path(stem).parent)))
    if arguments.page:
        path = pathlib.Path(arguments.page)
        text = path.read_text()
        if text.count(BEGIN) != 1 or text.count(END) != 1:
            raise SystemExit(f"{path} must have one line '{BEGIN}' and one '{END}' behind it")
        head, rest = text.split(BEGIN)
        path.write_text(head + BEGIN + "\n" + page(report, beside(path.parent)) + END + rest.split(END)[1])


if __name__ == "__main__":
    main()
