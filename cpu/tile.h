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
 * turn. A forward tile makes one for each of its pixels and reduction channels, a weight tile one per pixel, or three with three columns. */
typedef struct anx_fetch {
  const char *at; /* null, of a forward tile: nothing to fetch */
  uint32_t step;
} anx_fetch;

typedef struct anx_forward_tile {
  const float *x;  /* slots of the input at the first tap, pixel 0 */
  size_t x_c, x_p; /* channel stride, pixel stride, slots */
  const float *w;
  size_t w_k, w_c; /* output channel stride, reduction channel stride */
  int channels, tap_rows, tap_columns;     /* taps are a rectangle */
  ptrdiff_t x_tr, x_tc, w_tr, w_tc;        /* from one row of taps to the next, and one column; nothing with one tap */
  stored *y;
  size_t y_k, y_p;
  int stream; /* y is written past the caches, see anx_streams */
  const float *bias;  /* [KB] or null */
  const stored *add;  /* same strides as y, or null */
  const stored *raw;  /* raw input whose activation masks, same strides as y, or null */
  const float *s, *t, *mean; /* [KB], with raw */
  float *sums;       /* [KB][2][16] lane vectors, or null */
  int more_rows;     /* rows after the first, x_row and y_row from one to the next */
  size_t x_row, y_row;
  anx_fetch fetch;
} anx_forward_tile;

/* Where in a run of tiles we are: the input of the next one, its first output channel, the offset of its results, and in 1/256 bytes what has been
 * fetched. */
typedef struct anx_place {
  const float *x;
  size_t k, at, fetched;
} anx_place;

#if ANX_ACCUMULATORS >= 24 && VL == 16
#define FORWARD_CHANNELS 6
#define FORWARD_PIXELS 14
static const int8_t anx_forward_width[FORWARD_CHANNELS + 1] = {0, 14, 9, 7, 5, 4, 4};
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
  return (kb + FORWARD_CHANNELS - 1) / FORWARD_CHANNELS * (t->more_rows + 1) * count * t->channels;
}

/* Splits n into parts of at most most, as equal as possible: the size of the part that starts at `at`. */
AI int anx_part(int n, int most, int at) {
  const int left = n - at, parts = (left + most - 1) / most;
  return (left + parts - 1) / parts;
}

/* What one tap of one reduction channel adds to the accumulators a. */
AI void anx_tap(vf *a, const float *x, size_t x_p, const float *w, size_t w_k, const int KB, const int PB) {
  vf v[16]; /* PB LANES of them */
  UNROLL for (int p = 0; p < PB; p++) {
    UNROLL for (int l = 0; l < LANES; l++) v[p * LANES + l] = vload(x + (size_t)p * x_p + l * VL);
  }
  UNROLL for (int k = 0; k < KB; k++) {
    const vf b = vset(w[(size_t)k * w_k]);
    UNROLL for (int p = 0; p < PB * LANES; p++) a[k * PB * LANES + p] = vmac(b, v[p], a[k * PB * LANES + p]);
  }
}

/* Three taps in a row, of pixels that are neighbours: what it loads serves all three. */
AI void anx_three_taps(vf *a, const float *x, const float *w, ptrdiff_t w_tc, size_t w_k, const int KB, const int PB) {
  vf v[32];
  UNROLL for (int p = 0; p < (PB + 2) * LANES; p++) v[p] = vload(x + p * VL);
  UNROLL for (int i = 0; i < 3; i++, w += w_tc) {
    UNROLL for (int k = 0; k < KB; k++) {
      const vf b = vset(w[(size_t)k * w_k]);
      UNROLL for (int p = 0; p < PB * LANES; p++) a[k * PB * LANES + p] = vmac(b, v[i * LANES + p], a[k * PB * LANES + p]);
    }
  }
}

