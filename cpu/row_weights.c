/* row_weights.c - the weight gradient of a 3x3 convolution of stride 1, of groups of any width, from the input where it lies.
 *
 * A strip of columns goes down the map. The sums of each lane of one input channel and KB output channels stay in registers, 9 KB of them; X is read
 * and activated in registers, three neighbours of a row at a time. D = al G + be Y + de is made on the way by the first input channel, whose rows
 * of it below are new, and kept for the others and for the input gradient: beside the multiply-adds that costs little while G and Y are in a cache.
 * The lanes of a section's slices are added up in memory, and summed once.
 *
 * Each weight's additions go down the strips, one after the other, and from slice to slice: bits do not depend on KB, which differs between
 * instruction sets, and strips are as wide everywhere.
 *
 * A pixel of KB = 3 channels costs 27 multiply-adds, 9 loads of D, one of X and its activation: the loop runs at 94 % of the peak; of whole ops see
 * conv_grouped.c. With X packed and the lanes of each slice summed, g = 5 had 52 %: at 28 and 7 px packing took 31 and 17 % of the time, sums 3 and 9, and
 * a loop of 20 multiply-adds with 9 loads ran at 79 and 73.
 */
#include "row_weights.h"

/* Where KB channels of D come from. */
typedef struct gradient {
  const stored *g, *y;
  size_t channel, row; /* strides */
  float al[ROW_CHANNELS], be[ROW_CHANNELS], de[ROW_CHANNELS];
} gradient;

AI vf d_of(const gradient *m, size_t at, int j) {
  at += (size_t)j * m->channel;
  return m->y ? vfma(vset(m->al[j]), aload(m->g + at), vfma(vset(m->be[j]), aload(m->y + at), vset(m->de[j]))) : aload(m->g + at);
}

/* Asks for what the row below `at` is made from. */
AI void fetch_below(const gradient *m, size_t at, int j) {
  at += (size_t)j * m->channel + m->row;
  __builtin_prefetch(m->g + at);
  if (m->y) __builtin_prefetch(m->y + at);
}

AI vf input_of(const stored *x, int active, float s, float t) { return active ? vrelu(vaffine(vset(s), aload(x), vset(t))) : aload(x); }

/* Adds the products of a pixel's three columns v of the input with the rows of D that filter rows FROM..TO-1 join it to; d: that of the row above. The row
 * below is new if MAKE, from what lies at `at`. */
AI void add_pixel(const anx_row_weights *m, const gradient *new, vf *a, const vf *v, float *d, size_t at, const int FROM, const int TO, const int KB,
                  const int MAKE) {
  UNROLL for (int r = FROM; r < TO; r++) {
    UNROLL for (int j = 0; j < KB; j++) {
      float *dk = d + (size_t)j * m->d_k + (size_t)(2 - r) * m->d_row;
      vf b;
      if (MAKE && r == 0) {
        if (KB < ROW_CHANNELS) fetch_below(new, at, j); /* of three channels it cost more than it gained */
        b = d_of(new, at, j);
        vstore(dk, b);
      } else {
        b = vheld(vload(dk));
      }
      UNROLL for (int i = 0; i < 3; i++) a[(j * 3 + r) * 3 + i] = vfma(b, v[i], a[(j * 3 + r) * 3 + i]);
    }
  }
}

/* What of the weights, and a strip. */
typedef struct part {
  int column, columns, k, c;
  gradient new;
  anx_fetch fetch;
  ahead *next;
} part;

/* A row of it; x, d, at: as above. */
AI size_t add_row(const anx_row_weights *m, const part *of, const gradient *new, vf *a, const stored *x, float *d, size_t at, size_t fetched,
                  const int FROM, const int TO, const int KB, const int MAKE, const int SIDE) {
  const size_t d_pixel = SIDE ? m->d_pixel : 16;
  const int active = m->s != NULL;
  const float s = active ? m->s[of->c] : 0, t = active ? m->t[of->c] : 0;
  vf v[3] = {of->column ? input_of(x - 16, active, s, t) : vzero(), input_of(x, active, s, t)};
  for (int p = 1; p < of->columns; p++, d += d_pixel, at += 16) {
    x += 16;
    __builtin_prefetch(of->fetch.at + (fetched >> 8), 0, 2);
    fetched += of->fetch.step;
    v[2] = input_of(x, active, s, t);
    add_pixel(m, new, a, v, d, at, FROM, TO, KB, MAKE);
    v[0] = v[1], v[1] = v[2];
  }
  v[2] = of->column + of->columns < m->columns ? input_of(x + 16, active, s, t) : vzero();
  add_pixel(m, new, a, v, d, at, FROM, TO, KB, MAKE);
  return fetched;
}

/* A row of D, from what lies at `at`. */
AI void make_row(const anx_row_weights *m, const part *of, float *d, size_t at, const int KB) {
  for (int j = 0; j < KB; j++) {
    for (int p = 0; p < of->columns; p++) vstore(d + (size_t)j * m->d_k + (size_t)p * m->d_pixel, d_of(&of->new, at + (size_t)p * 16, j));
  }
}

