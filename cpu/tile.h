/* tile.h - the two register tiles that every convolution of this back end is made of.
 *
 * anx_forward_tile: KB output channels x PB pixels (x 16 images) stay in registers while the reduction runs over input channels and a list of
 *   taps; weights are broadcast straight from the canonical filter (no packed copy), so forward and input gradient differ only in strides.
 *   The epilogue works on the registers: bias, or residual gradient, mask and the sums of a batch norm.
 *   AVX-512: 24 accumulators, 10..11 loads per 24 multiply-adds.
 * anx_weight_tile: KB x JB weights (J = tap x input channel) stay in registers as 16 partial sums each (one per image lane) while the loop runs
 *   over the pixels of a slice; one fixed tree adds the lanes.
 *
 * The order of the additions into one output does not depend on KB or PB, which differ between instruction sets.
 */
#ifndef ANX_CPU_TILE_H
#define ANX_CPU_TILE_H

#include "isa.h"

/* Memory that later slices read, brought near while this one is computed. Requests are spread evenly over the arithmetic: step/256 bytes on per
 * pixel of a weight tile, and per pixel and turn of a forward tile, which makes FETCHES turns for each reduction channel. */
#define FETCHES 4
typedef struct anx_fetch {
  const char *at; /* null, of a forward tile: nothing to fetch */
  uint32_t step;
} anx_fetch;

typedef struct anx_forward_tile {
  const float *x;  /* slots of the input at tap offset 0, pixel 0 */
  size_t x_c, x_p; /* channel stride, pixel stride, slots */
  const float *w;
  size_t w_k, w_c; /* output channel stride, reduction channel stride */
  const int32_t *x_tap, *w_tap;
  int channels, taps;
  stored *y;
  float *wide; /* bf16: results in fp32 in place of y, or null; see anx_tile_floats */
  size_t y_k, y_p;
  int stream; /* y is written past the caches, see anx_streams */
  const float *bias;  /* [KB] or null */
  const stored *add;  /* same strides as y, or null */
  const stored *raw;  /* raw input whose activation masks, same strides as y, or null */
  const float *s, *t, *mean; /* [KB], with raw */
  float *sums;       /* [KB][2][16] lane vectors, or null */
  anx_fetch fetch;   /* not with one tap */
} anx_forward_tile;

/* The results of a tile go to fp32 memory whatever is stored elsewhere. */
AI void anx_tile_floats(anx_forward_tile *t, float *y) {
#if PAIR == 1
  t->y = y;
#else
  t->wide = y;
#endif
}

#if ANX_ACCUMULATORS >= 24 && VL == 16
#define FORWARD_CHANNELS 6
#define FORWARD_PIXELS 14
static const int8_t anx_forward_width[FORWARD_CHANNELS + 1] = {0, 14, 10, 8, 6, 4, 4};
#define WEIGHT_ROWS 6
#define WEIGHT_COLUMNS 9
static const int8_t anx_weight_width[WEIGHT_ROWS + 1] = {0, 9, 9, 8, 6, 4, 4};
#elif ANX_ACCUMULATORS >= 24
#define FORWARD_CHANNELS 6
#define FORWARD_PIXELS 4
static const int8_t anx_forward_width[FORWARD_CHANNELS + 1] = {0, 4, 3, 2, 1, 1, 1};
#define WEIGHT_ROWS 6
#define WEIGHT_COLUMNS 9
static const int8_t anx_weight_width[WEIGHT_ROWS + 1] = {0, 9, 9, 8, 6, 4, 4};
#elif VL == 8
#define FORWARD_CHANNELS 3
#define FORWARD_PIXELS 5
static const int8_t anx_forward_width[FORWARD_CHANNELS + 1] = {0, 5, 3, 2};
#define WEIGHT_ROWS 3
#define WEIGHT_COLUMNS 9
static const int8_t anx_weight_width[WEIGHT_ROWS + 1] = {0, 9, 5, 4};
#else
#define FORWARD_CHANNELS 3
#define FORWARD_PIXELS 2
static const int8_t anx_forward_width[FORWARD_CHANNELS + 1] = {0, 2, 1, 1};
#define WEIGHT_ROWS 3
#define WEIGHT_COLUMNS 9
static const int8_t anx_weight_width[WEIGHT_ROWS + 1] = {0, 9, 5, 4};
#endif

