"""Golden numbers for the statistics of analysis/, from scipy and numpy and from nothing of ours.

    python golden_statistics.py > analysis/testdata/statistics.json      (needs scipy and numpy; neither build nor tests need them)

Ranks, Spearman, Kendall and t p-values are scipy's. Exact p-values enumerate permutations. Bootstrap intervals and reliabilities are written
here a second time, plainly, over the same named random streams (package random), so that they must agree to rounding.
"""

import hashlib
import itertools
import json
import sys

import numpy
import scipy
import scipy.stats

MASK = (1 << 64) - 1


class Stream:
    """The counter-based stream of package random."""

    def __init__(self, seed, *parts):
        text = f"anynetx stream 1\n{seed}\n".encode()
        for p in parts:
            text += f"{len(p.encode())}:{p}\n".encode()
        digest = hashlib.sha256(text).digest()
        self.key = int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:16], "little")

    @staticmethod
    def mix(z):
        z = ((z ^ z >> 30) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ z >> 27) * 0x94D049BB133111EB) & MASK
        return z ^ z >> 31

    def uint64(self, i):
        return self.mix(self.mix((i * 0x9E3779B97F4A7C15 + self.key[0]) & MASK) ^ self.key[1])

    def below(self, i, n):
        return self.uint64(i) * n >> 64


def exact_p(x, y):
    rx, ry = scipy.stats.rankdata(x), scipy.stats.rankdata(y)
    observed = abs(numpy.corrcoef(rx, ry)[0, 1])
    all_rho = [abs(numpy.corrcoef(rx, p)[0, 1]) for p in itertools.permutations(ry)]
    return sum(r >= observed - 1e-12 for r in all_rho) / len(all_rho)


def bootstrap(x, y, count, stream, confidence):
    n, rho = len(x), []
    x, y = numpy.array(x), numpy.array(y)
    for b in range(count):
        drawn = [stream.below(b * n + k, n) for k in range(n)]
        if len(set(x[drawn])) > 1 and len(set(y[drawn])) > 1:
            rho.append(scipy.stats.spearmanr(x[drawn], y[drawn]).statistic)
    return list(numpy.quantile(rho, [(1 - confidence) / 2, (1 + confidence) / 2]))


def reliability(population, groups):
    population = numpy.array(population)

    def place(v):
        return ((population < v).sum() + (population <= v).sum()) / 2 / len(population)

    within = sum(sum((place(v) - numpy.mean([place(u) for u in g])) ** 2 for v in g) for g in groups) / sum(len(g) - 1 for g in groups)
    total = numpy.var([place(v) for v in population], ddof=1)
    return float(min(1, max(0, 1 - within / total)))


def main():
    generator = numpy.random.default_rng(20261123)
    samples = {
        "tied example": ([1, 2, 2, 3, 5, 5, 5, 8, 9, 10, 11, 12], [2, 1, 4, 4, 3, 6, 6, 9, 7, 9, 12, 11]),
        "no ties": (generator.normal(size=24), None),
        "rounded": (numpy.round(generator.normal(20, 2, size=40), 0), None),
        "negative": (generator.normal(size=30), None),
        "independent": (generator.normal(size=500), None),
        "seven": (generator.normal(size=7), None),
        "nine with ties": (numpy.round(generator.normal(size=9) * 2), None),
        "perfect": (list(range(12)), list(range(12))),
        "reversed": (list(range(5)), list(range(5, 0, -1))),
    }
    cases = []
    for name, (x, y) in samples.items():
        x = [float(v) for v in x]
        if y is None:
            slope = {"negative": -1.5, "independent": 0}.get(name, 1)
            y = slope * numpy.array(x) + generator.normal(size=len(x))
            if name in ("rounded", "nine with ties"):
                y = numpy.round(y)
        y = [float(v) for v in y]
        spearman, tau = scipy.stats.spearmanr(x, y), scipy.stats.kendalltau(x, y)
        case = {"name": name, "x": x, "y": y, "ranks_x": list(scipy.stats.rankdata(x)), "rho": spearman.statistic, "tau_b": tau.statistic, "p_t": spearman.pvalue}
        if len(x) <= 9:
            case["p_exact"] = exact_p(x, y)
        if 5 <= len(x) <= 40:
            case["resamples"], case["confidence"] = 300, 0.9
            case["ci"] = bootstrap(x, y, 300, Stream(5, "golden", name), 0.9)
        cases.append(case)

    quality = generator.normal(size=60)
    first = quality + 0.5 * generator.normal(size=60)
    groups = [[float(first[i])] + [float(v) for v in quality[i] + 0.5 * generator.normal(size=3)] for i in range(0, 60, 6)]
    rounded = [[round(v, 0) for v in g] for g in groups]
    noise = [
        {"population": [float(v) for v in first], "groups": groups, "reliability": reliability(first, groups)},
        {"population": [round(float(v), 0) for v in first], "groups": rounded, "reliability": reliability(numpy.round(first, 0), rounded)},
    ]
    json.dump({"made_with": f"scipy {scipy.__version__}, numpy {numpy.__version__}", "cases": cases, "noise": noise}, sys.stdout, indent=None, separators=(",", ":"))
    print()


main()
