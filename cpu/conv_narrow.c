/* conv_narrow.c - forward 3x3 convolutions of stride 1 and few channels a group: no packed tile.
 *
 * A strip of columns goes down the map. Each row of the input is read and activated once, in registers, and added to the three rows of outputs
 *   that it is part of, whose sums stay in registers: 3 rows x KB channels x PB columns. What the next slice reads is fetched on the way.
 * An output's additions go from the first filter row to the last, in a row from channel to channel. The sums of a batch norm have one accumulator a
 *   column. So neither depends on the width of strips, which differs between instruction sets.
 * bf16 is only stored here: the arithmetic is fp32's, since pairs of channels would have to be made of what is in registers.
 */
#include "conv_kernels.h"

/* One group of one image block. */
typedef struct narrow_map {
  const stored *x;
  const float *w, *s, *t, *bias; /* s and t: null without activation */
  size_t x_c, y_k;
  ptrdiff_t ahead; /* from here to what the next slice reads */
  stored *y;
  float *sums; /* [KB][2][columns][16], or null */
  int rows, columns, stream;
} narrow_map;

#if ANX_ACCUMULATORS >= 24
static const int8_t narrow_width[ANX_NARROW + 1] = {0, 7, 4, 2, 2};
#define NARROW_ALL(F) F(1, 1) F(1, 2) F(1, 3) F(1, 4) F(1, 5) F(1, 6) F(1, 7) F(2, 1) F(2, 2) F(2, 3) F(2, 4) F(3, 1) F(3, 2) F(4, 1) F(4, 2)
#else
static const int8_t narrow_width[ANX_NARROW + 1] = {0, 4, 2, 1, 1};
#define NARROW_ALL(F) F(1, 1) F(1, 2) F(1, 3) F(1, 4) F(2, 1) F(2, 2) F(3, 1) F(4, 1)
#endif

/* Adds what row x of the input contributes through rows FROM..TO-1 of the filter to a: [3 rows of outputs][KB][PB]. */
AI void narrow_row(const narrow_map *m, vf *a, const stored *x, int left, int right, const int FROM, const int TO, const int KB, const int PB) {
  for (int c = 0; c < KB; c++, x += m->x_c) {
    vf v[9]; /* PB + 2 of them, the outer ones zero outside the map; a constant size: the compiler keeps other arrays in memory */
    v[0] = left ? vzero() : aload(x - 16);
    UNROLL for (int p = 0; p < PB; p++) {
      v[p + 1] = aload(x + 16 * p);
      __builtin_prefetch(x + 16 * p + m->ahead, 0, 2);
    }
    v[PB + 1] = right ? vzero() : aload(x + 16 * PB);
    if (m->s) {
      const vf s = vset(m->s[c]), t = vset(m->t[c]);
      if (!left) v[0] = vrelu(vaffine(s, v[0], t));
      UNROLL for (int p = 1; p <= PB; p++) v[p] = vrelu(vaffine(s, v[p], t));
      if (!right) v[PB + 1] = vrelu(vaffine(s, v[PB + 1], t));
    }
    const float *w = m->w + c;
    UNROLL for (int r = FROM; r < TO; r++) {
      UNROLL for (int i = 0; i < 3; i++) {
        UNROLL for (int k = 0; k < KB; k++) {
          const vf b = vset(w[((k * 3 + r) * 3 + i) * KB]);
          vf *to = a + ((2 - r) * KB + k) * PB;
          UNROLL for (int p = 0; p < PB; p++) to[p] = vfma(b, v[p + i], to[p]);
        }
      }
    }
  }
}

