/* conv_strided.c - grouped 3x3 convolutions of stride 2. Four inputs belong to an output: none is packed, each is read and activated in registers, again
 * for every KB output channels.
 *
 * A slice is some rows of one image block: outputs p0..p1-1, and rows 2 p0..2 p1-1 of the input, which it owns.
 * Forward, KB output channels x PB columns of a row stay in registers; row by row, so that hardware prefetchers follow (software ones made it slower).
 * The gradients read D = al G + be Y + de, formed once per slice, with the first row of the next slice and a column of zeros at the right.
 *   Input gradient: KB channels x PB columns of D give 2 x 2 PB pixels, which meet 1, 2, 2 and 4 taps: no work on zeros.
 *   Weight gradient: even rows of the input meet the middle row of the filter, odd ones the others. For one input channel and KB output channels, 3 KB or
 *   6 KB sums of each lane stay in registers while the rows of a slice go by. The lanes are added when the section's last slice has gone by. The next
 *   slice's X is fetched meanwhile.
 *
 * An output's additions go from channel to channel, row to row, and in a row the middle tap comes first; those of a batch norm's sums from pixel to
 *   pixel, backward in even and in odd rows. So bits do not depend on KB and PB, which differ between instruction sets.
 * bf16 is only stored here: the arithmetic is fp32's.
 *
 * Percent of the FMA peak on a Zen 5 (264 GFLOP/s of one core), batch 16, machine quiet; forward / both gradients / weight gradient alone:
 *        28 px, 128 channels    14 px, 256 channels    7 px, 512 channels
 *   g 1  32 / 20 / 21           25 / 19 / 20           20 / 18 / 18
 *   g 2  52 / 34 / 34           49 / 34 / 40           45 / 33 / 36
 *   g 3  60 / 44 / 42           63 / 43 / 52           62 / 45 / 46
 *   g 4  67 / 52 / 52           65 / 50 / 58           78 / 50 / 52
 *   g 8  74 / 61 / 59           77 / 62 / 63           96 / 63 / 61
 *   g 32 80 / 70 / 61           83 / 71 / 65          108 / 69 / 61
 * What bounds it: activating four inputs takes 4 multiply-adds beside 9 g (forward some 6, since tiles overlap by a row and a column); a stored vector takes
 *   two cycles. An output moves 320 bytes forward, 384 for its weight gradient, 896 for both gradients (with the lines of dX, fetched to be written),
 *   and has 4.5 g cycles of multiply-adds in each pass: from the third level cache (122 GB/s, 30 bytes a cycle) g = 1 reaches at most 42, 35 and 30 %.
 *   With channels that the second level holds, g = 3 reaches 64 forward, 50 weight gradient. The rest is calls, slices and the first level's misses.
 */
#include "conv_kernels.h"

/* One group of one slice; pointers to activations and maps are at its first image block's pixel, those to channels at the group's first. */
typedef struct strided_map {
  const stored *x, *g, *y; /* X at row 2 p0; backward G, Y (null without coefficients) at row p0 */
  const float *w, *bias;   /* bias or null */
  const float *s, *t;      /* of X's activation, or null */
  const float *al, *be, *de;
  const stored *add;       /* to the input gradient, or null */
  const float *mean;       /* the input gradient is masked, or null */
  stored *out;             /* Y at row p0, or the gradient of X at row 2 p0 */
  size_t x_c, y_c;         /* channel strides of X and Y, values */
  ptrdiff_t x_ahead;       /* from here to the next slice's X */
  float *sums;             /* forward [outputs][2][16], or null; backward [channels], even and odd rows, [2][16] */
  float *d, *lanes;        /* D [channels][rows + 1][columns + 1][16]; sums of the weight gradient [outputs][9][channels][16] */
  size_t d_k, d_row;
  int channels, outputs;   /* of the group */
  int w_in, columns;       /* of a row of X and of Y */
  int rows, rows_in;       /* of the slice, of Y and of X; the last slice of an odd map has an odd number */
  int above, below;        /* there is a row of X above the slice; of Y below it */
  int stream;
} strided_map;

