/* pool.c - the stem's 3x3 stride 2 max-pool of act(S), and the mean over a map. A task is one channel of an image block, all
 * channels of a block after the other. In a row of windows, columns and rows that two
 * windows share are looked at once. Measured (Zen 5, one core, 112 px, batch 16): forward 36 GB/s, backward 31 GB/s of 61 that are copied: arithmetic
 * bounds it, some 130 instructions for each window of the backward pass. */
#include "conv_kernels.h"

/* What a task of call has: block b, channel c of the sheet that is returned. */
static const anx_call *task_of(const anx_call *call, int index, size_t *b, size_t *c) {
  const int channels = call->op->c, maps = call->sheets->op->n / 16 * channels;
  *b = (size_t)(index % maps / channels);
  *c = (size_t)(index % channels);
  return call->sheets + index / maps;
}

static int tasks_of(const anx_call *call) { return call->op->n / 16 * call->op->c; }

/* max that lets a NaN through, whichever side it is on */
AI vf max_or_nan(vf m, vf a) { return vselect_nan(m, m, vmax(m, a)); }

/* The maximum of column w of the rows h0..h1-1. */
AI vf column(const stored *x, const anx_op *op, int h0, int h1, int w, vf s, vf t) {
  vf m = vzero(); /* ReLU: nothing is below zero */
  for (int h = h0; h < h1; h++) m = max_or_nan(m, vaffine(s, aload(x + ((size_t)h * (size_t)op->w + (size_t)w) * 16), t));
  return m;
}

static void forward_map(void *argument, int index, int thread) {
  size_t b, c;
  const anx_call *call = task_of(argument, index, &b, &c);
  const anx_op *op = call->op;
  (void)thread;
  const stored *x = (const stored *)call->in[0] + c * anx_channel_values(op->n, op->h, op->w) + b * (size_t)op->h * (size_t)op->w * 16;
  stored *y = (stored *)call->out[0] + c * anx_channel_values(op->n, op->p, op->q) + b * (size_t)op->p * (size_t)op->q * 16;
  const vf s = vset(((const float *)call->in[1])[c]), t = vset(((const float *)call->in[2])[c]);
  const int stream = anx_streams(call->images, op->p, op->q, op->c);
  for (int p = 0; p < op->p; p++, y += (size_t)op->q * 16) {
    const int h0 = p ? 2 * p - 1 : 0, h1 = 2 * p + 2 < op->h ? 2 * p + 2 : op->h;
    for (int l = 0; l < 16; l += VL) {
      vf left = vzero();
      for (int q = 0; q < op->q; q++) {
        vf m = max_or_nan(left, column(x + l, op, h0, h1, 2 * q, s, t));
        if (2 * q + 1 < op->w) {
          left = column(x + l, op, h0, h1, 2 * q + 1, s, t);
          m = max_or_nan(m, left);
        }
        awrite(y + (size_t)q * 16 + l, m, stream);
      }
    }
  }
}

void FN(anx_pool_fwd)(const anx_call *call) { anx_pool_run(call->pool, forward_map, (void *)call, tasks_of(call)); }

/* The first maximum of three in a row, and where it is: 0, 1 or 2. */
typedef struct first {
  vf best, place;
} first;

AI first better(first f, vf a, vf place) {
  f.place = vselect_gt(a, f.best, place, f.place);
  f.best = vselect_gt(a, f.best, a, f.best);
  return f;
}

/* Of row h of the windows of a row, to best and place. */
static void row_maxima(const anx_op *op, const stored *x, int h, vf s, vf t, float *best, float *place) {
  const vf one = vset(1.0f), two = vset(2.0f);
  x += (size_t)h * (size_t)op->w * 16;
  for (int l = 0; l < 16; l += VL) {
    vf left = vset(-1.0f);
    for (int q = 0; q < op->q; q++) {
      const stored *at = x + (size_t)q * 32 + l;
      first f = better((first){vset(-1.0f), vzero()}, left, vzero());
      f = better(f, vrelu(vaffine(s, aload(at), t)), one);
      if (2 * q + 1 < op->w) {
        left = vrelu(vaffine(s, aload(at + 16), t));
        f = better(f, left, two);
      }
      vstore(best + q * 16 + l, f.best);
      vstore(place + q * 16 + l, f.place);
    }
  }
}

/* What a map's rows have come to. A window's place is 3 row + column of its first maximum. */
typedef struct maxima {
  float *place[2];            /* of windows of odd and even rows [Q][16] */
  float *best, *at;           /* of row 2p + 1, which the next row of windows sees too */
  float *best_1, *at_1;       /* of row 2p */
} maxima;

static void place_row(const anx_op *op, const stored *x, int p, vf s, vf t, const maxima *m) {
  float *place = m->place[p % 2];
  row_maxima(op, x, 2 * p, s, t, m->best_1, m->at_1);
  for (int i = 0; i < op->q * 16; i += VL) {
    first f = {vset(-1.0f), vzero()};
    if (p) f = better(f, vload(m->best + i), vload(m->at + i));
    f = better(f, vload(m->best_1 + i), vset(3.0f) + vload(m->at_1 + i));
    vstore(m->best_1 + i, f.best);
    vstore(place + i, f.place);
  }
  if (2 * p + 1 >= op->h) return;
  row_maxima(op, x, 2 * p + 1, s, t, m->best, m->at);
  for (int i = 0; i < op->q * 16; i += VL) {
    const first f = better((first){vload(m->best_1 + i), vload(place + i)}, vload(m->best + i), vset(6.0f) + vload(m->at + i));
    vstore(place + i, f.place);
  }
}

