/* point.c - all sizes of the register tiles of point.h, and the choice among them. */
#include "point.h"

/* What is done with the results, beside a bias or another gradient: nothing; the sums of a batch norm; mask and sums of a batch norm's gradient. */
enum { STORE, SUMS, MASK, ENDS };

/* Of PB pixels of channel k, from `pixel` on. */
AI void finish(const anx_point_tile *t, vf *a, int k, int pixel, const int PB, const int END) {
  const size_t at = (size_t)k * t->y_k + (size_t)pixel * 16;
  if (END != MASK && t->bias) {
    const vf b = vset(t->bias[k]);
    UNROLL for (int p = 0; p < PB * LANES; p++) a[p] = a[p] + b;
  }
  if (END != SUMS && t->add) {
    UNROLL for (int p = 0; p < PB * LANES; p++) a[p] = a[p] + aload(t->add + at + p * VL);
  }
  if (END != STORE) {
    float *const sums = t->sums + 32 * k;
    const stored *const raw = END == MASK ? t->raw + at : NULL;
    float *const active = PAIR == 1 && END == MASK && t->active ? t->active + (size_t)k * t->active_k + (size_t)pixel * 16 : NULL;
    const vf s = vset(END == MASK ? t->s[k] : 0), shift = vset(END == MASK ? t->t[k] : 0), mean = vset(END == MASK ? t->mean[k] : 0);
    UNROLL for (int l = 0; l < LANES; l++) {
      vf s1 = vload(sums + l * VL), s2 = vload(sums + 16 + l * VL);
      UNROLL for (int i = l; i < PB * LANES; i += LANES) {
        vf other = a[i];
        if (END == MASK) {
          other = aload(raw + i * VL);
          const vf affine = vaffine(s, other, shift);
          if (active) vstore(active + i * VL, vrelu(affine));
          a[i] = vkeep_gt(a[i], affine, vzero());
          other = other - mean;
        }
        s1 = s1 + a[i];
        s2 = vfma(a[i], other, s2);
      }
      vstore(sums + l * VL, s1);
      vstore(sums + 16 + l * VL, s2);
    }
  }
  if (PAIR == 2 && END == STORE && t->wide) {
    UNROLL for (int p = 0; p < PB * LANES; p++) vstore(t->wide + at + p * VL, a[p]);
#if PAIR == 2
  } else if (t->stream) {
    write_lines(t->y + at, a, PB);
#endif
  } else if (t->stream) {
    UNROLL for (int p = 0; p < PB * LANES; p++) awrite(t->y + at + p * VL, a[p], 1);
  } else {
    UNROLL for (int p = 0; p < PB * LANES; p++) astore(t->y + at + p * VL, a[p]);
  }
}

/* Writes the slots of reduction channel c of PB pixels, which in memory begin at `from`. */
AI void form_slots(const anx_point_tile *t, float *to, const stored *from, int c, const int PB, const int FORM) {
  const vf s = vset(FORM == ACTIVATE ? t->from_s[PAIR * c] : 0), shift = vset(FORM == ACTIVATE ? t->from_t[PAIR * c] : 0);
#if PAIR == 1
  UNROLL for (int i = 0; i < PB * LANES; i++) vstore(to + i * VL, vrelu(vaffine(s, aload(from + i * VL), shift)));
#else
  const int two = 2 * c + 1 < t->from_channels; /* else the second value is zero */
  const stored *const other = from + (two ? t->from_c : 0);
  const vf other_s = vset(FORM == ACTIVATE ? t->from_s[2 * c + two] : 0), other_shift = vset(FORM == ACTIVATE ? t->from_t[2 * c + two] : 0);
  UNROLL for (int p = 0; p < PB; p++) {
    vf low = aload(from + p * 16), high = aload(other + p * 16);
    if (FORM == ACTIVATE) {
      low = vrelu(vaffine(s, low, shift));
      high = vrelu(vaffine(other_s, high, other_shift));
    }
    vstore(to + p * VL, vinterleave(low, two ? high : vzero()));
  }
#endif
}

/* The end of a block: PB pixels of channel c, which in memory begin at `at`. */
AI void join(const anx_point_tile *t, vf *v, size_t at, int c, const int PB) {
  const vf s = vset(t->from_s[c]), shift = vset(t->from_t[c]);
  const vf other_s = vset(t->other_s ? t->other_s[c] : 1.0f), other_shift = vset(t->other_s ? t->other_t[c] : -0.0f); /* 1 x + -0 is x to its sign */
  const stored *const from = t->from + at, *const other = t->other + at;
  UNROLL for (int i = 0; i < PB * LANES; i++)
    v[i] = vrelu(vaffine(s, aload(from + i * VL), shift) + vaffine(other_s, aload(other + i * VL), other_shift));
  if (!t->joined) return;
#if PAIR == 2
  write_lines(t->joined + at, v, PB);
#else
  UNROLL for (int i = 0; i < PB * LANES; i++) awrite(t->joined + at + i * VL, v[i], 1);
#endif
}