#if ANX_ACCUMULATORS >= 24 && VL == 16
#define KB_FORWARD 4
static const int8_t forward_width[KB_FORWARD + 1] = {0, 14, 9, 7, 5};
#define FORWARD_SIZES(F) F(1, 1) F(1, 2) F(1, 3) F(1, 4) F(1, 5) F(1, 6) F(1, 7) F(1, 8) F(1, 9) F(1, 10) F(1, 11) F(1, 12) F(1, 13) F(1, 14) \
  F(2, 1) F(2, 2) F(2, 3) F(2, 4) F(2, 5) F(2, 6) F(2, 7) F(2, 8) F(2, 9) \
  F(3, 1) F(3, 2) F(3, 3) F(3, 4) F(3, 5) F(3, 6) F(3, 7) F(4, 1) F(4, 2) F(4, 3) F(4, 4) F(4, 5)
#define KB_GRADIENT 2
static const int8_t gradient_width[KB_GRADIENT + 1] = {0, 5, 3};
#define GRADIENT_SIZES(F) F(1, 1) F(1, 2) F(1, 3) F(1, 4) F(1, 5) F(2, 1) F(2, 2) F(2, 3)
#define KB_WEIGHTS 4
#define WEIGHT_SIZES(F) F(1) F(2) F(3) F(4)
#else
#define KB_FORWARD 3
static const int8_t forward_width[KB_FORWARD + 1] = {0, 5, 4, 3};
#define FORWARD_SIZES(F) F(1, 1) F(1, 2) F(1, 3) F(1, 4) F(1, 5) F(2, 1) F(2, 2) F(2, 3) F(2, 4) F(3, 1) F(3, 2) F(3, 3)
#define KB_GRADIENT 1
static const int8_t gradient_width[KB_GRADIENT + 1] = {0, 2};
#define GRADIENT_SIZES(F) F(1, 1) F(1, 2)
#define KB_WEIGHTS 1
#define WEIGHT_SIZES(F) F(1)
#endif

AI vf active_input(const stored *x, int active, vf s, vf t) { return active ? vrelu(vaffine(s, aload(x), t)) : aload(x); }

/* Columns column..column+PB-1 of row p of outputs k..k+KB-1. In a row of the filter, the middle tap comes first. */
AI void forward_tile(const strided_map *m, int p, int column, int k, const int KB, const int PB) {
  const int left = column == 0, right = 2 * (column + PB) > m->w_in, active = m->s != NULL;
  const int from = p || m->above ? 0 : 1, to = 2 * p + 1 < m->rows_in ? 3 : 2;
  const size_t row = (size_t)m->w_in * 16, gi = (size_t)m->channels, filter = 9 * gi;
  const ptrdiff_t at = (2 * p - 1) * (ptrdiff_t)row + 32 * column;
  for (int l = 0; l < 16; l += VL) {
    vf a[24];
    UNROLL for (int i = 0; i < KB * PB; i++) a[i] = vzero();
    const stored *xc = m->x + at + l;
    const float *wc = m->w + (size_t)k * filter;
    for (int c = 0; c < m->channels; c++, xc += m->x_c, wc++) {
      const vf s = vset(active ? m->s[c] : 0), t = vset(active ? m->t[c] : 0);
      const stored *x = xc + (size_t)from * row;
      const float *w = wc + (size_t)(3 * from) * gi;
      for (int r = from; r < to; r++, x += row, w += 3 * gi) {
        vf middle[KB_FORWARD], first[KB_FORWARD], last[KB_FORWARD]; /* a constant size: the compiler keeps other arrays in memory */
        UNROLL for (int i = 0; i < KB; i++) middle[i] = vset(w[(size_t)i * filter + gi]);
        UNROLL for (int j = 0; j < PB; j++) {
          const vf v = active_input(x + 32 * j, active, s, t);
          UNROLL for (int i = 0; i < KB; i++) a[i * PB + j] = vfma(middle[i], v, a[i * PB + j]);
        }
        UNROLL for (int i = 0; i < KB; i++) first[i] = vset(w[(size_t)i * filter]), last[i] = vset(w[(size_t)i * filter + 2 * gi]);
        UNROLL for (int j = 0; j <= PB; j++) { /* columns between outputs, with one before and one after */
          if ((j == 0 && left) || (j == PB && right)) continue;
          const vf v = active_input(x + 32 * j - 16, active, s, t);
          UNROLL for (int i = 0; i < KB; i++) {
            if (j > 0) a[i * PB + j - 1] = vfma(last[i], v, a[i * PB + j - 1]);
            if (j < PB) a[i * PB + j] = vfma(first[i], v, a[i * PB + j]);
          }
        }
      }
    }
    UNROLL for (int i = 0; i < KB; i++) {
      vf *ai = a + i * PB;
      stored *out = m->out + (size_t)(k + i) * m->y_c + (size_t)(p * m->columns + column) * 16 + (size_t)l;
      if (m->bias) {
        const vf b = vset(m->bias[k + i]);
        UNROLL for (int j = 0; j < PB; j++) ai[j] = ai[j] + b;
      }
      if (m->sums) {
        float *sums = m->sums + 32 * (k + i) + l;
        vf s1 = vload(sums), s2 = vload(sums + 16);
        UNROLL for (int j = 0; j < PB; j++) {
          s1 = s1 + ai[j];
          s2 = vfma(ai[j], ai[j], s2);
        }
        vstore(sums, s1);
        vstore(sums + 16, s2);
      }
      if (m->stream) {
        UNROLL for (int j = 0; j < PB; j++) awrite(out + 16 * j, ai[j], 1);
      } else {
        UNROLL for (int j = 0; j < PB; j++) awrite(out + 16 * j, ai[j], 0);
      }
    }
  }
}

