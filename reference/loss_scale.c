/* loss_scale.c - dynamic loss scaling: what the gradients of a step say about the scale of the next.
 *
 * g float [c]; scale float [ANX_SCALES]; counters double [ANX_COUNTERS]. */
#include <math.h>

#include "reference.h"

anx_status ref_loss_scale(const ref_call *call) {
  const anx_op *o = call->op;
  const float *g = call->in[0], steps = o->f[0], largest = o->f[1];
  float *scale = call->out[0];
  double *counters = call->out[1], bad = 0;
  for (int32_t i = 0; i < o->c; i++) bad += !isfinite(g[i]);
  const float now = scale[ANX_SCALE];
  if (bad == 0) {
    scale[ANX_UNSCALE] = 1 / now;
    if (++scale[ANX_SCALE_STEPS] < steps) return ANX_OK;
    scale[ANX_SCALE_STEPS] = 0;
    scale[ANX_SCALE] = fminf(2 * now, largest);
    return ANX_OK;
  }
  scale[ANX_UNSCALE] = 0;
  scale[ANX_SCALE_STEPS] = 0;
  scale[ANX_SCALE_SKIPPED]++;
  if (now > 1)
    scale[ANX_SCALE] = fmaxf(now / 2, 1);
  else
    counters[ANX_NONFINITE] += bad;
  return ANX_OK;
}
