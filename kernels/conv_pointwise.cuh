// conv_pointwise.cuh - dense 1x1 convolutions on tensor cores, 16-bit storage: forward, input gradient, filter gradient.
//
// Computes   Y = act(X) W^T [+ bias] with sums; dX = D W [+ add], masked, with sums; dW = D^T act(X), D = al G + be Y + de on load.
// Layout     maps [pixels][channels padded to 8] of T (half or bfloat16), W and dW float [k][c].
// Mapping    forward and input gradient: 256 threads make 128 pixels x 64 channels in steps of 32 of the depth, a warp 32 x 32; blockIdx.x is
//            the tile of channels (neighbours share pixels in the second cache), blockIdx.y strides over tiles of pixels. Filter gradient:
//            64 k x 64 c per block of 128 threads in steps of 32 pixels, a warp 32 x 32; blockIdx.y is a range of pixels.
//            The next step's values travel to registers while the tensor cores work, through two buffers of shared memory.
// Numerics   products of T, sums in float by k16 steps; W rounded to T. Strides: pixels between the samples of a strided input gradient
//            get add or 0.
// Cost       2 n accesses forward, 3 to 5 backward, bound by memory up to some hundred channels; not measured on a GPU yet.
// Tests      reference/conv.c; conformance cases conv_fwd and conv_bwd in f16 and bf16.
#pragma once
#include "conv.cuh"
#include "products.cuh"

