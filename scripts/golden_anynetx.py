#!/usr/bin/env python3
"""Golden numbers of package anynetx, worked out a second time in another language and, where it can be, in another way.

Shares nothing with the Go code: streams by hashlib, thresholds of the log-uniform law by decimal logarithms to 100 digits (Go squares
binary fractions), complexity as a closed form per stage (Go sums a list of layers), parameter names by string rules.

    python3 scripts/golden_anynetx.py           writes anynetx/testdata/*.json
    python3 scripts/golden_anynetx.py --check   exits 1 if they would change

Needs Python 3.9 and nothing else.
"""
import hashlib
import json
import math
import pathlib
import sys
from decimal import Decimal, getcontext

MASK = (1 << 64) - 1
getcontext().prec = 100


# ---- package random

def stream_key(seed, *parts):
    text = b"anynetx stream 1\n%d\n" % seed
    for part in parts:
        part = str(part).encode()
        text += b"%d:%s\n" % (len(part), part)
    digest = hashlib.sha256(text).digest()
    return int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:16], "little")


def mix(z):
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & MASK
    z = (z ^ z >> 27) * 0x94D049BB133111EB & MASK
    return z ^ z >> 31


def number(key, i):
    return mix(mix((i * 0x9E3779B97F4A7C15 + key[0]) & MASK) ^ key[1])


# ---- laws

def log_uniform(low, high, q):
    """(values, thresholds): exp(U(log(low - min(q, low/2)), log high)) rounded up to a multiple of q."""
    end = min(Decimal(q), Decimal(low) / 2)
    start = Decimal(low) - end
    span = (Decimal(high) / start).ln()
    values = list(range(low, high + 1, q))
    thresholds = []
    for v in values[:-1]:
        exact = (Decimal(v) / start).ln() / span * (1 << 64)
        whole = exact.to_integral_value()
        if abs(exact - whole) < Decimal(10) ** -60:  # a dyadic fraction: the logarithms' last digits must not decide
            thresholds.append(int(whole))
        else:
            thresholds.append(int(exact))
    return values, thresholds


def draw(law, u):
    if isinstance(law, list):  # equally often
        return law[u * len(law) >> 64]
    values, thresholds = law
    for v, t in zip(values, thresholds):
        if u < t:
            return v
    return values[-1]


# ---- architectures

