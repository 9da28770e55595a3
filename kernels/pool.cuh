// pool.cuh - 3x3 stride 2 padding 1 max-pool of act(S) = ReLU(s S + t), and its backward.
//
// Computes   X0(n,p,q,c) = max of act(S) over the window;  G = sum of dX0 over the windows won here, where act(S) > 0, with its sums.
// Layout     S, G [n][h][w][c padded to 8], X0, dX0 [n][p][q][c padded]; vectors float [c]; partial float [blocks][2][c].
// Mapping    256 threads = 8 vectors of 8 channels x 32 pixels of the output (backward: of S, which looks at its at most 4 windows).
// Numerics   act in float, one rounding; the first of equal values in raster order wins, a NaN over all (reference/pool.c).
// Cost       forward reads S 9/4 times through the cache; backward up to 36 reads a pixel; bound by the cache; not measured yet.
// Tests      reference/pool.c; conformance cases pool_fwd and pool_bwd.
#pragma once
#include "device.cuh"

namespace anx {

template <class T> struct Pool {
  const T *map, *dx0; // S; backward: dX0
  const float *s, *t, *mean;
  T *out; // X0; backward: G
  float *partial;
  int n, h, w, c, p, q;
};

// Where (h << 16 | w) and what the greatest act of each channel in window (p, q) is.
template <class T>
__device__ __forceinline__ void pool_winner(const Pool<T> &a, const float (&s)[8], const float (&t)[8], int64_t image, int p, int q, int c0, int (&where)[8], float (&best)[8]) {
  const int cs = padded(a.c);
  bool first = true;
  for (int h = 2 * p - 1; h <= 2 * p + 1; h++)
    for (int w = 2 * q - 1; w <= 2 * q + 1; w++) {
      if (h < 0 || h >= a.h || w < 0 || w >= a.w) continue;
      const Vector8<T> x = load8(a.map + ((image * a.h + h) * a.w + w) * cs + c0);
#pragma unroll
      for (int i = 0; i < 8; i++) {
        const float v = relu(affine(s[i], to_float(x.v[i]), t[i]));
        if (first || v > best[i] || (v != v && best[i] == best[i])) {
          best[i] = v;
          where[i] = h << 16 | w;
        }
      }
      first = false;
    }
}

template <class T> __global__ void __launch_bounds__(map_threads) pool_forward(Pool<T> a) {
  const int cs = padded(a.c), c0 = blockIdx.y * slab + threadIdx.x % 8 * 8;
  if (c0 >= cs) return;
  float s[8], t[8];
  vector8(s, a.s, c0, a.c);
  vector8(t, a.t, c0, a.c);
  const int64_t pixels = int64_t(a.n) * a.p * a.q;
  for (int64_t pixel = int64_t(blockIdx.x) * map_rows + threadIdx.x / 8; pixel < pixels; pixel += int64_t(gridDim.x) * map_rows) {
    int where[8];
    float best[8];
    pool_winner(a, s, t, pixel / a.q / a.p, int(pixel / a.q % a.p), int(pixel % a.q), c0, where, best);
    Vector8<T> out;
#pragma unroll
    for (int i = 0; i < 8; i++) out.v[i] = stored<T>(best[i]);
    store8(a.out + pixel * cs + c0, out);
  }
}

template <class T> __global__ void __launch_bounds__(map_threads) pool_backward(Pool<T> a) {
  ANX_SHARED(SlabShared<2>, shared);
  const int cs = padded(a.c), c0 = blockIdx.y * slab + threadIdx.x % 8 * 8;
  float sums[2][8] = {};
  if (c0 < cs) {
    float s[8], t[8], mean[8];
    vector8(s, a.s, c0, a.c);
    vector8(t, a.t, c0, a.c);
    vector8(mean, a.mean, c0, a.c);
    const int64_t pixels = int64_t(a.n) * a.h * a.w;
    for (int64_t pixel = int64_t(blockIdx.x) * map_rows + threadIdx.x / 8; pixel < pixels; pixel += int64_t(gridDim.x) * map_rows) {
      const int w = int(pixel % a.w), h = int(pixel / a.w % a.h);
      const int64_t image = pixel / a.w / a.h;
      float g[8] = {};
      for (int p = h / 2; p <= (h + 1) / 2 && p < a.p; p++)
        for (int q = w / 2; q <= (w + 1) / 2 && q < a.q; q++) {
          int where[8];
          float best[8];
          pool_winner(a, s, t, image, p, q, c0, where, best);
          const Vector8<T> d = load8(a.dx0 + ((image * a.p + p) * a.q + q) * cs + c0);
#pragma unroll
          for (int i = 0; i < 8; i++)
            if (where[i] == (h << 16 | w)) g[i] += to_float(d.v[i]);
        }
      const Vector8<T> x = load8(a.map + pixel * cs + c0);
      Vector8<T> out;
#pragma unroll
      for (int i = 0; i < 8; i++) {
        const float raw = to_float(x.v[i]);
        out.v[i] = stored<T>(affine(s[i], raw, t[i]) > 0.f ? g[i] : 0.f);
        const float rounded = to_float(out.v[i]);
        sums[0][i] += rounded;
        sums[1][i] += rounded * (raw - mean[i]);
      }
      store8(a.out + pixel * cs + c0, out);
    }
  }
  slab_partials(shared, sums, a.partial, blockIdx.x, blockIdx.y * slab, a.c);
}

} // namespace anx