/* Its slots, of reduction channel c. */
AI void join_slots(const anx_point_tile *t, float *to, size_t at, int c, const int PB) {
  vf low[FORWARD_PIXELS * LANES];
  join(t, low, at, PAIR * c, PB);
#if PAIR == 1
  UNROLL for (int i = 0; i < PB * LANES; i++) vstore(to + i * VL, low[i]);
#else
  vf high[FORWARD_PIXELS];
  if (2 * c + 1 < t->from_channels) {
    join(t, high, at + t->from_c, 2 * c + 1, PB);
  } else {
    UNROLL for (int p = 0; p < PB; p++) high[p] = vzero();
  }
  UNROLL for (int p = 0; p < PB; p++) vstore(to + p * VL, vinterleave(low[p], high[p]));
#endif
}

/* `blocks` blocks of KB output channels, from k on, of the PB pixels from `pixel` on. */
AI void body(const anx_point_tile *t, int k, int pixel, int blocks, const int KB, const int PB, const int FORM, const int END) {
  anx_ahead *const ahead = t->ahead;
  const char *line = ahead->line, *end = ahead->end;
  const size_t x_c = t->x_c, w_k = t->w_k, w_c = t->w_c, y_k = t->y_k;
  const float *const x = t->x + (t->form ? 0 : (size_t)pixel * 16);
  const int channels = t->channels;
  size_t at = (size_t)k * y_k + (size_t)pixel * 16;
  for (; blocks; blocks--, k += KB, at += KB * y_k) {
    vf a[32]; /* a constant size: the compiler keeps variable-length arrays in memory */
    UNROLL for (int i = 0; i < KB * PB * LANES; i++) a[i] = vzero();
    UNROLL for (int i = 0; i < KB && END != SUMS; i++) { /* what the end needs */
      if (END == MASK) {
        UNROLL for (int p = 0; p < PB; p++) __builtin_prefetch(t->raw + at + (size_t)i * y_k + p * 16);
      }
      if (t->add) {
        UNROLL for (int p = 0; p < PB; p++) __builtin_prefetch(t->add + at + (size_t)i * y_k + p * 16);
      }
    }
    const float *xc = x, *wc = t->w + (size_t)k * w_k;
    const stored *from = FORM ? t->from + (size_t)pixel * 16 : NULL;
    size_t joins = (size_t)pixel * 16; /* from t->from */
    for (int c = 0; c < channels; c++, xc += x_c, wc += w_c) {
      AHEAD_TURN(ahead, line, end);
      if (END != SUMS && FORM == READ) __builtin_prefetch(wc + KB * w_k); /* columns of the next block, which no hardware prefetcher follows */
      if (FORM == JOIN) {
        join_slots(t, (float *)(uintptr_t)xc, joins, c, PB);
        joins += PAIR * t->from_c;
      } else if (FORM) {
        form_slots(t, (float *)(uintptr_t)xc, from, c, PB, FORM);
        from += PAIR * t->from_c;
      }
      anx_tap(a, xc, 16, wc, w_k, KB, PB);
    }
    UNROLL for (int i = 0; i < KB; i++) finish(t, a + i * PB * LANES, k + i, pixel, PB, END);
  }
  ahead->line = line;
}

/* Names, forms and ends. */
#define POINT_COMMON(F, KB, PB)                                                                                       \
  F(read_store, READ, STORE, KB, PB) F(read_sums, READ, SUMS, KB, PB) F(read_mask, READ, MASK, KB, PB)                \
  F(activate_store, ACTIVATE, STORE, KB, PB) F(activate_sums, ACTIVATE, SUMS, KB, PB)                                 \
  F(join_store, JOIN, STORE, KB, PB) F(join_sums, JOIN, SUMS, KB, PB)
#if PAIR == 1
#define POINT_KINDS(F, KB, PB) POINT_COMMON(F, KB, PB)
#else
#define POINT_KINDS(F, KB, PB) POINT_COMMON(F, KB, PB) F(pair_store, PAIR_UP, STORE, KB, PB) F(pair_sums, PAIR_UP, SUMS, KB, PB)
#endif
#define POINT_KIND(NAME, FORM, END, KB, PB)                                                                                       \
  static __attribute__((noinline)) void NAME##_##KB##_##PB(const anx_point_tile *t, int k, int pixel, int blocks) {                \
    body(t, k, pixel, blocks, KB, PB, FORM, END);                                                                                 \
  }
#define POINT_ONE(KB, PB) POINT_KINDS(POINT_KIND, KB, PB)
FORWARD_ALL(POINT_ONE)

#define POINT_NAME(NAME, FORM, END, KB, PB) [FORM][END] = NAME##_##KB##_##PB,
#define POINT_NAMES(KB, PB) [KB][PB] = {POINT_KINDS(POINT_NAME, KB, PB)},
typedef void (*point_fn)(const anx_point_tile *, int k, int pixel, int blocks);
static const point_fn point_table[FORWARD_CHANNELS + 1][FORWARD_PIXELS + 1][FORMS][ENDS] = {FORWARD_ALL(POINT_NAMES)};

