/* conv_depthwise.c - both gradients of 3x3 convolutions of stride 1 with one channel a group, in one pass over memory. Forward is conv_narrow.c's.
 *
 * A pixel of the input meets the same nine pixels of D = al G + be Y + de for its own gradient and for that of the filter. So rows are computed in the
 *   order of memory, three rows of D at hand: each is made once, loaded once, and used twice. The filter's gradient stays in registers, 9 sums of each
 *   lane, until the image block has gone by; with few registers, a row is gone through once for each gradient.
 * An input gradient's additions go from the first filter row to the last, in a row from left to right; the sums of a batch norm have one
 *   accumulator a row, and these are added in order.
 *
 * Percent of the FMA peak on a Zen 5 (262 GFLOP/s of one core), batch 16, machine quiet; both gradients / filter's alone:
 *   56 px, 64 channels   28 px, 128   14 px, 256   7 px, 512   4 px, 256
 *   47 / 30              65 / 47      62 / 50      56 / 43     44 / 35
 * 18 of 22 multiply-adds are the gradients': 82 at most. Memory bounds 56 px: 256 bytes a pixel are 55 GB/s there, where a core reads 53 and copies 74
 *   to 85; with 16 channels, which the third level cache holds, it is 60. Two passes, as conv_narrow.c makes them for more channels, had 27, 42, 43
 *   and 41 at 56, 28, 14 and 7 px.
 */
#include "conv_kernels.h"

/* One channel of one image block. */
typedef struct depthwise_map {
  const stored *x, *g, *y; /* y: null without coefficients */
  const float *w;
  const float *s, *t, *mean; /* of X's activation, which masks; or null */
  const float *al, *be, *de; /* with y */
  const stored *add;         /* to the input gradient, or null */
  stored *out;               /* gradient of X */
  float *d;                  /* three rows of D, [columns + 2][16], zero at both ends */
  int rows, columns, stream;
} depthwise_map;

/* What stays in registers from row to row. */
typedef struct depthwise_state {
  vf w[9], a[9]; /* filter, its gradient */
  vf sum1, sum2; /* of a batch norm */
} depthwise_state;

AI float *depthwise_row(const depthwise_map *m, int h) { return m->d + (size_t)(h % 3) * (size_t)(m->columns + 2) * 16; }

/* Row h of D. */
AI void depthwise_make(const depthwise_map *m, int h, int l) {
  float *d = depthwise_row(m, h) + 16 + l;
  const stored *g = m->g + (size_t)h * (size_t)m->columns * 16 + l;
  if (m->y) {
    const stored *y = m->y + (g - m->g);
    const vf al = vset(*m->al), be = vset(*m->be), de = vset(*m->de);
    for (int p = 0; p < m->columns * 16; p += 16) vstore(d + p, vfma(al, aload(g + p), vfma(be, aload(y + p), de)));
  } else {
    for (int p = 0; p < m->columns * 16; p += 16) vstore(d + p, aload(g + p));
  }
}

/* Row h, through rows FROM..TO-1 of the filter; IN: the input's gradient, OF: the filter's. */
AI void depthwise_pixels(const depthwise_map *m, depthwise_state *state, int h, int l, const int FROM, const int TO, const int IN, const int OF) {
  const size_t at = (size_t)h * (size_t)m->columns * 16 + (size_t)l;
  const stored *x = m->x + at, *add = m->add ? m->add + at : NULL;
  stored *out = IN ? m->out + at : NULL;
  const float *d[3] = {depthwise_row(m, h + 1) + l, depthwise_row(m, h) + l, depthwise_row(m, h + 2) + l}; /* h + 2: the one above */
  const int masked = m->s != NULL;
  const vf s = vset(masked ? *m->s : 0), t = vset(masked ? *m->t : 0), mean = vset(masked ? *m->mean : 0);
  vf sum1 = vzero(), sum2 = vzero();
  for (int p = 0; p < m->columns * 16; p += 16) {
    const vf raw = aload(x + p), affine = vaffine(s, raw, t), act = masked ? vrelu(affine) : raw;
    vf dx = vzero();
    UNROLL for (int r = FROM; r < TO; r++) {
      UNROLL for (int i = 0; i < 3; i++) {
        const vf v = vheld(vload(d[r] + p + 16 * (2 - i)));
        if (IN) dx = vfma(state->w[3 * r + i], v, dx);
        if (OF) state->a[3 * r + i] = vfma(act, v, state->a[3 * r + i]);
      }
    }
    if (!IN) continue;
    if (add) dx = dx + aload(add + p);
    if (masked) {
      dx = vkeep_gt(dx, affine, vzero());
      sum1 = sum1 + dx;
      sum2 = vfma(dx, raw - mean, sum2);
    }
    awrite(out + p, dx, m->stream);
  }
  state->sum1 = state->sum1 + sum1;
  state->sum2 = state->sum2 + sum2;
}