#define FORWARD_TILE(KB, PB) \
  static __attribute__((noinline)) void forward_##KB##_##PB(const strided_map *m, int p, int end, int column, int k) { \
    for (; p < end; p++) forward_tile(m, p, column, k, KB, PB);                                                         \
  }
FORWARD_SIZES(FORWARD_TILE)

#define FORWARD_NAME(KB, PB) [KB][PB] = forward_##KB##_##PB,
typedef void (*forward_fn)(const strided_map *, int p, int end, int column, int k);
static const forward_fn forward_table[KB_FORWARD + 1][15] = {FORWARD_SIZES(FORWARD_NAME)};

/* Output channels k0..k1-1. */
static void forward(const strided_map *m, int k0, int k1) {
  const int most = forward_width[anx_part(k1 - k0, KB_FORWARD, 0)], rows = m->columns <= most && k1 - k0 <= KB_FORWARD ? m->rows : 1;
  for (int p = 0; p < m->rows; p += rows) {
    for (int column = 0, pb; column < m->columns; column += pb) {
      pb = anx_part(m->columns, most, column);
      for (int k = k0, kb; k < k1; k += kb) {
        kb = anx_part(k1 - k0, KB_FORWARD, k - k0);
        forward_table[kb][pb](m, p, p + rows, column, k);
      }
    }
  }
}

/* D of output channels k0..k1-1, with the row below the slice. */
static void make_d(const strided_map *m, int k0, int k1) {
  for (int k = k0; k < k1; k++) {
    float *d = m->d + (size_t)k * m->d_k;
    const stored *g = m->g + (size_t)k * m->y_c, *y = m->y ? m->y + (size_t)k * m->y_c : NULL;
    const vf al = vset(y ? m->al[k] : 1), be = vset(y ? m->be[k] : 0), de = vset(y ? m->de[k] : 0);
    for (int p = 0; p < m->rows + m->below; p++, d += 16) {
      for (int q = 0; q < m->columns; q++, d += 16, g += 16) {
        if (y) {
          UNROLL for (int l = 0; l < 16; l += VL) vstore(d + l, vfma(al, aload(g + l), vfma(be, aload(y + l), de)));
          y += 16;
        } else {
          UNROLL for (int l = 0; l < 16; l += VL) vstore(d + l, aload(g + l));
        }
      }
      anx_zero_vectors(d, 1);
    }
    if (!m->below) anx_zero_vectors(d, m->columns + 1);
  }
}

