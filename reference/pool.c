/* pool.c - 3x3 stride 2 padding 1 max-pool of act(S) = ReLU(s S + t), and its backward.
 *
 *   X0(n,p,q,c) = max of act(S)(n, 2p-1..2p+1, 2q-1..2q+1, c) inside the map
 *   G(n,h,w,c) = sum of dX0 over the windows whose maximum is here, 0 where act(S) is 0;  sums = sum of G, sum of G (S - mean)
 *
 * S, G [N][H][W][C], X0, dX0 [N][P][Q][C], all float; sums double [2][C]. act is rounded to float before it is compared: values that
 * are equal as floats tie, and the first in raster order has the gradient. Scratch: G of one image in double. */
#include <string.h>

#include "reference.h"

static float act(const float *in, const float *s, const float *t, int64_t c) { return (float)ref_relu((double)s[c] * in[c] + t[c]); }

/* The pixel h W + w of window (p,q) with the greatest act of channel c; a NaN is greater than all. */
static int64_t winner(const anx_op *o, const float *in, const float *s, const float *t, int64_t n, int64_t p, int64_t q, int64_t c,
                      float *value) {
  const int64_t H = o->h, W = o->w, C = o->c;
  int64_t best = -1;
  for (int64_t h = 2 * p - 1; h <= 2 * p + 1; h++)
    for (int64_t w = 2 * q - 1; w <= 2 * q + 1; w++) {
      if (h < 0 || h >= H || w < 0 || w >= W) continue;
      const float v = act(in + ((n * H + h) * W + w) * C, s, t, c);
      if (best < 0 || v > *value || (v != v && *value == *value)) {
        best = h * W + w;
        *value = v;
      }
    }
  return best;
}

anx_status ref_pool_fwd(const ref_call *call) {
  const anx_op *o = call->op;
  float *out = call->out[0];
  for (int64_t n = 0; n < o->n; n++)
    for (int64_t p = 0; p < o->p; p++)
      for (int64_t q = 0; q < o->q; q++)
        for (int64_t c = 0; c < o->c; c++) {
          float value;
          winner(o, call->in[0], call->in[1], call->in[2], n, p, q, c, &value);
          out[((n * o->p + p) * o->q + q) * o->c + c] = ref_stored(o, value);
        }
  return ANX_OK;
}

anx_status ref_pool_bwd(const ref_call *call) {
  const anx_op *o = call->op;
  const float *dx0 = call->in[0], *in = call->in[1], *s = call->in[2], *t = call->in[3], *mean = call->in[4];
  float *g = call->out[0];
  double *sums = call->out[1], *image = call->scratch;
  const int64_t C = o->c, values = (int64_t)o->h * o->w * C;

  memset(sums, 0, 2 * (size_t)C * sizeof *sums);
  for (int64_t n = 0; n < o->n; n++) {
    memset(image, 0, (size_t)values * sizeof *image);
    for (int64_t p = 0; p < o->p; p++)
      for (int64_t q = 0; q < o->q; q++)
        for (int64_t c = 0; c < C; c++) {
          float value;
          image[winner(o, in, s, t, n, p, q, c, &value) * C + c] += dx0[((n * o->p + p) * o->q + q) * C + c];
        }
    for (int64_t i = 0; i < values; i++) {
      const int64_t at = n * values + i, c = i % C;
      g[at] = act(in + at - c, s, t, c) > 0 ? ref_stored(o, image[i]) : 0;
      sums[c] += g[at];
      sums[C + c] += g[at] * ((double)in[at] - mean[c]);
    }
  }
  return ANX_OK;
}
