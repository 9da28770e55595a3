/* conv_ops.c - conv_fwd and conv_bwd: cut into tasks, run by family, sums combined in slice order. */
#include "conv_kernels.h"

/* All slices of a group in order, then those of another. */
static void slices(const anx_conv_job *job, anx_share *s, int next_group, float *scratch) {
  const int count = job->call->conv.slices;
  for (s->slice = 0; s->slice < count; s->slice++) {
    const int last = s->slice + 1 == count;
    s->next_group = last ? next_group : s->group;
    s->next_slice = last ? 0 : s->slice + 1;
    job->share(job->call, s, scratch);
  }
}

void FN(anx_conv_task)(void *argument, int index, int thread) {
  const anx_conv_job *job = argument;
  const anx_call *call = job->call;
  const anx_conv_plan *p = &call->conv;
  const anx_conv_parts *parts = &job->parts;
  const int backward = call->op->kind == ANX_CONV_BWD, need_dx = backward && call->out[BWD_DX];
  float *scratch = call->scratch + (size_t)thread * call->scratch_floats;
  anx_share s = {0};
  const int threads = anx_pool_threads(call->pool);
  if (parts->fused) {
    s.group = index;
    s.c1 = need_dx ? p->gi : 0;
    s.k1 = p->go;
    slices(job, &s, index + threads, scratch);
    return;
  }
  const int weights = p->groups * parts->weight_parts;
  if (index < weights) {
    s.group = index / parts->weight_parts;
    anx_part_range(p->go, parts->weight_parts, index % parts->weight_parts, &s.k0, &s.k1);
    slices(job, &s, (index + threads) / parts->weight_parts, scratch);
    return;
  }
  index -= weights;
  const int part = index % parts->parts;
  s.group = index / parts->parts / parts->slices;
  s.slice = index / parts->parts % parts->slices;
  if (backward) anx_part_range(p->gi, parts->parts, part, &s.c0, &s.c1);
  else anx_part_range(p->go, parts->parts, part, &s.k0, &s.k1);
  s.next_group = (index + threads) / parts->parts / parts->slices;
  s.next_slice = (index + threads) / parts->parts % parts->slices;
  job->share(call, &s, scratch);
}

#if PAIR == 2
#define FILTER_PARTS 16 /* tasks */

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

/* Rows of the filter in slots: forward a row is a tap of an output channel, backward a pair of output channels. */
static void pack_filter_part(void *argument, int part, int thread) {
  const anx_call *call = argument;
  const anx_conv_plan *p = &call->conv;
  const int backward = call->op->kind == ANX_CONV_BWD;
  const size_t gi = (size_t)p->gi, ci = (size_t)p->ci, filter = (size_t)p->taps * gi;
  const float *w = call->in[backward ? (int)BWD_W : (int)FWD_W];
  int from, to;
  (void)thread;
  anx_part_range(backward ? p->groups * p->co : call->op->k, FILTER_PARTS, part, &from, &to);
  if (backward) {
    for (int i = from; i < to; i++) {
      const int k = i % p->co * 2;
      const float *even = w + (size_t)(i / p->co * p->go + k) * filter;
      interleave(call->filter + (size_t)i * filter, even, k + 1 < p->go ? even + filter : NULL, filter);
    }
  } else if (gi % 2 == 0) {
    narrow(call->filter + (size_t)from * filter / 2, w + (size_t)from * filter, (size_t)(to - from) * filter);
  } else {
    for (size_t i = (size_t)(from * p->taps); i < (size_t)(to * p->taps); i++) narrow(call->filter + i * ci, w + i * gi, gi);
  }
}
#endif

static void pack_filter(const anx_call *call) {
#if PAIR == 2
  if (!call->conv.narrow) anx_pool_run(call->pool, pack_filter_part, (void *)call, FILTER_PARTS);
#else
  (void)call;
#endif
}

void FN(anx_conv_fwd)(const anx_call *call) {
  anx_conv_job job = {call, anx_conv_split(&call->conv, call->op, anx_pool_threads(call->pool), 0),
                      call->conv.pointwise ? FN(anx_pointwise_forward) : call->conv.narrow ? FN(anx_narrow_forward) : FN(anx_spatial_forward)};
  pack_filter(call);
  anx_pool_run(call->pool, FN(anx_conv_task), &job, job.parts.tasks);
  if (call->out[FWD_SUMS]) anx_combine_sums(call->out[FWD_SUMS], call->partial, call->conv.slices, call->op->k);
}

void FN(anx_conv_bwd)(const anx_call *call) {
  anx_conv_job job = {call, anx_conv_split(&call->conv, call->op, anx_pool_threads(call->pool), call->out[BWD_DX] != NULL),
                      call->conv.pointwise ? FN(anx_pointwise_backward) : call->conv.narrow ? FN(anx_narrow_backward) : FN(anx_spatial_backward)};
  if (call->out[BWD_DX]) pack_filter(call);
  anx_pool_run(call->pool, FN(anx_conv_task), &job, job.parts.tasks);
  if (call->out[BWD_SUMS]) anx_combine_sums(call->out[BWD_SUMS], call->partial, call->conv.slices, call->op->c);
}
