// pool.cuh - 3x3 stride 2 padding 1 max-pool of act(S) = ReLU(s S + t), and its backward.
//
// Computes   X0(n,p,q,c) = max of act(S) over the window;  G = sum of dX0 over the windows won here, where act(S) > 0, with its sums. Where
//            the stem's filter gradient makes G itself (conv_stem.cuh) the winners of windows leave instead, a byte each.
// Layout     S, G [n][h][w][c padded to 8], X0, dX0 [n][p][q][c padded]; vectors float [c]; partial float [blocks][2][c].
// Mapping    256 threads = 8 vectors of 8 channels x 32 pixels of the output. Backward: a block strides over tiles of 16 x 16 pixels of S; first
//            the winners of their windows go to shared memory with dX0, then every pixel looks at its at most 4 windows there.
// Numerics   act in float, one rounding; the first of equal values in raster order wins, a NaN over all (reference/pool.c).
// Cost       reads a pixel of S 9/4 times through the cache forward, 81/64 9/4 + 1 times backward; not measured on a GPU yet.
// Tests      reference/pool.c; conformance cases pool_fwd and pool_bwd.
#pragma once
#include "device.cuh"

namespace anx {

template <class T> struct Pool {
  PerModel<const T> map, dx0; // S; backward: dX0
  PerModel<const float> s, t, mean;
  PerModel<T> out; // X0; backward: G, or
  PerModel<unsigned char> winners; // [n][p][q][c padded]: 3 y + x in the window; pool_nobody where act(S) is 0
  PerModel<float> partial;
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
  channel_values(s, a.s, c0, a.c);
  channel_values(t, a.t, c0, a.c);
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

constexpr unsigned char pool_nobody = 255;
union Winners {
  unsigned char v[8];
  uint2 words;
};
// Of windows in shared memory, `across` a row, a slab of channels each: what of dX0 pixel (y, x) has won, added in raster order; y and x from
// the pixel in the middle of the first window, which are even in the map. 8 channels, from `vector` of the slab on.
template <class T>
__device__ __forceinline__ void pool_gather(float (&g)[8], const T (*d)[slab], const unsigned char (*winner)[slab], int across, int y, int x, int vector) {
#pragma unroll 1
  for (int p = y / 2; p <= (y + 1) / 2; p++)
#pragma unroll 1
    for (int q = x / 2; q <= (x + 1) / 2; q++) {
      const int slot = p * across + q, mine = (y - 2 * p + 1) * 3 + x - 2 * q + 1;
      Winners winners;
      winners.words = *reinterpret_cast<const uint2 *>(&winner[slot][vector]);
      const Vector8<T> v = load8(&d[slot][vector]);
#pragma unroll
      for (int k = 0; k < 8; k++)
        if (winners.v[k] == mine) g[k] += to_float(v.v[k]);
    }
}

// Windows of a tile: those of 8 x 8 and, below and to the right, those that reach into its 16 x 16 pixels of S.
constexpr int pool_tile = 16, pool_windows = pool_tile / 2 + 1;
template <class T> union PoolShared {
  struct {
    T d[pool_windows * pool_windows][slab];                   // dX0
    unsigned char winner[pool_windows * pool_windows][slab]; // pool_nobody outside the map
  };
  SlabShared<2> sums;
};

template <class T> __global__ void __launch_bounds__(map_threads) pool_backward(Pool<T> a) {
  ANX_SHARED(PoolShared<T>, shared);
  const int cs = padded(a.c), vector = threadIdx.x % 8 * 8, c0 = blockIdx.y * slab + vector;
  float sums[2][8] = {}, s[8], t[8], mean[8];
  channel_values(s, a.s, c0, a.c);
  channel_values(t, a.t, c0, a.c);
  channel_values(mean, a.mean, c0, a.c);
  const int across = (a.w + pool_tile - 1) / pool_tile, down = (a.h + pool_tile - 1) / pool_tile;
  const int64_t tiles = int64_t(a.n) * across * down;
  for (int64_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
    const int64_t image = tile / across / down;
    const int h0 = int(tile / across % down) * pool_tile, w0 = int(tile % across) * pool_tile;
    __syncthreads(); // the tile before is done with
    for (int slot = threadIdx.x / 8; slot < pool_windows * pool_windows && c0 < cs; slot += map_rows) {
      const int p = h0 / 2 + slot / pool_windows, q = w0 / 2 + slot % pool_windows;
      Winners winner;
      winner.words = {0xffffffffu, 0xffffffffu};
      if (p < a.p && q < a.q) {
        int where[8];
        float best[8];
        pool_winner(a, s, t, image, p, q, c0, where, best);
#pragma unroll
        for (int i = 0; i < 8; i++)
          if (best[i] > 0.f) winner.v[i] = static_cast<unsigned char>(((where[i] >> 16) - 2 * p + 1) * 3 + (where[i] & 0xffff) - 2 * q + 1);
        const int64_t at = ((image * a.p + p) * a.q + q) * cs + c0;
        store8(&shared.d[slot][vector], load8(a.dx0 + at));
        if (a.winners && slot / pool_windows < pool_tile / 2 && slot % pool_windows < pool_tile / 2) *reinterpret_cast<uint2 *>(a.winners + at) = winner.words;
      }
      *reinterpret_cast<uint2 *>(&shared.winner[slot][vector]) = winner.words;
    }
    __syncthreads();
    for (int i = threadIdx.x / 8; i < pool_tile * pool_tile && c0 < cs; i += map_rows) {
      const int y = i / pool_tile, x = i % pool_tile;
      if (h0 + y >= a.h || w0 + x >= a.w) continue;
      float g[8] = {};
      pool_gather(g, shared.d, shared.winner, pool_windows, y, x, vector);
      const int64_t at = ((image * a.h + h0 + y) * a.w + w0 + x) * cs + c0;
      const Vector8<T> raw = load8(a.map + at);
      Vector8<T> out;
#pragma unroll
      for (int k = 0; k < 8; k++) {
        const float v = to_float(raw.v[k]);
        out.v[k] = stored<T>(g[k]);
        const float rounded = to_float(out.v[k]);
        sums[0][k] += rounded;
        sums[1][k] += rounded * (v - mean[k]);
      }
      if (a.out) store8(a.out + at, out);
    }
  }
  __syncthreads();
  slab_partials(shared.sums, sums, a.partial, blockIdx.x, blockIdx.y * slab, a.c);
}

} // namespace anx