/* THREE: there are three in a row, and pixels are neighbours in x and in y. */
AI void anx_forward_body(const anx_forward_tile *t, anx_place place, const int KB, const int PB, const int THREE) {
  const size_t x_c = t->x_c, x_p = THREE ? 16 : t->x_p, w_c = t->w_c, w_k = t->w_k, y_p = THREE ? 16 : t->y_p;
  const ptrdiff_t x_tr = t->x_tr, x_tc = t->x_tc, w_tr = t->w_tr, w_tc = t->w_tc;
  const int channels = t->channels, tap_rows = t->tap_rows, columns = t->tap_columns;
  const char *const fetch = t->fetch.at;
  const size_t fetch_step = t->fetch.step;
  vf a[32]; /* a constant size: the compiler keeps variable-length arrays in memory */
  UNROLL for (int i = 0; i < KB * PB * LANES; i++) a[i] = vzero();
  UNROLL for (int k = 0; k < KB; k++) { /* what the epilogue needs */
    const size_t at = place.at + (size_t)k * t->y_k;
    if (t->raw && !t->stream) {
      UNROLL for (int p = 0; p < PB; p++) __builtin_prefetch(t->y + at + (size_t)p * y_p, 1);
    }
    if (t->raw) {
      UNROLL for (int p = 0; p < PB; p++) __builtin_prefetch(t->raw + at + (size_t)p * y_p);
    }
    if (t->add) {
      UNROLL for (int p = 0; p < PB; p++) __builtin_prefetch(t->add + at + (size_t)p * y_p);
    }
  }
  const float *xc = place.x, *wc = t->w + place.k * w_k;
  size_t fetched = place.fetched;
  for (int c = 0; c < channels; c++, xc += x_c, wc += w_c) {
    UNROLL for (int i = 0; i < PB; i++, fetched += fetch_step) __builtin_prefetch(fetch + (fetched >> 8), 0, 2);
    const float *xr = xc, *wr = wc;
    for (int r = 0; r < tap_rows; r++, xr += x_tr, wr += w_tr) {
      if (THREE) {
        anx_three_taps(a, xr, wr, w_tc, w_k, KB, PB);
      } else {
        for (int i = 0; i < columns; i++) anx_tap(a, xr + i * x_tc, x_p, wr + i * w_tc, w_k, KB, PB);
      }
    }
  }
  /* Copies: as far as the compiler knows, a store into y may change t. They are made here, since the loop needs the registers. */
  __asm__ volatile("" : "+r"(t));
  const size_t y_k = t->y_k;
  const int stream = t->stream;
  stored *const y = t->y + place.at;
  const stored *const raw = t->raw ? t->raw + place.at : NULL, *const add = t->add ? t->add + place.at : NULL;
  const float *const bias = t->bias ? t->bias + place.k : NULL;
  const float *const mask_s = raw ? t->s + place.k : NULL, *const mask_t = raw ? t->t + place.k : NULL, *const mean = raw ? t->mean + place.k : NULL;
  float *const sums = t->sums ? t->sums + 32 * place.k : NULL;
  UNROLL for (int k = 0; k < KB; k++) {
    vf *const ak = a + k * PB * LANES;
    if (bias) {
      const vf b = vset(bias[k]);
      UNROLL for (int p = 0; p < PB * LANES; p++) ak[p] = ak[p] + b;
    }
    if (add) {
      const stored *from = add + (size_t)k * y_k;
      UNROLL for (int p = 0; p < PB; p++) {
        UNROLL for (int l = 0; l < LANES; l++) ak[p * LANES + l] = ak[p * LANES + l] + aload(from + (size_t)p * y_p + l * VL);
      }
    }
    if (raw) {
      const stored *from = raw + (size_t)k * y_k;
      const vf s = vset(mask_s[k]), shift = vset(mask_t[k]), m = vset(mean[k]);
      UNROLL for (int l = 0; l < LANES; l++) {
        vf s1 = vload(sums + 32 * k + l * VL), s2 = vload(sums + 32 * k + 16 + l * VL);
        UNROLL for (int p = 0; p < PB; p++) {
          const int i = p * LANES + l;
          const vf r = aload(from + (size_t)p * y_p + l * VL);
          ak[i] = vkeep_gt(ak[i], vaffine(s, r, shift), vzero());
          s1 = s1 + ak[i];
          s2 = vfma(ak[i], r - m, s2);
        }
        vstore(sums + 32 * k + l * VL, s1);
        vstore(sums + 32 * k + 16 + l * VL, s2);
      }
    } else if (sums) {
      UNROLL for (int l = 0; l < LANES; l++) {
        vf s1 = vload(sums + 32 * k + l * VL), s2 = vload(sums + 32 * k + 16 + l * VL);
        UNROLL for (int p = 0; p < PB; p++) {
          const int i = p * LANES + l;
          s1 = s1 + ak[i];
          s2 = vfma(ak[i], ak[i], s2);
        }
        vstore(sums + 32 * k + l * VL, s1);
        vstore(sums + 32 * k + 16 + l * VL, s2);
      }
    }
#if PAIR == 2
    if (stream && y_p == 16) {
      write_lines(y + (size_t)k * y_k, ak, PB);
    } else
#endif
    if (stream) {
      UNROLL for (int p = 0; p < PB; p++) {
        UNROLL for (int l = 0; l < LANES; l++) awrite(y + (size_t)k * y_k + (size_t)p * y_p + l * VL, ak[p * LANES + l], 1);
      }
    } else {
      UNROLL for (int p = 0; p < PB; p++) {
        UNROLL for (int l = 0; l < LANES; l++) awrite(y + (size_t)k * y_k + (size_t)p * y_p + l * VL, ak[p * LANES + l], 0);
      }
    }
  }
}

