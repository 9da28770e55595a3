// conv_library.cuh - what a convolution of a library (cuDNN) needs around it, which our own kernels do on load and store.
//
// Computes   before: act(X) or D, rounded, as a map of its own; filters fp32 -> T, padded by zeros. Behind: Y + bias with sums; dX + add,
//            masked, with sums; filter gradients T -> fp32.
// Layout     maps [n][h][w][c padded to 8]; filters fp32 [k][r][r][g] and T [k padded][r][r][pitch]; partial float [blocks][2][c].
// Mapping    maps: 256 threads = 8 vectors of 8 channels x 32 pixels, blockIdx.y a slab of 64 channels. Filters: a thread a value.
// Numerics   as conv.cuh, but dX is rounded once more, and a filter gradient to T: a baseline, not a way to train.
// Cost       one pass over a map each, which is what fusing saves; not measured on a GPU yet.
// Tests      every dense conformance case in f16 and bf16 against the harness's cuDNN (cuda/verify/cudnn_test.go).
#pragma once
#include "conv.cuh"

namespace anx {

template <class Source, class T> struct Before {
  Source from;
  T *to;
  int64_t pixels;
  int c;
};
template <class Source, class T> __global__ void __launch_bounds__(map_threads) library_input(Before<Source, T> a) {
  const int cs = padded(a.c), c0 = blockIdx.y * slab + threadIdx.x % 8 * 8;
  if (c0 >= cs) return;
  Coefficients k;
  coefficients(k, a.from, c0, a.c);
  for (int64_t pixel = int64_t(blockIdx.x) * map_rows + threadIdx.x / 8; pixel < a.pixels; pixel += int64_t(gridDim.x) * map_rows) {
    const int64_t at = pixel * cs + c0;
    store8(a.to + at, activated(a.from, k, raw8(a.from, at), second8(a.from, at)));
  }
}

// In place: the map holds what the library wrote.
template <class Arguments> struct Behind {
  Arguments conv; // ConvForward or ConvInputGradient
  const typename Arguments::Element *raw;
  int64_t pixels;
  int c;
};
template <class Arguments> __global__ void __launch_bounds__(map_threads, 2) library_output(Behind<Arguments> a) {
  ANX_SHARED(SlabShared<2>, shared);
  const int cs = padded(a.c), c0 = blockIdx.y * slab + threadIdx.x % 8 * 8;
  float sums[2][8] = {};
  if (c0 < cs) {
    const Coefficients k = finish_coefficients(a.conv, c0);
    for (int64_t pixel = int64_t(blockIdx.x) * map_rows + threadIdx.x / 8; pixel < a.pixels; pixel += int64_t(gridDim.x) * map_rows) {
      const auto raw = load8(a.raw + pixel * cs + c0);
      float v[8];
#pragma unroll
      for (int i = 0; i < 8; i++) v[i] = to_float(raw.v[i]);
      finish(a.conv, k, pixel, c0, v, sums);
    }
  }
  if (a.conv.partial) slab_partials(shared, sums, a.conv.partial, blockIdx.x, blockIdx.y * slab, a.c);
}

template <class T> struct LibraryFilters {
  float *filter; // [k][taps][g]
  T *padded;     // [rows][taps][pitch]
  int k, taps, g, rows, pitch;
};
template <class T> __global__ void __launch_bounds__(256) library_filters(LibraryFilters<T> a) {
  const int64_t count = int64_t(a.rows) * a.taps * a.pitch;
  for (int64_t i = int64_t(blockIdx.x) * 256 + threadIdx.x; i < count; i += int64_t(gridDim.x) * 256) {
    const int c = int(i % a.pitch);
    const int64_t row = i / a.pitch; // of k and taps
    a.padded[i] = stored<T>(c < a.g && row < int64_t(a.k) * a.taps ? a.filter[row * a.g + c] : 0.f);
  }
}
template <class T> __global__ void __launch_bounds__(256) library_filter_gradient(LibraryFilters<T> a) {
  const int64_t count = int64_t(a.k) * a.taps * a.g;
  for (int64_t i = int64_t(blockIdx.x) * 256 + threadIdx.x; i < count; i += int64_t(gridDim.x) * 256) a.filter[i] = to_float(a.padded[i / a.g * a.pitch + i % a.g]);
}

} // namespace anx