/* Turns of fetching while kb output channels of count pixels are computed. */
AI int anx_fetch_turns(const anx_forward_tile *t, int kb, int count) {
  return (kb + FORWARD_CHANNELS - 1) / FORWARD_CHANNELS * count * t->channels * FETCHES;
}

/* Splits n into parts of at most most, as equal as possible: the size of the part that starts at `at`. */
AI int anx_part(int n, int most, int at) {
  const int left = n - at, parts = (left + most - 1) / most;
  return (left + parts - 1) / parts;
}

AI void anx_forward_body(const anx_forward_tile *t, size_t pixel, const int KB, const int PB, const int ONE_TAP) {
  const float *x0 = t->x + pixel * t->x_p;
  const size_t at = pixel * t->y_p;
  vf a[32]; /* a constant size: the compiler keeps variable-length arrays in memory */
  UNROLL for (int i = 0; i < KB * PB * LANES; i++) a[i] = vzero();
  UNROLL for (int k = 0; k < KB && !ONE_TAP; k++) { /* what the epilogue needs */
    const size_t o = at + (size_t)k * t->y_k;
    if (!t->stream) {
      UNROLL for (int p = 0; p < PB; p++) __builtin_prefetch(t->y + o + (size_t)p * t->y_p, 1);
    }
    if (t->raw) {
      UNROLL for (int p = 0; p < PB; p++) __builtin_prefetch(t->raw + o + (size_t)p * t->y_p);
    }
    if (t->add) {
      UNROLL for (int p = 0; p < PB; p++) __builtin_prefetch(t->add + o + (size_t)p * t->y_p);
    }
  }
  const char *const fetch = t->fetch.at;
  const size_t fetch_step = (size_t)t->fetch.step * (size_t)PB;
  size_t fetched = pixel * (size_t)t->channels * FETCHES * t->fetch.step;
  const float *wc = t->w;
  const size_t x_c = t->x_c, x_p = t->x_p, w_c = t->w_c, w_k = t->w_k;
  const int channels = t->channels, taps = ONE_TAP ? 1 : t->taps;
  const int32_t *const x_tap = t->x_tap, *const w_tap = t->w_tap;
  if (ONE_TAP) {
    x0 += x_tap[0];
    wc += w_tap[0];
  }
  for (int c = 0; c < channels; c++, x0 += x_c, wc += w_c) {
    if (!ONE_TAP) {
      UNROLL for (int i = 0; i < FETCHES; i++, fetched += fetch_step) __builtin_prefetch(fetch + (fetched >> 8), 0, 2);
    }
    for (int i = 0; i < taps; i++) {
      const float *x = ONE_TAP ? x0 : x0 + x_tap[i], *w = ONE_TAP ? wc : wc + w_tap[i];
      vf v[16]; /* PB LANES of them */
      UNROLL for (int p = 0; p < PB; p++) {
        UNROLL for (int l = 0; l < LANES; l++) v[p * LANES + l] = vload(x + (size_t)p * x_p + l * VL);
      }
      UNROLL for (int k = 0; k < KB; k++) {
        const vf b = vset(w[(size_t)k * w_k]);
        UNROLL for (int p = 0; p < PB * LANES; p++) a[k * PB * LANES + p] = vmac(b, v[p], a[k * PB * LANES + p]);
      }
    }
  }
  UNROLL for (int k = 0; k < KB; k++) {
    if (t->bias) {
      const vf b = vset(t->bias[k]);
      UNROLL for (int p = 0; p < PB * LANES; p++) a[k * PB * LANES + p] = a[k * PB * LANES + p] + b;
    }
    if (t->add) {
      const stored *add = t->add + at + (size_t)k * t->y_k;
      UNROLL for (int p = 0; p < PB; p++) {
        UNROLL for (int l = 0; l < LANES; l++) {
          const int i = (k * PB + p) * LANES + l;
          a[i] = a[i] + aload(add + (size_t)p * t->y_p + l * VL);
        }
      }
    }
    if (t->raw) {
      const stored *raw = t->raw + at + (size_t)k * t->y_k;
      float *sums = t->sums + 32 * k;
      const vf s = vset(t->s[k]), shift = vset(t->t[k]), mean = vset(t->mean[k]);
      UNROLL for (int l = 0; l < LANES; l++) {
        vf s1 = vload(sums + l * VL), s2 = vload(sums + 16 + l * VL);
        UNROLL for (int p = 0; p < PB; p++) {
          const int i = (k * PB + p) * LANES + l;
          const vf r = aload(raw + (size_t)p * t->y_p + l * VL);
          a[i] = vkeep_gt(a[i], vaffine(s, r, shift), vzero());
          s1 = s1 + a[i];
          s2 = vfma(a[i], r - mean, s2);
        }
        vstore(sums + l * VL, s1);
        vstore(sums + 16 + l * VL, s2);
      }
    } else if (t->sums) {
      float *sums = t->sums + 32 * k;
      UNROLL for (int l = 0; l < LANES; l++) {
        vf s1 = vload(sums + l * VL), s2 = vload(sums + 16 + l * VL);
        UNROLL for (int p = 0; p < PB; p++) {
          const int i = (k * PB + p) * LANES + l;
          s1 = s1 + a[i];
          s2 = vfma(a[i], a[i], s2);
        }
        vstore(sums + l * VL, s1);
        vstore(sums + 16 + l * VL, s2);
      }
    }
    const size_t o = at + (size_t)k * t->y_k;
    UNROLL for (int p = 0; p < PB; p++) {
      UNROLL for (int l = 0; l < LANES; l++) {
        if (PAIR == 2 && t->wide) vstore(t->wide + o + (size_t)p * t->y_p + l * VL, a[(k * PB + p) * LANES + l]);
        else awrite(t->y + o + (size_t)p * t->y_p + l * VL, a[(k * PB + p) * LANES + l], t->stream);
      }
    }
  }
}