AI int anx_three(const anx_forward_tile *t) { return t->tap_columns == 3 && t->x_tc == 16 && t->x_p == 16 && t->y_p == 16; }

/* One row, or all rows, of `tiles` tiles. The place by address: as a value it was copied as a vector, and waited for the fields to leave the store buffer. */
#define FORWARD_ONE(KB, PB)                                                                                                     \
  static __attribute__((noinline)) void forward_##KB##_##PB(const anx_forward_tile *t, const anx_place *at, int tiles, int rows) { \
    anx_place row = *at;                                                                                                         \
    const size_t x_step = PB * t->x_p, y_step = PB * t->y_p, fetches = PB * (size_t)t->channels * t->fetch.step;                 \
    for (int j = 0; j < rows; j++, row.x += t->x_row, row.at += t->y_row) {                                                      \
      anx_place place = row;                                                                                                     \
      for (int i = 0; i < tiles; i++, place.x += x_step, place.at += y_step, place.fetched += fetches) {                         \
        if (anx_three(t)) anx_forward_body(t, place, KB, PB, 1);                                                                 \
        else anx_forward_body(t, place, KB, PB, 0);                                                                              \
      }                                                                                                                          \
      row.fetched = place.fetched;                                                                                               \
    }                                                                                                                            \
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

/* The same over RB rows of three columns each, neighbours in memory: columns[i] is the first of row i; lanes: [KB][RB][3][16]. */
AI void anx_weight_three(WEIGHT_ARGUMENTS, const int KB, const int RB) {
  size_t fetched = 0;
  (void)n1, (void)d1, (void)a1; /* always one row after the other */
  for (int l = 0; l < LANES; l++) {
    vf a[32];
    UNROLL for (int i = 0; i < KB * RB * 3; i++) a[i] = vzero();
    for (int i2 = 0; i2 < n2; i2++) {
      const float *dd = d + (size_t)i2 * d2 + l * VL;
      const float *c[3];
      UNROLL for (int j = 0; j < RB; j++) c[j] = columns[j] + (size_t)i2 * a2 + l * VL;
      for (int i3 = 0; i3 < n3; i3++, dd += d3) {
        UNROLL for (int i = 0; i < 3; i++, fetched += fetch.step) __builtin_prefetch(fetch.at + (fetched >> 8), 0, 2);
        vf v[WEIGHT_ROWS];
        UNROLL for (int k = 0; k < KB; k++) v[k] = vload_slots(dd + (size_t)k * d_k);
        UNROLL for (int j = 0; j < RB; j++) {
          UNROLL for (int s = 0; s < 3; s++) {
            const vf b = vload_slots(c[j] + s * (16 / PAIR));
            UNROLL for (int k = 0; k < KB; k++) a[(k * RB + j) * 3 + s] = vmac(v[k], b, a[(k * RB + j) * 3 + s]);
          }
          c[j] += a3;
        }
      }
    }
    UNROLL for (int i = 0; i < KB * RB * 3; i++) vstore(lanes + i * 16 + l * VL, a[i]);
  }
}