AI void depthwise_both(const depthwise_map *m, depthwise_state *state, int h, int l, const int FROM, const int TO, const int IN, const int OF) {
  if (IN && OF && ANX_ACCUMULATORS < 24) {
    depthwise_pixels(m, state, h, l, FROM, TO, 1, 0);
    depthwise_pixels(m, state, h, l, FROM, TO, 0, 1);
  } else {
    depthwise_pixels(m, state, h, l, FROM, TO, IN, OF);
  }
}

/* lanes [9][16]: added to if more; sums [2][16]. */
AI void depthwise_body(const depthwise_map *given, float *lanes, int more, float *sums, const int IN, const int OF) {
  const depthwise_map copy = *given, *const m = &copy; /* which no store can change */
  for (int l = 0; l < 16; l += VL) {
    depthwise_state state;
    UNROLL for (int i = 0; i < 9; i++) state.w[i] = vset(m->w[i]), state.a[i] = vzero();
    state.sum1 = state.sum2 = vzero();
    depthwise_make(m, 0, l);
    depthwise_make(m, 1, l);
    depthwise_both(m, &state, 0, l, 0, 2, IN, OF);
    for (int h = 1; h + 1 < m->rows; h++) {
      depthwise_make(m, h + 1, l);
      depthwise_both(m, &state, h, l, 0, 3, IN, OF);
    }
    depthwise_both(m, &state, m->rows - 1, l, 1, 3, IN, OF);
    if (IN) {
      vstore(sums + l, state.sum1);
      vstore(sums + 16 + l, state.sum2);
    }
    if (!OF) continue;
    UNROLL for (int i = 0; i < 9; i++) {
      float *to = lanes + 16 * i + l;
      if (more) state.a[i] = state.a[i] + vload(to);
      vstore(to, state.a[i]);
    }
  }
}

static __attribute__((noinline)) void both_gradients(const depthwise_map *m, float *lanes, int more, float *sums) { depthwise_body(m, lanes, more, sums, 1, 1); }
static __attribute__((noinline)) void input_alone(const depthwise_map *m, float *sums) { depthwise_body(m, NULL, 0, sums, 1, 0); }
static __attribute__((noinline)) void filter_alone(const depthwise_map *m, float *lanes, int more) { depthwise_body(m, lanes, more, NULL, 0, 1); }

void FN(anx_depthwise_backward)(const anx_call *call, const anx_share *share, float *scratch) {
  const anx_conv_plan *p = &call->conv;
  const anx_op *op = call->op;
  const size_t c = (size_t)share->group, at = c * p->x_c + (size_t)share->slice * (size_t)op->h * (size_t)op->w * 16, ends = (size_t)(op->w + 2) * 16;
  const int in = share->c1 > share->c0, of = share->k1 > share->k0;
  float *lanes = scratch;
  depthwise_map m; /* field by field, see narrow_begin */
  memset(&m, 0, sizeof m);
  m.x = (const stored *)call->in[BWD_X] + at;
  m.g = (const stored *)call->in[BWD_G] + at;
  m.w = (const float *)call->in[BWD_W] + 9 * c;
  if (call->in[BWD_AL]) {
    m.y = (const stored *)call->in[BWD_Y] + at;
    m.al = (const float *)call->in[BWD_AL] + c;
    m.be = (const float *)call->in[BWD_BE] + c;
    m.de = (const float *)call->in[BWD_DE] + c;
  }
  if (call->in[BWD_S]) {
    m.s = (const float *)call->in[BWD_S] + c;
    m.t = (const float *)call->in[BWD_T] + c;
    m.mean = (const float *)call->in[call->in[BWD_MEAN] ? BWD_MEAN : BWD_T] + c; /* no mean: its sums are not wanted */
  }
  if (call->in[BWD_ADD]) m.add = (const stored *)call->in[BWD_ADD] + at;
  if (in) m.out = (stored *)call->out[BWD_DX] + at;
  m.d = scratch + p->a_floats;
  m.rows = op->h;
  m.columns = op->w;
  m.stream = anx_streams(call->images, op->h, op->w, op->c);
  for (int i = 0; i < 3; i++) {
    anx_zero_vectors(m.d + (size_t)i * ends, 1);
    anx_zero_vectors(m.d + (size_t)(i + 1) * ends - 16, 1);
  }
  float sums[32] __attribute__((aligned(64)));
  if (in && of) both_gradients(&m, lanes, !share->first, sums);
  else if (in) input_alone(&m, sums);
  else filter_alone(&m, lanes, !share->first);
  if (in && m.s) anx_store_partials(call->partial + ((size_t)share->slice * (size_t)op->c + c) * 2, sums, 1);
  if (!of || !share->last) return;
  float sum[12];
  for (int i = 0; i < 12; i += 4) anx_lane_sum4(lanes + 16 * i, sum + i);
  memcpy(share->dw + 9 * c, sum, 9 * sizeof *sum);
}
