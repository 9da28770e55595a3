// batchnorm.cuh - the coefficients of a batch norm, forward and backward.
//
// Computes   forward: mean, invstd, s = gamma invstd, t = beta - mean s, running statistics; backward: dgamma, dbeta, al, be, de (anx.h).
// Layout     sums double [2][c]; every vector float [c].
// Mapping    a thread per channel.
// Numerics   double; one rounding to float per result.
// Cost       launch-bound: some hundred bytes a channel.
// Tests      reference/batchnorm.c; conformance cases bn_fwd_coef and bn_bwd_coef.
#pragma once
#include "device.cuh"

namespace anx {

struct NormForward {
  const double *sums, *slots;
  const float *gamma, *beta, *old_mean, *old_variance;
  float *mean, *invstd, *s, *t, *running_mean, *running_variance; // the last two may be NULL
  int c, train, momentum_slot;
  double count;
  float epsilon;
  const int *fault; // behind a fault running statistics stay
};
template <class Unused> __global__ void __launch_bounds__(128) norm_forward(NormForward a) {
  const int c = blockIdx.x * 128 + threadIdx.x;
  if (c >= a.c) return;
  double mean = a.old_mean[c], variance = a.old_variance[c];
  if (a.train) {
    mean = a.sums[c] / a.count;
    variance = a.sums[a.c + c] / a.count - mean * mean;
    if (variance < 0) variance = 0; // rounding of a constant channel
  }
  if (a.running_mean && !*a.fault) {
    const double momentum = a.slots[a.momentum_slot], old_mean = a.old_mean[c], old_variance = a.old_variance[c];
    a.running_mean[c] = float(old_mean + momentum * (mean - old_mean));
    a.running_variance[c] = float(old_variance + momentum * (variance * a.count / (a.count - 1) - old_variance));
  }
  const double inverse = 1 / sqrt(variance + double(a.epsilon)), s = double(a.gamma[c]) * inverse;
  a.mean[c] = float(mean);
  a.invstd[c] = float(inverse);
  a.s[c] = float(s);
  a.t[c] = float(double(a.beta[c]) - mean * s);
}

struct NormBackward {
  const double *sums;
  const float *mean, *invstd, *gamma;
  float *dgamma, *dbeta, *al, *be, *de;
  int c;
  double count;
};
template <class Unused> __global__ void __launch_bounds__(128) norm_backward(NormBackward a) {
  const int c = blockIdx.x * 128 + threadIdx.x;
  if (c >= a.c) return;
  const double dbeta = a.sums[c], dgamma = double(a.invstd[c]) * a.sums[a.c + c];
  const double al = double(a.gamma[c]) * double(a.invstd[c]), be = -al * double(a.invstd[c]) * dgamma / a.count;
  a.dgamma[c] = float(dgamma);
  a.dbeta[c] = float(dbeta);
  a.al[c] = float(al);
  a.be[c] = float(be);
  a.de[c] = float(-al * dbeta / a.count - be * double(a.mean[c]));
}

} // namespace anx
