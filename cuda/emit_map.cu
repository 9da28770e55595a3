// Ops over maps, and the small ones: which kernels, which grids.
#include <algorithm>
#include "batchnorm.cuh"
#include "emit.h"
#include "input.cuh"
#include "join.cuh"
#include "loss_scale.cuh"
#include "pool.cuh"
#include "sgd.cuh"
#include "xent.cuh"

namespace anx_cuda {

using namespace anx;

static int ceil_divide(int64_t a, int64_t b) { return int((a + b - 1) / b); }
static int slabs(int c) { return ceil_divide(padded(c), slab); }

int Emitter::blocks(int64_t pixels, int slabs) const {
  const int64_t wanted = (pixels + map_rows - 1) / map_rows, most = (int64_t(context->info.units) * 16 + slabs - 1) / slabs;
  return int(wanted < most ? wanted : most);
}

void Emitter::sums_from(const anx_op *of, int i, PerModel<const float> partial, int rows, int quantities, int second, int c) {
  if (of->out[i] >= 0) waiting.push_back({int(of - ops), models, of->out[i], Partials{partial, rows, quantities, second, c, at<double>(of->out[i])}});
}

Partials Emitter::take(int32_t tensor, int c) {
  for (size_t i = 0; i < waiting.size(); i++)
    if (waiting[i].tensor == tensor) {
      const Partials p = waiting[i].partials;
      waiting.erase(waiting.begin() + long(i));
      return p;
    }
  return Partials{nullptr, 0, 0, 0, c, at<double>(tensor)};
}

void Emitter::flush() {
  const int at = number, beside = models;
  for (const Waiting &w : waiting) {
    number = w.number, models = w.models;
    launch("reduce_sums", reduce_sums<void>, dim3(ceil_divide(w.partials.c, reduce_columns)), 256, sizeof(ReduceShared), w.partials);
  }
  number = at, models = beside;
  waiting.clear();
}

void Emitter::filters_from(PerModel<const float> partial, int rows, int64_t filters, int64_t values) {
  if (!waiting_filters.empty() && ops[waiting_filters.back().number].models != models) flush_filters();
  waiting_filters.push_back({number, FilterPartials{partial, rows, 0, filters, values, out<float>(1), out<float>(2)}});
  held = used;
}

bool Emitter::any_overlap(const int32_t *a, int as, const int32_t *b, int bs, int models) const {
  for (int i = 0; i < as; i++)
    for (int j = 0; j < bs; j++)
      if (a[i] >= 0 && b[j] >= 0 && anx_cuda_overlap(&tensors[a[i]], &tensors[b[j]], models)) return true;
  return false;
}

bool Emitter::touches_waiting_filters() const {
  for (const WaitingFilters &w : waiting_filters) {
    const int32_t *gradients = ops[w.number].out + 1; // dW and dbias
    const int most = std::max(op->models, ops[w.number].models);
    if (any_overlap(gradients, 2, op->in, ANX_MAX_IN, most) || any_overlap(gradients, 2, op->out, ANX_MAX_OUT, most)) return true;
  }
  return false;
}

const anx_op *Emitter::block_end() const {
  if (number + 1 >= count) return nullptr;
  const anx_op *end = &ops[number + 1];
  const int32_t dx = op->out[0];
  if (end->kind != ANX_JOIN_BWD || end->models != models || (end->flags & ANX_BROADCAST) || dx < 0 || end->in[0] != dx || end->in[1] != op->in[5] || op->in[6] >= 0 || !(tensors[dx].flags & ANX_TRANSIENT))
    return nullptr;
  for (int i = number + 2; i < count; i++)
    for (int32_t in : ops[i].in)
      if (in == dx) return nullptr;
  // Both ops read and write at once.
  if (any_overlap(end->out, ANX_MAX_OUT, op->in, ANX_MAX_IN, models) || any_overlap(end->out, ANX_MAX_OUT, op->out + 1, ANX_MAX_OUT - 1, models) ||
      any_overlap(op->out + 1, ANX_MAX_OUT - 1, end->in, ANX_MAX_IN, models))
    return nullptr;
  return end;
}

void Emitter::flush_filters() {
  held = 0;
  if (waiting_filters.empty()) return;
  const int at = number, beside = models;
  number = waiting_filters.back().number, models = ops[number].models;
  for (size_t from = 0; from < waiting_filters.size(); from += filters_per_launch) {
    ReduceFilters a = {};
    int blocks = 0;
    for (size_t i = from; i < waiting_filters.size() && a.count < filters_per_launch; i++) {
      FilterPartials p = waiting_filters[i].partials;
      p.first = blocks;
      blocks += ceil_divide(p.values, reduce_columns);
      a.of[a.count++] = p;
    }
    launch("reduce_filters", reduce_filters<void>, dim3(blocks), 256, sizeof(ReduceShared), a);
  }
  number = at, models = beside;
  waiting_filters.clear();
}

void Emitter::finish() {
  flush();
  flush_filters();
}

ImageSet Emitter::images_of(const anx_op *o) const {
  const anx_tensor *images = &tensors[o->in[0]];
  return {at<unsigned char>(o->in[0]), at<int>(o->in[1]), at<int>(o->in[2]), at<float>(o->in[3]), slots, at<int>(o->out[1]), fault, images->n, images->h, images->w,
          images->c, o->h, o->w, o->slot[0], int(o - ops)};
}

template <class T> anx_status Emitter::map() {
  const anx_op *o = op;
  const int64_t pixels = int64_t(o->n) * o->h * o->w;
  const int columns = slabs(o->c), rows = blocks(pixels, columns);
  const dim3 grid(rows, columns);
  switch (o->kind) {
    case ANX_INPUT:
      if (o->n > 65535) return anx_cuda_fail_op(context, ANX_UNSUPPORTED, number, o, "a batch of more than 65535 images");
      if (!gathered(o->out[0])) launch("gather", gather<T>, dim3(ceil_divide(int64_t(o->h) * o->w, 256), o->n), 256, 0, Gather<T>{images_of(o), out<T>(0)});
      break;
    case ANX_JOIN_FWD:
      launch("join_forward", join_forward<T>, grid, map_threads, 0,
             JoinForward<T>{in<T>(0), in<T>(3), in<float>(1), in<float>(2), in<float>(4), in<float>(5), out<T>(0), pixels, o->c});
      break;
    case ANX_JOIN_BWD: {
      const PerModel<float> partial = scratch<float>(uint64_t(rows) * 3 * o->c);
      launch("join_backward", join_backward<T>, grid, map_threads, sizeof(SlabShared<3>),
             JoinBackward<T>{in<T>(0), in<T>(1), in<T>(2), in<T>(4), in<float>(3), in<float>(5), out<T>(0), partial, pixels, o->c, o->h * o->w,
                             (o->flags & ANX_BROADCAST) != 0});
      block_sums_from(o, partial, rows, o->c);
      break;
    }
    case ANX_POOL_FWD:
    case ANX_POOL_BWD: {
      if (o->h >= 32768 || o->w >= 32768) return anx_cuda_fail_op(context, ANX_UNSUPPORTED, number, o, "maps of 32768 pixels a side or more");
      if (o->kind == ANX_POOL_FWD) {
        launch("pool_forward", pool_forward<T>, dim3(blocks(int64_t(o->n) * o->p * o->q, columns), columns), map_threads, 0,
               Pool<T>{in<T>(0), nullptr, in<float>(1), in<float>(2), nullptr, out<T>(0), nullptr, nullptr, o->n, o->h, o->w, o->c, o->p, o->q});
        break;
      }
      const int rows = blocks(int64_t(o->n) * ceil_divide(o->h, pool_tile) * ceil_divide(o->w, pool_tile) * map_rows, columns);
      const PerModel<float> partial = scratch<float>(uint64_t(rows) * 2 * o->c);
      Pool<T> a{in<T>(1), in<T>(0), in<float>(2), in<float>(3), in<float>(4), nullptr, nullptr, partial, o->n, o->h, o->w, o->c, o->p, o->q};
      const bool winners = pooled(o->out[0]);
      if (winners) a.winners = out<unsigned char>(0);
      else a.out = out<T>(0);
      launch(winners ? "pool_backward_winners" : "pool_backward", pool_backward<T>, dim3(rows, columns), map_threads, sizeof(PoolShared<T>), a);
      sums_from(o, 1, partial, rows, 2, 1, o->c);
      break;
    }
    case ANX_GAP_FWD:
      launch("average_pool", average_pool<T>, dim3(o->n, columns), map_threads, sizeof(SlabShared<1>), AveragePool<T>{in<T>(0), out<T>(0), o->h * o->w, o->c});
      break;
    case ANX_XENT: {
      CrossEntropy<T> a{in<T>(0), in<int>(1), in<float>(2), slots, out<T>(1), scratch<double>(uint64_t(o->n) * 3), out<double>(0), fault,
                        o->n, o->c, o->slot[0], number, o->f[0]};
      launch("cross_entropy", cross_entropy<T>, dim3(o->n), 32, 0, a);
      launch("cross_entropy_counters", cross_entropy_counters<T>, dim3(1), 32, 0, a);
      break;
    }
  }
  return ANX_OK;
}

void Emitter::small() {
  const anx_op *o = op;
  const double count = double(o->n) * o->h * o->w;
  const int flat = std::min(ceil_divide(o->c, 256), context->info.units * 16); // blocks over a flat buffer
  const bool norm = o->kind == ANX_BN_FWD_COEF || o->kind == ANX_BN_BWD_COEF;
  const Partials partials = norm ? take(o->in[0], o->c) : Partials{};
  flush();
  if (o->kind == ANX_BN_FWD_COEF)
    launch("norm_forward", norm_forward<void>, dim3(ceil_divide(o->c, reduce_columns)), 256, sizeof(ReduceShared),
           NormForward{partials, slots, in<float>(1), in<float>(2), in<float>(3), in<float>(4), out<float>(0), out<float>(1), out<float>(2),
                       out<float>(3), out<float>(4), out<float>(5), o->c, (o->flags & ANX_TRAIN) != 0, o->slot[0], count, o->f[0], fault});
  else if (o->kind == ANX_BN_BWD_COEF)
    launch("norm_backward", norm_backward<void>, dim3(ceil_divide(o->c, reduce_columns)), 256, sizeof(ReduceShared),
           NormBackward{partials, in<float>(1), in<float>(2), in<float>(3), out<float>(0), out<float>(1), out<float>(2), out<float>(3), out<float>(4),
                        o->c, count});
  else if (o->kind == ANX_SGD)
    launch("update", update<void>, dim3(flat), 256, 0,
           Update{in<float>(0), in<float>(1), out<float>(0), out<float>(1), out<double>(2), slots, o->c, o->f[0], o->f[1],
                  (o->flags & ANX_NESTEROV) != 0, o->slot[0], fault});
  else {
    const LossScale a{in<float>(0), scratch<int>(uint64_t(flat) * 8), out<float>(0), out<double>(1), o->c, flat, o->f[0], o->f[1], fault};
    launch("count_not_finite", count_not_finite<void>, dim3(flat), 256, 0, a);
    launch("move_loss_scale", move_loss_scale<void>, dim3(1), 32, 0, a);
  }
}

template <class T> static anx_status emit_typed(Emitter &e) {
  switch (e.op->kind) {
    case ANX_CONV_FWD: return e.conv_forward<T>();
    case ANX_CONV_BWD: return e.conv_backward<T>();
    case ANX_JOIN_FWD: return e.joined_convolution<T>() ? ANX_OK : e.map<T>();
    case ANX_BN_FWD_COEF:
    case ANX_BN_BWD_COEF:
    case ANX_SGD:
    case ANX_LOSS_SCALE: e.small(); return ANX_OK;
    default: return e.map<T>();
  }
}

constexpr uint64_t held_most = 64 << 20; // workspace a model that filter gradients may wait in

anx_status Emitter::emit(int i) {
  if (i == done) return ANX_OK;
  const anx_op *o = op = &ops[i];
  number = i;
  const bool norm = o->kind == ANX_BN_FWD_COEF || o->kind == ANX_BN_BWD_COEF;
  if (!norm) flush(); // a batch norm first takes its own
  const uint64_t waiting_models = waiting_filters.empty() ? 1 : uint64_t(ops[waiting_filters.back().number].models);
  if (touches_waiting_filters() || (!norm && held > held_most * waiting_models)) flush_filters();
  used = held;
  models = o->models;
  if (models > 1 && context->cudnn) return anx_cuda_fail_op(context, ANX_UNSUPPORTED, number, o, "%d models in one launch; cuDNN runs 1", models);
  const size_t first = launches ? launches->size() : 0;
  const anx_status status = o->dtype == ANX_F32 ? emit_typed<float>(*this) : o->dtype == ANX_F16 ? emit_typed<__half>(*this) : emit_typed<__nv_bfloat16>(*this);
  tell_refusal(first);
  return status;
}

cudaError_t compiled_for(int *sm) {
  cudaFuncAttributes attributes;
  const cudaError_t e = cudaFuncGetAttributes(&attributes, set_slots<void>);
  *sm = e == cudaSuccess ? attributes.ptxVersion : 0;
  return e;
}

cudaError_t launch_set_slots(const SetSlots &a, cudaStream_t stream) {
#if defined(__CUDACC__)
  SetSlots copy = a;
  void *pointers[] = {&copy};
  return cudaLaunchKernel(reinterpret_cast<const void *>(set_slots<void>), dim3(1), dim3(64), pointers, 0, stream);
#else
  return host::enqueue(stream, reinterpret_cast<const void *>(set_slots<void>), dim3(1), dim3(64), 0, [=] { set_slots<void>(a); });
#endif
}

} // namespace anx_cuda