def candidate(space, seed, i):
    key = stream_key(seed, "candidate", i)
    stages = []
    for k in range(4):
        d, w, b, g = (draw(law, number(key, 4 * k + j)) for j, law in enumerate(space["laws"]))
        v = max(1, w // b)
        g = min(g, v)
        v = max(g, round(v / g) * g)  # Python rounds half to even; the quotients here are far below 2^53
        stages.append([d, v * b, b, g])
    return stages


def arch_id(stages):
    d, w, b, g = ("-".join(map(str, column)) for column in zip(*stages))
    text = f"anynetx architecture 1: d {d}  w {w}  b {b}  g {g}"
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def ceil_half(x, stride):
    return (x + stride - 1) // stride


def complexity(stages, setting):
    """FLOPs, parameters, activations: a stage is its first block, then d - 1 equal ones."""
    x, k = setting["resolution"], setting["stem_width"]
    filter_size = 7 if setting["stem"] == "res_stem_in" else 3
    x = ceil_half(x, 1 if setting["stem"] == "res_stem_cifar" else 2)
    weights = filter_size ** 2 * 3 * k
    flops, params, acts = weights * x * x, weights + 2 * k, k * x * x
    if setting["stem"] == "res_stem_in":
        x = ceil_half(x, 2)
        acts += k * x * x
    for (d, w, b, g), stride in zip(stages, setting["strides"]):
        v = w // b
        y = ceil_half(x, stride)
        flops += k * v * x * x + (9 * g * v + v * w) * y * y
        params += k * v + 9 * g * v + v * w + 4 * v + 2 * w
        acts += v * x * x + (v + w) * y * y
        if k != w or stride != 1:
            flops += k * w * y * y
            params += k * w + 2 * w
            acts += w * y * y
        flops += (d - 1) * (2 * w * v + 9 * g * v) * y * y
        params += (d - 1) * (2 * w * v + 9 * g * v + 4 * v + 2 * w)
        acts += (d - 1) * (2 * v + w) * y * y
        x, k = y, w
    classes = setting["classes"]
    return flops + (k + 1) * classes, params + (k + 1) * classes, acts + classes


def parameters(stages, setting):
    """pycls's state, in its order: [name, shape] without the counters of batches."""
    out = []

    def conv(name, bn, k, r, g):
        out.append([name + ".weight", [k, r, r, g]])
        for leaf in ("weight", "bias", "running_mean", "running_var"):
            out.append([f"{bn}.{leaf}", [1, 1, 1, k]])

    c = setting["stem_width"]
    conv("stem.conv", "stem.bn", c, 7 if setting["stem"] == "res_stem_in" else 3, 3)
    for i, ((d, w, b, g), stride) in enumerate(zip(stages, setting["strides"]), 1):
        for j in range(1, d + 1):
            at = f"s{i}.b{j}"
            if j == 1 and (c != w or stride != 1):
                conv(at + ".proj", at + ".bn", w, 1, c)
            conv(at + ".f.a", at + ".f.a_bn", w // b, 1, c)
            conv(at + ".f.b", at + ".f.b_bn", w // b, 3, g)
            conv(at + ".f.c", at + ".f.c_bn", w, 1, w // b)
            c = w
    out.append(["head.fc.weight", [setting["classes"], 1, 1, c]])
    out.append(["head.fc.bias", [1, 1, 1, setting["classes"]]])
    return out


def initial(seed, name, deviation, count):
    """The first values of a parameter drawn from a normal law: Box-Muller on pairs of multiples of 2^-53."""
    key = stream_key(number(stream_key(seed, "init"), 0), "initial value", name)
    out = []
    for i in range(count):
        u, angle = ((number(key, 2 * i + k) >> 11) / (1 << 53) for k in range(2))
        out.append(deviation * math.sqrt(-2 * math.log(1 - u)) * math.cos(2 * math.pi * angle))
    return out


# ---- the golden files

IMAGENET = {"stem": "res_stem_in", "stem_width": 32, "strides": [1, 2, 2, 2], "resolution": 224, "classes": 1000}
SMALL = {"stem": "res_stem_cifar", "stem_width": 16, "strides": [1, 2, 2, 2], "resolution": 28, "classes": 10}

SPACES = {
    "paper": {
        "yaml": "{}",
        "laws": [log_uniform(1, 16, 1), log_uniform(8, 1024, 8), [1, 2, 4], [1, 2, 4, 8, 16, 32]],
        "setting": IMAGENET,
        "band": {"flops": [360_000_000, 400_000_000]},
    },
    "small": {
        "yaml": "depth: {law: uniform, low: 1, high: 5}\n"
                "width: {law: log_uniform, low: 12, high: 93, quantum: 3}\n"
                "bottleneck: {law: choice, values: [3, 1]}\n"
                "group_width: {law: uniform, low: 1, high: 32}\n"
                "setting: {stem: res_stem_cifar, stem_width: 16, resolution: 28, classes: 10}\n"
                "band:\n  flops: {low: 2e6, high: 4e6}\n  params: {high: 60_000}\n  activations: {low: 70000}\n",
        "laws": [list(range(1, 6)), log_uniform(12, 93, 3), [3, 1], list(range(1, 33))],
        "setting": SMALL,
        "band": {"flops": [2_000_000, 4_000_000], "params": [0, 60_000], "activations": [70_000, 0]},
    },
}


def in_band(counts, band):
    for name, value in zip(("flops", "params", "activations"), counts):
        low, high = band.get(name, (0, 0))
        if value < low or high and value > high:
            return False
    return True


def population(name, seed, first, accepted):
    space = SPACES[name]
    members, seen, inside, i = [], set(), 0, 0
    while len(members) < accepted:
        stages = candidate(space, seed, i)
        counts = complexity(stages, space["setting"])
        if in_band(counts, space["band"]):
            inside += 1
            if str(stages) not in seen:
                seen.add(str(stages))
                members.append({"index": i, "id": arch_id(stages), "stages": stages, "complexity": counts})
        i += 1
    return {"space": name, "seed": seed, "candidates": [candidate(space, seed, i) for i in range(first)],
            "drawn": i, "in_band": inside, "members": members}


def regnet(depth, w0, wa, wm, group):
    """Stages by the formulas (2) to (4) of Radosavovic et al. 2020, then pycls's compatibility with b = 1."""
    widths = []
    for j in range(depth):
        step = round(math.log((w0 + wa * j) / w0) / math.log(wm))
        widths.append(int(round(w0 * wm ** step / 8)) * 8)
    stages = []
    for w in sorted(set(widths)):
        g = min(group, w)
        stages.append([widths.count(w), max(g, round(w / g) * g), 1, g])
    return stages


def published():
    """The integers pycls publishes in dev/model_complexity.json (facebookresearch/pycls at 5719de6): flops, params, acts. The REGNET
    parameters are those of configs/dds_baselines/regnetx."""
    nets = []
    for name, shape, counts in [
        ("RegNetX-200MF", (13, 24, 36.44, 2.49, 8), (199040872, 2684792, 2164056)),
        ("RegNetX-400MF", (22, 24, 24.48, 2.54, 16), (397678568, 5157512, 3143272)),
        ("RegNetX-600MF", (16, 48, 36.97, 2.24, 24), (600891112, 6196040, 3975096)),
        ("RegNetX-800MF", (16, 56, 35.73, 2.28, 16), (799700712, 7259656, 5148744)),
        ("RegNetX-1.6GF", (18, 80, 34.01, 2.25, 24), (1602850792, 9190136, 7933512)),
        ("RegNetX-3.2GF", (25, 88, 26.31, 2.25, 48), (3176622952, 15296552, 11367432)),
        ("RegNetX-4.0GF", (23, 96, 38.65, 2.43, 40), (3964499816, 22118248, 12201608)),
        ("RegNetX-6.4GF", (17, 184, 60.83, 2.07, 56), (6460292264, 26209256, 16369744)),
        ("RegNetX-8.0GF", (23, 80, 49.56, 2.88, 120), (7995133416, 39572648, 14059688)),
        ("RegNetX-12GF", (19, 168, 73.36, 2.37, 112), (12086679016, 46106056, 21366568)),
        ("RegNetX-16GF", (22, 216, 55.59, 2.1, 128), (15940756456, 54278536, 25515496)),
        ("RegNetX-32GF", (23, 320, 69.86, 2.0, 168), (31735930792, 107811560, 36302160)),
    ]:
        setting = dict(IMAGENET, stem="simple_stem_in", strides=[2, 2, 2, 2])
        nets.append({"name": name, "stages": regnet(*shape), "setting": setting, "published": counts})
    widths = [256, 512, 1024, 2048]
    for name, depths, bottleneck, groups, counts in [
        ("ResNet-50", [3, 4, 6, 3], 4, [64, 128, 256, 512], (4089185256, 25557032, 11315688)),
        ("ResNet-101", [3, 4, 23, 3], 4, [64, 128, 256, 512], (7801406440, 44549160, 16433640)),
        ("ResNet-152", [3, 8, 36, 3], 4, [64, 128, 256, 512], (11513627624, 60192808, 22755816)),
        ("ResNeXt-50-32x4d", [3, 4, 6, 3], 2, [4, 8, 16, 32], (4230480872, 25028904, 14602216)),
        ("ResNeXt-101-32x4d", [3, 4, 23, 3], 2, [4, 8, 16, 32], (7969997800, 44177704, 21426152)),
        ("ResNeXt-152-32x4d", [3, 8, 36, 3], 2, [4, 8, 16, 32], (11709514728, 59951400, 29855720)),
    ]:
        stages = [list(s) for s in zip(depths, widths, [bottleneck] * 4, groups)]
        nets.append({"name": name, "stages": stages, "setting": dict(IMAGENET, stem_width=64), "published": counts})
    for net in nets:
        counts = complexity(net["stages"], net["setting"])
        if counts != net["published"]:
            sys.exit(f"{net['name']}: the formulas give {counts}, pycls publishes {net['published']}")
    return nets


def small_networks():
    """Settings pycls publishes nothing for: every stem, odd sizes, strides, a projection without stride, none at all."""
    cases = []
    for stem in ("res_stem_in", "simple_stem_in", "res_stem_cifar"):
        for resolution in (1, 7, 28, 33):
            for strides in ([1, 2, 2, 2], [2, 1, 1, 2], [1, 1, 1, 1]):
                setting = {"stem": stem, "stem_width": 24, "strides": strides, "resolution": resolution, "classes": 7}
                stages = [[2, 24, 1, 3], [1, 60, 4, 5], [3, 60, 2, 30], [1, 7, 1, 1]]
                cases.append({"stages": stages, "setting": setting, "complexity": complexity(stages, setting)})
    return cases


def files():
    ranges = [(1, 16, 1), (8, 1024, 8), (3, 12, 3), (2, 8, 1), (5, 5, 5), (64, 96, 16), (7, 4095, 7),
              (10, 25, 1), (10, 49, 1), (26, 36, 1)]  # log(15/9) / log(25/9) is 1/2, though no binary number is 15/9
    laws = {f"{low} {high} {q}": [f"{t:016x}" for t in log_uniform(low, high, q)[1]] for low, high, q in ranges}
    names_of = {"stages": [[1, 16, 1, 8], [2, 48, 2, 3], [1, 48, 4, 12], [1, 40, 1, 1]], "setting": SMALL}
    return {
        "complexity.json": {"published": published(), "small": small_networks()},
        "laws.json": laws,
        "parameters.json": dict(names_of, state=parameters(names_of["stages"], names_of["setting"]),
                                initial_seed=5, initial={"stem.conv.weight": initial(5, "stem.conv.weight", math.sqrt(2 / (9 * 16)), 6),
                                                         "s2.b1.f.b.weight": initial(5, "s2.b1.f.b.weight", math.sqrt(2 / (9 * 24)), 6),
                                                         "head.fc.weight": initial(5, "head.fc.weight", 0.01, 6)}),
        "population.json": {"spaces": {name: s["yaml"] for name, s in SPACES.items()},
                            "populations": [population("paper", 1, 40, 8), population("paper", MASK, 10, 3),
                                            population("small", 7, 40, 12)]},
    }


def text_of(value, indent=""):
    """JSON with one line per entry of the outer levels."""
    if isinstance(value, dict):
        inner = ",\n".join(f"{indent} {json.dumps(k)}: {text_of(v, indent + ' ')}" for k, v in value.items())
        return "{\n" + inner + f"\n{indent}}}" if len(indent) < 3 else json.dumps(value)
    if isinstance(value, list) and value and isinstance(value[0], (dict, list)):
        return "[\n" + ",\n".join(f"{indent} {json.dumps(v) if not indent or len(json.dumps(v)) < 400 else text_of(v, indent + ' ')}"
                                  for v in value) + f"\n{indent}]"
    return json.dumps(value)


def main():
    folder = pathlib.Path(__file__).resolve().parent.parent / "anynetx" / "testdata"
    check, changed = "--check" in sys.argv[1:], []
    for name, value in files().items():
        path, text = folder / name, text_of(value) + "\n"
        if not path.exists() or path.read_text() != text:
            changed.append(name)
            if not check:
                folder.mkdir(exist_ok=True)
                path.write_text(text)
    print("changed: " + ", ".join(changed) if changed else "golden numbers of anynetx unchanged")
    sys.exit(1 if check and changed else 0)


if __name__ == "__main__":
    main()
