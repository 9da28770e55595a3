/* sgd.c - the update of a flat parameter buffer. A task is a chunk of 16 K values; counts of non-finite gradients are added in chunk order. */
#include "conv_kernels.h"

#define CHUNK 16384

static void update(void *argument, int chunk, int thread) {
  const anx_call *call = argument;
  const anx_op *op = call->op;
  (void)thread;
  const size_t first = (size_t)chunk * CHUNK, count = (size_t)op->c, last = first + CHUNK < count ? first + CHUNK : count;
  const float *g = call->in[0];
  float *w = call->out[0], *m = call->out[1];
  const float *scale = call->in[1];
  const float unscale = scale ? scale[ANX_UNSCALE] : 1, rate = (float)call->slot[0], momentum = op->f[0], decay = op->f[1];
  const int nesterov = (op->flags & ANX_NESTEROV) != 0;
  const vf vi = vset(unscale), vr = vset(-rate), vm = vset(momentum), vd = vset(decay), one = vset(1.0f);
  /* All threads have read the weights: to write such a line takes one 4 ns, past the caches 1 (docs/cpu.md). */
  const int stream = anx_pool_threads(call->pool) > 1 && (uintptr_t)w % 64 == 0;
  vf bad = vzero();
  size_t i = first;
  for (; i + VL <= last; i += VL) {
    const vf gi = vload(g + i), wi = vload(w + i);
    bad = bad + vselect_nan(gi - gi, one, vzero()); /* inf - inf and NaN - NaN are NaN */
    const vf d = vfma(vd, wi, gi * vi), mi = vfma(vm, vload(m + i), d);
    vstore(m + i, mi);
    const vf moved = vfma(vr, nesterov ? vfma(vm, mi, d) : mi, wi);
    if (stream) vstream(w + i, moved);
    else vstore(w + i, moved);
  }
  float lanes[VL] __attribute__((aligned(64)));
  vstore(lanes, bad);
  double count_bad = 0;
  for (int l = 0; l < VL; l++) count_bad += lanes[l];
  if (i < last) { /* the tail through padded vectors: the same operations */
    float pad[3][VL] __attribute__((aligned(64))) = {{0}};
    for (size_t j = i; j < last; j++) pad[0][j - i] = g[j], pad[1][j - i] = w[j], pad[2][j - i] = m[j];
    const vf gi = vload(pad[0]), wi = vload(pad[1]);
    vstore(lanes, vselect_nan(gi - gi, one, vzero()));
    const vf d = vfma(vd, wi, gi * vi), mi = vfma(vm, vload(pad[2]), d);
    vstore(pad[2], mi);
    vstore(pad[1], vfma(vr, nesterov ? vfma(vm, mi, d) : mi, wi));
    for (size_t j = i; j < last; j++) {
      w[j] = pad[1][j - i];
      m[j] = pad[2][j - i];
      count_bad += lanes[j - i];
    }
  }
  call->partial[chunk] = count_bad;
}

void FN(anx_sgd)(const anx_call *call) {
  if (call->in[1] && ((const float *)call->in[1])[ANX_UNSCALE] == 0) return; /* the step is skipped */
  const int chunks = (int)(((size_t)call->op->c + CHUNK - 1) / CHUNK);
  anx_pool_run(call->pool, update, (void *)call, chunks);
  double bad = 0;
  for (int i = 0; i < chunks; i++) bad += call->partial[i];
  ((double *)call->out[2])[ANX_NONFINITE] += bad;
}
