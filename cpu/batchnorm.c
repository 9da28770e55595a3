/* batchnorm.c - per-channel coefficients of a batch norm, in double; vectors of C values, negligible cost. Compiled once. */
#include <math.h>
#include "cpu.h"

void anx_bn_fwd_coef(const anx_call *call) {
  const anx_op *op = call->op;
  const double *sums = call->in[0];
  const float *gamma = call->in[1], *beta = call->in[2], *running_mean = call->in[3], *running_variance = call->in[4];
  float *mean = call->out[0], *invstd = call->out[1], *s = call->out[2], *t = call->out[3], *moved_mean = call->out[4],
        *moved_variance = call->out[5];
  const double m = (double)op->n * op->h * op->w, momentum = call->slot[0];
  for (int c = 0; c < op->c; c++) {
    double average = running_mean[c], variance = running_variance[c];
    if (op->flags & ANX_TRAIN) {
      average = sums[c] / m;
      variance = sums[op->c + c] / m - average * average;
      if (variance < 0) variance = 0; /* a constant channel; a NaN stays */
      if (moved_mean) {
        const double old_mean = running_mean[c], old_variance = running_variance[c];
        moved_mean[c] = (float)(old_mean + momentum * (average - old_mean));
        moved_variance[c] = (float)(old_variance + momentum * (variance * m / (m - 1) - old_variance));
      }
    }
    const double inverse = 1 / sqrt(variance + (double)op->f[0]), scale = (double)gamma[c] * inverse;
    mean[c] = (float)average;
    invstd[c] = (float)inverse;
    s[c] = (float)scale;
    t[c] = (float)((double)beta[c] - average * scale);
  }
}

void anx_bn_bwd_coef(const anx_call *call) {
  const anx_op *op = call->op;
  const double *sums = call->in[0];
  const float *mean = call->in[1], *invstd = call->in[2], *gamma = call->in[3];
  float *dgamma = call->out[0], *dbeta = call->out[1], *al = call->out[2], *be = call->out[3], *de = call->out[4];
  const double m = (double)op->n * op->h * op->w;
  for (int c = 0; c < op->c; c++) {
    const double sum = sums[c], scaled = (double)invstd[c] * sums[op->c + c], a = (double)gamma[c] * (double)invstd[c];
    const double b = -a * (double)invstd[c] * scaled / m;
    dbeta[c] = (float)sum;
    dgamma[c] = (float)scaled;
    al[c] = (float)a;
    be[c] = (float)b;
    de[c] = (float)(-a * sum / m - b * (double)mean[c]);
  }
}