/* Adds what one vector of D and its right neighbour contribute to a row of 2 PB pixels through row R of the filter. */
AI void gradient_row(vf *a, const float *d, const float *w, size_t gi, const int R, const int KB, const int PB) {
  vf v[8]; /* PB + 1 */
  UNROLL for (int p = 0; p <= PB; p++) v[p] = vload(d + 16 * p);
  UNROLL for (int c = 0; c < KB; c++, w++, a += 2 * PB) {
    const vf centre = vset(w[(size_t)(R * 3 + 1) * gi]), last = vset(w[(size_t)(R * 3 + 2) * gi]), first = vset(w[(size_t)(R * 3) * gi]);
    UNROLL for (int p = 0; p < PB; p++) a[2 * p] = vfma(centre, v[p], a[2 * p]);
    UNROLL for (int p = 0; p < PB; p++) a[2 * p + 1] = vfma(last, v[p], a[2 * p + 1]);
    UNROLL for (int p = 0; p < PB; p++) a[2 * p + 1] = vfma(first, v[p + 1], a[2 * p + 1]);
  }
}

/* A row of the input gradient; n: pixels, one less than 2 PB at the end of an odd map. sums: of them and of their products with X. */
AI void gradient_emit(const strided_map *m, vf *a, size_t at, int c, int n, vf *sums, const int PB) {
  if (m->add) {
    UNROLL for (int p = 0; p < 2 * PB; p++) {
      if (p == 2 * PB - 1 && p >= n) break;
      a[p] = a[p] + aload(m->add + at + 16 * p);
    }
  }
  if (m->mean) {
    const vf s = vset(m->s[c]), t = vset(m->t[c]), mean = vset(m->mean[c]);
    UNROLL for (int p = 0; p < 2 * PB; p++) {
      if (p == 2 * PB - 1 && p >= n) break;
      const vf x = aload(m->x + at + 16 * p);
      a[p] = vkeep_gt(a[p], vaffine(s, x, t), vzero());
      sums[0] = sums[0] + a[p];
      sums[1] = vfma(a[p], x - mean, sums[1]);
    }
  }
  UNROLL for (int p = 0; p < 2 * PB; p++) {
    if (p == 2 * PB - 1 && p >= n) break;
    awrite(m->out + at + 16 * p, a[p], m->stream);
  }
}

/* Columns column..column+PB-1 of row p of D, channels c..c+KB-1 of the input gradient. */
AI void gradient_tile(const strided_map *m, int p, int column, int c, const int KB, const int PB) {
  const int n = m->w_in - 2 * column < 2 * PB ? m->w_in - 2 * column : 2 * PB;
  const size_t gi = (size_t)m->channels;
  for (int l = 0; l < 16; l += VL) {
    vf even[12], odd[12]; /* [KB][2 PB] */
    UNROLL for (int i = 0; i < 2 * KB * PB; i++) even[i] = odd[i] = vzero();
    const float *d = m->d + (size_t)p * m->d_row + (size_t)column * 16 + l, *w = m->w + c;
    for (int k = 0; k < m->outputs; k++, d += m->d_k, w += 9 * gi) {
      gradient_row(even, d, w, gi, 1, KB, PB);
      gradient_row(odd, d, w, gi, 2, KB, PB);
      gradient_row(odd, d + m->d_row, w, gi, 0, KB, PB);
    }
    UNROLL for (int i = 0; i < KB; i++) {
      const size_t at = (size_t)(c + i) * m->x_c + (size_t)(2 * p * m->w_in + 2 * column) * 16 + (size_t)l;
      float *to = m->sums + (size_t)(c + i) * 64 + l;
      vf sums[4];
      UNROLL for (int j = 0; j < 4; j++) sums[j] = m->mean ? vload(to + 16 * j) : vzero();
      gradient_emit(m, even + i * 2 * PB, at, c + i, n, sums, PB);
      if (2 * p + 1 < m->rows_in) gradient_emit(m, odd + i * 2 * PB, at + (size_t)m->w_in * 16, c + i, n, sums + 2, PB);
      if (!m->mean) continue;
      UNROLL for (int j = 0; j < 4; j++) vstore(to + 16 * j, sums[j]);
    }
  }
}

