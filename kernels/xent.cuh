// xent.cuh - softmax cross-entropy with label smoothing, its gradient and the counters.
//
// Computes   reference/xent.c's formulas: loss, ranks and dlogits of the first `valid` rows; counters are added to.
// Layout     logits, dlogits [n][classes padded to 8] of T; y int [n]; rows double [n][3] (loss, top-1, top-5); counters double [8].
// Mapping    a warp per row; then one warp adds the rows, lane l those of l, l + 32, ..., and the lanes pairwise.
// Numerics   double: n times classes exponentials are nothing beside the step.
// Cost       launch-bound.
// Tests      reference/xent.c; conformance cases xent.
#pragma once
#include "input.cuh"

namespace anx {

template <class T> struct CrossEntropy {
  PerModel<const T> logits;
  PerModel<const int> y;
  PerModel<const float> scale; // or NULL
  const double *slots;
  PerModel<T> dlogits; // or NULL
  PerModel<double> rows, counters;
  int *fault;
  int n, classes, valid_slot, op;
  float smoothing;
};

template <class T> __global__ void __launch_bounds__(32) cross_entropy(CrossEntropy<T> a) {
  const int row = blockIdx.x, lane = threadIdx.x, classes = a.classes, stride = padded(classes);
  const double valid = slot_of(a.slots, a.valid_slot);
  const T *z = a.logits + int64_t(row) * stride;
  T *out = a.dlogits ? a.dlogits + int64_t(row) * stride : nullptr;
  const int label = row < valid ? a.y[row] : 0;
  if (row >= valid || label < 0 || label >= classes) {
    if (row < valid && lane == 0) report(a.fault, a.op, fault_label, row, label);
    for (int c = lane; out && c < stride; c += 32) out[c] = stored<T>(0.f);
    if (lane < 3) a.rows[row * 3 + lane] = 0;
    return;
  }
  double most = to_float(z[0]);
  for (int c = lane; c < classes; c += 32) most = fmax(most, double(to_float(z[c]))); // a NaN is passed over here and shows in the sum
  for (int d = 16; d; d >>= 1) most = fmax(most, __shfl_xor_sync(0xffffffffu, most, d));
  double sum = 0;
  for (int c = lane; c < classes; c += 32) sum += exp(double(to_float(z[c])) - most);
  sum = warp_sum(sum);
  const double high = log(sum) + most, e = a.smoothing, spread = e / classes;
  const double scale = (a.scale ? double(a.scale[0]) : 1.0) / valid;
  const float own = to_float(z[label]);
  double loss = 0, before = 0;
  for (int c = lane; c < stride; c += 32) {
    if (c >= classes) {
      if (out) out[c] = stored<T>(0.f);
      continue;
    }
    const float v = to_float(z[c]);
    const double target = (c == label ? 1 - e : 0.0) + spread;
    if (target != 0) loss += target * (high - double(v));
    if (v != v) before += 1e9;
    else if (v > own || (v == own && c < label)) before += 1;
    if (out) out[c] = stored<T>(float(scale * (exp(double(v) - most) / sum - target)));
  }
  loss = warp_sum(loss);
  before = warp_sum(before);
  if (lane == 0) {
    a.rows[row * 3] = loss;
    a.rows[row * 3 + 1] = before < 1;
    a.rows[row * 3 + 2] = before < 5;
  }
}

template <class T> __global__ void __launch_bounds__(32) cross_entropy_counters(CrossEntropy<T> a) {
  if (*a.fault) return;
  double sums[3] = {};
  for (int row = threadIdx.x; row < a.n; row += 32)
    for (int i = 0; i < 3; i++) sums[i] += a.rows[row * 3 + i];
  for (int i = 0; i < 3; i++) sums[i] = warp_sum(sums[i]);
  if (threadIdx.x) return;
  for (int i = 0; i < 3; i++) a.counters[i] += sums[i];
  a.counters[3] += slot_of(a.slots, a.valid_slot);
}

} // namespace anx
