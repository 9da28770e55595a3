/* conv_ops.c - conv_fwd and conv_bwd: cut into tasks, run by family, sums and weight gradients combined in order. */
#include "conv_kernels.h"

/* A task: its sheet, and what of it; in the order of anx_conv_parts. */
typedef struct task_place {
  const anx_call *call;
  int sheet, section, slice, slice_end, group, group_end, part; /* section -1: slices of none */
} task_place;

/* With a sheet or more for each thread, groups run outside, as they lie in memory; else what the pixels divide, so that threads keep theirs. */
static task_place place_of(const anx_conv_job *job, int index) {
  const anx_conv_parts *parts = &job->parts;
  task_place t = {.sheet = index / parts->tasks, .section = -1};
  t.call = job->call->sheets + t.sheet;
  index %= parts->tasks;
  const anx_conv_plan *p = &t.call->conv;
  const int weights = parts->fused ? parts->tasks : p->sections * parts->bundles * parts->weight_parts, in_sections = index < weights;
  if (!in_sections) index -= weights;
  const int cut = parts->fused ? 1 : in_sections ? parts->weight_parts : parts->parts, count = in_sections ? p->sections : p->slices;
  const int by_group = anx_pool_threads(t.call->pool) <= anx_sheets(job->call->op->n), at = index / cut;
  t.part = index % cut;
  anx_part_range(p->groups, parts->bundles, by_group ? at / count : at % parts->bundles, &t.group, &t.group_end);
  t.slice = by_group ? at % count : at / parts->bundles;
  t.slice_end = t.slice + 1;
  if (in_sections) {
    t.section = t.slice;
    anx_part_range(p->slices, p->sections, t.section, &t.slice, &t.slice_end);
  }
  return t;
}

void FN(anx_conv_task)(void *argument, int index, int thread) {
  const anx_conv_job *job = argument;
  const anx_call *call = job->call;
  const anx_conv_plan *p = &call->conv;
  const anx_conv_parts *parts = &job->parts;
  const int backward = call->op->kind == ANX_CONV_BWD, need_dx = backward && call->out[BWD_DX];
  float *scratch = call->scratch + (size_t)thread * call->scratch_floats;
  int from, to;
  anx_part_range(anx_sheets(call->op->n) * parts->tasks, anx_pool_threads(call->pool), thread, &from, &to);
  const task_place at = place_of(job, index), after = index + 1 < to ? place_of(job, index + 1) : (task_place){0};
  anx_share s = {0};
  if (at.section >= 0) {
    const int number = at.sheet * p->sections + at.section;
    float *own = number ? at.call->sections + (size_t)(number - 1) * p->weight_floats : NULL;
    s.dw = own ? own : at.call->out[BWD_DW];
    s.dbias = own ? own + p->weight_floats - at.call->op->k : at.call->out[BWD_DBIAS];
    if (parts->fused) s.c1 = need_dx ? p->gi : 0, s.k1 = p->go;
    else anx_part_range(p->go, parts->weight_parts, at.part, &s.k0, &s.k1);
  } else if (backward) {
    anx_part_range(p->gi, parts->parts, at.part, &s.c0, &s.c1);
  } else {
    anx_part_range(p->go, parts->parts, at.part, &s.k0, &s.k1);
  }
  for (s.group = at.group; s.group < at.group_end; s.group++) {
    for (s.slice = at.slice; s.slice < at.slice_end; s.slice++) {
      s.first = s.slice == at.slice;
      s.last = s.slice + 1 == at.slice_end;
      s.next = at.call;
      s.next_group = s.last ? s.group + 1 : s.group;
      s.next_slice = s.last ? at.slice : s.slice + 1;
      if (s.next_group == at.group_end) s.next = after.call, s.next_group = after.group, s.next_slice = after.slice;
      job->share(at.call, &s, scratch);
    }
  }
}

#define CHUNK 4096

/* Adds the gradients of all sheets' sections to the first one's, in order. */
static void add_sections(const anx_call *call, float *to, size_t offset, size_t from, size_t end) {
  for (int s = 1; s < anx_sheets(call->op->n) * call->conv.sections; s++) {
    const float *own = call->sections + (size_t)(s - 1) * call->conv.weight_floats + offset;
    for (size_t i = from; i < end; i++) to[i] += own[i];
  }
}

static void add_chunk(void *argument, int chunk, int thread) {
  const anx_call *call = argument;
  const size_t weights = call->conv.weight_floats - (size_t)call->op->k, from = (size_t)chunk * CHUNK, end = from + CHUNK;
  (void)thread;
  add_sections(call, call->out[BWD_DW], 0, from, end < weights ? end : weights);
}

static void combine_sections(const anx_call *call) {
  const size_t k = (size_t)call->op->k, weights = call->conv.weight_floats - k;
  if (anx_sheets(call->op->n) * call->conv.sections == 1) return;
  anx_pool_run(call->pool, add_chunk, (void *)call, (int)((weights + CHUNK - 1) / CHUNK));
  if (call->out[BWD_DBIAS]) add_sections(call, call->out[BWD_DBIAS], weights, 0, k);
}

#define FILTER_PARTS 16 /* tasks */