#define GRADIENT_TILE(KB, PB) \
  static __attribute__((noinline)) void gradient_##KB##_##PB(const strided_map *m, int p, int column, int c) { gradient_tile(m, p, column, c, KB, PB); }
GRADIENT_SIZES(GRADIENT_TILE)

#define GRADIENT_NAME(KB, PB) [KB][PB] = gradient_##KB##_##PB,
typedef void (*gradient_fn)(const strided_map *, int p, int column, int c);
static const gradient_fn gradient_table[KB_GRADIENT + 1][6] = {GRADIENT_SIZES(GRADIENT_NAME)};

/* Channels c0..c1-1 of the input gradient; partial: their sums. */
static void input_gradient(const strided_map *m, int c0, int c1, double *partial) {
  memset(m->sums + 64 * c0, 0, (size_t)(64 * (c1 - c0)) * sizeof(float));
  for (int p = 0; p < m->rows; p++) {
    for (int c = c0, kb; c < c1; c += kb) {
      kb = anx_part(c1 - c0, KB_GRADIENT, c - c0);
      for (int column = 0, pb; column < m->columns; column += pb) {
        pb = anx_part(m->columns, gradient_width[kb], column);
        gradient_table[kb][pb](m, p, column, c);
      }
    }
  }
  for (int c = c0; m->mean && c < c1; c++) {
    float sums[32] __attribute__((aligned(64)));
    const float *at = m->sums + 64 * c;
    for (int i = 0; i < 32; i += VL) vstore(sums + i, vload(at + i) + vload(at + 32 + i));
    anx_store_partials(partial + 2 * c, sums, 1);
  }
}

/* A row of the input, of one channel, with the row of D at d, and an odd one with the row below it, too. a: [KB][3], or [KB][2][3]. */
AI void weights_row(const strided_map *m, vf *a, const stored *x, const float *d, vf s, vf t, anx_fetch *fetch, const int ODD, const int KB) {
  const int active = m->s != NULL;
  vf before = vzero();
  for (int q = 0; q < m->columns; q++, x += 32, d += 16, fetch->at += fetch->step) {
    __builtin_prefetch(fetch->at, 0, 2);
    __builtin_prefetch(fetch->at + fetch->step / 2, 0, 2);
    const vf at = active_input(x, active, s, t), after = 2 * q + 1 < m->w_in ? active_input(x + 16, active, s, t) : vzero();
    UNROLL for (int k = 0; k < KB; k++) {
      vf *ak = a + k * (ODD ? 6 : 3);
      const vf g = vheld(vload(d + (size_t)k * m->d_k));
      ak[0] = vfma(g, before, ak[0]);
      ak[1] = vfma(g, at, ak[1]);
      ak[2] = vfma(g, after, ak[2]);
      if (!ODD) continue;
      const vf below = vheld(vload(d + (size_t)k * m->d_k + m->d_row));
      ak[3] = vfma(below, before, ak[3]);
      ak[4] = vfma(below, at, ak[4]);
      ak[5] = vfma(below, after, ak[5]);
    }
    before = after;
  }
}

/* What even rows of the input, or odd ones, add to the sums of lanes of input channel c and output channels k..k+KB-1. */
AI void weights_tile(const strided_map *m, int c, int k, int first, anx_fetch fetch, const int ODD, const int KB) {
  const size_t row = (size_t)m->w_in * 16, taps = (size_t)m->channels * 16;
  const int TAPS = ODD ? 6 : 3;
  for (int l = 0; l < 16; l += VL) {
    const vf s = vset(m->s ? m->s[c] : 0), t = vset(m->s ? m->t[c] : 0);
    const stored *x = m->x + (size_t)c * m->x_c + (ODD ? row : 0) + (size_t)l;
    const float *d = m->d + (size_t)k * m->d_k + l;
    float *lanes = m->lanes + (size_t)(9 * k) * taps + (size_t)(c * 16 + l);
    vf a[24];
    UNROLL for (int i = 0; i < KB; i++) {
      UNROLL for (int j = 0; j < TAPS; j++) a[i * TAPS + j] = first ? vzero() : vload(lanes + (size_t)(9 * i + (ODD ? (j + 6) % 9 : j + 3)) * taps);
    }
    for (int h = ODD; h < m->rows_in; h += 2, x += 2 * row, d += m->d_row) weights_row(m, a, x, d, s, t, &fetch, ODD, KB);
    UNROLL for (int i = 0; i < KB; i++) {
      UNROLL for (int j = 0; j < TAPS; j++) vstore(lanes + (size_t)(9 * i + (ODD ? (j + 6) % 9 : j + 3)) * taps, a[i * TAPS + j]);
    }
  }
}