#define WEIGHT_THREE(KB, RB)                                                                 \
  static __attribute__((noinline)) void three_##KB##_##RB(WEIGHT_ARGUMENTS) {                \
    anx_weight_three(d, d_k, columns, n1, d1, a1, n2, d2, a2, n3, d3, a3, fetch, lanes, KB, RB); \
  }

#define WEIGHT_ONE(KB, JB)                                                                  \
  static __attribute__((noinline)) void weight_##KB##_##JB(WEIGHT_ARGUMENTS) {              \
    anx_weight_body(d, d_k, columns, n1, d1, a1, n2, d2, a2, n3, d3, a3, fetch, lanes, KB, JB);    \
  }

#if FORWARD_CHANNELS == 6 && FORWARD_PIXELS == 14
#define FORWARD_ALL(F) F(1,1) F(1,2) F(1,3) F(1,4) F(1,5) F(1,6) F(1,7) F(1,8) F(1,9) F(1,10) F(1,11) F(1,12) F(1,13) F(1,14) F(2,1) F(2,2) F(2,3) F(2,4) F(2,5) \
  F(2,6) F(2,7) F(2,8) F(2,9) F(3,1) F(3,2) F(3,3) F(3,4) F(3,5) F(3,6) F(3,7) F(4,1) F(4,2) F(4,3) F(4,4) F(4,5) F(5,1) F(5,2) F(5,3) F(5,4) \
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
#define THREE_ALL(F) F(1,1) F(1,2) F(1,3) F(2,1) F(2,2) F(2,3) F(3,1) F(3,2) F(3,3) F(4,1) F(4,2)
#define THREE_ROWS 4
static const int8_t anx_three_rows[THREE_ROWS + 1] = {0, 3, 3, 3, 2};
#else
#define THREE_ALL(F) F(1,1) F(1,2) F(1,3) F(2,1) F(3,1)
#define THREE_ROWS 3
static const int8_t anx_three_rows[THREE_ROWS + 1] = {0, 3, 1, 1};
#define WEIGHT_ALL(F) F(1,1) F(1,2) F(1,3) F(1,4) F(1,5) F(1,6) F(1,7) F(1,8) F(1,9) F(2,1) F(2,2) F(2,3) F(2,4) F(2,5) F(3,1) F(3,2) F(3,3) \
  F(3,4)
#endif

#ifdef ANX_TILE_BODIES /* tile.c alone compiles the tiles */
FORWARD_ALL(FORWARD_ONE)
WEIGHT_ALL(WEIGHT_ONE)
THREE_ALL(WEIGHT_THREE)
#endif

/* Output channels k0..k1-1 of count pixels; arrays indexed by output channel start at channel 0, `at` is the offset of the first pixel in y, add
 * and raw. */
void FN(anx_forward)(const anx_forward_tile *, int k0, int k1, size_t at, int count);
/* dW[k0 + k][..] += ... for a block of kb x jb weights; out[k * JB + j] receives the sums over the pixels. */
void FN(anx_weight)(WEIGHT_ARGUMENTS, int kb, int jb);
/* The same for rb rows of three columns; one level of strides less. */
void FN(anx_weight_rows)(WEIGHT_ARGUMENTS, int kb, int rb);

#endif
