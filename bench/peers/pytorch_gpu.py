"""What PyTorch reaches on a GPU with networks of the default space: the sheet that speed claims stand beside.

python bench/peers/pytorch_gpu.py PART [--first I] [--count N] [--seconds S] [--program build/gpu/anynetx] [--out FILE.jsonl]
PART: ceilings | eager | graph | compile | small. Each fits in a few minutes for 16 networks (compile: about a minute or two per network).
One JSON object per line: network, resolution, batch, mode, layout, dtype, images_per_second, peak_bytes. Data are on the GPU; the optimizer is fused SGD; the step is forward,
loss, backward, update. The best row of a network is the peer.
"""
import argparse, json, sys, time
import torch, torch.nn as nn
from anynet_torch import harmonic_mean, network, samples

p = argparse.ArgumentParser(); p.add_argument('part'); p.add_argument('--first', type=int, default=0); p.add_argument('--count', type=int, default=16)
p.add_argument('--seconds', type=float, default=1.0); p.add_argument('--out'); p.add_argument('--device', default='cuda')
p.add_argument('--program', default='build/gpu/anynetx'); p.add_argument('--dry', action='store_true'); a = p.parse_args()
if a.dry: a.device = 'cpu'
dev = torch.device(a.device); cuda = dev.type == 'cuda'; torch.backends.cudnn.benchmark = True; out = open(a.out, 'a') if a.out else None


def emit(**row):
    row = dict(row, torch=torch.__version__, device=torch.cuda.get_device_name() if cuda else 'cpu'); line = json.dumps(row); print(line, flush=True)
    if out: out.write(line + '\n'); out.flush()


def seconds_per_call(f, secs, warm=3):
    for _ in range(warm): f()
    sync = torch.cuda.synchronize if cuda else (lambda: None); sync(); best = []
    for _ in range(3):                                   # three windows; the median window counts
        n, t0 = 0, time.perf_counter()
        while True:
            f(); n += 1
            if n % 5 == 0 or not cuda:
                sync()
                if time.perf_counter() - t0 > secs / 3: break
        best.append((time.perf_counter() - t0) / n)
    return sorted(best)[1]


def train_step(net, N, res, layout, dtype, mode):
    m = network(*net).to(dev).train(); x = torch.randn(N, 3, res, res, device=dev); y = torch.randint(0, 10, (N,), device=dev)
    if layout == 'nhwc': m = m.to(memory_format=torch.channels_last); x = x.contiguous(memory_format=torch.channels_last)
    opt = torch.optim.SGD(m.parameters(), lr=.01, momentum=.9, weight_decay=5e-5, nesterov=True, **({'fused': True} if cuda else {}))
    scaler = torch.amp.GradScaler('cuda') if dtype is torch.float16 and mode != 'graph' and cuda else None
    f = m
    if mode == 'compile': f = torch.compile(m)
    if mode == 'max-autotune': f = torch.compile(m, mode='max-autotune')
    def step():
        opt.zero_grad(set_to_none=mode != 'graph')
        with torch.autocast(dev.type, dtype=dtype, enabled=dtype is not torch.float32): l = nn.functional.cross_entropy(f(x).float(), y)
        if scaler: scaler.scale(l).backward(); scaler.step(opt); scaler.update()
        else: (l * 1024 if dtype is torch.float16 else l).backward(); opt.step()
    if mode != 'graph': return step
    s = torch.cuda.Stream(); s.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(s):
        for _ in range(5): step()
    torch.cuda.current_stream().wait_stream(s); g = torch.cuda.CUDAGraph()
    with torch.cuda.graph(g): step()
    return g.replay


def measure(i, net, N, res, modes):
    rates = []
    for mode, layout, dtype in modes:
        try:
            if cuda: torch.cuda.empty_cache(); torch.cuda.reset_peak_memory_stats()
            t0 = time.perf_counter(); f = train_step(net, N, res, layout, dtype, mode); s = seconds_per_call(f, a.seconds, 6 if mode in ('compile', 'max-autotune') else 3)
            rates.append(N / s); emit(network=i, config=net, resolution=res, batch=N, mode=mode, layout=layout, dtype=str(dtype)[6:], images_per_second=round(N / s, 1),
                                      step_ms=round(s * 1e3, 4), setup_s=round(time.perf_counter() - t0 - a.seconds, 1), peak_bytes=torch.cuda.max_memory_allocated() if cuda else None)
        except Exception as e: emit(network=i, resolution=res, batch=N, mode=mode, layout=layout, dtype=str(dtype)[6:], error=str(e)[:200])
        f = None
        if mode in ('compile', 'max-autotune'): torch._dynamo.reset()
    return max(rates, default=float('nan'))


half, bf = torch.float16, torch.bfloat16; nets = samples(16, a.program)[a.first:a.first + a.count]
batch, large = 128, 224
if a.dry: batch, large, nets = 4, 32, [([16] * 4, [1] * 4, [1] * 4, [8] * 4)]

if a.part == 'ceilings':
    n = 1 << 31; x = torch.empty(n, dtype=torch.uint8, device=dev); y = torch.empty_like(x); s = seconds_per_call(lambda: y.copy_(x), 1); emit(ceiling='copy', bytes_per_second=2 * n / s); del x, y
    for dt in (half, bf):
        A = torch.randn(8192, 8192, device=dev, dtype=dt); B = torch.randn(8192, 8192, device=dev, dtype=dt); s = seconds_per_call(lambda: A @ B, 1); emit(ceiling='matmul', dtype=str(dt)[6:], flops_per_second=2 * 8192**3 / s)
    z = torch.zeros(32, device=dev); z.add_(1); g = torch.cuda.CUDAGraph()
    with torch.cuda.graph(g):
        for _ in range(500): z.add_(1)
    s = seconds_per_call(g.replay, 1); emit(ceiling='graph node', seconds=s / 500)
elif a.part == 'eager': best = [measure(a.first + i, c, batch, large, [('eager', l, half) for l in ('nchw', 'nhwc')] + [('eager', 'nhwc', bf)]) for i, c in enumerate(nets)]
elif a.part == 'graph': best = [measure(a.first + i, c, batch, large, [('graph', 'nhwc', half)]) for i, c in enumerate(nets)]
elif a.part == 'compile': best = [measure(a.first + i, c, batch, large, [('max-autotune', 'nhwc', half)]) for i, c in enumerate(nets)]
elif a.part == 'small': best = [measure(a.first + i, c, batch, 32, [('eager', 'nhwc', half), ('graph', 'nhwc', half), ('graph', 'nchw', half)]) for i, c in enumerate(nets)]
else: sys.exit(__doc__)
if a.part != 'ceilings': emit(part=a.part, harmonic_mean=round(harmonic_mean(best), 1), networks=len(best))