#define WEIGHTS_TILE(KB)                                                                                                         \
  static __attribute__((noinline)) void weights_even_##KB(const strided_map *m, int c, int k, int first, anx_fetch fetch) { \
    weights_tile(m, c, k, first, fetch, 0, KB);                                                                              \
  }                                                                                                                            \
  static __attribute__((noinline)) void weights_odd_##KB(const strided_map *m, int c, int k, int first, anx_fetch fetch) {  \
    weights_tile(m, c, k, first, fetch, 1, KB);                                                                              \
  }
WEIGHT_SIZES(WEIGHTS_TILE)

#define WEIGHTS_NAME(KB) [KB] = {weights_even_##KB, weights_odd_##KB},
typedef void (*weights_fn)(const strided_map *, int c, int k, int first, anx_fetch);
static const weights_fn weights_table[KB_WEIGHTS + 1][2] = {WEIGHT_SIZES(WEIGHTS_NAME)};

/* Of output channels k0..k1-1; dw, of the group: where it goes if this slice is the last. The next slice's X is fetched meanwhile. */
static void weight_gradient(const strided_map *m, int k0, int k1, int first, float *dw) {
  const int tiles = (k1 - k0 + KB_WEIGHTS - 1) / KB_WEIGHTS, lines = m->rows_in * m->w_in / (2 * tiles); /* of a tile */
  for (int c = 0; c < m->channels; c++) {
    anx_fetch fetch = {(const char *)(m->x + (size_t)c * m->x_c + m->x_ahead), 0};
    fetch.step = (uint32_t)((size_t)lines * 16 * sizeof(stored) / (size_t)(m->rows * m->columns * LANES));
    for (int k = k0, kb; k < k1; k += kb) {
      kb = anx_part(k1 - k0, KB_WEIGHTS, k - k0);
      for (int odd = 0; odd < 2; odd++, fetch.at += (size_t)lines * 16 * sizeof(stored)) weights_table[kb][odd](m, c, k, first, fetch);
    }
  }
  if (!dw) return;
  float sum[4];
  for (int i = 9 * m->channels * k0, end = 9 * m->channels * k1; i < end; i += 4) {
    anx_lane_sum4(m->lanes + 16 * i, sum);
    memcpy(dw + i, sum, (size_t)(end - i < 4 ? end - i : 4) * sizeof *dw);
  }
}

static strided_map map_of(const anx_call *call, const anx_share *share, const float *w) {
  const anx_conv_plan *p = &call->conv;
  const anx_op *op = call->op;
  const int p0 = share->slice % p->row_slices * p->rows, p1 = op->p - p0 < p->rows ? op->p : p0 + p->rows;
  strided_map m = {.w = w + (size_t)(share->group * p->go) * (size_t)(p->taps * p->gi), .x_c = p->x_c, .y_c = p->y_c, .channels = p->gi, .outputs = p->go,
                   .w_in = op->w, .columns = op->q, .rows = p1 - p0, .rows_in = (p1 == op->p ? op->h : 2 * p1) - 2 * p0, .above = p0 > 0, .below = p1 < op->p};
  return m;
}

/* Where a slice's rows begin in X, or in Y. */
static size_t start_of_x(const anx_call *call, int group, int slice) {
  const anx_conv_plan *p = &call->conv;
  const anx_op *op = call->op;
  const size_t row = (size_t)(slice / p->row_slices) * (size_t)op->h + (size_t)(2 * (slice % p->row_slices) * p->rows);
  return (size_t)(group * p->gi) * p->x_c + row * (size_t)op->w * 16;
}
static size_t start_of_y(const anx_call *call, int group, int slice) {
  const anx_conv_plan *p = &call->conv;
  const anx_op *op = call->op;
  const size_t row = (size_t)(slice / p->row_slices) * (size_t)op->p + (size_t)(slice % p->row_slices * p->rows);
  return (size_t)(group * p->go) * p->y_c + row * (size_t)op->q * 16;
}

