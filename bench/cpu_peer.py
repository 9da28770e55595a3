"""Training speed of AnyNetX networks in PyTorch on a CPU: the peer that bench/cpu.py runs beside anynetx.

As a worker it reads one JSON object per line and answers each with one:
  {"do": "prepare", "network": {...}, "resolution": 32, "batch": 128, "classes": 10, "layout": "nhwc", "dtype": "fp32", "compile": false}
  {"do": "measure", "seconds": 2}      median and mean of whole steps: forward, backward, update
  {"do": "memory", ...as prepare}      the most memory the process has held after four steps
Images lie ready in memory, normalised and in the layout asked for; anynetx crops and normalises bytes in each of its steps.

python cpu_peer.py THREADS
"""
import gc
import json
import os
import resource
import statistics
import sys
import time

import torch
import torch.nn as nn

STEMS = {"res_stem_in": (7, 2), "simple_stem_in": (3, 2), "res_stem_cifar": (3, 1)}


class Block(nn.Module):
    def __init__(self, w_in, w_out, stride, bottleneck, group_width):
        super().__init__()
        inner = w_out // bottleneck
        self.proj = None
        if w_in != w_out or stride != 1:
            self.proj = nn.Sequential(nn.Conv2d(w_in, w_out, 1, stride, bias=False), nn.BatchNorm2d(w_out))
        self.f = nn.Sequential(
            nn.Conv2d(w_in, inner, 1, bias=False), nn.BatchNorm2d(inner), nn.ReLU(True),
            nn.Conv2d(inner, inner, 3, stride, 1, groups=inner // group_width, bias=False), nn.BatchNorm2d(inner), nn.ReLU(True),
            nn.Conv2d(inner, w_out, 1, bias=False), nn.BatchNorm2d(w_out))
        self.relu = nn.ReLU(True)

    def forward(self, x):
        return self.relu((x if self.proj is None else self.proj(x)) + self.f(x))


def network(n, classes, stem="res_stem_in", stem_width=32, strides=(1, 2, 2, 2)):
    size, stride = STEMS[stem]
    layers = [nn.Conv2d(3, stem_width, size, stride, size // 2, bias=False), nn.BatchNorm2d(stem_width), nn.ReLU(True)]
    if stem == "res_stem_in":
        layers.append(nn.MaxPool2d(3, 2, 1))
    w_in = stem_width
    for depth, width, bottleneck, group, stride in zip(n["depths"], n["widths"], n["bottlenecks"], n["group_widths"], strides):
        for i in range(depth):
            layers.append(Block(w_in, width, stride if i == 0 else 1, bottleneck, group))
            w_in = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(w_in, classes))


def optimizer(model):
    """SGD as anynetx has it, in the fastest form this PyTorch offers."""
    settings = dict(lr=1e-4, momentum=0.9, weight_decay=5e-5, nesterov=True)
    try:
        return torch.optim.SGD(model.parameters(), fused=True, **settings)
    except (RuntimeError, TypeError):
        return torch.optim.SGD(model.parameters(), foreach=True, **settings)


def stepper(job):
    torch.manual_seed(1)
    model = network(job["network"], job["classes"]).train()
    x = torch.randn(job["batch"], 3, job["resolution"], job["resolution"])
    y = torch.arange(job["batch"]) % job["classes"]
    if job["layout"] == "nhwc":
        model = model.to(memory_format=torch.channels_last)
        x = x.contiguous(memory_format=torch.channels_last)
    sgd = optimizer(model)
    if job.get("compile"):
        model = torch.compile(model)
    loss = nn.CrossEntropyLoss()
    bf16 = job["dtype"] == "bf16"

    def step():
        sgd.zero_grad(set_to_none=True)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            out = model(x)
        loss(out.float(), y).backward()
        sgd.step()
    return step


def measure(step, batch, seconds, least=3):
    times, start = [], time.perf_counter()
    while len(times) < least or time.perf_counter() - start < seconds:
        t = time.perf_counter()
        step()
        times.append(time.perf_counter() - t)
    return {"images_per_second": batch * len(times) / sum(times), "step_ms": 1e3 * statistics.median(times), "steps": len(times)}


def resident():
    with open("/proc/self/statm") as f:
        return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def main():
    torch.set_num_threads(int(sys.argv[1]))
    torch.set_num_interop_threads(1)
    out = os.fdopen(os.dup(1), "w")  # what libraries print must not come between the answers
    os.dup2(2, 1)
    print(json.dumps({"torch": torch.__version__, "threads": torch.get_num_threads(), "resident": resident()}), file=out, flush=True)
    step = batch = None
    for line in sys.stdin:
        job = json.loads(line)
        try:
            if job["do"] == "measure":
                answer = measure(step, batch, job["seconds"])
            else:
                step = None
                gc.collect()
                if job.get("compile"):
                    torch._dynamo.reset()
                start = time.perf_counter()
                step, batch = stepper(job), job["batch"]
                for _ in range(4 if job["do"] == "memory" else 2):
                    step()
                answer = {"prepared_s": time.perf_counter() - start}
                if job["do"] == "memory":
                    answer["peak_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        except Exception as e:  # the driver records it and goes on
            answer = {"error": f"{type(e).__name__}: {e}"[:500]}
        print(json.dumps(answer), file=out, flush=True)


if __name__ == "__main__":
    main()