#if PAIR == 2
/* n slots from even and odd, zeros where odd is null */
static void interleave(float *to, const float *even, const float *odd, size_t n) {
  for (size_t i = 0; i < n; i += 16) {
    const __mmask16 m = (__mmask16)(n - i < 16 ? (1u << (n - i)) - 1 : 0xffff);
    _mm512_mask_storeu_ps(to + i, m, vinterleave(_mm512_maskz_loadu_ps(m, even + i), odd ? _mm512_maskz_loadu_ps(m, odd + i) : vzero()));
  }
}

/* n values side by side, zero behind the last if n is odd */
static void narrow(float *to, const float *from, size_t n) {
  for (size_t i = 0; i < n; i += 16) {
    const size_t left = n - i;
    const vf v = _mm512_maskz_loadu_ps((__mmask16)(left < 16 ? (1u << left) - 1 : 0xffff), from + i);
    _mm256_mask_storeu_epi32(to + i / 2, (__mmask8)(left < 16 ? (1u << (left + 1) / 2) - 1 : 0xff), (__m256i)_mm512_cvtneps_pbh(v));
  }
}

/* Forward a row is a tap of an output channel. */
static void forward_rows(const anx_call *call, int from, int to) {
  const anx_conv_plan *p = &call->conv;
  const size_t gi = (size_t)p->gi, ci = (size_t)p->ci, filter = (size_t)p->taps * gi;
  const float *w = call->in[FWD_W];
  if (gi % 2 == 0) {
    narrow(call->filter + (size_t)from * filter / 2, w + (size_t)from * filter, (size_t)(to - from) * filter);
    return;
  }
  for (size_t i = (size_t)(from * p->taps); i < (size_t)(to * p->taps); i++) narrow(call->filter + i * ci, w + i * gi, gi);
}
#endif

/* Rows of the filter as the tiles read it: backward a row is an output channel, in bf16 a pair of them. */
static void pack_filter_part(void *argument, int part, int thread) {
  const anx_call *call = argument;
  const anx_conv_plan *p = &call->conv;
  int from, to;
  (void)thread;
  if (call->op->kind == ANX_CONV_FWD) {
#if PAIR == 2
    anx_part_range(call->op->k, FILTER_PARTS, part, &from, &to);
    forward_rows(call, from, to);
#endif
    return;
  }
  const size_t filter = (size_t)(p->taps * p->gi);
  anx_part_range(p->groups * p->co, FILTER_PARTS, part, &from, &to);
  for (int i = from; i < to; i++) {
    const int k = i % p->co * PAIR;
    const float *row = (const float *)call->in[BWD_W] + (size_t)(i / p->co * p->go + k) * filter;
    float *out = call->filter + (size_t)i * p->filter_row;
#if PAIR == 2
    interleave(out, row, k + 1 < p->go ? row + filter : NULL, filter);
#else
    memcpy(out, row, filter * sizeof *out);
#endif
  }
}

static void pack_filter(const anx_call *call) {
  if (call->conv.filter_floats) anx_pool_run(call->pool, pack_filter_part, (void *)call, FILTER_PARTS);
}

static anx_share_fn forward_of(const anx_conv_plan *p) {
  if (p->pointwise) return FN(anx_pointwise_forward);
  if (p->strided) return FN(anx_strided_forward);
  return p->narrow ? FN(anx_narrow_forward) : FN(anx_spatial_forward);
}

void FN(anx_conv_fwd)(const anx_call *call) {
  anx_conv_job job = {call, anx_conv_split(&call->conv, call->op, anx_sheets(call->op->n), anx_pool_threads(call->pool), 0),
                      forward_of(&call->conv)};
  pack_filter(call);
  anx_pool_run(call->pool, FN(anx_conv_task), &job, anx_sheets(call->op->n) * job.parts.tasks);
  if (call->out[FWD_SUMS]) anx_combine_sums(call->out[FWD_SUMS], call->partial, anx_sheets(call->op->n) * call->conv.slices, call->op->k);
}

static anx_share_fn backward_of(const anx_conv_plan *p) {
  if (p->pointwise) return FN(anx_pointwise_backward);
  if (p->narrow && p->gi == 1) return FN(anx_depthwise_backward);
  if (p->by_rows) return FN(anx_rows_backward);
  if (p->strided) return FN(anx_strided_backward);
  if (p->stem) return FN(anx_stem_backward);
  return p->narrow ? FN(anx_narrow_backward) : FN(anx_spatial_backward);
}

void FN(anx_conv_bwd)(const anx_call *call) {
  anx_conv_job job = {call, anx_conv_split(&call->conv, call->op, anx_sheets(call->op->n), anx_pool_threads(call->pool), call->out[BWD_DX] != NULL),
                      backward_of(&call->conv)};
  if (call->out[BWD_DX]) pack_filter(call);
  anx_pool_run(call->pool, FN(anx_conv_task), &job, anx_sheets(call->op->n) * job.parts.tasks);
  combine_sections(call);
  if (call->end) anx_combine_end(call->end, call->partial, anx_sheets(call->op->n) * call->conv.slices);
  if (call->out[BWD_SUMS]) anx_combine_sums(call->out[BWD_SUMS], call->partial, anx_sheets(call->op->n) * call->conv.slices, call->op->c);
}