void FN(anx_strided_forward)(const anx_call *call, const anx_share *share, float *scratch) {
  const anx_conv_plan *p = &call->conv;
  const int c_first = share->group * p->gi, k_first = share->group * p->go;
  strided_map m = map_of(call, share, call->in[FWD_W]);
  m.x = (const stored *)call->in[FWD_X] + start_of_x(call, share->group, share->slice);
  m.out = (stored *)call->out[FWD_Y] + start_of_y(call, share->group, share->slice);
  m.stream = anx_streams(call->images, call->op->p, call->op->q, call->op->k);
  if (call->in[FWD_S]) m.s = (const float *)call->in[FWD_S] + c_first, m.t = (const float *)call->in[FWD_T] + c_first;
  if (call->in[FWD_BIAS]) m.bias = (const float *)call->in[FWD_BIAS] + k_first;
  if (call->out[FWD_SUMS]) {
    m.sums = scratch;
    memset(m.sums + 32 * share->k0, 0, (size_t)(share->k1 - share->k0) * 32 * sizeof(float));
  }
  forward(&m, share->k0, share->k1);
  if (m.sums)
    anx_store_partials(call->partial + ((size_t)share->slice * (size_t)call->op->k + (size_t)(k_first + share->k0)) * 2, m.sums + 32 * share->k0,
                       share->k1 - share->k0);
}

void FN(anx_strided_backward)(const anx_call *call, const anx_share *share, float *scratch) {
  const anx_conv_plan *p = &call->conv;
  const anx_op *op = call->op;
  const int c_first = share->group * p->gi, k_first = share->group * p->go, need_dx = share->c1 > share->c0;
  const size_t x = start_of_x(call, share->group, share->slice), y = start_of_y(call, share->group, share->slice);
  strided_map m = map_of(call, share, call->in[BWD_W]);
  m.x = (const stored *)call->in[BWD_X] + x;
  m.g = (const stored *)call->in[BWD_G] + y;
  m.stream = anx_streams(call->images, op->h, op->w, op->c);
  m.d_row = (size_t)(op->q + 1) * 16, m.d_k = p->d_k;
  m.sums = scratch, m.lanes = scratch + 64 * p->gi, m.d = scratch + p->a_floats;
  if (call->in[BWD_AL]) {
    m.y = (const stored *)call->in[BWD_Y] + y;
    m.al = (const float *)call->in[BWD_AL] + k_first, m.be = (const float *)call->in[BWD_BE] + k_first, m.de = (const float *)call->in[BWD_DE] + k_first;
  }
  if (call->in[BWD_S]) { /* the mask; no mean: its sums are not wanted */
    m.s = (const float *)call->in[BWD_S] + c_first, m.t = (const float *)call->in[BWD_T] + c_first;
    m.mean = (const float *)call->in[call->in[BWD_MEAN] ? BWD_MEAN : BWD_T] + c_first;
  }
  if (call->in[BWD_ADD]) m.add = (const stored *)call->in[BWD_ADD] + x;
  if (call->out[BWD_DX]) m.out = (stored *)call->out[BWD_DX] + x;
  if (share->next == call) m.x_ahead = (ptrdiff_t)start_of_x(call, share->next_group, share->next_slice) - (ptrdiff_t)x; /* other sheets: elsewhere */
  make_d(&m, need_dx ? 0 : share->k0, need_dx ? m.outputs : share->k1);
  if (need_dx) input_gradient(&m, share->c0, share->c1, call->partial + ((size_t)share->slice * (size_t)op->c + (size_t)c_first) * 2);
  if (share->k1 > share->k0)
    weight_gradient(&m, share->k0, share->k1, share->first, share->last ? share->dw + (size_t)k_first * (size_t)(p->taps * p->gi) : NULL);
}
