// reduce.cuh - the second stage of every sum: partials of blocks, added in their order.
//
// Computes   out[i] = sum over rows r < rows of partial[r][i], for filter gradients (float out, two arrays behind one another: filter, bias)
//            and for per-channel sums (double out).
// Layout     partial float [rows][values]; out float or double [values].
// Mapping    a warp-sized column of 32 values x 8 row lanes a block; lane r adds rows r, r + 8, ...; then the 8 lanes in order.
// Numerics   double throughout; the order is a function of rows alone.
// Cost       reads rows x values x 4 bytes once, bound by memory; not measured on a GPU yet.
// Tests      every conformance case with sums or dW.
#pragma once
#include "device.cuh"

namespace anx {

struct ReduceShared { double sum[8][32]; };

// The sum of column `value` of partial; valid in threads of row lane 0. All 256 threads call it.
__device__ __forceinline__ double column_sum(ReduceShared &shared, const float *partial, int rows, int64_t values, int64_t value) {
  const int lane = threadIdx.x % 32, row = threadIdx.x / 32;
  double sum = 0;
  if (value < values)
    for (int r = row; r < rows; r += 8) sum += double(partial[r * values + value]);
  __syncthreads(); // the last use of shared is over
  shared.sum[row][lane] = sum;
  __syncthreads();
  if (row == 0)
    for (int i = 1; i < 8; i++) sum += shared.sum[i][lane];
  return sum;
}

struct ReduceFilters {
  const float *partial;
  int rows;
  int64_t filters, values; // values: filters and, behind them, biases
  float *filter, *bias;
};
template <class Unused> __global__ void __launch_bounds__(256) reduce_filters(ReduceFilters a) {
  ANX_SHARED(ReduceShared, shared);
  const int64_t value = int64_t(blockIdx.x) * 32 + threadIdx.x % 32;
  const double sum = column_sum(shared, a.partial, a.rows, a.values, value);
  if (threadIdx.x >= 32 || value >= a.values) return;
  if (value < a.filters) a.filter[value] = float(sum);
  else a.bias[value - a.filters] = float(sum);
}

struct ReduceSums {
  const float *partial; // [rows][values]
  int rows;
  int values, skip, stride; // takes columns skip .. skip + values of rows that are stride long
  double *sums;
};
template <class Unused> __global__ void __launch_bounds__(256) reduce_sums(ReduceSums a) {
  ANX_SHARED(ReduceShared, shared);
  const int64_t value = int64_t(blockIdx.x) * 32 + threadIdx.x % 32;
  const bool mine = value < a.values;
  const double sum = column_sum(shared, a.partial, a.rows, a.stride, mine ? value + a.skip : a.stride);
  if (threadIdx.x < 32 && mine) a.sums[value] = sum;
}

} // namespace anx
