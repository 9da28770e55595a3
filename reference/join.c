/* join.c - the end of a residual block and its backward; maps are float [N][H][W][C], vectors float [C], sums double [2][C].
 *
 *   Y = ReLU(s C + t + Z), Z = nothing, X, or sp P + tp
 *   G = dX where Y > 0, else 0 (with ANX_BROADCAST: dX(n,c) / (h w));  sums = sum of G, sum of G (C - mean);  the same with P */
#include <string.h>

#include "reference.h"

anx_status ref_join_fwd(const ref_call *call) {
  const anx_op *o = call->op;
  const float *main = call->in[0], *s = call->in[1], *t = call->in[2], *other = call->in[3], *sp = call->in[4], *tp = call->in[5];
  float *y = call->out[0];
  const int64_t values = (int64_t)o->n * o->h * o->w * o->c;
  for (int64_t i = 0; i < values; i++) {
    const int64_t c = i % o->c;
    double v = (double)s[c] * main[i] + t[c];
    if (other) v += sp ? (double)sp[c] * other[i] + tp[c] : other[i];
    y[i] = ref_stored(o, ref_relu(v));
  }
  return ANX_OK;
}

anx_status ref_join_bwd(const ref_call *call) {
  const anx_op *o = call->op;
  const float *dx = call->in[0], *y = call->in[1];
  const float *main = call->in[2], *mean = call->in[3], *other = call->in[4], *mean_other = call->in[5];
  float *g = call->out[0];
  double *sums = call->out[1], *sums_other = call->out[2];
  const int64_t C = o->c, map = (int64_t)o->h * o->w, values = o->n * map * C;

  memset(sums, 0, 2 * (size_t)C * sizeof *sums);
  if (sums_other) memset(sums_other, 0, 2 * (size_t)C * sizeof *sums_other);
  for (int64_t i = 0; i < values; i++) {
    const int64_t c = i % C, n = i / (map * C);
    const double d = o->flags & ANX_BROADCAST ? (double)dx[n * C + c] / (double)map : dx[i];
    g[i] = y[i] > 0 ? ref_stored(o, d) : 0;
    sums[c] += g[i];
    sums[C + c] += g[i] * ((double)main[i] - mean[c]);
    if (sums_other) {
      sums_other[c] += g[i];
      sums_other[C + c] += g[i] * ((double)other[i] - mean_other[c]);
    }
  }
  return ANX_OK;
}
