/* batchnorm.c - the per-channel coefficients of a batch norm over M = n h w values; vectors are float [C], sums double [2][C].
 *
 * Forward:  invstd = 1 / sqrt(variance + epsilon), s = gamma invstd, t = beta - mean s
 *           training: mean = sums0 / M, variance = sums1 / M - mean^2; running r += m (value - r), the variance times M/(M-1)
 *           inference: mean and variance are the running ones
 * Backward: dbeta = sums0, dgamma = invstd sums1, al = gamma invstd, be = -al invstd dgamma / M, de = -al dbeta / M - be mean.
 *           (sums1 is of G (T - mean), so invstd times it is the sum of G times the normalised value.) */
#include <math.h>

#include "reference.h"

anx_status ref_bn_fwd_coef(const ref_call *call) {
  const anx_op *o = call->op;
  const double *sums = call->in[0];
  const float *gamma = call->in[1], *beta = call->in[2], *old_mean = call->in[3], *old_variance = call->in[4];
  float *mean = call->out[0], *invstd = call->out[1], *s = call->out[2], *t = call->out[3];
  float *running_mean = call->out[4], *running_variance = call->out[5];
  const double M = (double)o->n * o->h * o->w;

  for (int32_t c = 0; c < o->c; c++) {
    double m = old_mean[c], variance = old_variance[c];
    if (o->flags & ANX_TRAIN) {
      m = sums[c] / M;
      variance = sums[o->c + c] / M - m * m;
      if (variance < 0) variance = 0; /* rounding of a constant channel */
    }
    if (running_mean) {
      const double momentum = call->slots[o->slot[0]];
      running_mean[c] = (float)(old_mean[c] + momentum * (m - old_mean[c]));
      running_variance[c] = (float)(old_variance[c] + momentum * (variance * M / (M - 1) - old_variance[c]));
    }
    const double inverse = 1 / sqrt(variance + o->f[0]);
    mean[c] = (float)m;
    invstd[c] = (float)inverse;
    s[c] = (float)(gamma[c] * inverse);
    t[c] = (float)(beta[c] - m * gamma[c] * inverse);
  }
  return ANX_OK;
}

anx_status ref_bn_bwd_coef(const ref_call *call) {
  const anx_op *o = call->op;
  const double *sums = call->in[0];
  const float *mean = call->in[1], *invstd = call->in[2], *gamma = call->in[3];
  float *dgamma = call->out[0], *dbeta = call->out[1], *al = call->out[2], *be = call->out[3], *de = call->out[4];
  const double M = (double)o->n * o->h * o->w;

  for (int32_t c = 0; c < o->c; c++) {
    const double db = sums[c], dg = invstd[c] * sums[o->c + c];
    const double a = (double)gamma[c] * invstd[c], b = -a * invstd[c] * dg / M;
    dgamma[c] = (float)dg;
    dbeta[c] = (float)db;
    al[c] = (float)a;
    be[c] = (float)b;
    de[c] = (float)(-a * db / M - b * mean[c]);
  }
  return ANX_OK;
}
