/* conv_narrow.c - 3x3 convolutions of stride 1 and few channels a group: no packed tile.
 *
 * A strip of columns goes down the map. Forward, each row of the input is read and activated once, in registers, and added to the three rows of
 *   outputs that it is part of, whose sums stay in registers: 3 rows x KB channels x PB columns. The input gradient is the same over
 *   D = al G + be Y + de with the taps from the last to the first; bias, or residual gradient and mask, when a row leaves the registers.
 * The weight gradient of one input channel and KB output channels stays in registers, 9 KB sums of each lane, while a strip goes by; D is made when
 *   the first input channel needs it and kept for the others. The lanes are added when the last image block has gone by.
 * What the next slice reads is fetched on the way.
 *
 * An output's additions go from the first filter row to the last, in a row from channel to channel; the sums of a batch norm have one accumulator a
 *   row, which goes from column to column; strips of the weight gradient are as wide everywhere. So bits do not depend on KB and PB, which differ
 *   between instruction sets.
 * Backward with one channel a group is conv_depthwise.c's; with more, in fp32 and on maps of more than 8 x 8 pixels, conv_grouped.c's.
 * bf16 is only stored here: the arithmetic is fp32's, since pairs of channels would have to be made of what is in registers. On
 *   small maps that is faster than packed pairs all the same, up to 8 px at g = 2 and 6 px at g = 3: forward at g = 2, 7 and 4 px 65 -> 78, 36 -> 71 %.
 *
 * Percent of the FMA peak on a Zen 5 (262 GFLOP/s of one core), batch 16, machine quiet; forward / both gradients / weight gradient alone:
 *       28 px, 128 channels    14 px, 256 channels    7 px, 512 channels
 *   g 1 68                     64                     57           (backward: conv_depthwise.c)
 *   g 2 80                     75                     76 / 58 / 60
 *   g 3 82                     79                     76 / 59 / 67
 *   g 4 86                     86                     82 / 68 / 73
 * Without the sums of a batch norm forward at g = 2 and 7 px is 4 points faster, with channels that fit the second level cache 5.
 * AVX2 has room for one column at g = 3 and 4, so that each multiply-add waits for a broadcast of its own: forward 61 and 66 % of its peak at 28 px.
 */
#include "conv_kernels.h"

/* One group of one image block. All activations have the same strides. */
typedef struct narrow_map {
  const stored *x, *g, *y; /* forward: X; backward: X, G, Y (null without coefficients) */
  const float *w, *bias;
  const float *s, *t;        /* of X's activation, or null */
  const float *al, *be, *de; /* with y */
  const stored *add;         /* to the input gradient, or null */
  const float *mean;         /* the input gradient is masked, or null */
  stored *out;               /* Y or the gradient of X */
  size_t channel;            /* stride of channels */
  ptrdiff_t ahead;           /* from here to what the next slice reads */
  float *sums;               /* [KB][2][rows][16], or null */
  float *d, *lanes;          /* weight gradient: D of a strip, [channels][rows][PB][16]; its sums [channels][9][channels][16] */
  int channels, rows, columns, stream, first; /* first: of the slices */
} narrow_map;

#if ANX_ACCUMULATORS >= 24
static const int8_t narrow_width[ANX_NARROW + 1] = {0, 7, 4, 2, 2};
#define NARROW_ONE(F) F(1, 1) F(1, 2) F(1, 3) F(1, 4) F(1, 5) F(1, 6) F(1, 7)
#define NARROW_MORE(F) F(2, 1) F(2, 2) F(2, 3) F(2, 4) F(3, 1) F(3, 2) F(4, 1) F(4, 2)
#else
static const int8_t narrow_width[ANX_NARROW + 1] = {0, 4, 2, 1, 1};
#define NARROW_ONE(F) F(1, 1) F(1, 2) F(1, 3) F(1, 4)
#define NARROW_MORE(F) F(2, 1) F(2, 2) F(3, 1) F(4, 1)
#endif

