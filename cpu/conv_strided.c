/* conv_strided.c - grouped 3x3 convolutions of stride 2, forward; conv_strided_gradients.c: backward. Four inputs belong to an output: none is packed, each
 * is read and activated in registers, in tiles again for every KB output channels.
 *
 * A slice is some rows of one image block: outputs p0..p1-1, and rows 2 p0..2 p1-1 of the input, which it owns.
 * Forward, of up to 6 channels a group, PB columns of all its outputs go down the map as a strip: each row of the input is activated once, in registers,
 *   and added to the one or two rows of outputs that it is part of. What the strip reads two rows later is fetched on the way.
 * Forward, of more channels, KB output channels x PB columns of a row stay in registers; row by row, so that hardware prefetchers follow. An
 *   input is activated without a multiply-add (gates).
 * The gradients read D = al G + be Y + de, made once per slice, with the first row of the next slice and a column of zeros at the right.
 *   Input gradient: KB channels x PB columns of D give 2 x 2 PB pixels, which meet 1, 2, 2 and 4 taps: no work on zeros.
 *   Weight gradient: even rows of the input meet the middle row of the filter, odd ones the others. For one input channel and KB output channels, 9 KB sums of
 *   each lane stay in registers while the rows of a slice go by, in long runs that hardware prefetchers follow. D is made on the way, but of small maps.
 *   The lanes are added when the section's last slice has gone by.
 *
 * An output's additions go from row to row and in strips from channel to channel in a row, else from channel to channel and there from row to row; in a
 *   row the middle tap comes first. Those of a batch norm's sums go from pixel to pixel, in strips in each row of outputs, backward in even and in odd
 *   rows. So bits do not depend on KB and PB, which differ between instruction sets.
 * bf16 is only stored here: the arithmetic is fp32's.
 *
 * Percent of the FMA peak on a Zen 5 (264 GFLOP/s of one core), batch 16, machine quiet; forward / both gradients / weight gradient alone:
 *        28 px, 128 channels    14 px, 256 channels    7 px, 512 channels
 *   g 1  34 / 22 / 23           27 / 20 / 22           23 / 18 / 17
 *   g 2  56 / 38 / 44           53 / 34 / 43           52 / 33 / 35
 *   g 3  67 / 52 / 56           66 / 45 / 55           69 / 44 / 45
 *   g 4  72 / 55 / 54           69 / 52 / 55           73 / 51 / 52
 *   g 5  75 / 61 / 62           70 / 57 / 59           75 / 56 / 55
 *   g 6  76 / 65 / 68           73 / 61 / 64           83 / 59 / 57
 *   g 7  78 / 65 / 63           73 / 62 / 64           88 / 61 / 58
 *   g 8  85 / 67 / 68           83 / 64 / 64           97 / 61 / 59
 *   g 32 94 / 72 / 68           97 / 75 / 72          120 / 66 / 59
 * What bounds it: docs/cpu.md, "Grouped 3x3, stride 2". AVX2 has room for one column of a strip at g = 4 to 6: forward at g = 4 61 -> 59 and 64 -> 53
 *   at 28 and 14 px, g = 6 59 -> 57 and 62 -> 59 beside tiles of the other kind; g = 2 gained 8, g = 3 and 5 -1 to +8.
 */
#include <math.h>
#include "strided.h"

#if ANX_ACCUMULATORS >= 24 && VL == 16
#define KB_FORWARD 4
static const int8_t forward_width[KB_FORWARD + 1] = {0, 14, 9, 7, 5};
#define FORWARD_SIZES(F) F(1, 1) F(1, 2) F(1, 3) F(1, 4) F(1, 5) F(1, 6) F(1, 7) F(1, 8) F(1, 9) F(1, 10) F(1, 11) F(1, 12) F(1, 13) F(1, 14) \
  F(2, 1) F(2, 2) F(2, 3) F(2, 4) F(2, 5) F(2, 6) F(2, 7) F(2, 8) F(2, 9) \
  F(3, 1) F(3, 2) F(3, 3) F(3, 4) F(3, 5) F(3, 6) F(3, 7) F(4, 1) F(4, 2) F(4, 3) F(4, 4) F(4, 5)
static const int8_t strip_width[ANX_STRIDED_STRIP + 1] = {0, 7, 6, 4, 3, 2, 2};
#define STRIP_SIZES(F) F(1, 1) F(1, 2) F(1, 3) F(1, 4) F(1, 5) F(1, 6) F(1, 7) F(2, 1) F(2, 2) F(2, 3) F(2, 4) F(2, 5) F(2, 6) \
  F(3, 1) F(3, 2) F(3, 3) F(3, 4) F(4, 1) F(4, 2) F(4, 3) F(5, 1) F(5, 2) F(6, 1) F(6, 2)
