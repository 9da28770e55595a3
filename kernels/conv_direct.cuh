// conv_direct.cuh - any convolution, forward and backward, on ordinary cores: the form for fp32, for verification and for shapes that the
// tensor-core kernels (conv_pointwise.cuh, conv_grouped.cuh) do not take.
//
// Computes   Y = conv(A, W) [+ bias], A = X or act(X);  dX = conv^T(D, W) [+ add], masked by act(X) > 0;  dW = correlation of A with D.
// Layout     X, dX, add [n][h][w][c padded to 8], Y, G [n][p][q][k padded], W, dW [k][r][r][g] float without padding; vectors float.
// Mapping    forward and input gradient: blocks of 256 threads, blockIdx.y a slab of 64 channels, blockIdx.x strides over pixels; a thread
//            makes 8 channels of a pixel. Weight gradient: a thread per filter element (and bias), blockIdx.y a range of pixels.
// Numerics   products and sums in float in the order tap, channel; a weight gradient's ranges are added in double, in order.
// Cost       bound by loads through the first cache, a load per multiply-add or so; not measured on a GPU yet.
// Tests      reference/conv.c; conformance cases conv_fwd and conv_bwd.
#pragma once
#include "conv.cuh"

namespace anx {

template <class T> __global__ void __launch_bounds__(map_threads) conv_direct_forward(ConvForward<T> a) {
  ANX_SHARED(SlabShared<2>, shared);
  const ConvShape s = a.shape;
  const int cs = padded(s.c), ks = padded(s.k), k0 = blockIdx.y * slab + threadIdx.x % 8 * 8, half = s.r / 2;
  const int64_t pixels = int64_t(s.n) * s.p * s.q;
  float sums[2][8] = {};
  if (k0 < ks)
    for (int64_t pixel = int64_t(blockIdx.x) * map_rows + threadIdx.x / 8; pixel < pixels; pixel += int64_t(gridDim.x) * map_rows) {
      const int q = int(pixel % s.q), p = int(pixel / s.q % s.p);
      const int64_t image = pixel / s.q / s.p;
      Vector8<T> out = zero8<T>();
      for (int i = 0; i < 8 && k0 + i < s.k; i++) {
        const int k = k0 + i, first = k / s.go * s.g;
        float sum = a.bias ? a.bias[k] : 0.f;
        for (int y = 0; y < s.r; y++) {
          const int h = p * s.stride + y - half;
          if (h < 0 || h >= s.h) continue;
          for (int x = 0; x < s.r; x++) {
            const int w = q * s.stride + x - half;
            if (w < 0 || w >= s.w) continue;
            const int64_t at = ((image * s.h + h) * s.w + w) * cs + first;
            const float *f = a.filter + ((int64_t(k) * s.r + y) * s.r + x) * s.g;
            for (int e = 0; e < s.g; e++) sum += f[e] * a.in.at(at + e, first + e);
          }
        }
        out.v[i] = stored<T>(sum);
        const float v = to_float(out.v[i]);
        sums[0][i] += v;
        sums[1][i] += v * v;
      }
      store8(a.y + pixel * ks + k0, out);
    }
  if (a.partial) slab_partials(shared, sums, a.partial, blockIdx.x, blockIdx.y * slab, s.k);
}

template <class T> __global__ void __launch_bounds__(map_threads) conv_direct_input_gradient(ConvInputGradient<T> a) {
  ANX_SHARED(SlabShared<2>, shared);
  const ConvShape s = a.shape;
  const int cs = padded(s.c), ks = padded(s.k), c0 = blockIdx.y * slab + threadIdx.x % 8 * 8, half = s.r / 2;
  const int64_t pixels = int64_t(s.n) * s.h * s.w;
  const Coefficients k8 = finish_coefficients(a, c0);
  float sums[2][8] = {};
  if (c0 < cs)
    for (int64_t pixel = int64_t(blockIdx.x) * map_rows + threadIdx.x / 8; pixel < pixels; pixel += int64_t(gridDim.x) * map_rows) {
      const int w = int(pixel % s.w), h = int(pixel / s.w % s.h);
      const int64_t image = pixel / s.w / s.h;
      float v[8] = {};
#pragma unroll
      for (int i = 0; i < 8; i++) {
        const int c = c0 + i;
        if (c >= s.c) continue;
        const int group = c / s.g, e = c % s.g;
        float sum = 0.f;
        for (int y = 0; y < s.r; y++) {
          const int ph = h + half - y;
          if (ph < 0 || ph % s.stride || ph / s.stride >= s.p) continue;
          for (int x = 0; x < s.r; x++) {
            const int qw = w + half - x;
            if (qw < 0 || qw % s.stride || qw / s.stride >= s.q) continue;
            const int64_t at = ((image * s.p + ph / s.stride) * s.q + qw / s.stride) * ks;
            for (int k = group * s.go; k < (group + 1) * s.go; k++)
              sum += a.filter[((int64_t(k) * s.r + y) * s.r + x) * s.g + e] * a.d.at(at + k, k);
          }
        }
        v[i] = sum;
      }
      finish(a, k8, pixel, c0, v, sums);
    }
  if (a.partial) slab_partials(shared, sums, a.partial, blockIdx.x, blockIdx.y * slab, s.c);
}

template <class T> __global__ void __launch_bounds__(256) conv_direct_filter_gradient(ConvFilterGradient<T> a) {
  const ConvShape s = a.shape;
  const int cs = padded(s.c), ks = padded(s.k), half = s.r / 2;
  const int64_t filters = int64_t(s.k) * s.r * s.r * s.g, values = filters + (a.bias ? s.k : 0);
  const int64_t f = int64_t(blockIdx.x) * 256 + threadIdx.x, pixels = int64_t(s.n) * s.p * s.q;
  if (f >= values) return;
  const bool bias = f >= filters;
  const int e = int(f % s.g), x = int(f / s.g % s.r), y = int(f / s.g / s.r % s.r), k = bias ? int(f - filters) : int(f / s.g / s.r / s.r);
  const int c = k / s.go * s.g + e;
  const int64_t first = int64_t(blockIdx.y) * a.per_range, end = first + a.per_range < pixels ? first + a.per_range : pixels;
  float sum = 0.f;
  for (int64_t pixel = first; pixel < end; pixel++) {
    const float d = a.d.at(pixel * ks + k, k);
    if (bias) {
      sum += d;
      continue;
    }
    const int w = int(pixel % s.q) * s.stride + x - half, h = int(pixel / s.q % s.p) * s.stride + y - half;
    if (h < 0 || h >= s.h || w < 0 || w >= s.w) continue;
    sum += d * a.in.at(((pixel / s.q / s.p * s.h + h) * s.w + w) * cs + c, c);
  }
  a.partial[blockIdx.y * values + f] = sum;
}

} // namespace anx