/* Columns column-1..column+PB of a row of channel c, activated, in v; zero outside the map. */
AI void narrow_input(const narrow_map *m, vf *v, const stored *x, int c, int left, int right, const int PB) {
  v[0] = left ? vzero() : aload(x - 16);
  UNROLL for (int p = 0; p < PB; p++) {
    v[p + 1] = aload(x + 16 * p);
    __builtin_prefetch(x + 16 * p + m->ahead, 0, 2);
  }
  v[PB + 1] = right ? vzero() : aload(x + 16 * PB);
  if (!m->s) return;
  const vf s = vset(m->s[c]), t = vset(m->t[c]);
  if (!left) v[0] = vrelu(vaffine(s, v[0], t));
  UNROLL for (int p = 1; p <= PB; p++) v[p] = vrelu(vaffine(s, v[p], t));
  if (!right) v[PB + 1] = vrelu(vaffine(s, v[PB + 1], t));
}

/* D, given G. */
AI vf narrow_d(vf g, const stored *y, vf al, vf be, vf de) { return vfma(al, g, vfma(be, aload(y), de)); }

/* The same columns of D of channel k, `at` from the group's first vector. */
AI void narrow_gradient(const narrow_map *m, vf *v, size_t at, int k, int left, int right, const int PB) {
  const stored *g = m->g + at;
  v[0] = left ? vzero() : aload(g - 16);
  UNROLL for (int p = 0; p < PB; p++) {
    v[p + 1] = aload(g + 16 * p);
    __builtin_prefetch(g + 16 * p + m->ahead, 0, 2);
  }
  v[PB + 1] = right ? vzero() : aload(g + 16 * PB);
  if (!m->y) return;
  const stored *y = m->y + at;
  const vf al = vset(m->al[k]), be = vset(m->be[k]), de = vset(m->de[k]);
  if (!left) v[0] = narrow_d(v[0], y - 16, al, be, de);
  UNROLL for (int p = 0; p < PB; p++) {
    v[p + 1] = narrow_d(v[p + 1], y + 16 * p, al, be, de);
    __builtin_prefetch(y + 16 * p + m->ahead, 0, 2);
  }
  if (!right) v[PB + 1] = narrow_d(v[PB + 1], y + 16 * PB, al, be, de);
}

/* Adds what a row of the input contributes through rows FROM..TO-1 of the filter to a: [3 rows of outputs][KB][PB]. BACK: of D, filter turned.
 * The output that is complete then comes first, since it is waited for. */
AI void narrow_row(const narrow_map *m, vf *a, const stored *x, size_t at, int left, int right, const int FROM, const int TO, const int KB, const int PB,
                   const int BACK) {
  for (int c = 0; c < KB; c++, x += m->channel, at += m->channel) {
    vf v[9]; /* PB + 2 of them; a constant size: the compiler keeps other arrays in memory */
    if (BACK) narrow_gradient(m, v, at, c, left, right, PB);
    else narrow_input(m, v, x, c, left, right, PB);
    const float *w = BACK ? m->w + 9 * KB * c : m->w + c;
    UNROLL for (int r = TO - 1; r >= FROM; r--) {
      UNROLL for (int i = 0; i < 3; i++) {
        UNROLL for (int k = 0; k < KB; k++) {
          const vf b = vset(BACK ? w[(8 - r * 3 - i) * KB + k] : w[(k * 9 + r * 3 + i) * KB]);
          vf *to = a + ((2 - r) * KB + k) * PB;
          UNROLL for (int p = 0; p < PB; p++) to[p] = vfma(b, v[p + i], to[p]);
        }
      }
    }
  }
}

