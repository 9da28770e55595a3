"""Golden training steps for engine/golden_test.go, by PyTorch in float64 from float32 weights and uint8 images.

    python scripts/golden_step.py                  writes engine/testdata/golden-<case>.safetensors
    python scripts/golden_step.py check FILE       loads a file of `anynetx export` or `train --out` with load_state_dict(strict=True)

Each file: the case as JSON in the metadata; images, labels; initial.* (state), gradient.*, step1.* and step3.* (state), and
losses: of the three training steps (batch norm in training mode), then of the test pass after each (from running statistics, not smoothed).
Printed and kept in the metadata: how far PyTorch's own float32 is from its float64, or float64 from weights changed in their 24th bit,
whichever is more, for each kind of figure; the test's tolerances are a multiple of that.
"""
import json
import pathlib
import sys

import torch
import torch.nn.functional as F

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "bench" / "learning"))
import anynet  # noqa: E402

CASES = {
    "res": dict(depths=[1, 2, 1, 1], widths=[8, 18, 20, 24], bottlenecks=[1, 2, 1, 4], group_widths=[1, 3, 5, 6], strides=[1, 2, 2, 1],
                stem="res_stem_in", stem_width=8, classes=7, resolution=33, channels=3,
                learning_rate=0.05, label_smoothing=0.1, nesterov=True, weight_decay=5e-3, bn_weight_decay=None),
    "simple": dict(depths=[1, 1, 2, 1], widths=[8, 12, 14, 16], bottlenecks=[1, 1, 2, 1], group_widths=[4, 12, 7, 2], strides=[1, 2, 1, 2],
                   stem="simple_stem_in", stem_width=12, classes=10, resolution=28, channels=1,
                   learning_rate=0.05, label_smoothing=0.0, nesterov=False, weight_decay=5e-3, bn_weight_decay=0.0),
    "cifar": dict(depths=[2, 1, 1, 1], widths=[6, 12, 22, 26], bottlenecks=[1, 4, 1, 2], group_widths=[3, 1, 11, 13], strides=[1, 2, 2, 2],
                  stem="res_stem_cifar", stem_width=6, classes=3, resolution=17, channels=3,
                  learning_rate=0.05, label_smoothing=0.0, nesterov=True, weight_decay=0.0, bn_weight_decay=1e-2),
    "one": dict(depths=[1, 1, 1, 2], widths=[8, 8, 16, 16], bottlenecks=[1, 1, 1, 1], group_widths=[8, 8, 16, 16], strides=[2, 2, 2, 2],
                stem="res_stem_in", stem_width=8, classes=5, resolution=16, channels=1,
                learning_rate=0.005, label_smoothing=0.2, nesterov=False, weight_decay=1e-3, bn_weight_decay=1e-3),
}
BATCH, MOMENTUM, EPSILON, BN_MOMENTUM, MEAN, STD = 16, 0.9, 1e-5, 0.1, 0.5, 0.25


def build(case, dtype):
    n = anynet.AnyNet(*(case[k] for k in ("depths", "widths", "bottlenecks", "group_widths", "strides", "stem", "stem_width", "classes"))).to(dtype)
    for m in n.modules():
        if isinstance(m, torch.nn.BatchNorm2d):
            m.eps, m.momentum = EPSILON, BN_MOMENTUM
    return n


def state(network):
    return {k: v for k, v in network.state_dict().items() if not k.endswith("num_batches_tracked")}


def start(case):
    """Weights, images and labels; every number is a float32 or a byte."""
    n = build(case, torch.float32)
    anynet.initialize(n)
    for m in n.modules():
        if isinstance(m, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(m.weight, 0.5, 1.5)
            torch.nn.init.normal_(m.bias, 0, 0.3)
            torch.nn.init.normal_(m.running_mean, 0, 0.2)
            torch.nn.init.uniform_(m.running_var, 0.5, 2)
        elif isinstance(m, torch.nn.Linear):
            torch.nn.init.normal_(m.weight, 0, 0.3)
            torch.nn.init.normal_(m.bias, 0, 0.1)
    size = case["resolution"]
    images = torch.randint(0, 256, (BATCH, case["channels"], size, size), dtype=torch.uint8)
    return state(n), images, torch.randint(0, case["classes"], (BATCH,))


def steps(case, initial, images, labels, dtype):
    n = build(case, dtype)
    n.load_state_dict(initial, strict=False)
    x = ((images.to(torch.float64) / 255 - MEAN) / STD).to(dtype).expand(-1, 3, -1, -1)
    optimizer = torch.optim.SGD(anynet.parameter_groups(n, case["weight_decay"], case["bn_weight_decay"]), lr=case["learning_rate"], momentum=MOMENTUM, nesterov=case["nesterov"])
    train, test, out = [], [], {}
    for step in (1, 2, 3):
        n.train()
        optimizer.zero_grad()
        loss = F.cross_entropy(n(x), labels, label_smoothing=case["label_smoothing"])
        loss.backward()
        train.append(loss.detach())
        if step == 1:
            out.update({"gradient." + k: p.grad.clone() for k, p in n.named_parameters()})
        optimizer.step()
        if step != 2:
            out.update({"step%d.%s" % (step, k): v.clone() for k, v in state(n).items()})
        n.eval()
        with torch.no_grad():
            test.append(F.cross_entropy(n(x), labels))
    out["losses"] = torch.stack(train + test)
    return out


def main():
    folder = ROOT / "engine" / "testdata"
    folder.mkdir(exist_ok=True)
    for seed, (name, case) in enumerate(CASES.items()):
        torch.manual_seed(seed)
        initial, images, labels = start(case)
        golden = steps(case, initial, images, labels, torch.float64)
        runs = [steps(case, initial, images, labels, torch.float32)]
        for _ in range(8):
            near = {k: v.double() * (1 + 2**-23 * torch.randn(v.shape, dtype=torch.float64)) for k, v in initial.items()}
            runs.append(steps(case, near, images, labels, torch.float64))
        worst = {}
        for run in runs:
            for k, v in golden.items():
                kind = k.split(".")[0]
                worst[kind] = max(worst.get(kind, 0), ((run[k] - v).norm() / v.norm()).item())
        # A step across a kink of a ReLU, or of a max-pool, would make figures of three steps a matter of luck.
        assert worst["step3"] < 3e-5, (name, worst, "lower the case's learning rate")
        tensors = {"images": images.permute(0, 2, 3, 1).contiguous().float().flatten(), "labels": labels.float()}
        tensors.update({"initial." + k: v for k, v in initial.items()})
        tensors.update(golden)
        info = dict(case, float32=worst, batch=BATCH, momentum=MOMENTUM, bn_epsilon=EPSILON, bn_momentum=BN_MOMENTUM, mean=MEAN, std=STD)
        path = folder / ("golden-%s.safetensors" % name)
        anynet.write_safetensors(path, tensors, {"case": json.dumps(info)})
        print(name, path.stat().st_size, "bytes; float32 against float64:", {k: "%.1e" % v for k, v in worst.items()})


def check(path):
    tensors, metadata = anynet.read_safetensors(path)
    case = json.loads(metadata["case"]) if "case" in metadata else json.loads(sys.stdin.read())
    n = build(case, torch.float32)
    n.load_state_dict(tensors, strict=True)
    print("loaded %d tensors of %s" % (len(tensors), metadata))


if __name__ == "__main__":
    check(sys.argv[2]) if sys.argv[1:2] == ["check"] else main()
