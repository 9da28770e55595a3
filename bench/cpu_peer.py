"""Training speed of AnyNetX networks in PyTorch on a CPU: the peer that bench/cpu.py runs beside anynetx.

As a worker it reads one JSON object per line and answers each with one:
  {"do": "prepare", "network": {...}, "resolution": 32, "batch": 128, "classes": 10, "layout": "nhwc", "dtype": "fp32", "compile": false}
  {"do": "measure", "seconds": 2}      images per second of the median step: forward, backward, update
  {"do": "memory", ...as prepare}      the most memory the process has held after four steps
Images lie ready in memory, normalised and in the layout asked for; anynetx crops and normalises bytes in each of its steps.

Each network lives in a fork of the worker: the time to import PyTorch is spent once, a crash is an answer (it takes no other network with it), and
the peak of memory is the network's own. The worker itself computes nothing, so that there are no threads to be lost in a fork.

python cpu_peer.py THREADS
"""
import faulthandler
import json
import multiprocessing
import os
import resource
import signal
import statistics
import sys
import time

import torch
import torch.nn as nn

STEMS = {"res_stem_in": (7, 2), "simple_stem_in": (3, 2), "res_stem_cifar": (3, 1)}


class Projection(nn.Sequential):
    """Of fewer than 16 channels, the pixels that a stride skips are left out before the convolution: oneDNN's weight gradient of a strided 1x1 in
    NHWC writes past its buffer there (uxlfoundation/oneDNN issue 6035), and the process dies."""

    def __init__(self, w_in, w_out, stride):
        skip = stride if w_in < 16 else 1
        super().__init__(nn.Conv2d(w_in, w_out, 1, stride // skip, bias=False), nn.BatchNorm2d(w_out))
        self.skip = skip

    def forward(self, x):
        return super().forward(x[:, :, ::self.skip, ::self.skip] if self.skip > 1 else x)


class Block(nn.Module):
    def __init__(self, w_in, w_out, stride, bottleneck, group_width):
        super().__init__()
        inner = w_out // bottleneck
        self.proj = None
        if w_in != w_out or stride != 1:
            self.proj = Projection(w_in, w_out, stride)
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
    median = statistics.median(times)
    return {"images_per_second": batch / median, "step_ms": 1e3 * median, "steps": len(times)}


def resident():
    with open("/proc/self/statm") as f:
        return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def prepare(job, threads):
    torch.set_num_threads(threads)
    torch.set_num_interop_threads(1)
    start = time.perf_counter()
    step = stepper(job)
    for _ in range(4 if job["do"] == "memory" else 2):
        step()
    answer = {"prepared_s": time.perf_counter() - start}
    if job["do"] == "memory":
        answer["peak_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return step, answer


def serve(pipe, job, threads):
    """The life of a fork: one network."""
    faulthandler.enable()
    step = None
    while True:
        try:
            if step:
                answer = measure(step, batch, job["seconds"])
            else:
                (step, answer), batch = prepare(job, threads), job["batch"]
        except Exception as e:  # the driver records it and goes on
            answer = {"error": f"{type(e).__name__}: {e}"[:500]}
        pipe.send(answer)
        try:
            job = pipe.recv()
        except EOFError:
            return


class Fork:
    def __init__(self, job, threads):
        self.pipe, theirs = multiprocessing.Pipe()
        self.process = multiprocessing.get_context("fork").Process(target=self.run, args=(theirs, job, threads))
        self.process.start()
        theirs.close()

    def run(self, theirs, job, threads):
        self.pipe.close()
        serve(theirs, job, threads)

    def answer(self):
        try:
            return self.pipe.recv()
        except EOFError:
            self.process.join()
            code = self.process.exitcode
            return {"crash": f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"}

    def tell(self, job):
        try:
            self.pipe.send(job)
        except OSError:
            pass  # answer() says how it ended

    def close(self):
        self.pipe.close()
        self.process.join()


def main():
    threads = int(sys.argv[1])
    out = os.fdopen(os.dup(1), "w")  # what libraries print must not come between the answers
    os.dup2(2, 1)
    print(json.dumps({"torch": torch.__version__, "threads": threads, "resident": resident()}), file=out, flush=True)
    fork = None
    for line in sys.stdin:
        job = json.loads(line)
        if job["do"] == "measure":
            fork.tell(job)
        else:
            if fork:
                fork.close()
            fork = Fork(job, threads)
        print(json.dumps(fork.answer()), file=out, flush=True)
    if fork:
        fork.close()


if __name__ == "__main__":
    main()
