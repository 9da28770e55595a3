// conv_stem.cuh - convolutions of an image: so few channels that all taps and channels are one depth of a product; 16-bit storage.
//
// Computes   Y = conv(X, W) [+ bias] with sums; dW = correlation of X with D, D = al G + be Y + de on load.
// Layout     X [n][h][w][8] of T, of which c <= 4 count; Y, G [n][p][q][k padded to 8] of T; W, dW float [k][r][r][c]; partials float [ranges][k][r r c].
// Mapping    256 threads make tiles of 8 x 16 output pixels x 64 channels; blockIdx.x is the slab of channels, blockIdx.y strides over tiles. What a
//            pixel's filter sees lies in shared memory as a row of r r c values, zeros outside the map. Forward: a warp makes 16 pixels x 64
//            channels. Filter gradient: a warp keeps 32 k x 48 of (tap, channel); where fewer warps hold all of it, groups of them share out the
//            pixels and are added in order at the end.
// Numerics   products of T (W rounded to T), sums in float; over ranges in double (reduce.cuh).
// Cost       reads X once and, backward, G and Y once: conv_grouped takes 3 passes for 7x7 and 8/3 of the products. Not measured on a GPU yet.
// Tests      reference/conv.c; conformance cases conv_fwd and conv_bwd with 3 channels, in f16 and bf16.
#pragma once
#include "conv_pointwise.cuh"

