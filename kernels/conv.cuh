// conv.cuh - the arguments of the convolution kernels, how they read their inputs and how a finished value leaves.
#pragma once
#include "device.cuh"

namespace anx {

// Up to four coefficients of neighbouring channels; where there is no affine nothing is applied.
template <int width> struct CoefficientsOf {
  float v[4][width];
};
using Coefficients = CoefficientsOf<8>;

template <class T> struct ConvForward {
  using Element = T;
  static constexpr bool backward = false;
  static constexpr int quantities = 2; // that are summed
  ConvShape shape;
  Input<T> in;
  PerModel<const float> filter, bias;
  PerModel<T> y;
  PerModel<float> partial; // [gridDim.x][2][k], or NULL
};

// What finishing some channels needs, the same for every pixel.
template <int width = 8, class T> __device__ __forceinline__ CoefficientsOf<width> finish_coefficients(const ConvForward<T> &a, int k0) {
  CoefficientsOf<width> k;
  channel_values(k.v[0], a.bias, k0, a.shape.k);
  return k;
}
// Finished values of Y: + bias, rounded; sums of the rounded values.
template <class T, int width>
__device__ __forceinline__ void finish(const ConvForward<T> &a, const CoefficientsOf<width> &k, int64_t pixel, int k0, float (&v)[width], float (&sums)[2][width]) {
  Vector<T, width> out = zero_vector<T, width>();
#pragma unroll
  for (int i = 0; i < width; i++) {
    if (k0 + i >= a.shape.k) continue;
    out.v[i] = stored<T>(v[i] + k.v[0][i]);
    const float rounded = to_float(out.v[i]);
    sums[0][i] += rounded;
    sums[1][i] += rounded * rounded;
  }
  store_vector(a.y + pixel * padded(a.shape.k) + k0, out);
}

// The end of a block (ANX_JOIN_FWD) and the convolution behind it: its input is made on load, and leaves as Y too.
template <class T> struct JoinedInput {
  PerModel<const T> main, other;
  PerModel<const float> s, t, sp, tp;
  PerModel<T> y;
};
template <class T> struct ConvJoinForward : ConvForward<T> { JoinedInput<T> joined; };

template <class T> struct ConvInputGradient {
  using Element = T;
  static constexpr bool backward = true;
  static constexpr int quantities = 2;
  ConvShape shape;
  Incoming<T> d;
  Input<T> in; // the mask is act(X) > 0 where s is given
  PerModel<const float> filter, mean;
  PerModel<const T> add;
  PerModel<T> dx;
  PerModel<float> partial; // [gridDim.x][2][c]: sums of dX and dX (X - mean); or NULL
};

template <int width = 8, class T> __device__ __forceinline__ CoefficientsOf<width> finish_coefficients(const ConvInputGradient<T> &a, int c0) {
  CoefficientsOf<width> k;
  channel_values(k.v[0], a.in.s, c0, a.shape.c);
  channel_values(k.v[1], a.in.t, c0, a.shape.c);
  channel_values(k.v[2], a.mean, c0, a.shape.c);
  return k;
}
// Finished values of dX: + add, masked, rounded; their sums.
template <class T, int width>
__device__ __forceinline__ void finish(const ConvInputGradient<T> &a, const CoefficientsOf<width> &k, int64_t pixel, int c0, float (&v)[width], float (&sums)[2][width]) {
  const int cs = padded(a.shape.c);
  const int64_t at = pixel * cs + c0;
  Vector<T, width> out = zero_vector<T, width>(), x = zero_vector<T, width>(), add = zero_vector<T, width>();
  if (a.in.s || a.partial) x = load_vector<width>(a.in.x + at);
  if (a.add) add = load_vector<width>(a.add + at);
#pragma unroll
  for (int i = 0; i < width; i++) {
    if (c0 + i >= a.shape.c) continue;
    float value = v[i] + to_float(add.v[i]);
    const float raw = to_float(x.v[i]);
    if (a.in.s && !(affine(k.v[0][i], raw, k.v[1][i]) > 0.f)) value = 0.f;
    out.v[i] = stored<T>(value);
    if (a.partial) {
      const float rounded = to_float(out.v[i]);
      sums[0][i] += rounded;
      sums[1][i] += rounded * (raw - k.v[2][i]);
    }
  }
  store_vector(a.dx + at, out);
}

// The input gradient of a block's first convolution and, with it, the end of the block before (ANX_JOIN_BWD), whose output X is: G = dX + add,
// rounded, where X > 0, else 0.
template <class T> struct ConvBlockGradient : ConvInputGradient<T> {
  static constexpr int quantities = 3; // partial [gridDim.x][3][c]: sums of G, G (C - mean), G (P - mean of P)
  PerModel<const T> main, other;
  PerModel<const float> mean_other;
};

template <int width = 8, class T> __device__ __forceinline__ CoefficientsOf<width> finish_coefficients(const ConvBlockGradient<T> &a, int c0) {
  CoefficientsOf<width> k;
  channel_values(k.v[0], a.mean, c0, a.shape.c);
  channel_values(k.v[1], a.mean_other, c0, a.shape.c);
  return k;
}
template <class T, int width>
__device__ __forceinline__ void finish(const ConvBlockGradient<T> &a, const CoefficientsOf<width> &k, int64_t pixel, int c0, float (&v)[width], float (&sums)[3][width]) {
  const int64_t at = pixel * padded(a.shape.c) + c0;
  const Vector<T, width> x = load_vector<width>(a.in.x + at), main = load_vector<width>(a.main + at);
  const Vector<T, width> add = a.add ? load_vector<width>(a.add + at) : zero_vector<T, width>(), other = a.other ? load_vector<width>(a.other + at) : zero_vector<T, width>();
  Vector<T, width> out = zero_vector<T, width>();
#pragma unroll
  for (int i = 0; i < width; i++) {
    if (c0 + i >= a.shape.c || !(to_float(x.v[i]) > 0.f)) continue;
    out.v[i] = stored<T>(v[i] + to_float(add.v[i]));
    const float g = to_float(out.v[i]);
    sums[0][i] += g;
    sums[1][i] += g * (to_float(main.v[i]) - k.v[0][i]);
    sums[2][i] += g * (to_float(other.v[i]) - k.v[1][i]);
  }
  store_vector(a.dx + at, out);
}

template <class T> struct ConvFilterGradient {
  ConvShape shape;
  Incoming<T> d;
  Input<T> in;
  PerModel<float> partial; // [ranges][k r r g (+ k where there is a bias)]
  int64_t per_range;  // pixels of n p q
  int bias;
};

template <class T> __device__ __forceinline__ void coefficients(Coefficients &k, const Input<T> &in, int c0, int channels) {
  channel_values(k.v[0], in.s, c0, channels);
  channel_values(k.v[1], in.t, c0, channels);
}
template <class T> __device__ __forceinline__ void coefficients(Coefficients &k, const Incoming<T> &d, int k0, int channels) {
  channel_values(k.v[0], d.al, k0, channels);
  channel_values(k.v[1], d.be, k0, channels);
  channel_values(k.v[2], d.de, k0, channels);
}
// act(X), or D, of 8 channels, rounded to the storage type for the tensor cores.
template <class T> __device__ __forceinline__ Vector8<T> activated(const Input<T> &in, const Coefficients &k, Vector8<T> x, Vector8<T>) {
  if (!in.s) return x;
#pragma unroll
  for (int i = 0; i < 8; i++) x.v[i] = stored<T>(relu(affine(k.v[0][i], to_float(x.v[i]), k.v[1][i])));
  return x;
}
template <class T> __device__ __forceinline__ Vector8<T> activated(const Incoming<T> &d, const Coefficients &k, Vector8<T> g, Vector8<T> y) {
  if (!d.al) return g;
#pragma unroll
  for (int i = 0; i < 8; i++) g.v[i] = stored<T>(fmaf(k.v[0][i], to_float(g.v[i]), fmaf(k.v[1][i], to_float(y.v[i]), k.v[2][i])));
  return g;
}
template <int width, class T> __device__ __forceinline__ void coefficients(CoefficientsOf<width> &k, const JoinedInput<T> &in, int c0, int channels) {
  channel_values(k.v[0], in.s, c0, channels);
  channel_values(k.v[1], in.t, c0, channels);
  channel_values(k.v[2], in.sp, c0, channels);
  channel_values(k.v[3], in.tp, c0, channels);
}
template <class T, int width>
__device__ __forceinline__ Vector<T, width> activated(const JoinedInput<T> &in, const CoefficientsOf<width> &k, Vector<T, width> x, Vector<T, width> other) {
#pragma unroll
  for (int i = 0; i < width; i++) {
    float v = affine(k.v[0][i], to_float(x.v[i]), k.v[1][i]);
    const float z = to_float(other.v[i]);
    if (in.other) v += in.sp ? affine(k.v[2][i], z, k.v[3][i]) : z;
    x.v[i] = stored<T>(relu(v));
  }
  return x;
}
template <class T> __device__ __forceinline__ Vector8<T> raw8(const JoinedInput<T> &in, int64_t at) { return load8(in.main + at); }
template <class T> __device__ __forceinline__ Vector8<T> second8(const JoinedInput<T> &in, int64_t at) { return in.other ? load8(in.other + at) : zero8<T>(); }
template <class T> __device__ __forceinline__ Vector8<T> raw8(const Input<T> &in, int64_t at) { return load8(in.x + at); }
template <class T> __device__ __forceinline__ Vector8<T> raw8(const Incoming<T> &d, int64_t at) { return load8(d.grad + at); }
template <class T> __device__ __forceinline__ Vector8<T> second8(const Input<T> &, int64_t) { return zero8<T>(); }
template <class T> __device__ __forceinline__ Vector8<T> second8(const Incoming<T> &d, int64_t at) { return d.al ? load8(d.y + at) : zero8<T>(); }

} // namespace anx
