// Convolutions: which kernel takes which shape. This is the one place of that choice.
#include <algorithm>
#include "conv_direct.cuh"
#include "conv_grouped_filter.cuh"
#include "conv_pointwise_gradients.cuh"
#include "conv_stem.cuh"
#include "emit.h"

namespace anx_cuda {

using namespace anx;

static int ceil_divide(int64_t a, int64_t b) { return int((a + b - 1) / b); }
static int slabs(int c) { return ceil_divide(padded(c), slab); }

static ConvShape shape_of(const anx_op *o) {
  return {o->n, o->h, o->w, o->c, o->p, o->q, o->k, o->r, o->stride, o->group, o->k / (o->c / o->group)};
}

// Calls f with the instruction set that the device multiplies T in, which tensor_cores says there is.
template <class T> static bool tensor_cores(const anx_context *c) { return sizeof(T) == 2 && (c->sm >= 80 || std::is_same_v<T, __half>); }
template <class T, class F> static void with_instructions(const anx_context *c, F f) {
  if constexpr (std::is_same_v<T, __half>)
    if (c->sm < 80) return f(Sm70{});
  if constexpr (sizeof(T) == 2) f(Sm80{});
}

// What tensor cores take; everything else goes to the direct kernels.
template <class T> static bool pointwise(const Emitter &e, const ConvShape &s) {
  return tensor_cores<T>(e.context) && s.r == 1 && s.g == s.c && int64_t(s.n) * s.h * s.w <= INT32_MAX / 2 && int64_t(s.c) * s.k <= INT32_MAX;
}

// Blocks over tiles of pixels beside `columns` tiles of channels: four a multiprocessor fill it.
static int tile_blocks(const anx_context *c, int64_t tiles, int columns) {
  return int(std::min<int64_t>({tiles, std::max(1, c->info.units * 8 / columns), 65535}));
}

static Divider divider(int d) { return {uint32_t(((uint64_t(1) << 32) + uint64_t(d) - 1) / uint64_t(d)), uint32_t(d)}; }

constexpr size_t grouped_shared_most = 100 << 10; // but for grouped_many: two blocks a multiprocessor at the least, where there are 228 KiB

// The tile of the grouped kernels with the least work: matrix rows (a tile costs 128, filled or not) and loaded pixels. `deltas`: the
// filter gradient's tile of D lies in shared memory too. False: none fits.
static bool plan_grouped(const anx_context *c, const ConvShape &s, bool backward, bool deltas, int quads, int element, GroupedTile *best, size_t *shared) {
  if (backward && s.stride > 2) return false;
  const int split = backward && s.stride == 2, sides = 1 << split, slots = grouped_pixels >> 2 * split;
  const int high = ceil_divide(backward ? s.h : s.p, sides), wide = ceil_divide(backward ? s.w : s.q, sides), step = backward ? 1 : s.stride, taps = s.r * s.r;
  const int outs = backward ? s.c : s.k, group_outs = backward ? s.g : s.go, width = backward ? s.go : s.g;
  GroupedTile t = {};
  for (int out0 = 0; out0 < outs; out0 += slab) {
    const int last = std::min(out0 + slab, outs) - 1;
    t.band = std::max(t.band, padded(last / group_outs * width + width) - out0 / group_outs * width / 8 * 8);
  }
  t.pitch = t.band / 8 % 2 ? t.band : t.band + 8; // an odd multiple of 16 bytes: rows of ldmatrix in different banks
  t.split = split, t.skew = split && s.r / 2 % 2 == 0, t.step = step;
  for (int out = 0; out < outs; out += group_outs) t.own_chunks = std::max(t.own_chunks, ceil_divide(out / group_outs * width % 8 + width, 8));
  t.filter_pitch = (t.own_chunks * taps | 1) * 8; // an odd multiple of 16 bytes, too
  t.filter_elements = deltas ? 0 : slab * t.filter_pitch;
  double least = 0;
  for (int rows = 1; rows <= std::min(high, 32); rows++)
    for (int columns = 1; columns <= std::min(wide, 32) && rows * columns <= slots; columns++) {
      t.rows = rows, t.columns = columns;
      t.images = rows == high && columns == wide ? std::min(s.n, slots / (rows * columns)) : 1;
      const int seen = ((s.r - 1 + t.skew) >> split) + 1; // of an output
      t.in_rows = (rows - 1) * step + seen, t.in_columns = (columns - 1) * step + seen;
      t.across = ceil_divide(wide, columns), t.down = ceil_divide(high, rows), t.along = ceil_divide(s.n, t.images);
      const int loaded = t.images * t.in_rows * t.in_columns;
      t.halo_elements = loaded * t.pitch;
      const bool owns = deltas || quads; // a tile of 64 channels beside the halo
      const size_t sums = deltas ? 0 : size_t(grouped_halves(quads)) * sizeof(SlabShared<2, 4>);
      const size_t fixed = size_t(3 * t.band + 3 * slab + grouped_pixels) * 4 + sums +
                           size_t(t.filter_elements + (owns ? grouped_pixels * grouped_own_pitch : 0)) * size_t(element);
      const size_t bytes = fixed + std::max(size_t(t.halo_elements) * size_t(element), deltas ? 0 : size_t(grouped_pixels * grouped_out_pitch) * 4);
      const double work = double(t.across) * t.down * t.along * (128 + 1.5 * loaded);
      if (bytes > (quads == grouped_many ? c->shared_bytes : std::min(grouped_shared_most, c->shared_bytes)) || (least > 0 && work >= least) || int64_t(t.across) * t.down * t.along > INT32_MAX) continue;
      least = work;
      *best = t;
      *shared = bytes;
    }
  if (least == 0) return false;
  best->by_columns = divider(best->columns);
  best->by_map = divider(best->rows * best->columns);
  best->by_in_columns = divider(best->in_columns);
  best->by_in_map = divider(best->in_rows * best->in_columns);
  best->by_vectors = divider(best->band / 8);
  return true;
}

enum class Family { direct, pointwise, grouped };

template <class T> static Family family_of(const Emitter &e, const ConvShape &s, bool backward, bool deltas, bool bias, GroupedTile *tile, size_t *shared) {
  if (pointwise<T>(e, s)) return bias && deltas ? Family::direct : Family::pointwise;
  return tensor_cores<T>(e.context) && !(bias && deltas) && plan_grouped(e.context, s, backward, deltas, grouped_none, sizeof(T), tile, shared) ? Family::grouped : Family::direct;
}

// Chunks of a filter gradient: of 8 channels, that the 16 (of `outs`, groups of group_outs, which meet `width` channels) touch that touch the most.
static int grouped_chunks(int outs, int group_outs, int width) {
  int chunks = 1;
  for (int out0 = 0; out0 < outs; out0 += 16) {
    const int base = out0 / slab * slab / group_outs * width / 8 * 8, last = std::min(out0 + 15, outs - 1);
    chunks = std::max(chunks, (last / group_outs * width + width - base + 7) / 8 - (out0 / group_outs * width - base) / 8);
  }
  return chunks;
}

// Convolutions of an image, for conv_stem.cuh: forward, or the filter gradient alone; false for others.
static bool plan_stem(const anx_context *c, const anx_op *o, StemTile *t) {
  if (o->kind == ANX_CONV_FWD ? o->in[1] >= 0 : o->kind != ANX_CONV_BWD || o->in[6] >= 0 || o->out[0] >= 0 || o->out[2] >= 0) return false;
  const ConvShape s = shape_of(o);
  if (o->dtype == ANX_F32 || c->sm < 80 || s.r == 1 || s.g != s.c || s.c > 4 || int64_t(s.r) * s.r * s.c > stem_depth_most) return false;
  t->depth = s.r * s.r * s.c, t->depth16 = (t->depth + 15) / 16 * 16, t->pitch = t->depth16 + 8;
  t->across = ceil_divide(s.q, stem_wide), t->down = ceil_divide(s.p, stem_rows);
  t->parts_across = ceil_divide(t->depth16, stem_part_depth), t->parts = t->parts_across * ceil_divide(std::min(s.k, slab), stem_part_k);
  t->groups = stem_threads / 32 / t->parts;
  t->seen_columns = (stem_wide - 1) * s.stride + s.r, t->seen = t->seen_columns * ((stem_rows - 1) * s.stride + s.r);
  t->by_seen_columns = divider(t->seen_columns);
  if (t->seen > stem_seen_most || int64_t(t->across) * t->down * s.n > INT32_MAX) return false;
  t->tiles = t->across * t->down * s.n;
  return true;
}

bool Emitter::is_stem(const anx_op *o) const {
  StemTile tile;
  return o->models == models && plan_stem(context, o, &tile) && !(context->cudnn && context->cudnn->wants(shape_of(o)));
}

static bool reads(const anx_op &o, int32_t tensor) { return std::find(o.in, o.in + ANX_MAX_IN, tensor) != o.in + ANX_MAX_IN; }

const anx_op *Emitter::gathered(int32_t x) const {
  if (!(tensors[x].flags & ANX_TRANSIENT)) return nullptr;
  int i = 0, last = 0;
  while (i < count && (ops[i].kind != ANX_INPUT || ops[i].out[0] != x)) i++;
  if (i + 1 >= count || ops[i + 1].kind != ANX_CONV_FWD || ops[i + 1].in[0] != x) return nullptr; // which makes the labels too
  const anx_op *input = &ops[i], *forward = input + 1;
  for (int j = 0; j < count; j++) {
    if (!reads(ops[j], x)) continue;
    if (j < i || input->models != models || !is_stem(&ops[j])) return nullptr;
    last = j;
  }
  for (int j = i + 1; j <= last; j++)
    if (any_overlap(ops[j].out, ANX_MAX_OUT, input->in, ANX_MAX_IN, models)) return nullptr; // it would load another set
  if (any_overlap(input->out + 1, 1, forward->in, ANX_MAX_IN, models) || any_overlap(input->out + 1, 1, forward->out, ANX_MAX_OUT, models)) return nullptr;
  return input;
}

const anx_op *Emitter::pooled(int32_t g) const {
  if (!(tensors[g].flags & ANX_TRANSIENT)) return nullptr;
  int i = 0, conv = 0;
  while (i < count && (ops[i].kind != ANX_POOL_BWD || ops[i].out[0] != g)) i++;
  for (int j = 0; j < count; j++) {
    if (!reads(ops[j], g)) continue;
    if (j < i || conv || ops[j].in[0] != g || ops[i].models != models || !is_stem(&ops[j])) return nullptr;
    conv = j;
  }
  for (int j = i + 1; j <= conv; j++)
    if (any_overlap(ops[j].out, ANX_MAX_OUT, ops[i].in, 1, models)) return nullptr; // dX0 is read again
  return conv ? &ops[i] : nullptr;
}

// Calls f with where the pixels of X, which `op` reads as in[i], come from.
template <class T, class F> static void with_source(Emitter &e, int i, F f) {
  if (const anx_op *input = e.gathered(e.op->in[i])) f(StemSet<T>{e.images_of(input)});
  else f(StemMap<T>{e.in<T>(i)});
}

template <class T> bool Emitter::stem_forward(const ConvShape &s) {
  StemTile t;
  if constexpr (sizeof(T) == 2)
    if (plan_stem(context, op, &t)) {
      const int columns = slabs(s.k), rows = tile_blocks(context, t.tiles, columns);
      ConvForward<T> a{s, {}, in<float>(3), in<float>(4), out<T>(0), nullptr};
      if (op->out[1] >= 0) a.partial = scratch<float>(uint64_t(rows) * 2 * s.k);
      const size_t shared = sizeof(T) * (slab * t.pitch + stem_seen_elements(t)) + std::max(sizeof(T) * stem_pixels * t.pitch, sizeof(float) * stem_pixels * stem_out_pitch);
      with_source<T>(*this, 0, [&](auto source) {
        using Source = decltype(source);
        launch(std::is_same_v<Source, StemSet<T>> ? "conv_stem_gather_forward" : "conv_stem_forward", conv_stem_forward<Source>, dim3(columns, rows), stem_threads, shared,
               Stem<ConvForward<T>, Source>{a, source, t});
      });
      sums_from(op, 1, a.partial, rows, 2, 1, s.k);
      return true;
    }
  return false;
}

template <class T> bool Emitter::stem_filter_gradient(const ConvShape &s) {
  StemTile t;
  if constexpr (sizeof(T) == 2)
    if (plan_stem(context, op, &t)) {
      const int columns = slabs(s.k), rows = std::min(t.tiles, std::max(1, context->info.units * 2 / columns)); // each leaves a whole filter gradient behind
      const int64_t filters = int64_t(s.k) * t.depth;
      ConvFilterGradient<T> a{s, {in<T>(0), in<T>(1), in<float>(2), in<float>(3), in<float>(4)}, {}, nullptr, 0, 0};
      a.partial = rows == 1 ? out<float>(1) : scratch<float>(uint64_t(rows) * uint64_t(filters));
      const size_t shared = std::max(sizeof(float) * stem_table + sizeof(T) * (stem_pixels * (stem_own_pitch + t.pitch) + stem_seen_elements(t)), sizeof(float) * slab * t.depth16);
      with_source<T>(*this, 5, [&](auto source) {
        using Source = decltype(source);
        constexpr bool set = std::is_same_v<Source, StemSet<T>>;
        if (const anx_op *pool = pooled(op->in[0]))
          launch(set ? "conv_stem_gather_pool_filter_gradient" : "conv_stem_pool_filter_gradient", conv_stem_filter_gradient<Source, StemPool<T>>, dim3(columns, rows), stem_threads,
                 shared + sizeof(typename StemPool<T>::Windows),
                 StemGradient<Source, StemPool<T>>{{a, source, t}, {at<T>(pool->in[0]), at<unsigned char>(pool->out[0]), pool->p, pool->q}});
        else
          launch(set ? "conv_stem_gather_filter_gradient" : "conv_stem_filter_gradient", conv_stem_filter_gradient<Source, StemPlain<T>>, dim3(columns, rows), stem_threads, shared,
                 StemGradient<Source, StemPlain<T>>{{a, source, t}, {}});
      });
      if (rows > 1) filters_from(a.partial, rows, filters, filters);
      return true;
    }
  return false;
}

template <class T> anx_status Emitter::conv_forward() {
  const ConvShape s = shape_of(op);
  if (library_forward<T>(s) || stem_forward<T>(s)) return ANX_OK;
  GroupedTile tile;
  size_t shared;
  const Family family = family_of<T>(*this, s, false, false, op->in[4] >= 0, &tile, &shared);
  const int columns = slabs(s.k);
  const int64_t pixels = int64_t(s.n) * s.p * s.q;
  const int rows = family == Family::direct ? blocks(pixels, columns)
                   : tile_blocks(context, family == Family::grouped ? int64_t(tile.across) * tile.down * tile.along : ceil_divide(pixels, pointwise_rows), columns);
  ConvForward<T> a{s, {in<T>(0), in<float>(1), in<float>(2)}, in<float>(3), in<float>(4), out<T>(0), nullptr};
  if (op->out[1] >= 0) a.partial = scratch<float>(uint64_t(rows) * 2 * s.k);
  with_instructions<T>(context, [&](auto isa) {
    if (family == Family::pointwise) launch("conv_pointwise_forward", conv_pointwise<decltype(isa), ConvForward<T>>, dim3(columns, rows), pointwise_threads, sizeof(PointwiseShared<ConvForward<T>>), a);
    if (family == Family::grouped) launch("conv_grouped_forward", conv_grouped<decltype(isa), ConvForward<T>, grouped_none>, dim3(columns, rows), grouped_threads(grouped_none), shared, Grouped<ConvForward<T>>{a, tile, 1, nullptr});
  });
  if (family == Family::direct) launch("conv_direct_forward", conv_direct_forward<T>, dim3(rows, columns), map_threads, sizeof(SlabShared<2>), a);
  sums_from(op, 1, a.partial, rows, 2, 1, s.k);
  return ANX_OK;
}

// The end of a block together with the convolution behind it; false where that is none that takes it. Every slab of 64 output channels
// makes the sum again: it pays up to two. Y is transient in a plan that wants it (it is written all the same).
template <class T> bool Emitter::joined_convolution() {
  if constexpr (sizeof(T) == 2) {
    const anx_op *conv = number + 1 < count ? &ops[number + 1] : nullptr;
    if (!conv || conv->kind != ANX_CONV_FWD || conv->models != models || conv->in[0] != op->out[0] || conv->in[1] >= 0 || !(tensors[op->out[0]].flags & ANX_TRANSIENT)) return false;
    if (any_overlap(conv->out, ANX_MAX_OUT, op->in, ANX_MAX_IN, models) || any_overlap(op->out, 1, conv->in + 1, ANX_MAX_IN - 1, models)) return false; // both ops read and write at once
    const ConvShape s = shape_of(conv);
    const int columns = slabs(s.k);
    if (context->sm < 80 || !pointwise<T>(*this, s) || s.stride != 1 || columns > 2 || (context->cudnn && context->cudnn->wants(s))) return false;
    done = number + 1;
    const int rows = tile_blocks(context, ceil_divide(int64_t(s.n) * s.p * s.q, pointwise_rows), columns);
    ConvJoinForward<T> a{{s, {nullptr, nullptr, nullptr}, at<float>(conv->in[3]), at<float>(conv->in[4]), at<T>(conv->out[0]), nullptr},
                         {in<T>(0), in<T>(3), in<float>(1), in<float>(2), in<float>(4), in<float>(5), out<T>(0)}};
    if (conv->out[1] >= 0) a.partial = scratch<float>(uint64_t(rows) * 2 * s.k);
    launch("conv_pointwise_join_forward", conv_pointwise<Sm80, ConvJoinForward<T>>, dim3(columns, rows), pointwise_threads, sizeof(PointwiseShared<ConvJoinForward<T>>), a);
    sums_from(conv, 1, a.partial, rows, 2, 1, s.k);
    return true;
  }
  return false;
}

template <class T> static ConvInputGradient<T> input_gradient_of(const Emitter &e, const ConvShape &s) {
  return {s, {e.in<T>(0), e.in<T>(1), e.in<float>(2), e.in<float>(3), e.in<float>(4)}, {e.in<T>(5), e.in<float>(6), e.in<float>(7)}, e.in<float>(9), e.in<float>(8),
          e.in<T>(10), e.out<T>(0), nullptr};
}

template <class T> static ConvBlockGradient<T> block_gradient_of(const Emitter &e, const ConvShape &s, const anx_op *end) {
  ConvBlockGradient<T> a{input_gradient_of<T>(e, s), e.at<T>(end->in[2]), e.at<T>(end->in[4]), e.at<float>(end->in[5])};
  a.mean = e.at<float>(end->in[3]), a.dx = e.at<T>(end->out[0]);
  return a;
}

// `end`: of the block before, made in the same launch (ConvBlockGradient), or NULL.
template <class T> void Emitter::input_gradient(const ConvShape &s, const anx_op *end) {
  GroupedTile tile;
  size_t shared;
  const Family family = family_of<T>(*this, s, true, false, false, &tile, &shared);
  const int columns = slabs(s.c);
  const int64_t pixels = int64_t(s.n) * s.h * s.w;
  const int rows = family == Family::direct ? blocks(pixels, columns)
                   : tile_blocks(context, family == Family::grouped ? int64_t(tile.across) * tile.down * tile.along : ceil_divide(pixels, pointwise_rows), columns);
  if (end) {
    with_instructions<T>(context, [&](auto isa) {
      ConvBlockGradient<T> a = block_gradient_of<T>(*this, s, end);
      a.partial = scratch<float>(uint64_t(rows) * 3 * s.c);
      launch("conv_pointwise_block_gradient", conv_pointwise<decltype(isa), ConvBlockGradient<T>>, dim3(columns, rows), pointwise_threads, sizeof(PointwiseShared<ConvBlockGradient<T>>), a);
      block_sums_from(end, a.partial, rows, s.c);
    });
    return;
  }
  ConvInputGradient<T> a = input_gradient_of<T>(*this, s);
  if (op->out[3] >= 0) a.partial = scratch<float>(uint64_t(rows) * 2 * s.c);
  with_instructions<T>(context, [&](auto isa) {
    if (family == Family::pointwise)
      launch("conv_pointwise_input_gradient", conv_pointwise<decltype(isa), ConvInputGradient<T>>, dim3(columns, rows), pointwise_threads, sizeof(PointwiseShared<ConvInputGradient<T>>), a);
    if (family == Family::grouped)
      launch("conv_grouped_input_gradient", conv_grouped<decltype(isa), ConvInputGradient<T>, grouped_none>, dim3(columns, rows), grouped_threads(grouped_none), shared,
             Grouped<ConvInputGradient<T>>{a, tile, 1, nullptr});
  });
  if (family == Family::direct) launch("conv_direct_input_gradient", conv_direct_input_gradient<T>, dim3(rows, columns), map_threads, sizeof(SlabShared<2>), a);
  sums_from(op, 3, a.partial, rows, 2, 1, s.c);
}

template <class T> void Emitter::filter_gradient(const ConvShape &s) {
  const bool bias = op->out[2] >= 0;
  GroupedTile tile;
  size_t shared;
  const Family family = family_of<T>(*this, s, false, true, bias, &tile, &shared);
  const int64_t pixels = int64_t(s.n) * s.p * s.q, filters = int64_t(s.k) * s.r * s.r * s.g, values = filters + (bias ? s.k : 0);
  ConvFilterGradient<T> a{s, {in<T>(0), in<T>(1), in<float>(2), in<float>(3), in<float>(4)}, {in<T>(5), in<float>(6), in<float>(7)}, nullptr, 0, bias};
  const int passes = ceil_divide(grouped_quads(0, s.r, grouped_chunks(s.k, s.go, s.g)), 2 * grouped_filter_quads), step = family == Family::pointwise ? 32 : 64, least = family == Family::pointwise ? 256 : 64;
  const int columns = family == Family::pointwise ? ceil_divide(s.k, 64) * ceil_divide(s.c, 64) : family == Family::grouped ? slabs(s.k) * passes : ceil_divide(values, 256);
  int ranges = int(std::min<int64_t>({(pixels + least - 1) / least, std::max(1, context->info.units * 8 / columns), 4096}));
  if (family == Family::grouped) {
    ranges = int(std::min<int64_t>(std::max(1, context->info.units * 4 / columns), int64_t(tile.across) * tile.down * tile.along));
  } else {
    a.per_range = ((pixels + ranges - 1) / ranges + step - 1) / step * step;
    ranges = ceil_divide(pixels, a.per_range);
  }
  const bool single = ranges == 1 && !bias; // a single partial is the gradient
  a.partial = single ? out<float>(1) : scratch<float>(uint64_t(ranges) * uint64_t(values));
  with_instructions<T>(context, [&](auto isa) {
    if (family == Family::pointwise)
      launch("conv_pointwise_filter_gradient", conv_pointwise_filter_gradient<decltype(isa), T>, dim3(columns, ranges), pointwise_filter_threads, pointwise_filter_shared<T>, a);
    if (family == Family::grouped)
      launch("conv_grouped_filter_gradient", conv_grouped_filter_gradient<decltype(isa), T>, dim3(columns, ranges), grouped_filter_threads, shared, GroupedFilter<T>{a, tile, passes});
  });
  if (family == Family::direct) launch("conv_direct_filter_gradient", conv_direct_filter_gradient<T>, dim3(columns, ranges), 256, 0, a);
  if (!single) filters_from(a.partial, ranges, filters, values);
}

// Both gradients of a grouped convolution in one launch; false where it does not fit.
template <class T> bool Emitter::fused_gradients(const ConvShape &s) {
  const int needed = grouped_quads(s.stride == 2, s.r, grouped_chunks(s.c, s.g, s.go)), quads = needed <= grouped_few ? grouped_few : grouped_many;
  GroupedTile tile;
  size_t shared;
  if (!tensor_cores<T>(context) || s.r == 1 || op->out[0] < 0 || op->out[2] >= 0 || !plan_grouped(context, s, true, false, quads, sizeof(T), &tile, &shared)) return false;
  // As many blocks as fit at once: every one leaves a whole filter gradient behind.
  const int halves = grouped_halves(quads), passes = ceil_divide(needed, quads * halves), columns = slabs(s.c) * passes;
  const int rows = int(std::min<int64_t>(std::max(1, context->info.units * 2 / halves / columns), int64_t(tile.across) * tile.down * tile.along));
  const int64_t filters = int64_t(s.k) * s.r * s.r * s.g;
  ConvInputGradient<T> a = input_gradient_of<T>(*this, s);
  if (op->out[3] >= 0) a.partial = scratch<float>(uint64_t(rows) * passes * 2 * s.c);
  const PerModel<float> partial = rows == 1 ? out<float>(1) : scratch<float>(uint64_t(rows) * uint64_t(filters)); // a single partial is the gradient
  with_instructions<T>(context, [&](auto isa) {
    using Isa = decltype(isa);
    launch("conv_grouped_gradients", quads == grouped_few ? conv_grouped<Isa, ConvInputGradient<T>, grouped_few> : conv_grouped<Isa, ConvInputGradient<T>, grouped_many>,
           dim3(columns, rows), grouped_threads(quads), shared, Grouped<ConvInputGradient<T>>{a, tile, passes, partial});
  });
  sums_from(op, 3, a.partial, rows * passes, 2, 1, s.c);
  if (rows > 1) filters_from(partial, rows, filters, filters);
  return true;
}

// The tile of conv_pointwise_gradients: the most pixels of which every warp makes one part, in the fewest warps that hold the filter
// gradient. 8 warps leave room for a second block.
static bool plan_gradients(const anx_context *c, const ConvShape &s, int quantities, PointwiseGradientsPlan *plan) {
  PointwiseGradientsPlan &p = *plan;
  p.pixels = s.n * s.h * s.w;
  p.ks = padded(s.k), p.cs = padded(s.c), p.k16 = (s.k + 15) / 16 * 16, p.c16 = (s.c + 15) / 16 * 16;
  p.by_k = divider(p.k16 / 8), p.by_c = divider(p.c16 / 8);
  p.k_pitch = p.k16 + 8, p.c_pitch = p.c16 + 8, p.raw_pitch = 2 * p.ks + p.cs, p.out_pitch = p.c16 + 4;
  p.across = ceil_divide(p.c16, gradients_wide_c), p.parts = ceil_divide(p.k16, gradients_wide_k) * p.across;
  p.dx_across = ceil_divide(p.c16, gradients_wide_dx), p.slabs = slabs(s.c);
  for (p.warps = 8; p.warps <= 16; p.warps *= 2)
    for (p.rows = 128; p.rows >= 16; p.rows /= 2) {
      if (p.parts > p.warps || p.slabs > p.warps || p.rows / 16 * p.dx_across > p.warps) continue;
      p.groups = p.warps / p.parts, p.finishers = p.warps / p.slabs;
      p.kept = int(sizeof(GradientsRole)) * p.warps + 4 * (3 * p.k16 + 3 * p.c16);
      p.filters = p.kept + 4 * p.warps * quantities * slab;
      p.raw = p.filters + 2 * p.k16 * p.c_pitch;
      p.deltas = p.raw + 2 * p.rows * p.raw_pitch;
      p.inputs = p.deltas + 2 * p.rows * p.k_pitch;
      p.bytes = std::max({p.inputs + 2 * p.rows * p.c_pitch, p.deltas + 4 * p.rows * p.out_pitch, p.filters + 4 * p.k16 * p.c16});
      if (size_t(p.bytes) <= (p.warps == 8 ? c->shared_bytes / 2 - 1024 : c->shared_bytes)) return true;
    }
  return false;
}

// Both gradients of a dense 1x1 convolution in one launch; false where it does not fit.
template <class T> bool Emitter::pointwise_gradients(const ConvShape &s, const anx_op *end) {
  if constexpr (sizeof(T) == 2) {
    PointwiseGradients<ConvBlockGradient<T>> b = {};
    PointwiseGradientsPlan &p = b.plan;
    if (context->sm < 80 || !pointwise<T>(*this, s) || s.stride != 1 || op->out[0] < 0 || op->out[2] >= 0 || !plan_gradients(context, s, end ? 3 : 2, &p)) return false;
    // Every block leaves a whole filter gradient behind: it must have read some times as much.
    const int64_t pixels = p.pixels, filters = int64_t(s.k) * s.c, least = std::max(p.rows, 2 * std::max(s.k, s.c));
    const int rows = int(std::max<int64_t>(1, std::min<int64_t>({context->info.units * 16 / p.warps, ceil_divide(pixels, p.rows), pixels / least})));
    b.filter_partial = rows == 1 ? out<float>(1) : scratch<float>(uint64_t(rows) * uint64_t(filters)); // a single partial is the gradient
    const dim3 grid(1, rows);
    if (end) {
      b.conv = block_gradient_of<T>(*this, s, end);
      b.conv.partial = scratch<float>(uint64_t(rows) * 3 * s.c);
      launch("conv_pointwise_block_gradients", p.warps == 8 ? conv_pointwise_gradients<ConvBlockGradient<T>, 8> : conv_pointwise_gradients<ConvBlockGradient<T>, 16>, grid,
             p.warps * 32, size_t(p.bytes), b);
      block_sums_from(end, b.conv.partial, rows, s.c);
    } else {
      PointwiseGradients<ConvInputGradient<T>> a{input_gradient_of<T>(*this, s), p, b.filter_partial};
      if (op->out[3] >= 0) a.conv.partial = scratch<float>(uint64_t(rows) * 2 * s.c);
      launch("conv_pointwise_gradients", p.warps == 8 ? conv_pointwise_gradients<ConvInputGradient<T>, 8> : conv_pointwise_gradients<ConvInputGradient<T>, 16>, grid,
             p.warps * 32, size_t(p.bytes), a);
      sums_from(op, 3, a.conv.partial, rows, 2, 1, s.c);
    }
    if (rows > 1) filters_from(b.filter_partial, rows, filters, filters);
    return true;
  }
  return false;
}

template <class T> anx_status Emitter::conv_backward() {
  const ConvShape s = shape_of(op);
  if (library_backward<T>(s)) return ANX_OK;
  const anx_op *end = pointwise<T>(*this, s) ? block_end() : nullptr;
  if (end) done = number + 1;
  if (fused_gradients<T>(s) || pointwise_gradients<T>(s, end)) return ANX_OK;
  if (op->out[0] >= 0) input_gradient<T>(s, end);
  if (!stem_filter_gradient<T>(s)) filter_gradient<T>(s);
  return ANX_OK;
}

template anx_status Emitter::conv_forward<float>();
template anx_status Emitter::conv_forward<__half>();
template anx_status Emitter::conv_forward<__nv_bfloat16>();
template bool Emitter::joined_convolution<float>();
template bool Emitter::joined_convolution<__half>();
template bool Emitter::joined_convolution<__nv_bfloat16>();
template anx_status Emitter::conv_backward<float>();
template anx_status Emitter::conv_backward<__half>();
template anx_status Emitter::conv_backward<__nv_bfloat16>();

} // namespace anx_cuda