#else
#define KB_FORWARD 3
static const int8_t forward_width[KB_FORWARD + 1] = {0, 5, 4, 3};
#define FORWARD_SIZES(F) F(1, 1) F(1, 2) F(1, 3) F(1, 4) F(1, 5) F(2, 1) F(2, 2) F(2, 3) F(2, 4) F(3, 1) F(3, 2) F(3, 3)
static const int8_t strip_width[ANX_STRIDED_STRIP + 1] = {0, 4, 3, 2, 1, 1, 1};
#define STRIP_SIZES(F) F(1, 1) F(1, 2) F(1, 3) F(1, 4) F(2, 1) F(2, 2) F(2, 3) F(3, 1) F(3, 2) F(4, 1) F(5, 1) F(6, 1)
#endif

/* act(X) = max(s X + t, 0) is s times max(X + t / s, 0), of negative s times min(X + t / s, 0). So the filter of a slice is multiplied by s, and an input
 * only added to and compared: the units that multiply are what outputs wait for, and others are idle. */
typedef struct gates {
  float shift[ANX_STRIDED], low[ANX_STRIDED], high[ANX_STRIDED]; /* act(X) = s min(high, max(low, X + shift)) */
} gates;

/* Gates of all channels; rows k0..k1-1 of the filter times s go to w. */
static gates gates_of(const strided_map *m, float *restrict w, int k0, int k1) {
  enum { BLOCK = 16 };
  gates g;
  float factor[ANX_STRIDED + BLOCK]; /* again and again, so that a block can begin with any channel */
  const int channels = m->channels, first = 9 * k0 * channels, n = 9 * k1 * channels, turn = BLOCK % channels;
  for (int c = 0; c < channels; c++) {
    const float t = m->s ? m->t[c] : 0, s = m->s ? m->s[c] : 1, least = fabsf(t) * 0x1p-80f + 0x1p-126f; /* so that t / s is finite */
    factor[c] = copysignf(least > fabsf(s) ? least : fabsf(s), s);
    g.shift[c] = t / factor[c];
    g.low[c] = m->s && factor[c] > 0 ? 0 : -INFINITY;
    g.high[c] = m->s && factor[c] < 0 ? 0 : INFINITY;
  }
  for (int c = channels; c < channels + BLOCK; c++) factor[c] = factor[c - channels];
  int i = first, c = 0;
  for (; i + BLOCK <= n; i += BLOCK, c += c + turn < channels ? turn : turn - channels) {
    for (int j = 0; j < BLOCK; j++) w[i + j] = m->w[i + j] * factor[c + j];
  }
  for (; i < n; i++, c++) w[i] = m->w[i] * factor[c];
  return g;
}

