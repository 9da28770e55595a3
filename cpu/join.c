/* join.c - residual joins: Y = ReLU(s C + t + Z) and its backward, one pass over channels; a task is a channel.
 * Cost: memory bandwidth (forward 3 streams, backward 4 or 5; the last is written past the caches where it is large). */
#include "conv_kernels.h"

static void forward_channel(void *argument, int c, int thread) {
  const anx_call *call = argument;
  const anx_op *op = call->op;
  (void)thread;
  const size_t at = (size_t)c * anx_channel_values(op->n, op->h, op->w), n = (size_t)(op->n / 16) * (size_t)op->h * (size_t)op->w * 16;
  const stored *x = (const stored *)call->in[0] + at, *z = call->in[3] ? (const stored *)call->in[3] + at : NULL;
  stored *y = (stored *)call->out[0] + at;
  const int stream = anx_streams(op->n, op->h, op->w, op->c);
  const vf s = vset(((const float *)call->in[1])[c]), t = vset(((const float *)call->in[2])[c]);
  if (z && call->in[4]) {
    const vf sp = vset(((const float *)call->in[4])[c]), tp = vset(((const float *)call->in[5])[c]);
    for (size_t i = 0; i < n; i += VL) awrite(y + i, vrelu(vaffine(s, aload(x + i), t) + vaffine(sp, aload(z + i), tp)), stream);
  } else if (z) {
    for (size_t i = 0; i < n; i += VL) awrite(y + i, vrelu(vaffine(s, aload(x + i), t) + aload(z + i)), stream);
  } else {
    for (size_t i = 0; i < n; i += VL) awrite(y + i, vrelu(vaffine(s, aload(x + i), t)), stream);
  }
}

void FN(anx_join_fwd)(const anx_call *call) { anx_pool_run(call->pool, forward_channel, (void *)call, call->op->c); }

/* Lane sums of at most SPAN vectors go to double at once. */
#define SPAN 256

static void backward_channel(void *argument, int c, int thread) {
  const anx_call *call = argument;
  const anx_op *op = call->op;
  (void)thread;
  const int map = op->h * op->w, blocks = op->n / 16, broadcast = (op->flags & ANX_BROADCAST) != 0;
  const size_t at = (size_t)c * anx_channel_values(op->n, op->h, op->w), pixels = (size_t)blocks * (size_t)map;
  const stored *dx = (const stored *)call->in[0] + (broadcast ? (size_t)c * anx_channel_values(op->n, 1, 1) : at);
  const stored *y = (const stored *)call->in[1] + at, *x = (const stored *)call->in[2] + at;
  const stored *p = call->in[4] ? (const stored *)call->in[4] + at : NULL;
  const vf mean = vset(((const float *)call->in[3])[c]), mean_p = vset(p ? ((const float *)call->in[5])[c] : 0.0f);
  const vf share = vset(1.0f / (float)map);
  stored *g = (stored *)call->out[0] + at;
  const int stream = anx_streams(op->n, op->h, op->w, op->c);
  double total[3] = {0, 0, 0};
  for (size_t first = 0; first < pixels; first += SPAN) {
    const size_t last = first + SPAN < pixels ? first + SPAN : pixels;
    float lanes[3][16] __attribute__((aligned(64)));
    for (int l = 0; l < 16; l += VL) {
      vf s1 = vzero(), s2 = vzero(), s3 = vzero();
      for (size_t i = first; i < last; i++) {
        const size_t o = i * 16 + (size_t)l;
        vf v = aload(dx + (broadcast ? i / (size_t)map * 16 + (size_t)l : o));
        if (broadcast) v = v * share;
        v = vkeep_gt(v, aload(y + o), vzero());
        awrite(g + o, v, stream);
        s1 = s1 + v;
        s2 = vfma(v, aload(x + o) - mean, s2);
        if (p) s3 = vfma(v, aload(p + o) - mean_p, s3);
      }
      vstore(lanes[0] + l, s1);
      vstore(lanes[1] + l, s2);
      vstore(lanes[2] + l, s3);
    }
    for (int i = 0; i < 3; i++) total[i] += anx_lane_sum_f64(lanes[i]);
  }
  double *sums = call->out[1], *sums_p = call->out[2];
  sums[c] = total[0];
  sums[op->c + c] = total[1];
  if (sums_p) {
    sums_p[c] = total[0];
    sums_p[op->c + c] = total[2];
  }
}

void FN(anx_join_bwd)(const anx_call *call) { anx_pool_run(call->pool, backward_channel, (void *)call, call->op->c); }
