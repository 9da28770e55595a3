"""The PyTorch side of the learning benchmark: bench/learning/README.md says how to run it.

    python pytorch_learning.py --data FOLDER --out FILE.jsonl [--workers 2]

FOLDER holds the four files of Fashion-MNIST, gzipped or not. Each line of the output is one training, as the Go side writes it.
"""
import argparse
import concurrent.futures
import gzip
import json
import math
import pathlib
import time

import torch
import torch.nn.functional as F

import anynet


def idx(folder, name, header):
    plain = pathlib.Path(folder) / name
    raw = plain.read_bytes() if plain.exists() else gzip.decompress((pathlib.Path(folder) / (name + ".gz")).read_bytes())
    return torch.frombuffer(bytearray(raw), dtype=torch.uint8, offset=header)


def load(folder):
    images = {s: idx(folder, s + "-images-idx3-ubyte", 16).view(-1, 28, 28) for s in ("train", "t10k")}
    labels = {s: idx(folder, s + "-labels-idx1-ubyte", 8).long() for s in ("train", "t10k")}
    pixels = images["train"].double() / 255
    mean, std = pixels.mean().item(), pixels.std(correction=0).item()
    return images, labels, mean, std


def batches(images, labels, rows, size, padding, mean, std, generator):
    """Full batches in a random order, each image flipped with probability 1/2 and cropped at random out of a border of the mean colour."""
    order = torch.randperm(rows, generator=generator)
    steps = torch.arange(28)
    for first in range(0, rows - size + 1, size):
        pick = order[first:first + size]
        x = F.pad((images[pick].float() / 255 - mean) / std, (padding,) * 4)
        y0, x0 = torch.randint(0, 2 * padding + 1, (2, size, 1), generator=generator)
        columns = x0 + steps
        flip = torch.rand(size, 1, generator=generator) < 0.5
        columns = torch.where(flip, columns.flip(1), columns)
        x = x[torch.arange(size)[:, None, None], (y0 + steps)[:, :, None], columns[:, None, :]]
        yield x[:, None].expand(-1, 3, -1, -1).contiguous(), labels[pick]


def train(job):
    setup, network, seed, folder = job
    torch.set_num_threads(1)
    torch.manual_seed(1000 + seed)
    generator = torch.Generator().manual_seed(2000 + seed)
    images, labels, mean, std = load(folder)
    r, rows = setup["recipe"], setup["train_images"]
    n = anynet.AnyNet(network["depths"], network["widths"], network["bottlenecks"], network["group_widths"], setup["strides"], setup["stem"], network["stem_width"], 10)
    anynet.initialize(n)
    norms = [m for m in n.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    for m in norms:
        m.eps, m.momentum = r["bn_epsilon"], r["bn_momentum"]
    optimizer = torch.optim.SGD(anynet.parameter_groups(n, r["weight_decay"]), lr=0, momentum=r["momentum"], nesterov=True)
    feed = lambda: batches(images["train"], labels["train"], rows, r["batch"], r["padding"], mean, std, generator)
    start, epochs = time.time(), []
    for epoch in range(setup["epochs"]):
        rate = r["learning_rate"] * (1 + math.cos(math.pi * epoch / setup["epochs"])) / 2
        if epoch < r["warmup_epochs"]:
            share = epoch / r["warmup_epochs"]
            rate *= r["warmup_factor"] * (1 - share) + share
        for g in optimizer.param_groups:
            g["lr"] = rate
        n.train()
        total = count = 0
        for x, y in feed():
            optimizer.zero_grad()
            loss = F.cross_entropy(n(x), y)
            loss.backward()
            optimizer.step()
            total, count = total + loss.item() * len(y), count + len(y)
        epochs.append({"train_loss": total / count})
        if epoch < setup["epochs"] - 1:
            continue  # precise statistics and the test pass change no weight, so only the last epoch needs them
        with torch.no_grad():
            for t, (x, y) in zip(range(r["precise_bn_images"] // r["batch"]), feed()):
                for m in norms:
                    m.momentum = 1 / (t + 1)
                n(x)
            for m in norms:
                m.momentum = r["bn_momentum"]
            n.eval()
            wrong = test_loss = 0
            for first in range(0, 10000, 500):
                x = (images["t10k"][first:first + 500, None].float() / 255 - mean) / std
                z, y = n(x.expand(-1, 3, -1, -1)), labels["t10k"][first:first + 500]
                wrong += (z.argmax(1) != y).sum().item()
                test_loss += F.cross_entropy(z, y, reduction="sum").item()
        epochs[-1].update({"test_loss": test_loss / 10000, "test_top1_err_pct": wrong / 100})
    return {"side": "pytorch " + torch.__version__, "network": network["name"], "seed": seed, "seconds": time.time() - start, "epochs": epochs}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", default="/usr/share/datasets/fashion-mnist")
    parser.add_argument("--out", required=True)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--setup", default=str(pathlib.Path(__file__).parent / "setup.json"))
    a = parser.parse_args()
    setup = json.loads(pathlib.Path(a.setup).read_text())
    jobs = [(setup, network, seed, a.data) for seed in range(setup["seeds"]) for network in setup["networks"]]
    with open(a.out, "w") as out, concurrent.futures.ProcessPoolExecutor(a.workers) as pool:
        for result in pool.map(train, jobs):
            print(json.dumps(result), file=out, flush=True)
            print("%s, seed %d: %.2f %% in %.0f s" % (result["network"], result["seed"], result["epochs"][-1]["test_top1_err_pct"], result["seconds"]), flush=True)


if __name__ == "__main__":
    main()
