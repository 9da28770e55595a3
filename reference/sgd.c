/* sgd.c - momentum SGD over c values of a flat float buffer.
 *
 *   d = g unscale + decay w;  m = momentum m + d;  w -= rate (Nesterov ? d + momentum m : m)
 *
 * Where unscale is 0 the step is skipped. g, w, m float [c]; scale float [ANX_SCALES]; counters double [ANX_COUNTERS], where values of g that are not finite are counted. */
#include <math.h>

#include "reference.h"

anx_status ref_sgd(const ref_call *call) {
  const anx_op *o = call->op;
  const float *g = call->in[0], *scale = call->in[1];
  float *w = call->out[0], *m = call->out[1];
  double *counters = call->out[2];
  const double momentum = o->f[0], decay = o->f[1], rate = call->slots[o->slot[0]], unscale = scale ? scale[ANX_UNSCALE] : 1;
  if (unscale == 0) return ANX_OK;
  for (int32_t i = 0; i < o->c; i++) {
    const double d = g[i] * unscale + decay * w[i], moved = momentum * m[i] + d;
    if (!isfinite(g[i])) counters[ANX_NONFINITE] += 1;
    m[i] = (float)moved;
    w[i] = (float)(w[i] - rate * (o->flags & ANX_NESTEROV ? d + momentum * moved : moved));
  }
  return ANX_OK;
}