namespace anx {

constexpr int pointwise_rows = 128, pointwise_columns = 64, pointwise_depth = 32, pointwise_pitch = 40, pointwise_threads = 256,
              pointwise_filter_threads = 128, pointwise_filter_pitch = 72;

template <class T> struct PointwiseStage {
  T a[pointwise_rows][pointwise_pitch], b[pointwise_columns][pointwise_pitch]; // a pitch of 80 bytes: 8 rows of ldmatrix in 8 bank groups
};
template <class Conv> struct PointwiseShared {
  using T = typename Conv::Element;
  union {
    PointwiseStage<T> stage[2];
    float out[pointwise_rows][68];
    SlabShared<Conv::quantities> sums;
  };
  float kept[Conv::quantities][8][pointwise_threads]; // the threads' sums between tiles: registers are scarce in the loop
};

// The pixel that row `row` of the output reads, or -1.
template <bool backward> __device__ __forceinline__ int64_t pointwise_source(const ConvShape &s, int64_t row) {
  if (s.stride == 1) return row;
  const int wide = backward ? s.w : s.q, high = backward ? s.h : s.p;
  const int x = int(row % wide), y = int(row / wide % high);
  const int64_t image = row / wide / high;
  if (!backward) return (image * s.h + y * s.stride) * s.w + x * s.stride;
  if (x % s.stride || y % s.stride) return -1;
  return (image * s.p + y / s.stride) * s.q + x / s.stride;
}

template <class T> __device__ __forceinline__ const Input<T> &side(const ConvForward<T> &a) { return a.in; }
template <class T> __device__ __forceinline__ const JoinedInput<T> &side(const ConvJoinForward<T> &a) { return a.joined; }
template <class T> __device__ __forceinline__ const Incoming<T> &side(const ConvInputGradient<T> &a) { return a.d; }
// Isa is Sm80 or Sm70 (products.cuh), Conv is ConvForward, ConvJoinForward, ConvInputGradient or ConvBlockGradient.
template <class Isa, class Conv> __global__ void __launch_bounds__(pointwise_threads, 2) conv_pointwise(Conv a) {
  using T = typename Conv::Element;
  constexpr bool backward = Conv::backward;
  ANX_ONLY(Isa);
  constexpr int kept = Conv::quantities * 8;
  constexpr bool joined = std::is_same<Conv, ConvJoinForward<T>>::value;
  ANX_SHARED(PointwiseShared<Conv>, shared);
  const ConvShape s = a.shape;
  const int depth = backward ? s.k : s.c, columns = backward ? s.c : s.k, depth_stride = padded(depth), column0 = blockIdx.x * pointwise_columns;
  const int rows = backward ? s.n * s.h * s.w : s.n * s.p * s.q; // cuda/emit_conv.cu keeps larger maps and filters away
  const int thread = threadIdx.x, warp = thread / 32, lane = thread % 32, vector = thread % 4 * 8, warp_row = warp % 4 * 32, warp_column = warp / 4 * 32;
#pragma unroll
  for (int i = 0; i < kept; i++) shared.kept[i / 8][i % 8][thread] = 0.f;
  for (int first = int(blockIdx.y) * pointwise_rows; first < rows; first += int(gridDim.y) * pointwise_rows) {
    int source[2];
#pragma unroll
    for (int i = 0; i < 2; i++) {
      const int row = first + thread / 4 + 64 * i;
      source[i] = row < rows ? int(pointwise_source<backward>(s, row)) : -1;
    }
    Vector8<T> x[2], y[2];
    float w[8];
    const auto fetch_filters = [&](int d0) {
#pragma unroll
      for (int j = 0; j < 8; j++) {
        const int e = thread + pointwise_threads * j, n = column0 + (backward ? e % 64 : e / 32), d = d0 + (backward ? e / 64 : e % 32);
        w[j] = n < columns && d < depth ? a.filter[backward ? d * columns + n : n * depth + d] : 0.f;
      }
    };
    const auto fetch = [&](int d0) {
#pragma unroll
      for (int i = 0; i < 2; i++) {
        const bool there = source[i] >= 0 && d0 + vector < depth_stride;
        x[i] = there ? raw8(side(a), int64_t(source[i]) * depth_stride + d0 + vector) : zero8<T>();
        y[i] = there ? second8(side(a), int64_t(source[i]) * depth_stride + d0 + vector) : zero8<T>();
      }
      if constexpr (!joined) fetch_filters(d0);
    };
    const auto deposit = [&](PointwiseStage<T> &stage, int d0) {
      if constexpr (joined) {
#pragma unroll
        for (int h = 0; h < 8; h += 4) {
          __syncwarp(); // keeps what follows behind what is done: there are no registers for the coefficients of both halves
          CoefficientsOf<4> k;
          coefficients(k, a.joined, d0 + vector + h, depth);
#pragma unroll
          for (int i = 0; i < 2; i++) {
            const Vector<T, 4> v = source[i] >= 0 ? activated(a.joined, k, half_of(x[i], h / 4), half_of(y[i], h / 4)) : zero_vector<T, 4>();
            store_vector(&stage.a[thread / 4 + 64 * i][vector + h], v);
          }
        }
        __syncwarp(); // keeps values from staying in registers until they are stored
#pragma unroll
        for (int i = 0; i < 2; i++)
          if (blockIdx.x == 0 && source[i] >= 0 && d0 + vector < depth_stride)
            store8(a.joined.y + int64_t(source[i]) * depth_stride + d0 + vector, load8(&stage.a[thread / 4 + 64 * i][vector]));
        fetch_filters(d0); // nor for these before
      } else {
        Coefficients k;
        coefficients(k, side(a), d0 + vector, depth);
#pragma unroll
        for (int i = 0; i < 2; i++) store8(&stage.a[thread / 4 + 64 * i][vector], source[i] >= 0 ? activated(side(a), k, x[i], y[i]) : zero8<T>());
      }
#pragma unroll
      for (int j = 0; j < 8; j++) {
        const int e = thread + pointwise_threads * j;
        stage.b[backward ? e % 64 : e / 32][backward ? e / 64 : e % 32] = stored<T>(w[j]);
      }
    };
    float acc[4][8] = {};
    if constexpr (!joined) {
      fetch(0);
      deposit(shared.stage[0], 0);
      __syncthreads();
    } // joined, the loop does so: here, addresses of the coefficients would be kept in registers throughout the kernel
    for (int d0 = joined ? -pointwise_depth : 0, turn = joined; d0 < depth; d0 += pointwise_depth, turn ^= 1) {
      const bool more = d0 + pointwise_depth < depth;
      if (more) fetch(d0 + pointwise_depth);
      const PointwiseStage<T> &stage = shared.stage[turn];
      if (d0 >= 0) {
#pragma unroll(Isa::block == 1 ? 2 : 1) // Sm70 has no registers for more of B
        for (int d = 0; d < pointwise_depth; d += 16) {
          uint32_t af[8];
          Isa::rows(af, &stage.a[warp_row + lane][d]);
          Isa::rows(af + 4, &stage.a[warp_row + lane][d + 8]);
#pragma unroll
          for (int n = 0; n < 4; n += 2) {
            uint32_t bf[2][2 * Isa::block];
            Isa::columns(bf, &stage.b[warp_column + n * 8][d], pointwise_pitch);
#pragma unroll
            for (int i = 0; i < 2; i++) Isa::template multiply<T, 16, false>(acc[n + i], af, bf[i]);
          }
        }
      }
      if (more) deposit(shared.stage[turn ^ 1], d0 + pointwise_depth);
      __syncthreads();
    }
#pragma unroll
    for (int n = 0; n < 4; n++)
#pragma unroll
      for (int i = 0; i < 8; i++) shared.out[warp_row + Isa::row_of(i)][warp_column + n * 8 + Isa::column_of(i)] = acc[n][i];
    __syncthreads();
    const int c0 = column0 + thread % 8 * 8;
    const Coefficients k8 = finish_coefficients(a, c0);
    float sums[Conv::quantities][8];
#pragma unroll
    for (int i = 0; i < kept; i++) sums[i / 8][i % 8] = shared.kept[i / 8][i % 8][thread];
#pragma unroll 1
    for (int r = thread / 8; r < pointwise_rows; r += pointwise_threads / 8) {
      const int row = first + r;
      if (row >= rows || c0 >= padded(columns)) continue;
      float v[8];
#pragma unroll
      for (int i = 0; i < 8; i++) v[i] = shared.out[r][thread % 8 * 8 + i];
      finish(a, k8, row, c0, v, sums);
    }
#pragma unroll
    for (int i = 0; i < kept; i++) shared.kept[i / 8][i % 8][thread] = sums[i / 8][i % 8];
    __syncthreads();
  }
  float sums[Conv::quantities][8];
#pragma unroll
  for (int i = 0; i < kept; i++) sums[i / 8][i % 8] = shared.kept[i / 8][i % 8][thread];
  if (a.partial) slab_partials(shared.sums, sums, a.partial, blockIdx.y, column0, columns);
}

template <class T> struct PointwiseFilterStage {
  T d[pointwise_depth][pointwise_filter_pitch], x[pointwise_depth][pointwise_filter_pitch]; // 144 bytes a pixel: 8 rows of ldmatrix in 8 bank groups
};

template <class Isa, class T> __global__ void __launch_bounds__(pointwise_filter_threads) conv_pointwise_filter_gradient(ConvFilterGradient<T> a) {
  ANX_ONLY(Isa);
  struct Shared { PointwiseFilterStage<T> stage[2]; };
  ANX_SHARED(Shared, shared);
  const ConvShape s = a.shape;
  const int across = (s.c + 63) / 64, c0 = int(blockIdx.x) % across * 64, k0 = int(blockIdx.x) / across * 64, cs = padded(s.c), ks = padded(s.k);
  const int thread = threadIdx.x, warp = thread / 32, vector = thread % 8 * 8, wk = warp / 2 * 32, wc = warp % 2 * 32;
  const int64_t pixels = int64_t(s.n) * s.p * s.q, begin = int64_t(blockIdx.y) * a.per_range;
  const int64_t end = begin + a.per_range < pixels ? begin + a.per_range : pixels;
  Coefficients kd, kx;
  coefficients(kd, a.d, k0 + vector, s.k);
  coefficients(kx, a.in, c0 + vector, s.c);
  Vector8<T> g[2], y[2], x[2];
  bool there[2];
  const auto fetch = [&](int64_t first) {
#pragma unroll
    for (int i = 0; i < 2; i++) {
      const int64_t pixel = first + thread / 8 + 16 * i;
      there[i] = pixel < end;
      const int64_t source = there[i] ? pointwise_source<false>(s, pixel) : 0;
      g[i] = y[i] = x[i] = zero8<T>();
      if (there[i] && k0 + vector < ks) {
        g[i] = raw8(a.d, pixel * ks + k0 + vector);
        y[i] = second8(a.d, pixel * ks + k0 + vector);
      }
      if (there[i] && c0 + vector < cs) x[i] = raw8(a.in, source * cs + c0 + vector);
    }
  };
  const auto deposit = [&](PointwiseFilterStage<T> &stage) {
#pragma unroll
    for (int i = 0; i < 2; i++) {
      store8(&stage.d[thread / 8 + 16 * i][vector], there[i] ? activated(a.d, kd, g[i], y[i]) : zero8<T>());
      store8(&stage.x[thread / 8 + 16 * i][vector], there[i] ? activated(a.in, kx, x[i], x[i]) : zero8<T>());
    }
  };
  float acc[4][8] = {};
  fetch(begin);
  deposit(shared.stage[0]);
  __syncthreads();
  int turn = 0;
  for (int64_t first = begin; first < end; first += pointwise_depth, turn ^= 1) {
    const bool more = first + pointwise_depth < end;
    if (more) fetch(first + pointwise_depth);
    const PointwiseFilterStage<T> &stage = shared.stage[turn];
#pragma unroll
    for (int d = 0; d < pointwise_depth; d += 16) {
      uint32_t af[8];
#pragma unroll
      for (int j = 0; j < Isa::loads; j++) Isa::rows_transposed(af, j, &stage.d[d + Isa::depth(j)][wk + Isa::row()]);
#pragma unroll
      for (int n = 0; n < 4; n += 2) {
        uint32_t bf[2][2 * Isa::block];
        Isa::columns_transposed(bf, &stage.x[d][wc + n * 8], pointwise_filter_pitch);
#pragma unroll
        for (int i = 0; i < 2; i++) Isa::template multiply<T, 16, true>(acc[n + i], af, bf[i]);
      }
    }
    if (more) deposit(shared.stage[turn ^ 1]);
    __syncthreads();
  }
  float *partial = a.partial + int64_t(blockIdx.y) * s.k * s.c;
#pragma unroll
  for (int n = 0; n < 4; n++)
#pragma unroll
    for (int i = 0; i < 8; i++) {
      const int k = k0 + wk + Isa::row_of(i), c = c0 + wc + n * 8 + Isa::column_of(i);
      if (k < s.k && c < s.c) partial[int64_t(k) * s.c + c] = acc[n][i];
    }
}
template <class T> constexpr size_t pointwise_filter_shared = 2 * sizeof(PointwiseFilterStage<T>);

} // namespace anx
