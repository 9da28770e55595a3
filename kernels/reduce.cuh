// reduce.cuh - the second stage of every sum: partials of blocks, added in their order.
//
// Computes   out[i] = sum over rows r < rows of partial[r][i], for filter gradients (float out, two arrays behind one another: filter, bias)
//            and for per-channel sums (double out).
// Layout     partial float [rows][values]; out float or double [values].
// Mapping    8 columns x 32 lanes of rows a block; lane r adds rows r, r + 32, ...; then lanes of a warp pairwise, then warps in order.
// Numerics   double throughout; the order is a function of rows alone.
// Cost       reads rows x values x 4 bytes once, bound by memory; not measured on a GPU yet.
// Tests      every conformance case with sums or dW.
#pragma once
#include "device.cuh"

namespace anx {

constexpr int reduce_columns = 8; // of a block; beside them 32 lanes of rows

struct ReduceShared { double sum[8][reduce_columns]; };

// The sum of column `value` of partial, whose rows are `stride` long; valid in the first 8 threads. All 256 threads call it.
__device__ __forceinline__ double column_sum(ReduceShared &shared, const float *partial, int rows, int64_t stride, int64_t value, bool mine) {
  const int row = threadIdx.x / reduce_columns;
  double sum = 0;
  if (mine) {
#pragma unroll 8
    for (int r = row; r < rows; r += 32) sum += double(partial[r * stride + value]);
  }
  sum += __shfl_xor_sync(0xffffffffu, sum, 8);
  sum += __shfl_xor_sync(0xffffffffu, sum, 16);
  __syncthreads(); // the last use of shared is over
  if (threadIdx.x % 32 < reduce_columns) shared.sum[threadIdx.x / 32][threadIdx.x % 32] = sum;
  __syncthreads();
  double total = 0;
  if (threadIdx.x < reduce_columns)
    for (int i = 0; i < 8; i++) total += shared.sum[i][threadIdx.x];
  return total;
}

// The gradients of one convolution's filters and, behind them in a row of partial, of its biases.
struct FilterPartials {
  PerModel<const float> partial;
  int rows, first; // first: of the launch's blocks
  int64_t filters, values;
  PerModel<float> filter, bias;
};
constexpr int filters_per_launch = 56; // 4 KB of arguments are all that every driver takes
struct ReduceFilters {
  int count;
  FilterPartials of[filters_per_launch];
};
template <class Unused> __global__ void __launch_bounds__(256) reduce_filters(ReduceFilters a) {
  ANX_SHARED(ReduceShared, shared);
  int i = 0;
  while (i + 1 < a.count && int(blockIdx.x) >= a.of[i + 1].first) i++;
  const FilterPartials &p = a.of[i];
  const int64_t value = int64_t(int(blockIdx.x) - p.first) * reduce_columns + threadIdx.x % reduce_columns;
  const double sum = column_sum(shared, p.partial, p.rows, p.values, value, value < p.values);
  if (threadIdx.x >= reduce_columns || value >= p.values) return;
  if (value < p.filters) p.filter[value] = float(sum);
  else p.bias[value - p.filters] = float(sum);
}

// Partials [rows][quantities][c], of which quantity 0 and `second` are wanted: sums double [2][c].
struct Partials {
  PerModel<const float> partial; // NULL: the sums are there already
  int rows, quantities, second, c;
  PerModel<double> sums;
};
// Both sums of channel `channel`, from partials (and then written too) or as they lie there; valid in the first 8 threads.
__device__ __forceinline__ void channel_sums(ReduceShared &shared, const Partials &p, int channel, double &first, double &second) {
  const bool mine = channel < p.c;
  if (p.partial) {
    const int64_t stride = int64_t(p.quantities) * p.c;
    first = column_sum(shared, p.partial, p.rows, stride, channel, mine);
    second = column_sum(shared, p.partial, p.rows, stride, int64_t(p.second) * p.c + channel, mine);
    if (threadIdx.x < reduce_columns && mine) {
      p.sums[channel] = first;
      p.sums[p.c + channel] = second;
    }
  } else {
    first = mine ? p.sums[channel] : 0;
    second = mine ? p.sums[p.c + channel] : 0;
  }
}
template <class Unused> __global__ void __launch_bounds__(256) reduce_sums(Partials a) {
  ANX_SHARED(ReduceShared, shared);
  double first, second;
  channel_sums(shared, a, int(blockIdx.x) * reduce_columns + int(threadIdx.x) % reduce_columns, first, second);
}

} // namespace anx
