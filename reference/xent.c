/* xent.c - softmax cross-entropy with label smoothing e, its gradient and the counters.
 *
 *   loss(n) = sum over c of target(n,c) (log of the sum of exp z(n,.) - z(n,c)), target = (1-e) onehot + e/C
 *   dlogits(n,c) = scale / valid (softmax(n,c) - target(n,c)) for n < valid, else 0
 *
 * scale is 1 without one. logits, dlogits float [N][C], y int32 [N], counters double [ANX_COUNTERS]. */
#include <math.h>

#include "reference.h"

/* How many logits stand before the label's: greater, or equal with a lower index. A row with a NaN has none that is right. */
static int32_t rank(const float *z, int32_t classes, int32_t label) {
  int32_t before = 0;
  for (int32_t c = 0; c < classes; c++) {
    if (z[c] != z[c]) return INT32_MAX;
    if (z[c] > z[label] || (z[c] == z[label] && c < label)) before++;
  }
  return before;
}

anx_status ref_xent(const ref_call *call) {
  const anx_op *o = call->op;
  const float *logits = call->in[0], *scale = call->in[2];
  const int32_t *y = call->in[1];
  double *counters = call->out[0];
  float *dlogits = call->out[1];
  const int32_t classes = o->c;
  const double e = o->f[0], wanted = call->slots[o->slot[0]], loss_scale = scale ? scale[ANX_SCALE] : 1;

  if (!(wanted >= 0 && wanted <= o->n) || wanted != floor(wanted))
    return ref_fail_op(call->context, ANX_INVALID_ARGUMENT, call->number, o, "%g valid rows of a batch of %d", wanted, o->n);
  const int32_t valid = (int32_t)wanted;
  for (int32_t n = 0; n < valid; n++)
    if (y[n] < 0 || y[n] >= classes)
      return ref_fail_op(call->context, ANX_INVALID_ARGUMENT, call->number, o, "the label of row %d is %d, not one of %d classes", n, y[n],
                         classes);

  for (int32_t n = 0; n < valid; n++) {
    const float *z = logits + (int64_t)n * classes;
    double most = z[0], sum = 0, loss = 0;
    for (int32_t c = 1; c < classes; c++)
      if (z[c] > most) most = z[c];
    for (int32_t c = 0; c < classes; c++) sum += exp(z[c] - most);
    for (int32_t c = 0; c < classes; c++) {
      const double target = (c == y[n] ? 1 - e : 0) + e / classes;
      if (target != 0) loss += target * (log(sum) + most - z[c]);
      if (dlogits) dlogits[(int64_t)n * classes + c] = ref_stored(o, loss_scale / valid * (exp(z[c] - most) / sum - target));
    }
    const int32_t before = rank(z, classes, y[n]);
    counters[ANX_LOSS_SUM] += loss;
    counters[ANX_TOP1_RIGHT] += before < 1;
    counters[ANX_TOP5_RIGHT] += before < 5;
    counters[ANX_SEEN] += 1;
  }
  if (dlogits)
    for (int64_t i = (int64_t)valid * classes; i < (int64_t)o->n * classes; i++) dlogits[i] = 0;
  return ANX_OK;
}
