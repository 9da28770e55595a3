/* conv_strided_gradients.c - both gradients of what conv_strided.c computes; its header says how, and how fast. */
#include "strided.h"

#define AHEAD 12 /* pixels of X that are fetched into the first level cache */

#if ANX_ACCUMULATORS >= 24 && VL == 16
#define KB_GRADIENT 2
static const int8_t gradient_width[KB_GRADIENT + 1] = {0, 5, 3};
#define GRADIENT_SIZES(F) F(1, 1) F(1, 2) F(1, 3) F(1, 4) F(1, 5) F(2, 1) F(2, 2) F(2, 3)
#define KB_WEIGHTS 3
#define WEIGHT_FLOATS (1 << 20) /* whole slices: X is read but few times */
#define WEIGHT_SIZES(F) F(1) F(2) F(3)
#else
#define KB_GRADIENT 1
static const int8_t gradient_width[KB_GRADIENT + 1] = {0, 2};
#define GRADIENT_SIZES(F) F(1, 1) F(1, 2)
#define KB_WEIGHTS 1
#define WEIGHT_FLOATS (4 * 1024) /* of a channel of X, which each output channel reads anew, from the first level cache */
#define WEIGHT_SIZES(F) F(1)
#endif

/* D at offset `at` of a channel, of output channel k. */
AI vf d_of(const strided_map *m, size_t at, int k) {
  at += (size_t)k * m->y_c;
  return m->y ? vfma(vset(m->al[k]), aload(m->g + at), vfma(vset(m->be[k]), aload(m->y + at), vset(m->de[k]))) : aload(m->g + at);
}

/* Row p of D of output channel k with a zero at its right, of lanes from l on; below the map it is zeros. */
AI void make_row(const strided_map *m, int k, int p, int l) {
  const int columns = m->columns;
  float *d = m->d + (size_t)k * m->d_k + (size_t)p * m->d_row + l;
  if (p < m->rows + m->below) {
    const size_t at = (size_t)k * m->y_c + (size_t)(p * columns * 16 + l);
    const stored *g = m->g + at;
    if (m->y) {
      const stored *y = m->y + at;
      const vf al = vset(m->al[k]), be = vset(m->be[k]), de = vset(m->de[k]);
      for (int q = 0; q < columns; q++, d += 16, g += 16, y += 16) vstore(d, vfma(al, aload(g), vfma(be, aload(y), de)));
    } else {
      for (int q = 0; q < columns; q++, d += 16, g += 16) vstore(d, aload(g));
    }
  } else {
    for (int q = 0; q < columns; q++, d += 16) vstore(d, vzero());
  }
  vstore(d, vzero());
}