/* SIDE: D has room for several blocks, side by side; else for one. */
AI void add_channel(const anx_row_weights *m, const part *of, const gradient *new, const int KB, const int MAKE, const int SIDE) {
  const size_t row = (size_t)m->columns * 16;
  size_t fetched = 0;
  for (int l = 0; l < 16; l += VL) {
    vf a[9 * ROW_CHANNELS];
    UNROLL for (int i = 0; i < 9 * KB; i++) a[i] = vzero();
    for (int block = 0; block < (SIDE ? m->blocks : 1); block++) {
      size_t at = (size_t)block * m->block + (size_t)of->column * 16 + (size_t)l;
      const stored *x = m->x + (size_t)of->c * m->channel + at;
      float *d = m->d + (size_t)of->k * m->d_k + (size_t)of->column * m->d_pixel + block * 16 + l;
      if (MAKE && !m->top) make_row(m, of, d - m->d_row, at - row, KB);
      if (MAKE) make_row(m, of, d, at, KB);
      d -= m->d_row;
      at += row;
      for (int h = 0; h < m->rows; h++, x += row, d += m->d_row, at += row) {
        if (h == 0 && m->top) fetched = add_row(m, of, new, a, x, d, at, fetched, 0, 2, KB, MAKE, SIDE);
        else if (h + 1 == m->rows && m->bottom) fetched = add_row(m, of, new, a, x, d, at, fetched, 1, 3, KB, MAKE, SIDE);
        else fetched = add_row(m, of, new, a, x, d, at, fetched, 0, 3, KB, MAKE, SIDE);
      }
    }
    float *lanes = m->lanes + (size_t)(9 * (of->k * m->channels + of->c)) * 16 + l;
    const int more = of->column || !m->first;
    UNROLL for (int j = 0; j < KB; j++, lanes += 9 * 16 * m->channels) {
      UNROLL for (int i = 0; i < 9; i++) {
        if (more) a[9 * j + i] = a[9 * j + i] + vload(lanes + 16 * i);
        vstore(lanes + 16 * i, a[9 * j + i]);
      }
    }
  }
}

AI void add_part(const anx_row_weights *given, const part *given_part, const int KB, const int SIDE) {
  const anx_row_weights copy = *given, *const m = &copy; /* which no store can change */
  part of = *given_part;
  const gradient *const new = KB < ROW_CHANNELS ? &of.new : &given_part->new; /* three channels leave no registers for it */
  for (of.c = 0; of.c < m->channels; of.c++) {
    of.fetch = ahead_take(of.next, 1, m->blocks * m->rows * (of.columns - 1) * LANES);
    if (!of.fetch.at) of.fetch.at = (const char *)m->d;
    if (of.c == 0 && m->g) add_channel(m, &of, new, KB, 1, SIDE);
    else add_channel(m, &of, new, KB, 0, SIDE);
  }
}

#define PART(KB, SIDE) \
  static __attribute__((noinline)) void part_##KB##_##SIDE(const anx_row_weights *m, const part *of) { add_part(m, of, KB, SIDE); }
#define PARTS(KB) PART(KB, 0) PART(KB, 1)
#define NAMES(KB) [KB] = {part_##KB##_0, part_##KB##_1},
typedef void (*part_fn)(const anx_row_weights *, const part *);
#if ROW_CHANNELS == 3
PARTS(1) PARTS(2) PARTS(3)
static const part_fn part_table[ROW_CHANNELS + 1][2] = {NAMES(1) NAMES(2) NAMES(3)};
#else
PARTS(1)
static const part_fn part_table[ROW_CHANNELS + 1][2] = {NAMES(1)};
#endif

static void add_zeros(const anx_row_weights *m, int k0, int k1) {
  for (int k = k0; k < k1; k++) {
    float *d = m->d + (size_t)k * m->d_k;
    for (int h = m->top ? 0 : -1; h < m->rows + !m->bottom; h++) {
      float *left = d + h * (ptrdiff_t)m->d_row - m->d_pixel, *right = left + (size_t)(m->columns + 1) * m->d_pixel;
      for (int i = 0; i < 16 * m->blocks; i += VL) vstore(left + i, vzero()), vstore(right + i, vzero());
    }
  }
}

static void begin_gradient(gradient *new, const anx_row_weights *m, int k, int kb) {
  new->g = m->g + (size_t)k * m->channel;
  new->y = m->y ? m->y + (size_t)k * m->channel : NULL;
  new->channel = m->channel;
  new->row = (size_t)m->columns * 16;
  for (int j = 0; m->y && j < kb; j++) new->al[j] = m->al[k + j], new->be[j] = m->be[k + j], new->de[j] = m->de[k + j];
}

void FN(anx_row_weights)(const anx_row_weights *m, int k0, int k1, ahead *next) {
  part of = {.next = next};
  for (of.column = 0; of.column < m->columns; of.column += of.columns) {
    of.columns = anx_part(m->columns, ANX_STRIP, of.column);
    for (of.k = k0; of.k < k1;) {
      const int kb = anx_part(k1 - k0, ROW_CHANNELS, of.k - k0);
      if (m->g) begin_gradient(&of.new, m, of.k, kb);
      part_table[kb][m->d_pixel != 16](m, &of);
      of.k += kb;
    }
  }
  if (m->g && m->zeros) add_zeros(m, k0, k1);
}

void FN(anx_row_weights_sum)(const anx_row_weights *m, int k0, int k1, float *dw) {
  const int n = 9 * m->channels;
  float sums[9 * ANX_ROWS + 3];
  for (int k = k0; k < k1; k++) {
    for (int i = 0; i < n; i += 4) anx_lane_sum4(m->lanes + (size_t)(k * n + i) * 16, sums + i);
    for (int c = 0; c < m->channels; c++) {
      for (int i = 0; i < 9; i++) dw[(k * 9 + i) * m->channels + c] = sums[9 * c + i];
    }
  }
}
