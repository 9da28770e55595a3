"""AnyNetX networks in PyTorch with pycls's names, and safetensors files of their state; for golden files and the learning benchmark."""
import json
import math
import struct

import torch
import torch.nn as nn
import torch.nn.functional as F

STEMS = {"res_stem_in": (7, 2), "simple_stem_in": (3, 2), "res_stem_cifar": (3, 1)}


class Stem(nn.Module):
    def __init__(self, kind, width):
        super().__init__()
        size, stride = STEMS[kind]
        self.conv = nn.Conv2d(3, width, size, stride, size // 2, bias=False)
        self.bn = nn.BatchNorm2d(width)
        self.pool = kind == "res_stem_in"

    def forward(self, x):
        x = F.relu(self.bn(self.conv(x)))
        return F.max_pool2d(x, 3, 2, 1) if self.pool else x


class Transform(nn.Module):
    def __init__(self, w_in, w_out, stride, bottleneck, group_width):
        super().__init__()
        inner = w_out // bottleneck
        self.a = nn.Conv2d(w_in, inner, 1, bias=False)
        self.a_bn = nn.BatchNorm2d(inner)
        self.b = nn.Conv2d(inner, inner, 3, stride, 1, groups=inner // group_width, bias=False)
        self.b_bn = nn.BatchNorm2d(inner)
        self.c = nn.Conv2d(inner, w_out, 1, bias=False)
        self.c_bn = nn.BatchNorm2d(w_out)

    def forward(self, x):
        x = F.relu(self.a_bn(self.a(x)))
        x = F.relu(self.b_bn(self.b(x)))
        return self.c_bn(self.c(x))


class Block(nn.Module):
    def __init__(self, w_in, w_out, stride, bottleneck, group_width):
        super().__init__()
        self.projects = w_in != w_out or stride != 1
        if self.projects:
            self.proj = nn.Conv2d(w_in, w_out, 1, stride, bias=False)
            self.bn = nn.BatchNorm2d(w_out)
        self.f = Transform(w_in, w_out, stride, bottleneck, group_width)

    def forward(self, x):
        return F.relu((self.bn(self.proj(x)) if self.projects else x) + self.f(x))


class AnyNet(nn.Module):
    def __init__(self, depths, widths, bottlenecks, group_widths, strides, stem, stem_width, classes):
        super().__init__()
        self.stem = Stem(stem, stem_width)
        w_in = stem_width
        for i, (d, w, b, g, s) in enumerate(zip(depths, widths, bottlenecks, group_widths, strides)):
            stage = nn.Sequential()
            for j in range(d):
                stage.add_module("b%d" % (j + 1), Block(w_in, w, s if j == 0 else 1, b, g))
                w_in = w
            self.add_module("s%d" % (i + 1), stage)
        self.head = nn.Module()
        self.head.fc = nn.Linear(w_in, classes)

    def forward(self, x):
        for stage in (self.stem, self.s1, self.s2, self.s3, self.s4):
            x = stage(x)
        return self.head.fc(x.mean((2, 3)))


def initialize(network, zero_last_gamma=False):
    """pycls's laws: He normal with fan-out R R K (groups do not reduce it), N(0, 0.01) for the head."""
    for name, m in network.named_modules():
        if isinstance(m, nn.Conv2d):
            nn.init.normal_(m.weight, 0, math.sqrt(2 / (m.kernel_size[0] * m.kernel_size[1] * m.out_channels)))
        elif isinstance(m, nn.BatchNorm2d):
            nn.init.constant_(m.weight, 0 if zero_last_gamma and name.endswith("c_bn") else 1)
            nn.init.zeros_(m.bias)
        elif isinstance(m, nn.Linear):
            nn.init.normal_(m.weight, 0, 0.01)
            nn.init.zeros_(m.bias)


def parameter_groups(network, weight_decay, bn_weight_decay=None):
    """Two groups for the optimizer: everything else, and gamma and beta of batch norms."""
    norms = {id(p) for m in network.modules() if isinstance(m, nn.BatchNorm2d) for p in m.parameters()}
    rest = [p for p in network.parameters() if id(p) not in norms]
    return [{"params": rest, "weight_decay": weight_decay},
            {"params": [p for p in network.parameters() if id(p) in norms],
             "weight_decay": weight_decay if bn_weight_decay is None else bn_weight_decay}]


def write_safetensors(path, tensors, metadata):
    """tensors: name -> float tensor, written as F32."""
    header, data = {"__metadata__": metadata}, b""
    for name, t in tensors.items():
        raw = t.detach().to(torch.float32).contiguous().numpy().tobytes()
        header[name] = {"dtype": "F32", "shape": list(t.shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text + data)


def read_safetensors(path):
    with open(path, "rb") as f:
        header = json.loads(f.read(struct.unpack("<Q", f.read(8))[0]))
        data = bytearray(f.read())
    metadata = header.pop("__metadata__", {})
    types = {"F32": torch.float32, "I64": torch.int64}
    return {name: torch.frombuffer(data, dtype=types[e["dtype"]], offset=e["data_offsets"][0],
                                   count=(e["data_offsets"][1] - e["data_offsets"][0]) // (4 if e["dtype"] == "F32" else 8)).reshape(e["shape"]).clone()
            for name, e in header.items()}, metadata