/* A row of outputs is complete. sum: where its sums are, from the strips before this one; with left there are none. */
AI void narrow_emit(const narrow_map *m, vf *a, stored *out, size_t at, size_t sum, int left, const int KB, const int PB, const int BACK) {
  UNROLL for (int k = 0; k < KB; k++, out += m->channel, at += m->channel) {
    vf *ak = a + k * PB;
    if (!BACK && m->bias) {
      const vf b = vset(m->bias[k]);
      UNROLL for (int p = 0; p < PB; p++) ak[p] = ak[p] + b;
    }
    if (BACK && m->add) {
      UNROLL for (int p = 0; p < PB; p++) ak[p] = ak[p] + aload(m->add + at + 16 * p);
    }
    if (BACK && m->mean) {
      const vf s = vset(m->s[k]), t = vset(m->t[k]), mean = vset(m->mean[k]);
      float *to1 = m->sums + sum + (size_t)(2 * k * m->rows) * 16, *to2 = to1 + (size_t)m->rows * 16;
      vf s1 = left ? vzero() : vload(to1), s2 = left ? vzero() : vload(to2);
      UNROLL for (int p = 0; p < PB; p++) {
        const vf x = aload(m->x + at + 16 * p);
        __builtin_prefetch(m->x + at + 16 * p + m->ahead, 0, 2);
        ak[p] = vkeep_gt(ak[p], vaffine(s, x, t), vzero());
        s1 = s1 + ak[p];
        s2 = vfma(ak[p], x - mean, s2);
      }
      vstore(to1, s1);
      vstore(to2, s2);
    } else if (!BACK && m->sums) {
      float *to1 = m->sums + sum + (size_t)(2 * k * m->rows) * 16, *to2 = to1 + (size_t)m->rows * 16;
      vf s1 = left ? vzero() : vload(to1), s2 = left ? vzero() : vload(to2);
      UNROLL for (int p = 0; p < PB; p++) {
        s1 = s1 + ak[p];
        s2 = vfma(ak[p], ak[p], s2);
      }
      vstore(to1, s1);
      vstore(to2, s2);
    }
    if (m->stream) {
      UNROLL for (int p = 0; p < PB; p++) awrite(out + 16 * p, ak[p], 1);
    } else {
      UNROLL for (int p = 0; p < PB; p++) awrite(out + 16 * p, ak[p], 0);
    }
  }
}

/* The rows of outputs move up by one of N vectors. */
AI void narrow_move(vf *a, const int N) {
  UNROLL for (int i = 0; i < N; i++) {
    a[i] = a[N + i];
    a[N + i] = a[2 * N + i];
    a[2 * N + i] = vzero();
  }
}

AI void narrow_body(const narrow_map *given, int column, const int KB, const int PB, const int BACK) {
  const narrow_map copy = *given, *const m = BACK ? &copy : given; /* which no store can change; forward has no register for it */
  const int left = column == 0, right = column + PB == m->columns;
  const size_t row = (size_t)m->columns * 16;
  for (int l = 0; l < 16; l += VL) {
    size_t at = (size_t)column * 16 + (size_t)l, sum = (size_t)l;
    const stored *x = m->x + at;
    stored *out = m->out + at;
    vf a[24];
    UNROLL for (int i = 0; i < 3 * KB * PB; i++) a[i] = vzero();
    narrow_row(m, a, x, at, left, right, 0, 2, KB, PB, BACK);
    narrow_move(a, KB * PB);
    for (int h = 1; h + 1 < m->rows; h++, at += row, out += row, sum += 16) {
      x += row;
      narrow_row(m, a, x, at + row, left, right, 0, 3, KB, PB, BACK);
      narrow_emit(m, a, out, at, sum, left, KB, PB, BACK);
      narrow_move(a, KB * PB);
    }
    narrow_row(m, a, x + row, at + row, left, right, 1, 3, KB, PB, BACK);
    narrow_emit(m, a, out, at, sum, left, KB, PB, BACK);
    narrow_emit(m, a + KB * PB, out + row, at + row, sum + 16, left, KB, PB, BACK);
  }
}

#define NARROW_FORWARD(KB, PB) \
  static __attribute__((noinline)) void forward_##KB##_##PB(const narrow_map *m, int column) { narrow_body(m, column, KB, PB, 0); }
