// batchnorm.cuh - the coefficients of a batch norm, forward and backward.
//
// Computes   forward: mean, invstd, s = gamma invstd, t = beta - mean s, running statistics; backward: dgamma, dbeta, al, be, de (anx.h).
// Layout     sums double [2][c]; every vector float [c].
// Mapping    blocks of 8 channels x 32 lanes that add up the partials of the op before (K12: its second stage is part of this launch).
// Numerics   double; one rounding to float per result.
// Cost       launch-bound: some hundred bytes a channel.
// Tests      reference/batchnorm.c; conformance cases bn_fwd_coef and bn_bwd_coef.
#pragma once
#include "reduce.cuh"

namespace anx {

struct NormForward {
  Partials in; // training
  const double *slots;
  PerModel<const float> gamma, beta, old_mean, old_variance;
  PerModel<float> mean, invstd, s, t, running_mean, running_variance; // the last two may be NULL
  int c, train, momentum_slot;
  double count;
  float epsilon;
  const int *fault; // behind a fault running statistics stay
};
template <class Unused> __global__ void __launch_bounds__(256) norm_forward(NormForward a) {
  ANX_SHARED(ReduceShared, shared);
  const int c = blockIdx.x * reduce_columns + threadIdx.x % reduce_columns;
  double sum = 0, squares = 0;
  if (a.train) channel_sums(shared, a.in, c, sum, squares);
  if (threadIdx.x >= reduce_columns || c >= a.c) return;
  double mean = a.old_mean[c], variance = a.old_variance[c];
  if (a.train) {
    mean = sum / a.count;
    variance = squares / a.count - mean * mean;
    if (variance < 0) variance = 0; // rounding of a constant channel
  }
  if (a.running_mean && !*a.fault) {
    const double momentum = slot_of(a.slots, a.momentum_slot), old_mean = a.old_mean[c], old_variance = a.old_variance[c];
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
  Partials in;
  PerModel<const float> mean, invstd, gamma;
  PerModel<float> dgamma, dbeta, al, be, de;
  int c;
  double count;
};
template <class Unused> __global__ void __launch_bounds__(256) norm_backward(NormBackward a) {
  ANX_SHARED(ReduceShared, shared);
  const int c = blockIdx.x * reduce_columns + threadIdx.x % reduce_columns;
  double dbeta = 0, centred = 0;
  channel_sums(shared, a.in, c, dbeta, centred);
  if (threadIdx.x >= reduce_columns || c >= a.c) return;
  const double dgamma = double(a.invstd[c]) * centred;
  const double al = double(a.gamma[c]) * double(a.invstd[c]), be = -al * double(a.invstd[c]) * dgamma / a.count;
  a.dgamma[c] = float(dgamma);
  a.dbeta[c] = float(dbeta);
  a.al[c] = float(al);
  a.be[c] = float(be);
  a.de[c] = float(-al * dbeta / a.count - be * double(a.mean[c]));
}

} // namespace anx
