// Convolutions: which kernel takes which shape. This is the one place of that choice.
#include <algorithm>
#include "conv_direct.cuh"
#include "emit.h"
#include "reduce.cuh"

namespace anx_cuda {

using namespace anx;

static int ceil_divide(int64_t a, int64_t b) { return int((a + b - 1) / b); }
static int slabs(int c) { return ceil_divide(padded(c), slab); }

static ConvShape shape_of(const anx_op *o) {
  return {o->n, o->h, o->w, o->c, o->p, o->q, o->k, o->r, o->stride, o->group, o->k / (o->c / o->group)};
}

template <class T> anx_status Emitter::conv_forward() {
  const ConvShape s = shape_of(op);
  const int columns = slabs(s.k);
  ConvForward<T> a{s, {in<T>(0), in<float>(1), in<float>(2)}, in<float>(3), in<float>(4), out<T>(0), nullptr};
  const int rows = blocks(int64_t(s.n) * s.p * s.q, columns);
  if (op->out[1] >= 0) a.partial = scratch<float>(uint64_t(rows) * 2 * s.k);
  launch("conv_direct_forward", conv_direct_forward<T>, dim3(rows, columns), map_threads, sizeof(SlabShared<2>), a);
  if (op->out[1] >= 0) reduce_partials(a.partial, rows, 2, 1, s.k, out<double>(1));
  return ANX_OK;
}

template <class T> anx_status Emitter::conv_backward() {
  const ConvShape s = shape_of(op);
  const Incoming<T> d{in<T>(0), in<T>(1), in<float>(2), in<float>(3), in<float>(4)};
  const Input<T> x{in<T>(5), in<float>(6), in<float>(7)};
  if (op->out[0] >= 0) {
    const int columns = slabs(s.c), rows = blocks(int64_t(s.n) * s.h * s.w, columns);
    ConvInputGradient<T> a{s, d, x, in<float>(9), in<float>(8), in<T>(10), out<T>(0), nullptr};
    if (op->out[3] >= 0) a.partial = scratch<float>(uint64_t(rows) * 2 * s.c);
    launch("conv_direct_input_gradient", conv_direct_input_gradient<T>, dim3(rows, columns), map_threads, sizeof(SlabShared<2>), a);
    if (op->out[3] >= 0) reduce_partials(a.partial, rows, 2, 1, s.c, out<double>(3));
    used = 0; // the filter gradient may take the same workspace: the stream keeps them apart
  }
  const int64_t pixels = int64_t(s.n) * s.p * s.q, filters = int64_t(s.k) * s.r * s.r * s.g, values = filters + (op->out[2] >= 0 ? s.k : 0);
  const int columns = ceil_divide(values, 256);
  const int ranges = int(std::min<int64_t>({(pixels + 63) / 64, std::max(1, context->info.units * 8 / columns), 65535}));
  ConvFilterGradient<T> a{s, d, x, scratch<float>(uint64_t(ranges) * uint64_t(values)), (pixels + ranges - 1) / ranges, op->out[2] >= 0};
  launch("conv_direct_filter_gradient", conv_direct_filter_gradient<T>, dim3(columns, ranges), 256, 0, a);
  launch("reduce_filters", reduce_filters<void>, dim3(ceil_divide(values, 32)), 256, sizeof(ReduceShared),
         ReduceFilters{a.partial, ranges, filters, values, out<float>(1), out<float>(2)});
  return ANX_OK;
}

template anx_status Emitter::conv_forward<float>();
template anx_status Emitter::conv_forward<__half>();
template anx_status Emitter::conv_forward<__nv_bfloat16>();
template anx_status Emitter::conv_backward<float>();
template anx_status Emitter::conv_backward<__half>();
template anx_status Emitter::conv_backward<__nv_bfloat16>();

} // namespace anx_cuda