#define NARROW_GRADIENT(KB, PB) \
  static __attribute__((noinline)) void gradient_##KB##_##PB(const narrow_map *m, int column) { narrow_body(m, column, KB, PB, 1); }
NARROW_ONE(NARROW_FORWARD) NARROW_MORE(NARROW_FORWARD) NARROW_MORE(NARROW_GRADIENT)

#define FORWARD_NAME(KB, PB) [KB][PB] = forward_##KB##_##PB,
#define GRADIENT_NAME(KB, PB) [KB][PB] = gradient_##KB##_##PB,
typedef void (*narrow_fn)(const narrow_map *, int column);
static const narrow_fn narrow_table[2][ANX_NARROW + 1][8] = {{NARROW_ONE(FORWARD_NAME) NARROW_MORE(FORWARD_NAME)}, {NARROW_MORE(GRADIENT_NAME)}};

/* All strips, as equal as possible; partial: the sums of the slice. */
static void narrow_strips(const narrow_map *m, int back, double *partial) {
  const int most = narrow_width[m->channels], strips = (m->columns + most - 1) / most, width = m->columns / strips, wider = m->columns % strips;
  for (int i = 0, column = 0; i < strips; i++) {
    const int n = width + (i < wider);
    narrow_table[back][m->channels][n](m, column);
    column += n;
  }
  if (!m->sums) return;
  float sums[2 * ANX_NARROW * 16] __attribute__((aligned(64)));
  for (int i = 0; i < 2 * m->channels; i++) {
    for (int l = 0; l < 16; l += VL) {
      const float *at = m->sums + (size_t)(i * m->rows) * 16 + l;
      vf even = vload(at), odd = vzero(); /* two chains, half as long */
      for (int h = 1; h < m->rows; h += 2) odd = odd + vload(at + 16 * h);
      for (int h = 2; h < m->rows; h += 2) even = even + vload(at + 16 * h);
      const vf sum = even + odd;
      vstore(sums + 16 * i + l, sum);
    }
  }
  anx_store_partials(partial, sums, m->channels);
}

/* Adds the products of a pixel's three columns v of the input with the rows of D, at d, that filter rows FROM..TO-1 join it to. */
AI void weights_step(vf *a, const vf *v, const float *d, size_t d_k, size_t d_row, const int FROM, const int TO, const int KB) {
  UNROLL for (int r = FROM; r < TO; r++) {
    UNROLL for (int k = 0; k < KB; k++) {
      const vf b = vheld(vload(d + (size_t)k * d_k + (size_t)(2 - r) * d_row));
      UNROLL for (int i = 0; i < 3; i++) a[(k * 3 + r) * 3 + i] = vfma(b, v[i], a[(k * 3 + r) * 3 + i]);
    }
  }
}

/* A strip's row of D of channel k, from G and Y `at` from the group's first vector. */
AI void weights_make(const narrow_map *m, float *d, size_t at, int k, int columns) {
  const size_t row = (size_t)m->columns * 16; /* the next one is brought near while this one is used */
  const stored *g = m->g + at;
  if (m->y) {
    const stored *y = m->y + at;
    const vf al = vset(m->al[k]), be = vset(m->be[k]), de = vset(m->de[k]);
    for (int p = 0; p < columns; p++, g += 16, y += 16) {
      __builtin_prefetch(g + row, 0, 3);
      __builtin_prefetch(y + row, 0, 3);
      vstore(d + 16 * p, narrow_d(aload(g), y, al, be, de));
    }
  } else {
    for (int p = 0; p < columns; p++, g += 16) {
      __builtin_prefetch(g + m->ahead, 0, 2);
      vstore(d + 16 * p, aload(g));
    }
  }
}

AI vf weights_input(const narrow_map *m, const stored *x, vf s, vf t) {
  __builtin_prefetch(x + m->ahead, 0, 2);
  return m->s ? vrelu(vaffine(s, aload(x), t)) : aload(x);
}

