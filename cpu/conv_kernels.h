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

/* n vectors of 16: dst = src, or ReLU(s src + t) */
AI void anx_pack_act(float *dst, size_t dst_step, const float *src, size_t src_step, int n, int act, float s, float t) {
  if (act) {
    const vf vs = vset(s), vt = vset(t);
    for (int i = 0; i < n; i++, dst += dst_step, src += src_step) {
      UNROLL for (int l = 0; l < 16; l += VL) vstore(dst + l, vrelu(vaffine(vs, vload(src + l), vt)));
    }
  } else {
    for (int i = 0; i < n; i++, dst += dst_step, src += src_step) {
      UNROLL for (int l = 0; l < 16; l += VL) vstore(dst + l, vload(src + l));
    }
  }
}

/* n vectors of 16: dst = al g + be y + de, or g where y is null */
AI void anx_pack_gradient(float *dst, size_t dst_step, const float *g, const float *y, size_t src_step, int n, float al, float be, float de) {
  if (y) {
    const vf va = vset(al), vb = vset(be), vd = vset(de);
    for (int i = 0; i < n; i++, dst += dst_step, g += src_step, y += src_step) {
      UNROLL for (int l = 0; l < 16; l += VL) vstore(dst + l, vfma(va, vload(g + l), vfma(vb, vload(y + l), vd)));
    }
  } else {
    for (int i = 0; i < n; i++, dst += dst_step, g += src_step) {
      UNROLL for (int l = 0; l < 16; l += VL) vstore(dst + l, vload(g + l));
    }
  }
}

AI void anx_zero_vectors(float *dst, size_t vectors) { memset(dst, 0, vectors * 16 * sizeof(float)); }

/* partial[c][2] of one slice from lane vectors sums[c][2][16] */
AI void anx_store_partials(double *partial, const float *sums, int channels) {
  for (int c = 0; c < channels; c++) {
    partial[2 * c] = anx_lane_sum_f64(sums + 32 * c);
    partial[2 * c + 1] = anx_lane_sum_f64(sums + 32 * c + 16);
  }
}

/* One share of a slice: input gradient of channels c0..c1-1 of a group (none if equal), weight gradient of its rows k0..k1-1. */
typedef struct anx_share {
  int group, slice, c0, c1, k0, k1;
} anx_share;

/* Walks the tasks of anx_conv_split. */
typedef void (*anx_share_fn)(const anx_call *, const anx_share *, float *scratch);
typedef struct anx_conv_job {
  const anx_call *call;
  anx_conv_parts parts;
  anx_share_fn share;
} anx_conv_job;

void FN(anx_conv_task)(void *job, int index, int thread);

void FN(anx_pointwise_forward)(const anx_call *, const anx_share *, float *scratch);
void FN(anx_pointwise_backward)(const anx_call *, const anx_share *, float *scratch);
void FN(anx_spatial_forward)(const anx_call *, const anx_share *, float *scratch);
void FN(anx_spatial_backward)(const anx_call *, const anx_share *, float *scratch);

#endif
