// join.cuh - the end of a residual block, forward and backward, and the global average pool.
//
// Computes   Y = ReLU(s C + t + Z), Z = nothing, X, or sp P + tp;  G = dX (or dX / (h w) spread over the map) where Y > 0, else 0, with
//            sums of G and G (C - mean), G (P - mean of P);  V = mean of Y over the map.
// Layout     maps [n][h][w][c padded to 8] of T; V and a spread dX [n][1][1][c padded]; vectors float [c]; partials float.
// Mapping    256 threads = 8 vectors of 8 channels x 32 pixels; blockIdx.y a slab of 64 channels, blockIdx.x strides over pixels (the
//            average pool: blockIdx.x is the image).
// Numerics   float; sums of the rounded G.
// Cost       16 bytes a load, bound by memory: forward 3, backward 4 or 5 maps of traffic; not measured on a GPU yet.
// Tests      reference/join.c, reference/gap.c; conformance cases join_fwd, join_bwd, gap_fwd.
#pragma once
#include "device.cuh"

namespace anx {

template <class T> struct JoinForward {
  PerModel<const T> main, other;
  PerModel<const float> s, t, sp, tp;
  PerModel<T> y;
  int64_t pixels;
  int c;
};
template <class T> __global__ void __launch_bounds__(map_threads) join_forward(JoinForward<T> a) {
  const int cs = padded(a.c), c0 = blockIdx.y * slab + threadIdx.x % 8 * 8;
  if (c0 >= cs) return;
  float s[8], t[8], sp[8], tp[8];
  channel_values(s, a.s, c0, a.c);
  channel_values(t, a.t, c0, a.c);
  channel_values(sp, a.sp, c0, a.c);
  channel_values(tp, a.tp, c0, a.c);
  for (int64_t pixel = int64_t(blockIdx.x) * map_rows + threadIdx.x / 8; pixel < a.pixels; pixel += int64_t(gridDim.x) * map_rows) {
    const int64_t at = pixel * cs + c0;
    const Vector8<T> x = load8(a.main + at), z = a.other ? load8(a.other + at) : zero8<T>();
    Vector8<T> out;
#pragma unroll
    for (int i = 0; i < 8; i++) {
      float v = affine(s[i], to_float(x.v[i]), t[i]);
      const float other = to_float(z.v[i]);
      if (a.other) v += a.sp ? affine(sp[i], other, tp[i]) : other;
      out.v[i] = stored<T>(relu(v));
    }
    store8(a.y + at, out);
  }
}

template <class T> struct JoinBackward {
  PerModel<const T> dx, y, main, other;
  PerModel<const float> mean, mean_other;
  PerModel<T> g;
  PerModel<float> partial; // [gridDim.x][3][c]: sums of G, G (C - mean), G (P - mean of P)
  int64_t pixels;
  int c, map, broadcast; // map: pixels of an image
};
template <class T> __global__ void __launch_bounds__(map_threads) join_backward(JoinBackward<T> a) {
  ANX_SHARED(SlabShared<3>, shared);
  const int cs = padded(a.c), c0 = blockIdx.y * slab + threadIdx.x % 8 * 8;
  float sums[3][8] = {};
  if (c0 < cs) {
    float mean[8], mean_other[8];
    channel_values(mean, a.mean, c0, a.c);
    channel_values(mean_other, a.mean_other, c0, a.c);
    const float share = a.broadcast ? 1.f / float(a.map) : 1.f;
    for (int64_t pixel = int64_t(blockIdx.x) * map_rows + threadIdx.x / 8; pixel < a.pixels; pixel += int64_t(gridDim.x) * map_rows) {
      const int64_t at = pixel * cs + c0;
      const Vector8<T> d = load8(a.dx + (a.broadcast ? pixel / a.map * cs + c0 : at)), y = load8(a.y + at), x = load8(a.main + at);
      const Vector8<T> z = a.other ? load8(a.other + at) : zero8<T>();
      Vector8<T> out;
#pragma unroll
      for (int i = 0; i < 8; i++) {
        out.v[i] = stored<T>(to_float(y.v[i]) > 0.f ? to_float(d.v[i]) * share : 0.f);
        const float g = to_float(out.v[i]);
        sums[0][i] += g;
        sums[1][i] += g * (to_float(x.v[i]) - mean[i]);
        sums[2][i] += g * (to_float(z.v[i]) - mean_other[i]);
      }
      store8(a.g + at, out);
    }
  }
  slab_partials(shared, sums, a.partial, blockIdx.x, blockIdx.y * slab, a.c);
}

template <class T> struct AveragePool {
  PerModel<const T> y;
  PerModel<T> v;
  int map, c;
};
template <class T> __global__ void __launch_bounds__(map_threads) average_pool(AveragePool<T> a) {
  ANX_SHARED(SlabShared<1>, shared);
  const int cs = padded(a.c), first = blockIdx.y * slab, c0 = first + threadIdx.x % 8 * 8;
  float sum[8] = {};
  if (c0 < cs)
    for (int i = threadIdx.x / 8; i < a.map; i += map_rows) {
      const Vector8<T> y = load8(a.y + (int64_t(blockIdx.x) * a.map + i) * cs + c0);
#pragma unroll
      for (int k = 0; k < 8; k++) sum[k] += to_float(y.v[k]);
    }
#pragma unroll
  for (int k = 0; k < 8; k++) {
    sum[k] += __shfl_xor_sync(0xffffffffu, sum[k], 8);
    sum[k] += __shfl_xor_sync(0xffffffffu, sum[k], 16);
    if (threadIdx.x % 32 < 8) shared.sum[threadIdx.x / 32][0][threadIdx.x % 8 * 8 + k] = sum[k];
  }
  __syncthreads();
  const int c = first + int(threadIdx.x);
  if (threadIdx.x >= slab || c >= cs) return;
  float total = 0.f;
  for (int r = 0; r < 8; r++) total += shared.sum[r][0][threadIdx.x];
  a.v[int64_t(blockIdx.x) * cs + c] = stored<T>(total / float(a.map));
}

} // namespace anx