/* A strip's row of input channel c; d: D of the row above. */
AI void weights_row(const narrow_map *m, vf *a, const stored *x, const float *d, size_t d_k, int c, int columns, int left, int right, const int FROM,
                    const int TO, const int KB) {
  const size_t d_row = (size_t)columns * 16;
  const vf s = vset(m->s ? m->s[c] : 0), t = vset(m->s ? m->t[c] : 0);
  vf v[3] = {left ? vzero() : weights_input(m, x - 16, s, t), weights_input(m, x, s, t)};
  for (int p = 1; p < columns; p++, d += 16) {
    x += 16;
    v[2] = weights_input(m, x, s, t);
    weights_step(a, v, d, d_k, d_row, FROM, TO, KB);
    v[0] = v[1], v[1] = v[2];
  }
  v[2] = right ? vzero() : weights_input(m, x + 16, s, t);
  weights_step(a, v, d, d_k, d_row, FROM, TO, KB);
}

/* A strip, KB output channels from k on. */
AI void weights_body(const narrow_map *given, int column, int columns, int k, const int KB) {
  const narrow_map copy = *given, *const m = &copy;
  const int left = column == 0, right = column + columns == m->columns;
  const size_t row = (size_t)m->columns * 16, d_row = (size_t)columns * 16, d_k = (size_t)(m->rows + 1) * d_row;
  for (int l = 0; l < 16; l += VL) {
    for (int c = 0; c < m->channels; c++) {
      const size_t at = (size_t)column * 16 + (size_t)l;
      const stored *x = m->x + (size_t)c * m->channel + at;
      float *d = m->d + l; /* begins with a row above the map, which nobody reads */
      vf a[18];
      UNROLL for (int i = 0; i < 9 * KB; i++) a[i] = vzero();
      for (int h = 0; h < m->rows; h++, x += row, d += d_row) {
        for (int i = h ? h + 1 : 0; !c && i <= h + 1 && i < m->rows; i++) {
          for (int j = 0; j < KB; j++) {
            float *to = m->d + l + (size_t)j * d_k + (size_t)(i + 1) * d_row;
            weights_make(m, to, (size_t)(k + j) * m->channel + at + (size_t)i * row, k + j, columns);
          }
        }
        if (h == 0) weights_row(m, a, x, d, d_k, c, columns, left, right, 0, 2, KB);
        else if (h + 1 < m->rows) weights_row(m, a, x, d, d_k, c, columns, left, right, 0, 3, KB);
        else weights_row(m, a, x, d, d_k, c, columns, left, right, 1, 3, KB);
      }
      float *lanes = m->lanes + (9 * k * m->channels + c) * 16 + l;
      const int more = column || !m->first;
      UNROLL for (int i = 0; i < 9 * KB; i++, lanes += m->channels * 16) {
        if (more) a[i] = a[i] + vload(lanes);
        vstore(lanes, a[i]);
      }
    }
  }
}

static __attribute__((noinline)) void weights_of_one(const narrow_map *m, int column, int columns, int k) { weights_body(m, column, columns, k, 1); }
#if ANX_ACCUMULATORS >= 24
static __attribute__((noinline)) void weights_of_two(const narrow_map *m, int column, int columns, int k) { weights_body(m, column, columns, k, 2); }
#endif

/* dw: where the gradient goes if this slice is the last. */
static void narrow_weights(const narrow_map *m, float *dw) {
  const int n = 9 * m->channels * m->channels;
  for (int column = 0, columns; column < m->columns; column += columns) {
    columns = anx_part(m->columns, ANX_STRIP, column);
    int k = 0;
#if ANX_ACCUMULATORS >= 24
    for (; k + 1 < m->channels; k += 2) weights_of_two(m, column, columns, k);
#endif
    for (; k < m->channels; k++) weights_of_one(m, column, columns, k);
  }
  if (!dw) return;
  float sum[9 * ANX_NARROW * ANX_NARROW + 3];
  for (int i = 0; i < n; i += 4) anx_lane_sum4(m->lanes + 16 * i, sum + i);
  memcpy(dw, sum, (size_t)n * sizeof *dw);
}