namespace anx {

constexpr int stem_rows = 8, stem_wide = 16, stem_pixels = stem_rows * stem_wide, stem_threads = 256, stem_depth_most = 160, stem_own_pitch = 72,
              stem_out_pitch = 68, stem_part_k = 32, stem_part_depth = 48;

struct StemTile {
  int depth, depth16, pitch;     // r r c; rounded up to the depth of a product; of a pixel's row, an odd multiple of 16 bytes
  int across, down, tiles;       // over a map and in all
  int parts_across, parts, groups; // of a filter gradient: parts of the depth, of 64 channels, and groups of warps that hold all parts
};
template <class Conv> struct Stem {
  Conv conv; // ConvForward or ConvFilterGradient
  StemTile tile;
};

// Fills rows[pixel]: two threads a pixel, every other tap each.
template <class T>
__device__ __forceinline__ void stem_load(T *rows, const StemTile &t, const ConvShape &s, const T *x, int64_t image, int row0, int column0) {
  const int pixel = threadIdx.x / 2, p = row0 + pixel / stem_wide, q = column0 + pixel % stem_wide, h0 = p * s.stride - s.r / 2, w0 = q * s.stride - s.r / 2;
  const bool inside = p < s.p && q < s.q;
  T *to = rows + pixel * t.pitch;
  for (int j = t.depth + int(threadIdx.x) % 2; j < t.depth16; j += 2) to[j] = stored<T>(0.f);
  to += int(threadIdx.x) % 2 * s.c;
#pragma unroll 4
  for (int tap = threadIdx.x % 2; tap < s.r * s.r; tap += 2, to += 2 * s.c) {
    const int h = h0 + tap / s.r, w = w0 + tap % s.r;
    Vector<T, 4> v = zero_vector<T, 4>();
    if (inside && h >= 0 && h < s.h && w >= 0 && w < s.w) v = load_vector<4>(x + ((image * s.h + h) * s.w + w) * 8);
#pragma unroll
    for (int e = 0; e < 4; e++)
      if (e < s.c) to[e] = v.v[e];
  }
}

template <class T> __global__ void __launch_bounds__(stem_threads, 2) conv_stem_forward(Stem<ConvForward<T>> a) {
  ANX_ONLY(Sm80);
  ANX_SHARED(unsigned char, memory);
  const ConvShape &s = a.conv.shape;
  const StemTile &t = a.tile;
  T *const filters = reinterpret_cast<T *>(&memory), *const rows = filters + slab * t.pitch;
  float *const staged = reinterpret_cast<float *>(rows); // finished values take the place of the rows
  const int thread = threadIdx.x, warp = thread / 32, lane = thread % 32, k0 = blockIdx.x * slab, own = k0 + thread % 8 * 8;
  for (int i = thread; i < slab * t.depth16; i += stem_threads) {
    const int o = i / t.depth16, j = i % t.depth16;
    filters[o * t.pitch + j] = stored<T>(k0 + o < s.k && j < t.depth ? a.conv.filter[int64_t(k0 + o) * t.depth + j] : 0.f);
  }
  float sums[2][8] = {};
  for (int tile = blockIdx.y; tile < t.tiles; tile += gridDim.y) {
    const int column0 = tile % t.across * stem_wide, row0 = tile / t.across % t.down * stem_rows;
    const int64_t image = tile / t.across / t.down;
    __syncthreads(); // filters are there; the staged tile before has been read
    stem_load<T>(rows, t, s, a.conv.in.x, image, row0, column0);
    __syncthreads();
    float acc[8][4] = {};
#pragma unroll 1
    for (int j = 0; j < t.depth16; j += 16) {
      uint32_t af[4], bf[4];
      ldmatrix(4, af, rows + (warp * 16 + lane % 16) * t.pitch + j + lane / 16 * 8);
#pragma unroll
      for (int n = 0; n < 8; n += 2) {
        ldmatrix(4, bf, filters + (n * 8 + lane / 16 * 8 + lane % 8) * t.pitch + j + lane / 8 % 2 * 8);
        mma_k16<T>(acc[n], af, bf);
        mma_k16<T>(acc[n + 1], af, bf + 2);
      }
    }
    __syncthreads(); // rows have been read
#pragma unroll
    for (int n = 0; n < 8; n++)
#pragma unroll
      for (int i = 0; i < 4; i++) staged[(warp * 16 + lane / 4 + i / 2 * 8) * stem_out_pitch + n * 8 + lane % 4 * 2 + i % 2] = acc[n][i];
    __syncthreads();
    const Coefficients k8 = finish_coefficients(a.conv, own);
#pragma unroll 1
    for (int pixel = thread / 8; pixel < stem_pixels; pixel += stem_threads / 8) {
      const int p = row0 + pixel / stem_wide, q = column0 + pixel % stem_wide;
      if (p >= s.p || q >= s.q || own >= padded(s.k)) continue;
      float v[8];
#pragma unroll
      for (int i = 0; i < 8; i++) v[i] = staged[pixel * stem_out_pitch + thread % 8 * 8 + i];
      finish(a.conv, k8, (image * s.p + p) * s.q + q, own, v, sums);
    }
  }
  __syncthreads();
  if (a.conv.partial) slab_partials(reinterpret_cast<SlabShared<2> &>(*staged), sums, a.conv.partial, blockIdx.y, k0, s.k);
}

template <class T> __global__ void __launch_bounds__(stem_threads, 2) conv_stem_filter_gradient(Stem<ConvFilterGradient<T>> a) {
  ANX_ONLY(Sm80);
  ANX_SHARED(unsigned char, memory);
  const ConvShape &s = a.conv.shape;
  const StemTile &t = a.tile;
  T *const deltas = reinterpret_cast<T *>(&memory), *const rows = deltas + stem_pixels * stem_own_pitch;
  const int thread = threadIdx.x, warp = thread / 32, lane = thread % 32, vector = thread % 8 * 8, k0 = blockIdx.x * slab, ks = padded(s.k);
  const int group = warp / t.parts, part_k = warp % t.parts / t.parts_across * stem_part_k, part_j = warp % t.parts % t.parts_across * stem_part_depth;
  float acc[2][6][4] = {};
  for (int tile = blockIdx.y; tile < t.tiles; tile += gridDim.y) {
    const int column0 = tile % t.across * stem_wide, row0 = tile / t.across % t.down * stem_rows;
    const int64_t image = tile / t.across / t.down;
    __syncthreads(); // the tile before has been read
    stem_load<T>(rows, t, s, a.conv.in.x, image, row0, column0);
    Coefficients k;
    coefficients(k, a.conv.d, k0 + vector, s.k);
#pragma unroll
    for (int i = 0; i < stem_pixels / 32; i++) {
      const int pixel = thread / 8 + i * 32, p = row0 + pixel / stem_wide, q = column0 + pixel % stem_wide;
      Vector8<T> v = zero8<T>();
      if (p < s.p && q < s.q && k0 + vector < ks) {
        const int64_t at = ((image * s.p + p) * s.q + q) * ks + k0 + vector;
        v = activated(a.conv.d, k, raw8(a.conv.d, at), second8(a.conv.d, at));
      }
      store8(deltas + pixel * stem_own_pitch + vector, v);
    }
    __syncthreads();
#pragma unroll 1
    for (int pixel = group * 16; pixel < stem_pixels && group < t.groups; pixel += t.groups * 16) {
      uint32_t af[2][4], bf[4];
#pragma unroll
      for (int m = 0; m < 2; m++)
        ldmatrix_transposed(4, af[m], deltas + (pixel + lane / 16 * 8 + lane % 8) * stem_own_pitch + part_k + m * 16 + lane / 8 % 2 * 8);
#pragma unroll
      for (int n = 0; n < 6; n += 2) { // a part that reaches beyond the depth repeats its end and does not leave it
        const int j = part_j + n * 8 < t.depth16 - 16 ? part_j + n * 8 : t.depth16 - 16;
        ldmatrix_transposed(4, bf, rows + (pixel + lane / 8 % 2 * 8 + lane % 8) * t.pitch + j + lane / 16 * 8);
#pragma unroll
        for (int m = 0; m < 2; m++) {
          mma_k16<T>(acc[m][n], af[m], bf);
          mma_k16<T>(acc[m][n + 1], af[m], bf + 2);
        }
      }
    }
  }
  __syncthreads();
  // The groups' sums, added in order.
  float *const whole = reinterpret_cast<float *>(&memory), *const mine = whole + (part_k + lane / 4) * t.depth16 + part_j + lane % 4 * 2;
#pragma unroll 1
  for (int g = 0; g < t.groups; g++) {
    if (group == g)
#pragma unroll
      for (int m = 0; m < 2; m++)
#pragma unroll
        for (int n = 0; n < 6; n++)
          if (part_j + n * 8 < t.depth16)
#pragma unroll
            for (int i = 0; i < 4; i++) {
              float &at = mine[(m * 16 + i / 2 * 8) * t.depth16 + n * 8 + i % 2];
              at = g ? at + acc[m][n][i] : acc[m][n][i];
            }
    __syncthreads();
  }
  float *const partial = a.conv.partial + int64_t(blockIdx.y) * s.k * t.depth;
  for (int i = thread; i < slab * t.depth; i += stem_threads) {
    const int o = i / t.depth, j = i % t.depth;
    if (k0 + o < s.k) partial[int64_t(k0 + o) * t.depth + j] = whole[o * t.depth16 + j];
  }
}

} // namespace anx
