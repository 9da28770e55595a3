/* conv_kernels.h - what the convolution families share inside the vector code: elementwise packing, sums of slices, dispatch. */
#ifndef ANX_CPU_CONV_KERNELS_H
#define ANX_CPU_CONV_KERNELS_H

#include "cpu.h"
#include "tile.h"

/* in[] and out[] of the two ops */
enum { FWD_X, FWD_S, FWD_T, FWD_W, FWD_BIAS };
enum { FWD_Y, FWD_SUMS };
enum { BWD_G, BWD_Y, BWD_AL, BWD_BE, BWD_DE, BWD_X, BWD_S, BWD_T, BWD_MEAN, BWD_W, BWD_ADD };
enum { BWD_DX, BWD_DW, BWD_DBIAS, BWD_SUMS };
/* and of join_fwd and join_bwd */
enum { JOIN_C, JOIN_S, JOIN_T, JOIN_Z, JOIN_SP, JOIN_TP };
enum { END_DX, END_Y, END_C, END_MEAN, END_P, END_MEAN_P };
enum { END_G, END_SUMS, END_SUMS_P };

/* n pixels of 16 images: dst = src, or ReLU(s src + t) */
AI void anx_pack_act(stored *dst, size_t dst_step, const stored *src, size_t src_step, int n, const float *s, const float *t) {
  if (s) {
    const vf vs = vset(*s), vt = vset(*t);
    for (int i = 0; i < n; i++, dst += dst_step, src += src_step) {
      UNROLL for (int l = 0; l < 16; l += VL) astore(dst + l, vrelu(vaffine(vs, aload(src + l), vt)));
    }
  } else {
    for (int i = 0; i < n; i++, dst += dst_step, src += src_step) {
      UNROLL for (int l = 0; l < 16; l += VL) astore(dst + l, aload(src + l));
    }
  }
}

/* The slots of a tile: the same, in bf16 of two channels src and src + src_c (the second is zero if channels is 1). */
AI void anx_pack_act_slots(float *dst, size_t dst_step, const stored *src, size_t src_c, int channels, size_t src_step, int n, const float *s,
                           const float *t) {
#if PAIR == 1
  (void)src_c, (void)channels;
  anx_pack_act(dst, dst_step, src, src_step, n, s, t);
#else
  const int two = channels > 1;
  const stored *other = two ? src + src_c : src;
  const vf vs = vset(s ? s[0] : 0), vt = vset(s ? t[0] : 0), ws = vset(s && two ? s[1] : 0), wt = vset(s && two ? t[1] : 0);
  for (int i = 0; i < n; i++, dst += dst_step, src += src_step, other += src_step) {
    vf a = aload(src), b = two ? aload(other) : vzero();
    if (s) {
      a = vrelu(vaffine(vs, a, vt));
      if (two) b = vrelu(vaffine(ws, b, wt));
    }
    vstore(dst, vinterleave(a, b));
  }
#endif
}

/* The slots of n pixels of D = al g + be y + de, or g where y is null; coefficients of the channel, in bf16 of two as above. */
AI void anx_pack_gradient_slots(float *dst, size_t dst_step, const stored *g, const stored *y, size_t src_c, int channels, size_t src_step, int n,
                                const float *al, const float *be, const float *de) {
#if PAIR == 1
  (void)src_c, (void)channels;
  if (y) {
    const vf va = vset(*al), vb = vset(*be), vd = vset(*de);
    for (int i = 0; i < n; i++, dst += dst_step, g += src_step, y += src_step) {
      UNROLL for (int l = 0; l < 16; l += VL) vstore(dst + l, vfma(va, aload(g + l), vfma(vb, aload(y + l), vd)));
    }
  } else {
    for (int i = 0; i < n; i++, dst += dst_step, g += src_step) {
      UNROLL for (int l = 0; l < 16; l += VL) vstore(dst + l, aload(g + l));
    }
  }
#else
  const int two = channels > 1;
  const size_t other = two ? src_c : 0;
  const vf va = vset(y ? al[0] : 1), vb = vset(y ? be[0] : 0), vd = vset(y ? de[0] : 0);
  const vf wa = vset(y && two ? al[1] : two), wb = vset(y && two ? be[1] : 0), wd = vset(y && two ? de[1] : 0);
  for (int i = 0; i < n; i++, dst += dst_step) {
    vf a = aload(g + (size_t)i * src_step), b = two ? aload(g + other + (size_t)i * src_step) : vzero();
    if (y) {
      a = vfma(va, a, vfma(vb, aload(y + (size_t)i * src_step), vd));
      if (two) b = vfma(wa, b, vfma(wb, aload(y + other + (size_t)i * src_step), wd));
    }
    vstore(dst, vinterleave(a, b));
  }
#endif
}