/* What both directions share. Field by field: a structure that is copied as vectors waits until all stores of the group before have left. */
static void narrow_begin(narrow_map *m, const anx_call *call, const anx_share *share, float *scratch, const void *x, const float *s, const float *t,
                         void *out, const float *w) {
  const anx_conv_plan *p = &call->conv;
  const anx_op *op = call->op;
  const size_t first = (size_t)share->group * (size_t)p->gi, map = (size_t)op->h * (size_t)op->w * 16, at = first * p->x_c + (size_t)share->slice * map;
  memset(m, 0, sizeof *m);
  m->x = (const stored *)x + at;
  m->w = w + first * (size_t)p->taps * (size_t)p->gi;
  if (out) m->out = (stored *)out + at;
  if (s) m->s = s + first, m->t = t + first;
  m->channel = p->x_c;
  m->channels = p->gi;
  m->rows = op->h;
  m->columns = op->w;
  m->first = share->first;
  m->stream = anx_streams(call->images, op->h, op->w, op->c);
  m->lanes = scratch + 32 * p->gi * op->h;
  m->d = scratch + p->a_floats;
  if (share->next == call) /* in another sheet, each tensor's next slice is elsewhere */
    m->ahead = (ptrdiff_t)(share->next_group - share->group) * p->gi * (ptrdiff_t)p->x_c + (ptrdiff_t)(share->next_slice - share->slice) * (ptrdiff_t)map;
}

static double *partial_of(const anx_call *call, const anx_share *share) {
  return call->partial + ((size_t)share->slice * (size_t)call->op->c + (size_t)share->group * (size_t)call->conv.gi) * 2;
}

void FN(anx_narrow_forward)(const anx_call *call, const anx_share *share, float *scratch) {
  narrow_map m;
  narrow_begin(&m, call, share, scratch, call->in[FWD_X], call->in[FWD_S], call->in[FWD_T], call->out[FWD_Y], call->in[FWD_W]);
  if (call->in[FWD_BIAS]) m.bias = (const float *)call->in[FWD_BIAS] + share->group * call->conv.gi;
  if (call->out[FWD_SUMS]) m.sums = scratch;
  narrow_strips(&m, 0, partial_of(call, share));
}

void FN(anx_narrow_backward)(const anx_call *call, const anx_share *share, float *scratch) {
  const anx_conv_plan *p = &call->conv;
  const int first = share->group * p->gi;
  narrow_map m;
  narrow_begin(&m, call, share, scratch, call->in[BWD_X], call->in[BWD_S], call->in[BWD_T], call->out[BWD_DX], call->in[BWD_W]);
  const ptrdiff_t at = m.x - (const stored *)call->in[BWD_X];
  m.g = (const stored *)call->in[BWD_G] + at;
  if (call->in[BWD_AL]) {
    m.y = (const stored *)call->in[BWD_Y] + at;
    m.al = (const float *)call->in[BWD_AL] + first, m.be = (const float *)call->in[BWD_BE] + first, m.de = (const float *)call->in[BWD_DE] + first;
  }
  if (call->in[BWD_ADD]) m.add = (const stored *)call->in[BWD_ADD] + at;
  if (m.s) { /* the mask; no mean: its sums are not wanted */
    m.mean = (const float *)call->in[call->in[BWD_MEAN] ? BWD_MEAN : BWD_T] + first;
    m.sums = scratch;
  }
  if (share->c1 > share->c0) narrow_strips(&m, 1, partial_of(call, share));
  if (share->k1 > share->k0) {
    float *dw = share->dw + (size_t)first * (size_t)p->taps * (size_t)p->gi;
    narrow_weights(&m, share->last ? dw : NULL);
  }
}
