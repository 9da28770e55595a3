// Convolutions: which kernel takes which shape. This is the one place of that choice.
#include <algorithm>
#include "conv_direct.cuh"
#include "conv_pointwise.cuh"
#include "emit.h"
#include "reduce.cuh"

namespace anx_cuda {

using namespace anx;

static int ceil_divide(int64_t a, int64_t b) { return int((a + b - 1) / b); }
static int slabs(int c) { return ceil_divide(padded(c), slab); }

static ConvShape shape_of(const anx_op *o) {
  return {o->n, o->h, o->w, o->c, o->p, o->q, o->k, o->r, o->stride, o->group, o->k / (o->c / o->group)};
}

// What tensor cores take; everything else goes to the direct kernels.
template <class T> static bool pointwise(const Emitter &e, const ConvShape &s) {
  return sizeof(T) == 2 && e.context->sm >= 80 && s.r == 1 && s.g == s.c;
}

// Blocks over tiles of pixels beside `columns` tiles of channels: four a multiprocessor fill it.
static int tile_blocks(const anx_context *c, int64_t tiles, int columns) {
  return int(std::min<int64_t>({tiles, std::max(1, c->info.units * 8 / columns), 65535}));
}

template <class T> anx_status Emitter::conv_forward() {
  const ConvShape s = shape_of(op);
  const int columns = slabs(s.k);
  const int64_t pixels = int64_t(s.n) * s.p * s.q;
  const bool tensor_cores = pointwise<T>(*this, s);
  const int rows = tensor_cores ? tile_blocks(context, ceil_divide(pixels, pointwise_rows), columns) : blocks(pixels, columns);
  ConvForward<T> a{s, {in<T>(0), in<float>(1), in<float>(2)}, in<float>(3), in<float>(4), out<T>(0), nullptr};
  if (op->out[1] >= 0) a.partial = scratch<float>(uint64_t(rows) * 2 * s.k);
  if constexpr (sizeof(T) == 2) {
    if (tensor_cores) launch("conv_pointwise_forward", conv_pointwise<T, false>, dim3(columns, rows), pointwise_threads, sizeof(PointwiseShared<T>), a);
  }
  if (!tensor_cores) launch("conv_direct_forward", conv_direct_forward<T>, dim3(rows, columns), map_threads, sizeof(SlabShared<2>), a);
  if (op->out[1] >= 0) reduce_partials(a.partial, rows, 2, 1, s.k, out<double>(1));
  return ANX_OK;
}

template <class T> void Emitter::input_gradient(const ConvShape &s) {
  const int columns = slabs(s.c);
  const int64_t pixels = int64_t(s.n) * s.h * s.w;
  const bool tensor_cores = pointwise<T>(*this, s);
  const int rows = tensor_cores ? tile_blocks(context, ceil_divide(pixels, pointwise_rows), columns) : blocks(pixels, columns);
  ConvInputGradient<T> a{s, {in<T>(0), in<T>(1), in<float>(2), in<float>(3), in<float>(4)}, {in<T>(5), in<float>(6), in<float>(7)}, in<float>(9),
                         in<float>(8), in<T>(10), out<T>(0), nullptr};
  if (op->out[3] >= 0) a.partial = scratch<float>(uint64_t(rows) * 2 * s.c);
  if constexpr (sizeof(T) == 2) {
    if (tensor_cores) launch("conv_pointwise_input_gradient", conv_pointwise<T, true>, dim3(columns, rows), pointwise_threads, sizeof(PointwiseShared<T>), a);
  }
  if (!tensor_cores) launch("conv_direct_input_gradient", conv_direct_input_gradient<T>, dim3(rows, columns), map_threads, sizeof(SlabShared<2>), a);
  if (op->out[3] >= 0) reduce_partials(a.partial, rows, 2, 1, s.c, out<double>(3));
  used = 0; // the filter gradient may take the same workspace: the stream keeps them apart
}

template <class T> void Emitter::filter_gradient(const ConvShape &s) {
  const int64_t pixels = int64_t(s.n) * s.p * s.q, filters = int64_t(s.k) * s.r * s.r * s.g, values = filters + (op->out[2] >= 0 ? s.k : 0);
  ConvFilterGradient<T> a{s, {in<T>(0), in<T>(1), in<float>(2), in<float>(3), in<float>(4)}, {in<T>(5), in<float>(6), in<float>(7)}, nullptr, 0, op->out[2] >= 0};
  const bool tensor_cores = pointwise<T>(*this, s) && op->out[2] < 0;
  const int columns = tensor_cores ? ceil_divide(s.k, 64) * ceil_divide(s.c, 64) : ceil_divide(values, 256), step = tensor_cores ? 32 : 64;
  int ranges = int(std::min<int64_t>({(pixels + step - 1) / step, std::max(1, context->info.units * 8 / columns), 4096}));
  a.per_range = ((pixels + ranges - 1) / ranges + step - 1) / step * step;
  ranges = ceil_divide(pixels, a.per_range);
  a.partial = scratch<float>(uint64_t(ranges) * uint64_t(values));
  if constexpr (sizeof(T) == 2) {
    if (tensor_cores)
      launch("conv_pointwise_filter_gradient", conv_pointwise_filter_gradient<T>, dim3(columns, ranges), pointwise_threads, pointwise_filter_shared<T>, a);
  }
  if (!tensor_cores) launch("conv_direct_filter_gradient", conv_direct_filter_gradient<T>, dim3(columns, ranges), 256, 0, a);
  launch("reduce_filters", reduce_filters<void>, dim3(ceil_divide(values, 32)), 256, sizeof(ReduceShared),
         ReduceFilters{a.partial, ranges, filters, values, out<float>(1), out<float>(2)});
}

template <class T> anx_status Emitter::conv_backward() {
  const ConvShape s = shape_of(op);
  if (op->out[0] >= 0) input_gradient<T>(s);
  filter_gradient<T>(s);
  return ANX_OK;
}

template anx_status Emitter::conv_forward<float>();
template anx_status Emitter::conv_forward<__half>();
template anx_status Emitter::conv_forward<__nv_bfloat16>();
template anx_status Emitter::conv_backward<float>();
template anx_status Emitter::conv_backward<__half>();
template anx_status Emitter::conv_backward<__nv_bfloat16>();

} // namespace anx_cuda