/* Pixels and channels are cut into parts as equal as possible: `more` blocks of channels have one more than the others. The first block forms the
 * input. */
void FN(anx_point)(const anx_point_tile *t, int k0, int k1, int count) {
  const int n = k1 - k0, blocks = (n + POINT_CHANNELS - 1) / POINT_CHANNELS, few = n / blocks, more = n % blocks;
  const int end = t->raw ? MASK : t->sums ? SUMS : STORE, most = anx_forward_width[few + (more > 0)];
  for (int at = 0; at < count;) {
    const int pixels = anx_part(count, most, at);
    int done = 0;
    if (t->form) point_table[few + (more > 0)][pixels][t->form][end](t, k0, at, ++done);
    if (more > done) point_table[few + 1][pixels][READ][end](t, k0 + done * (few + 1), at, more - done);
    const int rest = blocks - (more > done ? more : done);
    if (rest) point_table[few][pixels][READ][end](t, k1 - rest * few, at, rest);
    at += pixels;
  }
}

#define LANES_COLUMNS 4 /* whose sums are formed together; with POINT_CHANNELS rows they fill the registers */

/* Blocks of JB columns from c on. */
AI void lanes_body(const anx_lanes_tile *t, int k, int c, int blocks, const int KB, const int JB) {
  anx_ahead *const ahead = t->ahead;
  const char *line = ahead->line, *end = ahead->end;
  const size_t d_k = t->d_k, a_c = t->a_c, dw_k = t->dw_k;
  const int vectors = t->vectors, add = t->add;
  for (; blocks; blocks--, c += JB) {
    float lanes[POINT_CHANNELS * LANES_COLUMNS * 16] __attribute__((aligned(64)));
    UNROLL for (int l = 0; l < LANES; l++) {
      vf sum[POINT_CHANNELS * LANES_COLUMNS];
      UNROLL for (int i = 0; i < KB * LANES_COLUMNS; i++) sum[i] = vzero();
      const float *d = t->d + (size_t)k * d_k + l * VL, *a = t->a + (size_t)c * a_c + l * VL;
      for (int i = 0; i < vectors; i++, d += 16, a += 16) {
        AHEAD_TURN(ahead, line, end);
        vf v[POINT_CHANNELS];
        UNROLL for (int r = 0; r < KB; r++) v[r] = vload_slots(d + (size_t)r * d_k);
        UNROLL for (int j = 0; j < JB; j++) {
          const vf b = vload_slots(a + (size_t)j * a_c);
          UNROLL for (int r = 0; r < KB; r++) sum[r * LANES_COLUMNS + j] = vmac(v[r], b, sum[r * LANES_COLUMNS + j]);
        }
      }
      UNROLL for (int i = 0; i < KB * LANES_COLUMNS; i++) vstore(lanes + 16 * i + l * VL, sum[i]);
    }
    float *row = t->dw + (size_t)k * dw_k + (size_t)c;
    UNROLL for (int r = 0; r < KB; r++, row += dw_k) {
      float out[LANES_COLUMNS];
      anx_lane_sum4(lanes + r * LANES_COLUMNS * 16, out);
      if (add) {
        UNROLL for (int j = 0; j < JB; j++) out[j] = row[j] + out[j];
      }
      memcpy(row, out, (size_t)JB * sizeof *row);
    }
  }
  ahead->line = line;
}

#define LANES_ONE(KB, JB)                                                                                             \
  static __attribute__((noinline)) void lanes_##KB##_##JB(const anx_lanes_tile *t, int k, int c, int blocks) {         \
    lanes_body(t, k, c, blocks, KB, JB);                                                                              \
  }
#if POINT_CHANNELS == 6
#define LANES_ROWS(F, JB) F(1, JB) F(2, JB) F(3, JB) F(4, JB) F(5, JB) F(6, JB)
#else
#define LANES_ROWS(F, JB) F(1, JB) F(2, JB) F(3, JB)
#endif
#define LANES_ALL(F) LANES_ROWS(F, 1) LANES_ROWS(F, 2) LANES_ROWS(F, 3) LANES_ROWS(F, 4)
LANES_ALL(LANES_ONE)

#define LANES_NAME(KB, JB) [KB][JB] = lanes_##KB##_##JB,
typedef void (*lanes_fn)(const anx_lanes_tile *, int k, int c, int blocks);
static const lanes_fn lanes_table[POINT_CHANNELS + 1][LANES_COLUMNS + 1] = {LANES_ALL(LANES_NAME)};

void FN(anx_lanes)(const anx_lanes_tile *t, int k0, int k1, int c0, int c1) {
  const int blocks = (c1 - c0) / LANES_COLUMNS, rest = (c1 - c0) % LANES_COLUMNS;
  for (int k = k0; k < k1;) {
    const int rows = anx_part(k1 - k0, POINT_CHANNELS, k - k0);
    if (blocks) lanes_table[rows][LANES_COLUMNS](t, k, c0, blocks);
    if (rest) lanes_table[rows][rest](t, k, c1 - rest, 1);
    k += rows;
  }
}
