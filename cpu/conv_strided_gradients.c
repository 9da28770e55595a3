/* conv_strided_gradients.c - both gradients of what conv_strided.c computes; its header says how, and how fast. */
#include "strided.h"

#if ANX_ACCUMULATORS >= 24 && VL == 16
#define KB_GRADIENT 2
static const int8_t gradient_width[KB_GRADIENT + 1] = {0, 5, 3};
#define GRADIENT_SIZES(F) F(1, 1) F(1, 2) F(1, 3) F(1, 4) F(1, 5) F(2, 1) F(2, 2) F(2, 3)
#define KB_WEIGHTS 4
#define WEIGHT_SIZES(F) F(1) F(2) F(3) F(4)
#else
#define KB_GRADIENT 1
static const int8_t gradient_width[KB_GRADIENT + 1] = {0, 2};
#define GRADIENT_SIZES(F) F(1, 1) F(1, 2)
#define KB_WEIGHTS 1
#define WEIGHT_SIZES(F) F(1)
#endif

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

/* Of output channels k0..k1-1; dw, of the group: where it goes if this slice is the last. What the next slice reads is fetched meanwhile: its X, which the
 * input gradient reads first; without one, where channels are few, its G and Y, which cost more than X, that hardware prefetchers follow. */
static void weight_gradient(const strided_map *m, int k0, int k1, int first, float *dw) {
  const int tiles = (k1 - k0 + KB_WEIGHTS - 1) / KB_WEIGHTS, alone = !m->out && m->channels <= ANX_STRIDED_FEW;
  const uint32_t line = (uint32_t)(16 * sizeof(stored)), lines = (uint32_t)(m->rows_in * m->w_in / (2 * tiles)), turns = (uint32_t)(m->rows * m->columns * LANES);
  const uint32_t step = alone ? line / LANES : lines * line / turns;
  for (int c = 0; c < m->channels; c++) {
    anx_fetch fetch = {(const char *)(m->x + (size_t)c * m->x_c + m->x_ahead), step};
    for (int k = k0, kb; k < k1; k += kb) {
      kb = anx_part(k1 - k0, KB_WEIGHTS, k - k0);
      for (int odd = 0; odd < 2; odd++, fetch.at += lines * line) {
        if (alone) {
          fetch.at = (const char *)((odd && m->y ? m->y : m->g) + (size_t)c * m->y_c + (k == k0 ? m->y_ahead : 0));
          fetch.step = k == k0 ? step : 0;
        }
        weights_table[kb][odd](m, c, k, first, fetch);
      }
    }
  }
  if (!dw) return;
  float sum[4];
  for (int i = 9 * m->channels * k0, end = 9 * m->channels * k1; i < end; i += 4) {
    anx_lane_sum4(m->lanes + 16 * i, sum);
    memcpy(dw + i, sum, (size_t)(end - i < 4 ? end - i : 4) * sizeof *dw);
  }
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
  if (share->next == call) { /* other sheets: elsewhere */
    m.x_ahead = (ptrdiff_t)start_of_x(call, share->next_group, share->next_slice) - (ptrdiff_t)x;
    m.y_ahead = (ptrdiff_t)start_of_y(call, share->next_group, share->next_slice) - (ptrdiff_t)y;
  }
  make_d(&m, need_dx ? 0 : share->k0, need_dx ? m.outputs : share->k1);
  if (need_dx) input_gradient(&m, share->c0, share->c1, call->partial + ((size_t)share->slice * (size_t)op->c + (size_t)c_first) * 2);
  if (share->k1 > share->k0)
    weight_gradient(&m, share->k0, share->k1, share->first, share->last ? share->dw + (size_t)k_first * (size_t)(p->taps * p->gi) : NULL);
}