/* A row of outputs is complete. */
AI void narrow_emit(const narrow_map *m, vf *a, stored *y, float *sums, const int KB, const int PB) {
  UNROLL for (int k = 0; k < KB; k++) {
    vf *ak = a + k * PB;
    if (m->bias) {
      const vf b = vset(m->bias[k]);
      UNROLL for (int p = 0; p < PB; p++) ak[p] = ak[p] + b;
    }
    if (m->sums) {
      float *s1 = sums + (size_t)(2 * k * m->columns) * 16, *s2 = s1 + (size_t)m->columns * 16;
      UNROLL for (int p = 0; p < PB; p++) {
        vstore(s1 + 16 * p, vload(s1 + 16 * p) + ak[p]);
        vstore(s2 + 16 * p, vfma(ak[p], ak[p], vload(s2 + 16 * p)));
      }
    }
    if (m->stream) {
      UNROLL for (int p = 0; p < PB; p++) awrite(y + (size_t)k * m->y_k + 16 * p, ak[p], 1);
    } else {
      UNROLL for (int p = 0; p < PB; p++) awrite(y + (size_t)k * m->y_k + 16 * p, ak[p], 0);
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

AI void narrow_body(const narrow_map *m, int column, const int KB, const int PB) {
  const int left = column == 0, right = column + PB == m->columns;
  const size_t row = (size_t)m->columns * 16;
  for (int l = 0; l < 16; l += VL) {
    const size_t at = (size_t)column * 16 + (size_t)l;
    const stored *x = m->x + at;
    stored *y = m->y + at;
    float *sums = m->sums + at;
    vf a[24];
    UNROLL for (int i = 0; i < 3 * KB * PB; i++) a[i] = vzero();
    narrow_row(m, a, x, left, right, 0, 2, KB, PB);
    narrow_move(a, KB * PB);
    for (int h = 1; h + 1 < m->rows; h++, y += row) {
      x += row;
      narrow_row(m, a, x, left, right, 0, 3, KB, PB);
      narrow_emit(m, a, y, sums, KB, PB);
      narrow_move(a, KB * PB);
    }
    narrow_row(m, a, x + row, left, right, 1, 3, KB, PB);
    narrow_emit(m, a, y, sums, KB, PB);
    narrow_emit(m, a + KB * PB, y + row, sums, KB, PB);
  }
}

#define NARROW_ONE(KB, PB) \
  static __attribute__((noinline)) void narrow_##KB##_##PB(const narrow_map *m, int column) { narrow_body(m, column, KB, PB); }
NARROW_ALL(NARROW_ONE)

#define NARROW_NAME(KB, PB) [KB][PB] = narrow_##KB##_##PB,
typedef void (*narrow_fn)(const narrow_map *, int column);
static const narrow_fn narrow_table[ANX_NARROW + 1][8] = {NARROW_ALL(NARROW_NAME)};

void FN(anx_narrow_forward)(const anx_call *call, const anx_share *share, float *scratch) {
  const anx_conv_plan *p = &call->conv;
  const anx_op *op = call->op;
  const size_t first = (size_t)share->group * (size_t)p->gi, map = (size_t)op->h * (size_t)op->w * 16, block = (size_t)share->slice * map;
  narrow_map m = {.x = (const stored *)call->in[FWD_X] + first * p->x_c + block, .x_c = p->x_c,
                  .w = (const float *)call->in[FWD_W] + first * (size_t)p->taps * (size_t)p->gi,
                  .y = (stored *)call->out[FWD_Y] + first * p->y_c + block, .y_k = p->y_c, .rows = op->h, .columns = op->w,
                  .stream = anx_streams(op->n, op->h, op->w, op->k)};
  if (call->in[FWD_S]) m.s = (const float *)call->in[FWD_S] + first, m.t = (const float *)call->in[FWD_T] + first;
  if (call->in[FWD_BIAS]) m.bias = (const float *)call->in[FWD_BIAS] + first;
  if (share->next_group < p->groups)
    m.ahead = (ptrdiff_t)(share->next_group - share->group) * p->gi * (ptrdiff_t)p->x_c + (ptrdiff_t)(share->next_slice - share->slice) * (ptrdiff_t)map;
  if (call->out[FWD_SUMS]) {
    m.sums = scratch;
    memset(m.sums, 0, (size_t)(2 * p->gi * op->w) * 16 * sizeof(float));
  }
  const int strips = (op->w + narrow_width[p->gi] - 1) / narrow_width[p->gi], width = op->w / strips, wider = op->w % strips;
  for (int i = 0, column = 0; i < strips; i++) {
    const int n = width + (i < wider);
    narrow_table[p->gi][n](&m, column);
    column += n;
  }
  if (!m.sums) return;
  float sums[2 * ANX_NARROW * 16] __attribute__((aligned(64)));
  for (int i = 0; i < 2 * p->gi; i++) {
    for (int l = 0; l < 16; l += VL) {
      const float *at = m.sums + (size_t)(i * op->w) * 16 + l;
      vf sum = vload(at);
      for (int w = 1; w < op->w; w++) sum = sum + vload(at + 16 * w);
      vstore(sums + 16 * i + l, sum);
    }
  }
  anx_store_partials(call->partial + ((size_t)share->slice * (size_t)op->k + first) * 2, sums, p->gi);
}