/* D of output channels k0..k1-1, with the row below the slice. */
static void make_d(const strided_map *m, int k0, int k1) {
  for (int k = k0; k < k1; k++) {
    for (int p = 0; p <= m->rows; p++) {
      for (int l = 0; l < 16; l += VL) make_row(m, k, p, l);
    }
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
  stored *out = m->out + at;
  const int last = 2 * PB - 1, whole = last < n;
  if (m->stream) {
    UNROLL for (int p = 0; p < last; p++) awrite(out + 16 * p, a[p], 1);
    if (whole) awrite(out + 16 * last, a[last], 1);
  } else {
    UNROLL for (int p = 0; p < last; p++) awrite(out + 16 * p, a[p], 0);
    if (whole) awrite(out + 16 * last, a[last], 0);
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

/* Adds the products of a pixel's columns FROM..TO-1 of the input with D of the row that joins it through row R of the filter; with TWO, also through row 0
 * with D of the row below, which is made if MAKE from what lies at `at`. */
AI void weights_pixel(const strided_map *m, vf *a, const vf *v, float *d, size_t at, int k, const int FROM, const int TO, const int R, const int TWO,
                      const int KB, const int MAKE) {
  UNROLL for (int j = 0; j < KB; j++, d += m->d_k) {
    const vf b = vheld(vload(d));
    UNROLL for (int i = FROM; i < TO; i++) a[9 * j + 3 * R + i] = vfma(b, v[i], a[9 * j + 3 * R + i]);
    if (!TWO) continue;
    vf below;
    if (MAKE) {
      below = d_of(m, at, k + j);
      vstore(d + m->d_row, below);
    } else {
      below = vheld(vload(d + m->d_row));
    }
    UNROLL for (int i = FROM; i < TO; i++) a[9 * j + i] = vfma(below, v[i], a[9 * j + i]);
  }
}

/* A row of the input. No column lies left of the first, and with an odd number of them none right of the last. */
AI void weights_row(const strided_map *m, vf *a, const stored *x, float *d, size_t at, vf s, vf t, int k, const int R, const int TWO, const int KB,
                    const int MAKE) {
  const int active = m->s != NULL;
  vf v[3];
  v[1] = active_input(x, active, s, t);
  v[2] = active_input(x + 16, active, s, t);
  weights_pixel(m, a, v, d, at, k, 1, 3, R, TWO, KB, MAKE);
  for (int q = 1; q < m->w_in / 2; q++) {
    x += 32, d += 16, at += 16;
    __builtin_prefetch(x + 16 * AHEAD, 0, 3);
    __builtin_prefetch(x + 16 * AHEAD + 16, 0, 3);
    v[0] = v[2];
    v[1] = active_input(x, active, s, t);
    v[2] = active_input(x + 16, active, s, t);
    weights_pixel(m, a, v, d, at, k, 0, 3, R, TWO, KB, MAKE);
  }
  if (m->w_in % 2 == 0) return;
  v[0] = v[2];
  v[1] = active_input(x + 32, active, s, t);
  weights_pixel(m, a, v, d + 16, at + 16, k, 0, 2, R, TWO, KB, MAKE);
}

/* Of the weights, those of input channel c and some output channels from k on, and what rows p..end-1 of D add to them. */
typedef struct weights_part {
  int c, k, p, end;
  int first; /* of their section */
} weights_part;

/* Even and odd rows of the input in turns, so that a row of D comes from the second level cache once; or is made, if MAKE. */
AI void weights_tile(const strided_map *given, const weights_part *of, const int KB, const int MAKE) {
  const strided_map copy = *given, *const m = MAKE ? &copy : given; /* which no store can change */
  const int c = of->c, k = of->k;
  const size_t row = (size_t)m->w_in * 16, d_line = (size_t)m->columns * 16, taps = (size_t)m->channels * 16;
  for (int l = 0; l < 16; l += VL) {
    const vf s = vset(m->s ? m->s[c] : 0), t = vset(m->s ? m->t[c] : 0);
    const stored *x = m->x + (size_t)c * m->x_c + (size_t)(2 * of->p) * row + (size_t)l;
    float *d = m->d + (size_t)k * m->d_k + (size_t)of->p * m->d_row + l, *lanes = m->lanes + (size_t)(9 * k) * taps + (size_t)(c * 16 + l);
    size_t below = (size_t)(of->p + 1) * d_line + (size_t)l;
    vf a[9 * KB_WEIGHTS];
    UNROLL for (int i = 0; i < 9 * KB; i++) a[i] = of->first ? vzero() : vload(lanes + (size_t)i * taps);
    for (int j = 0; MAKE && !of->p && j < KB; j++) make_row(m, k + j, 0, l);
    for (int p = of->p; p < of->end; p++, x += 2 * row, d += m->d_row, below += d_line) {
      weights_row(m, a, x, d, below, s, t, k, 1, 0, KB, MAKE);
      if (p + 1 < m->rows || m->below) weights_row(m, a, x + row, d, below, s, t, k, 2, 1, KB, MAKE);
      else if (2 * p + 1 < m->rows_in) weights_row(m, a, x + row, d, below, s, t, k, 2, 0, KB, MAKE);
      UNROLL for (int j = 0; MAKE && j < KB; j++) vstore(d + (size_t)j * m->d_k + m->d_row + d_line, vzero());
    }
    UNROLL for (int i = 0; i < 9 * KB; i++) vstore(lanes + (size_t)i * taps, a[i]);
    for (int j = 0; MAKE && of->end == m->rows && !m->below && j < KB; j++) make_row(m, k + j, m->rows, l);
  }
}

#define WEIGHTS_TILE(KB)                                                                                                                   \
  static __attribute__((noinline)) void weights_##KB(const strided_map *m, const weights_part *of) { weights_tile(m, of, KB, 0); }         \
  static __attribute__((noinline)) void weights_make_##KB(const strided_map *m, const weights_part *of) { weights_tile(m, of, KB, 1); }
WEIGHT_SIZES(WEIGHTS_TILE)

#define WEIGHTS_NAME(KB) [KB] = {weights_##KB, weights_make_##KB},
typedef void (*weights_fn)(const strided_map *, const weights_part *);
static const weights_fn weights_table[KB_WEIGHTS + 1][2] = {WEIGHT_SIZES(WEIGHTS_NAME)};

/* Of output channels k0..k1-1; makes their D. dw, of the group: where it goes if this slice is the last. */
static void weight_gradient(const strided_map *m, int k0, int k1, int first, float *dw) {
  const int on_the_way = m->columns > 4 || m->channels <= 2; /* of D, by the first input channel; short rows of more are faster made before */
  if (!on_the_way) make_d(m, k0, k1);
  const int fit = WEIGHT_FLOATS / (32 * m->w_in), rows = fit < 1 ? 1 : fit;
  for (weights_part of = {.first = first}; of.p < m->rows; of.p = of.end, of.first = 0) {
    of.end = of.p + anx_part(m->rows, rows, of.p);
    for (of.c = 0; of.c < m->channels; of.c++) {
      of.k = k0;
      for (int kb; of.k < k1; of.k += kb) {
        kb = anx_part(k1 - k0, KB_WEIGHTS, of.k - k0);
        weights_table[kb][on_the_way && of.c == 0](m, &of);
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

/* The weight gradient comes first: it makes D, and reads X in long runs, which bring it near for the input gradient. */
void FN(anx_strided_backward)(const anx_call *call, const anx_share *share, float *scratch) {
  const anx_conv_plan *p = &call->conv;
  const anx_op *op = call->op;
  const int c_first = share->group * p->gi, k_first = share->group * p->go, need_dx = share->c1 > share->c0, need_dw = share->k1 > share->k0;
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
  if (need_dw) weight_gradient(&m, share->k0, share->k1, share->first, share->last ? share->dw + (size_t)k_first * (size_t)(p->taps * p->gi) : NULL);
  else make_d(&m, 0, m.outputs);
  if (need_dx) input_gradient(&m, share->c0, share->c1, call->partial + ((size_t)share->slice * (size_t)op->c + (size_t)c_first) * 2);
}
