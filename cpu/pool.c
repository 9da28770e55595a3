/* pool.c - the stem's 3x3 stride 2 max-pool of act(S), and the mean over a map. A task is a channel. */
#include "conv_kernels.h"

typedef struct window {
  int h0, h1, w0, w1;
} window;

static window window_of(const anx_op *op, int p, int q) {
  const window v = {p ? 2 * p - 1 : 0, 2 * p + 2 < op->h ? 2 * p + 2 : op->h, q ? 2 * q - 1 : 0, 2 * q + 2 < op->w ? 2 * q + 2 : op->w};
  return v;
}

/* max that lets a NaN through, whichever side it is on */
AI vf max_or_nan(vf m, vf a) { return vselect_nan(m, m, vmax(m, a)); }

static void forward_channel(void *argument, int c, int thread) {
  const anx_call *call = argument;
  const anx_op *op = call->op;
  (void)thread;
  const stored *x = (const stored *)call->in[0] + (size_t)c * anx_channel_values(op->n, op->h, op->w);
  stored *y = (stored *)call->out[0] + (size_t)c * anx_channel_values(op->n, op->p, op->q);
  const vf s = vset(((const float *)call->in[1])[c]), t = vset(((const float *)call->in[2])[c]);
  for (int b = 0; b < op->n / 16; b++, x += (size_t)op->h * (size_t)op->w * 16) {
    for (int p = 0; p < op->p; p++) {
      for (int q = 0; q < op->q; q++, y += 16) {
        const window v = window_of(op, p, q);
        for (int l = 0; l < 16; l += VL) {
          vf m = vzero(); /* ReLU: nothing is below zero */
          for (int h = v.h0; h < v.h1; h++) {
            for (int w = v.w0; w < v.w1; w++) m = max_or_nan(m, vaffine(s, aload(x + ((size_t)h * (size_t)op->w + (size_t)w) * 16 + l), t));
          }
          astore(y + l, m);
        }
      }
    }
  }
}

void FN(anx_pool_fwd)(const anx_call *call) { anx_pool_run(call->pool, forward_channel, (void *)call, call->op->c); }

/* The gradient of a window goes to its first maximum; windows are visited in raster order, so that a pixel's additions have an order. */
static void backward_channel(void *argument, int c, int thread) {
  const anx_call *call = argument;
  const anx_op *op = call->op;
  (void)thread;
  const size_t map = (size_t)op->h * (size_t)op->w * 16, at = (size_t)c * anx_channel_values(op->n, op->h, op->w);
  const stored *d = (const stored *)call->in[0] + (size_t)c * anx_channel_values(op->n, op->p, op->q);
  const vf s = vset(((const float *)call->in[2])[c]), t = vset(((const float *)call->in[3])[c]), mean = vset(((const float *)call->in[4])[c]);
  double total[2] = {0, 0};
  for (int b = 0; b < op->n / 16; b++) {
    const stored *x = (const stored *)call->in[1] + at + (size_t)b * map;
    stored *g = (stored *)call->out[0] + at + (size_t)b * map;
    memset(g, 0, map * sizeof *g);
    for (int p = 0; p < op->p; p++) {
      for (int q = 0; q < op->q; q++, d += 16) {
        const window v = window_of(op, p, q);
        for (int l = 0; l < 16; l += VL) {
          vf best = vset(-1.0f), place = vzero();
          for (int h = v.h0; h < v.h1; h++) {
            for (int w = v.w0; w < v.w1; w++) {
              const vf a = vrelu(vaffine(s, aload(x + ((size_t)h * (size_t)op->w + (size_t)w) * 16 + l), t));
              place = vselect_gt(a, best, vset((float)((h - v.h0) * 3 + w - v.w0)), place);
              best = vselect_gt(a, best, a, best);
            }
          }
          const vf value = aload(d + l);
          for (int h = v.h0; h < v.h1; h++) {
            for (int w = v.w0; w < v.w1; w++) {
              stored *to = g + ((size_t)h * (size_t)op->w + (size_t)w) * 16 + l;
              astore(to, aload(to) + vkeep_eq(value, place, vset((float)((h - v.h0) * 3 + w - v.w0))));
            }
          }
        }
      }
    }
    for (int h = 0; h < op->h; h++) { /* a row's lane sums go to double at once */
      float lanes[2][16] __attribute__((aligned(64)));
      for (int l = 0; l < 16; l += VL) {
        vf s1 = vzero(), s2 = vzero();
        for (int w = 0; w < op->w; w++) {
          const size_t o = ((size_t)h * (size_t)op->w + (size_t)w) * 16 + (size_t)l;
          const vf r = aload(x + o), value = vkeep_gt(aload(g + o), vaffine(s, r, t), vzero());
          astore(g + o, value);
          s1 = s1 + value;
          s2 = vfma(value, r - mean, s2);
        }
        vstore(lanes[0] + l, s1);
        vstore(lanes[1] + l, s2);
      }
      total[0] += anx_lane_sum_f64(lanes[0]);
      total[1] += anx_lane_sum_f64(lanes[1]);
    }
  }
  double *sums = call->out[1];
  sums[c] = total[0];
  sums[op->c + c] = total[1];
}

void FN(anx_pool_bwd)(const anx_call *call) { anx_pool_run(call->pool, backward_channel, (void *)call, call->op->c); }

static void mean_channel(void *argument, int c, int thread) {
  const anx_call *call = argument;
  const anx_op *op = call->op;
  (void)thread;
  const size_t map = (size_t)op->h * (size_t)op->w;
  const stored *x = (const stored *)call->in[0] + (size_t)c * anx_channel_values(op->n, op->h, op->w);
  stored *y = (stored *)call->out[0] + (size_t)c * anx_channel_values(op->n, 1, 1);
  const vf count = vset((float)map);
  for (int b = 0; b < op->n / 16; b++, x += map * 16, y += 16) {
    for (int l = 0; l < 16; l += VL) {
      vf sum = vzero();
      for (size_t i = 0; i < map; i++) sum = sum + aload(x + i * 16 + l);
      astore(y + l, sum / count);
    }
  }
}

void FN(anx_gap_fwd)(const anx_call *call) { anx_pool_run(call->pool, mean_channel, (void *)call, call->op->c); }
