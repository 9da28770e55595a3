/* loss_scale.c - dynamic loss scaling: what the gradients of a step say about the scale of the next. For F16, which this back end does not
 * store: it is here for programs that scale all the same, on one thread. */
#include <math.h>
#include "cpu.h"

void anx_loss_scale(const anx_call *call) {
  const float *g = call->in[0], steps = call->op->f[0], largest = call->op->f[1];
  float *scale = call->out[0];
  double *counters = call->out[1];
  int bad = 0;
  for (int i = 0; i < call->op->c; i++) bad += !isfinite(g[i]);
  const float now = scale[ANX_SCALE];
  if (!bad) {
    scale[ANX_UNSCALE] = 1 / now;
    if (++scale[ANX_SCALE_STEPS] < steps) return;
    scale[ANX_SCALE_STEPS] = 0;
    scale[ANX_SCALE] = 2 * now < largest ? 2 * now : largest;
    return;
  }
  scale[ANX_UNSCALE] = 0;
  scale[ANX_SCALE_STEPS] = 0;
  scale[ANX_SCALE_SKIPPED]++;
  if (now > 1)
    scale[ANX_SCALE] = now > 2 ? now / 2 : 1;
  else
    counters[ANX_NONFINITE] += bad;
}