#define FORWARD_ONE(KB, PB)                                                                                          \
  static __attribute__((noinline)) void forward_##KB##_##PB(const anx_forward_tile *t, int first, int tiles) {        \
    for (int i = 0; i < tiles; i++) {                                                                                 \
      const size_t p = (size_t)first + (size_t)i * PB;                                                                \
      if (t->taps == 1) anx_forward_body(t, p, KB, PB, 1);                                                            \
      else anx_forward_body(t, p, KB, PB, 0);                                                                         \
    }                                                                                                                 \
  }

#define WEIGHT_ARGUMENTS                                                                                              \
  const float *d, size_t d_k, const float *const *columns, int n1, size_t d1, size_t a1, int n2, size_t d2, size_t a2, int n3, size_t d3, \
      size_t a3, anx_fetch fetch, float *lanes

/* lanes: [KB][JB][16] sums over n1 x n2 x n3 vectors of d[k] times columns[j], with the strides given for each level. */
AI void anx_weight_body(WEIGHT_ARGUMENTS, const int KB, const int JB) {
  size_t fetched = 0;
  for (int l = 0; l < LANES; l++) {
    vf a[32];
    UNROLL for (int i = 0; i < KB * JB; i++) a[i] = vzero();
    for (int i1 = 0; i1 < n1; i1++) {
      for (int i2 = 0; i2 < n2; i2++) {
        const float *dd = d + (size_t)i1 * d1 + (size_t)i2 * d2 + l * VL;
        const size_t at = (size_t)i1 * a1 + (size_t)i2 * a2 + (size_t)l * VL;
        const float *c[WEIGHT_COLUMNS];
        UNROLL for (int j = 0; j < JB; j++) c[j] = columns[j] + at;
        size_t o = 0;
        for (int i3 = 0; i3 < n3; i3++, dd += d3, o += a3) {
          __builtin_prefetch(fetch.at + (fetched >> 8), 0, 2);
          fetched += fetch.step;
          vf v[WEIGHT_ROWS];
          UNROLL for (int k = 0; k < KB; k++) v[k] = vload_slots(dd + (size_t)k * d_k);
          UNROLL for (int j = 0; j < JB; j++) {
            const vf b = vload_slots(c[j] + o);
            UNROLL for (int k = 0; k < KB; k++) a[k * JB + j] = vmac(v[k], b, a[k * JB + j]);
          }
        }
      }
    }
    UNROLL for (int i = 0; i < KB * JB; i++) vstore(lanes + i * 16 + l * VL, a[i]);
  }
}