/* A row of windows that sees a row of the gradient: their gradients, places, and the place of the row's first column in them. */
typedef struct windows {
  const stored *d;
  const float *place;
  vf first;
} windows;

/* What window q gives its column 0, 1 or 2. */
AI vf given(const windows *w, int q, int l, int column) {
  return vkeep_eq(aload(w->d + (size_t)q * 16 + l), vload(w->place + q * 16 + l), w->first + vset((float)column));
}

/* Row h of the gradient from one row of windows, or two, in raster order; mask; sums, to double at once. */
AI void gradient_row(const anx_call *call, const stored *x, stored *g, int h, const windows *in, const int ROWS, size_t c, double *total) {
  const anx_op *op = call->op;
  const vf s = vset(((const float *)call->in[2])[c]), t = vset(((const float *)call->in[3])[c]), mean = vset(((const float *)call->in[4])[c]);
  const int stream = anx_streams(call->images, op->h, op->w, op->c);
  float lanes[2][16] __attribute__((aligned(64)));
  x += (size_t)h * (size_t)op->w * 16;
  g += (size_t)h * (size_t)op->w * 16;
  for (int l = 0; l < 16; l += VL) {
    vf s1 = vzero(), s2 = vzero();
    for (int q = 0; q < op->q; q++) {
      vf value[2] = {given(&in[0], q, l, 1), given(&in[0], q, l, 2)};
      if (q + 1 < op->q) value[1] = value[1] + given(&in[0], q + 1, l, 0);
      if (ROWS == 2) {
        value[0] = value[0] + given(&in[1], q, l, 1);
        value[1] = value[1] + given(&in[1], q, l, 2);
        if (q + 1 < op->q) value[1] = value[1] + given(&in[1], q + 1, l, 0);
      }
      for (int i = 0; i < 2 && 2 * q + i < op->w; i++) {
        const size_t o = (size_t)(2 * q + i) * 16 + (size_t)l;
        const vf r = aload(x + o), v = vkeep_gt(value[i], vaffine(s, r, t), vzero());
        awrite(g + o, v, stream);
        s1 = s1 + v;
        s2 = vfma(v, r - mean, s2);
      }
    }
    vstore(lanes[0] + l, s1);
    vstore(lanes[1] + l, s2);
  }
  total[0] += anx_lane_sum_f64(lanes[0]);
  total[1] += anx_lane_sum_f64(lanes[1]);
}

/* The gradient of a window goes to its first maximum. Row 2p - 1 is complete, and row 2p, once the windows of row p have their places. */
static void backward_map(void *argument, int index, int thread) {
  size_t b, c;
  const anx_call *call = task_of(argument, index, &b, &c);
  const anx_op *op = call->op;
  const size_t row = (size_t)op->q * 16, at = c * anx_channel_values(op->n, op->h, op->w) + b * (size_t)op->h * (size_t)op->w * 16;
  const stored *d = (const stored *)call->in[0] + c * anx_channel_values(op->n, op->p, op->q) + b * (size_t)op->p * row;
  const stored *x = (const stored *)call->in[1] + at;
  stored *g = (stored *)call->out[0] + at;
  const vf s = vset(((const float *)call->in[2])[c]), t = vset(((const float *)call->in[3])[c]);
  float *b0 = call->scratch + (size_t)thread * call->scratch_floats;
  const maxima m = {{b0, b0 + row}, b0 + 2 * row, b0 + 3 * row, b0 + 4 * row, b0 + 5 * row};
  double *total = call->partial + 2 * (b * (size_t)op->c + c);
  total[0] = total[1] = 0;
  for (int p = 0; p < op->p; p++) {
    place_row(op, x, p, s, t, &m);
    const stored *here = d + (size_t)p * row;
    if (p) {
      const windows both[2] = {{here - row, m.place[(p - 1) % 2], vset(6.0f)}, {here, m.place[p % 2], vzero()}};
      gradient_row(call, x, g, 2 * p - 1, both, 2, c, total);
    }
    const windows one = {here, m.place[p % 2], vset(3.0f)};
    gradient_row(call, x, g, 2 * p, &one, 1, c, total);
  }
  if (op->h % 2 == 0) {
    const windows last = {d + (size_t)(op->p - 1) * row, m.place[(op->p - 1) % 2], vset(6.0f)};
    gradient_row(call, x, g, op->h - 1, &last, 1, c, total);
  }
}

void FN(anx_pool_bwd)(const anx_call *call) {
  anx_pool_run(call->pool, backward_map, (void *)call, tasks_of(call));
  anx_combine_sums(call->out[1], call->partial, call->op->n / 16, call->op->c);
}

static void mean_map(void *argument, int index, int thread) {
  size_t b, c;
  const anx_call *call = task_of(argument, index, &b, &c);
  const anx_op *op = call->op;
  (void)thread;
  const size_t map = (size_t)op->h * (size_t)op->w;
  const stored *x = (const stored *)call->in[0] + c * anx_channel_values(op->n, op->h, op->w) + b * map * 16;
  stored *y = (stored *)call->out[0] + c * anx_channel_values(op->n, 1, 1) + b * 16;
  const vf count = vset((float)map);
  for (int l = 0; l < 16; l += VL) {
    vf sum = vzero();
    for (size_t i = 0; i < map; i++) sum = sum + aload(x + i * 16 + l);
    astore(y + l, sum / count);
  }
}

void FN(anx_gap_fwd)(const anx_call *call) { anx_pool_run(call->pool, mean_map, (void *)call, tasks_of(call)); }