#include "pairs.h"

AI void anx_zero_vectors(float *dst, int vectors) {
  for (int i = 0; i < vectors * 16; i += VL) {
    vstore(dst + i, vzero());
    __asm__ volatile(""); /* no call of memset: most often it is one vector */
  }
}

/* A vector of ones, to sum slots with vmac. */
AI vf vones(void) {
  if (PAIR == 1) return vset(1.0f);
  const uint32_t two = 0x3f803f80;
  float slot;
  memcpy(&slot, &two, sizeof slot);
  return vset(slot);
}

/* partial[c][2] of one slice from lane vectors sums[c][2][16] */
AI void anx_store_partials(double *partial, const float *sums, int channels) {
  for (int c = 0; c < channels; c++) {
    partial[2 * c] = anx_lane_sum_f64(sums + 32 * c);
    partial[2 * c + 1] = anx_lane_sum_f64(sums + 32 * c + 16);
  }
}

/* One share of a slice: input gradient of channels c0..c1-1 of a group (none if equal), weight gradient of its rows k0..k1-1, which goes to dw and
 * dbias: over what is there if it is the first slice of its section, or is added; last: of its section.
 * next: the sheet of what this thread will probably do afterwards, and its group and slice; null: nothing. */
typedef struct anx_share {
  int group, slice, c0, c1, k0, k1, first, last, next_group, next_slice;
  const anx_call *next;
  float *dw, *dbias; /* of all groups */
} anx_share;

/* Walks the tasks of anx_conv_split. */
typedef void (*anx_share_fn)(const anx_call *, const anx_share *, float *scratch);
typedef struct anx_conv_job {
  const anx_call *call;
  anx_conv_parts parts;
  anx_share_fn share;
} anx_conv_job;

void FN(anx_conv_task)(void *job, int index, int thread);

/* The filter as the register tiles read it: the tensor itself, or what conv_ops.c has left in call->filter. Forward
 * [K][taps][ci], backward [groups][co][taps][gi]. */
AI const float *anx_filter(const anx_call *call) {
  if (call->conv.filter_floats) return call->filter;
  return call->in[call->op->kind == ANX_CONV_BWD ? (int)BWD_W : (int)FWD_W];
}

/* The end of a block: vectors begin..end-1 of channel c of G = dX masked by Y > 0. With dx, that is where dX lies in fp32 (at vector begin), to which
 * add (of the whole map) is added, or null; else it is the op's own. total: of G, of G times C, of G times P. */
void FN(anx_end_channel)(const anx_call *end, int c, size_t from, size_t to, const float *dx, const stored *add, double *total);

void FN(anx_pointwise_forward)(const anx_call *, const anx_share *, float *scratch);
void FN(anx_pointwise_backward)(const anx_call *, const anx_share *, float *scratch);
void FN(anx_rows_backward)(const anx_call *, const anx_share *, float *scratch);
void FN(anx_narrow_forward)(const anx_call *, const anx_share *, float *scratch);
void FN(anx_depthwise_backward)(const anx_call *, const anx_share *, float *scratch);
void FN(anx_narrow_backward)(const anx_call *, const anx_share *, float *scratch);
void FN(anx_strided_forward)(const anx_call *, const anx_share *, float *scratch);
void FN(anx_strided_backward)(const anx_call *, const anx_share *, float *scratch);
void FN(anx_stem_backward)(const anx_call *, const anx_share *, float *scratch);
void FN(anx_spatial_forward)(const anx_call *, const anx_share *, float *scratch);
void FN(anx_spatial_backward)(const anx_call *, const anx_share *, float *scratch);

#endif