#define WEIGHT_ONE(KB, JB)                                                                  \
  static __attribute__((noinline)) void weight_##KB##_##JB(WEIGHT_ARGUMENTS) {              \
    anx_weight_body(d, d_k, columns, n1, d1, a1, n2, d2, a2, n3, d3, a3, fetch, lanes, KB, JB);    \
  }

#if FORWARD_CHANNELS == 6 && FORWARD_PIXELS == 14
#define FORWARD_ALL(F) F(1,1) F(1,2) F(1,3) F(1,4) F(1,5) F(1,6) F(1,7) F(1,8) F(1,9) F(1,10) F(1,11) F(1,12) F(1,13) F(1,14) F(2,1) F(2,2) F(2,3) F(2,4) F(2,5) \
  F(2,6) F(2,7) F(2,8) F(2,9) F(2,10) F(3,1) F(3,2) F(3,3) F(3,4) F(3,5) F(3,6) F(3,7) F(3,8) F(4,1) F(4,2) F(4,3) F(4,4) F(4,5) F(4,6) F(5,1) F(5,2) F(5,3) F(5,4) \
  F(6,1) F(6,2) F(6,3) F(6,4)
#elif FORWARD_CHANNELS == 6
#define FORWARD_ALL(F) F(1,1) F(1,2) F(1,3) F(1,4) F(2,1) F(2,2) F(2,3) F(3,1) F(3,2) F(4,1) F(5,1) F(6,1)
#elif FORWARD_PIXELS == 5
#define FORWARD_ALL(F) F(1,1) F(1,2) F(1,3) F(1,4) F(1,5) F(2,1) F(2,2) F(2,3) F(3,1) F(3,2)
#else
#define FORWARD_ALL(F) F(1,1) F(1,2) F(2,1) F(3,1)
#endif
#if WEIGHT_ROWS == 6
#define WEIGHT_ALL(F) F(1,1) F(1,2) F(1,3) F(1,4) F(1,5) F(1,6) F(1,7) F(1,8) F(1,9) F(2,1) F(2,2) F(2,3) F(2,4) F(2,5) F(2,6) F(2,7) F(2,8) \
  F(2,9) F(3,1) F(3,2) F(3,3) F(3,4) F(3,5) F(3,6) F(3,7) F(3,8) F(4,1) F(4,2) F(4,3) F(4,4) F(4,5) F(4,6) F(5,1) F(5,2) F(5,3) F(5,4) \
  F(6,1) F(6,2) F(6,3) F(6,4)
#else
#define WEIGHT_ALL(F) F(1,1) F(1,2) F(1,3) F(1,4) F(1,5) F(1,6) F(1,7) F(1,8) F(1,9) F(2,1) F(2,2) F(2,3) F(2,4) F(2,5) F(3,1) F(3,2) F(3,3) \
  F(3,4)
#endif

#ifdef ANX_TILE_BODIES /* tile.c alone compiles the tiles */
FORWARD_ALL(FORWARD_ONE)
WEIGHT_ALL(WEIGHT_ONE)
#endif

/* Output channels k0..k1-1 of count pixels; arrays indexed by output channel start at channel 0, `at` is the offset of the first pixel in y, add
 * and raw. */
void FN(anx_forward)(const anx_forward_tile *, int k0, int k1, size_t at, int count);
/* dW[k0 + k][..] += ... for a block of kb x jb weights; out[k * JB + j] receives the sums over the pixels. */
void FN(anx_weight)(WEIGHT_ARGUMENTS, int kb, int jb);

#endif