/* Columns column..column+PB-1 of row p of outputs k..k+KB-1. In a row of the filter, the middle tap comes first. */
AI void forward_tile(const strided_map *m, const gates *g, int p, int column, int k, const int KB, const int PB) {
  const int left = column == 0, right = 2 * (column + PB) > m->w_in;
  const int from = p ? 0 : 1, to = 2 * p + 1 < m->rows_in ? 3 : 2;
  const size_t row = (size_t)m->w_in * 16, gi = (size_t)m->channels, filter = 9 * gi;
  const ptrdiff_t at = (2 * p - 1) * (ptrdiff_t)row + 32 * column;
  for (int l = 0; l < 16; l += VL) {
    vf a[24];
    UNROLL for (int i = 0; i < KB * PB; i++) a[i] = vzero();
    const stored *xc = m->x + at + l;
    const float *wc = m->w + (size_t)k * filter;
    for (int c = 0; c < m->channels; c++, xc += m->x_c, wc++) {
      const vf shift = vset(g->shift[c]), low = vset(g->low[c]), high = vset(g->high[c]);
      const stored *x = xc + (size_t)from * row;
      const float *w = wc + (size_t)(3 * from) * gi;
      for (int r = from; r < to; r++, x += row, w += 3 * gi) {
        vf middle[KB_FORWARD], first[KB_FORWARD], last[KB_FORWARD]; /* a constant size: the compiler keeps other arrays in memory */
        UNROLL for (int i = 0; i < KB; i++) middle[i] = vset(w[(size_t)i * filter + gi]);
        UNROLL for (int j = 0; j < PB; j++) {
          const vf v = vmin(high, vmax(low, aload(x + 32 * j) + shift));
          UNROLL for (int i = 0; i < KB; i++) a[i * PB + j] = vfma(middle[i], v, a[i * PB + j]);
        }
        UNROLL for (int i = 0; i < KB; i++) first[i] = vset(w[(size_t)i * filter]), last[i] = vset(w[(size_t)i * filter + 2 * gi]);
        UNROLL for (int j = 0; j <= PB; j++) { /* columns between outputs, with one before and one after */
          if ((j == 0 && left) || (j == PB && right)) continue;
          const vf v = vmin(high, vmax(low, aload(x + 32 * j - 16) + shift));
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
  static __attribute__((noinline)) void forward_##KB##_##PB(const strided_map *m, const gates *g, int p, int end, int column, int k) { \
    for (; p < end; p++) forward_tile(m, g, p, column, k, KB, PB);                                                      \
  }
FORWARD_SIZES(FORWARD_TILE)

#define FORWARD_NAME(KB, PB) [KB][PB] = forward_##KB##_##PB,
typedef void (*forward_fn)(const strided_map *, const gates *, int p, int end, int column, int k);
static const forward_fn forward_table[KB_FORWARD + 1][15] = {FORWARD_SIZES(FORWARD_NAME)};

/* Output channels k0..k1-1. */
static void forward(const strided_map *m, const gates *g, int k0, int k1) {
  const int most = forward_width[anx_part(k1 - k0, KB_FORWARD, 0)], rows = m->columns <= most && k1 - k0 <= KB_FORWARD ? m->rows : 1;
  for (int p = 0; p < m->rows; p += rows) {
    for (int column = 0, pb; column < m->columns; column += pb) {
      pb = anx_part(m->columns, most, column);
      for (int k = k0, kb; k < k1; k += kb) {
        kb = anx_part(k1 - k0, KB_FORWARD, k - k0);
        forward_table[kb][pb](m, g, p, p + rows, column, k);
      }
    }
  }
}

/* Strips, of few channels a group: PB columns of all its outputs go down the map. */

/* Adds what one tap of a channel's columns v contributes to a: [KB][PB]. */
AI void strip_tap(vf *a, const vf *v, const float *w, const int TAP, const int KB, const int PB) {
  UNROLL for (int k = 0; k < KB; k++) {
    const vf b = vset(w[(9 * k + TAP) * KB]);
    UNROLL for (int j = 0; j < PB; j++) a[k * PB + j] = vfma(b, v[j], a[k * PB + j]);
  }
}

/* A row of the input, through row R of the filter to the row of outputs a, and with TWO through row 0 to the next one. ahead: a row that is read later,
 * brought near a third at a time. */
AI void strip_row(const strided_map *m, vf *a, const stored *x, const stored *ahead, int left, int right, const int R, const int TWO, const int KB,
                  const int PB) {
  const int active = m->s != NULL, third = (2 * PB + 2) / 3;
  const float *w = m->w;
  vf *next = a + KB * PB;
  for (int c = 0; c < KB; c++, x += m->x_c, ahead += m->x_c, w++) {
    const vf s = vset(active ? m->s[c] : 0), t = vset(active ? m->t[c] : 0);
    vf v[8]; /* PB + 1 */
    UNROLL for (int j = 0; j < PB; j++) v[j] = active_input(x + 32 * j, active, s, t);
    strip_tap(a, v, w, 3 * R + 1, KB, PB);
    UNROLL for (int i = 0; i < third; i++) __builtin_prefetch(ahead + 16 * i, 0, 3);
    if (TWO) strip_tap(next, v, w, 1, KB, PB);
    v[0] = left ? vzero() : active_input(x - 16, active, s, t); /* columns between outputs, with one before and one after */
    UNROLL for (int j = 1; j < PB; j++) v[j] = active_input(x + 32 * j - 16, active, s, t);
    v[PB] = right ? vzero() : active_input(x + 32 * PB - 16, active, s, t);
    strip_tap(a, v, w, 3 * R, KB, PB);
    UNROLL for (int i = third; i < 2 * third; i++) __builtin_prefetch(ahead + 16 * i, 0, 3);
    strip_tap(a, v + 1, w, 3 * R + 2, KB, PB);
    UNROLL for (int i = 2 * third; i < 2 * PB; i++) __builtin_prefetch(ahead + 16 * i, 0, 3);
    if (!TWO) continue;
    strip_tap(next, v, w, 0, KB, PB);
    strip_tap(next, v + 1, w, 2, KB, PB);
  }
}

/* A row of outputs is complete. sum: where its sums are, from the strips before this one; with left there are none. */
AI void strip_emit(const strided_map *m, vf *a, stored *out, size_t sum, int left, const int KB, const int PB) {
  UNROLL for (int k = 0; k < KB; k++, out += m->y_c, a += PB) {
    if (m->bias) {
      const vf b = vset(m->bias[k]);
      UNROLL for (int j = 0; j < PB; j++) a[j] = a[j] + b;
    }
    if (m->sums) {
      float *to1 = m->sums + sum + (size_t)(2 * k * m->rows) * 16, *to2 = to1 + (size_t)m->rows * 16;
      vf s1 = left ? vzero() : vload(to1), s2 = left ? vzero() : vload(to2);
      UNROLL for (int j = 0; j < PB; j++) {
        s1 = s1 + a[j];
        s2 = vfma(a[j], a[j], s2);
      }
      vstore(to1, s1);
      vstore(to2, s2);
    }
    if (m->stream) {
      UNROLL for (int j = 0; j < PB; j++) awrite(out + 16 * j, a[j], 1);
    } else {
      UNROLL for (int j = 0; j < PB; j++) awrite(out + 16 * j, a[j], 0);
    }
  }
}

/* Columns column..column+PB-1; the next strip reads next. */
AI void strip_body(const strided_map *m, int column, const stored *next, const int KB, const int PB) {
  const int left = column == 0, right = 2 * (column + PB) > m->w_in;
  const size_t row = (size_t)m->w_in * 16;
  for (int l = 0; l < 16; l += VL) {
    const stored *x = m->x + 32 * column + l;
    stored *out = m->out + 16 * column + l;
    size_t sum = (size_t)l;
    vf a[24];
    UNROLL for (int i = 0; i < 2 * KB * PB; i++) a[i] = vzero();
    for (int p = 0; p < m->rows; p++, x += 2 * row, out += m->columns * 16, sum += 16) {
      const stored *ahead = p + 1 < m->rows ? x + 2 * row : next;
      strip_row(m, a, x, ahead, left, right, 1, 0, KB, PB);
      if (p + 1 < m->rows) strip_row(m, a, x + row, ahead + row, left, right, 2, 1, KB, PB);
      else if (2 * p + 1 < m->rows_in) strip_row(m, a, x + row, ahead + row, left, right, 2, 0, KB, PB);
      strip_emit(m, a, out, sum, left, KB, PB);
      UNROLL for (int i = 0; i < KB * PB; i++) a[i] = a[KB * PB + i], a[KB * PB + i] = vzero();
    }
  }
}

#define STRIP(KB, PB)                                                                                                      \
  static __attribute__((noinline)) void strip_##KB##_##PB(const strided_map *m, int column, const stored *next) { \
    strip_body(m, column, next, KB, PB);                                                                                   \
  }
STRIP_SIZES(STRIP)

#define STRIP_NAME(KB, PB) [KB][PB] = strip_##KB##_##PB,
typedef void (*strip_fn)(const strided_map *, int column, const stored *next);
static const strip_fn strip_table[ANX_STRIDED_STRIP + 1][8] = {STRIP_SIZES(STRIP_NAME)};

/* All outputs of a whole map; partial: their sums. */
static void strips(const strided_map *m, double *partial) {
  const int most = strip_width[m->outputs], count = (m->columns + most - 1) / most, width = m->columns / count, wider = m->columns % count;
  for (int i = 0, column = 0; i < count; i++) { /* as equal as possible */
    const int n = width + (i < wider), end = column + n;
    strip_table[m->outputs][n](m, column, m->x + (end < m->columns ? 32 * end : m->x_ahead));
    column = end;
  }
  if (!m->sums) return;
  float sums[2 * ANX_STRIDED_STRIP * 16] __attribute__((aligned(64)));
  for (int i = 0; i < 2 * m->outputs; i++) {
    for (int l = 0; l < 16; l += VL) {
      const float *at = m->sums + (size_t)(i * m->rows) * 16 + l;
      vf sum = vload(at);
      for (int p = 1; p < m->rows; p++) sum = sum + vload(at + 16 * p);
      vstore(sums + 16 * i + l, sum);
    }
  }
  anx_store_partials(partial, sums, m->outputs);
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
  double *partial = call->partial + ((size_t)share->slice * (size_t)call->op->k + (size_t)(k_first + share->k0)) * 2;
  if (call->out[FWD_SUMS]) m.sums = scratch;
  if (m.outputs <= ANX_STRIDED_STRIP) {
    if (share->next == call) m.x_ahead = (ptrdiff_t)start_of_x(call, share->next_group, share->next_slice) - (ptrdiff_t)start_of_x(call, share->group, share->slice);
    strips(&m, partial);
    return;
  }
  if (m.sums) memset(m.sums + 32 * share->k0, 0, (size_t)(share->k1 - share->k0) * 32 * sizeof(float));
  float *w = scratch + 32 * m.outputs;
  const gates g = gates_of(&m, w, share->k0, share->k1);
  m.w = w;
  forward(&m, &g, share->k0, share->k1);
  if (m.sums) anx_store_partials(partial, m.sums + 32 * share->k0, share->k1 - share->k0);
}
