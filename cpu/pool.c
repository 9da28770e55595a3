/* pool.c - the stem's 3x3 stride 2 max-pool of act(S), and the mean over a map. A task is one channel of an image block, all
 * channels of a block after the other. In a row of windows, columns and rows that two
 * windows share are looked at once. Measured (Zen 5, one core, 112 px, batch 16): in a network from memory 31 GB/s forward (17 without fetch_below),
 * 32 backward, of 71 that are copied: arithmetic bounds it, some 90 instructions for each window of the backward pass. */
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

/* Brings the two columns of the two rows near that the next row of windows reads first: rows end before a prefetcher has learned them. */
AI void fetch_below(const stored *x, const anx_op *op, int h, int q) {
  for (int r = 0; r < 2; r++) {
    const stored *at = x + ((size_t)(h + r) * (size_t)op->w + (size_t)(2 * q)) * 16;
    for (size_t i = 0; i < 32; i += 64 / sizeof(stored)) __builtin_prefetch(at + i, 0, 3);
  }
}

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
        fetch_below(x, op, h1, q);
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

/* A maximum above zero, and its place. A window's places are 3 row + column, the first where there are several; nowhere: none is above zero, or
 * all are NaN, so that nobody is given its gradient. */
typedef struct first {
  vf best, place;
} first;

AI first nowhere(void) { return (first){vzero(), vset(9.0f)}; }

AI first better(first f, vf a, const int place) {
  f.place = vselect_gt(a, f.best, vset((float)place), f.place);
  f.best = vselect_gt(a, f.best, a, f.best);
  return f;
}

/* Of the rows of windows that have been seen. */
typedef struct maxima {
  float *place[2];  /* of windows of even and odd rows [Q][16] */
  float *best, *at; /* of row 2p + 1 in the columns of each window, as the first of the next row's windows */
} maxima;

/* Places of row p of windows. */
static void place_row(const anx_op *op, const stored *x, int p, vf s, vf t, const maxima *m) {
  const int two = 2 * p + 1 < op->h;
  const stored *upper = x + (size_t)(2 * p) * (size_t)op->w * 16, *lower = upper + (size_t)op->w * 16;
  for (int l = 0; l < 16; l += VL) {
    vf left = vzero(), left_below = vzero();
    for (int q = 0; q < op->q; q++) {
      const size_t at = (size_t)q * 32 + (size_t)l, o = (size_t)q * 16 + (size_t)l;
      const int right = 2 * q + 1 < op->w;
      fetch_below(x, op, 2 * p + 2, q);
      first f = p ? (first){vload(m->best + o), vload(m->at + o)} : nowhere();
      f = better(better(f, left, 3), vaffine(s, aload(upper + at), t), 4);
      if (right) {
        left = vaffine(s, aload(upper + at + 16), t);
        f = better(f, left, 5);
      }
      if (two) {
        first below = better(better(nowhere(), left_below, 0), vaffine(s, aload(lower + at), t), 1);
        if (right) {
          left_below = vaffine(s, aload(lower + at + 16), t);
          below = better(below, left_below, 2);
        }
        vstore(m->best + o, below.best);
        vstore(m->at + o, below.place);
        f.place = vselect_gt(below.best, f.best, vset(6.0f) + below.place, f.place);
      }
      vstore(m->place[p % 2] + o, f.place);
    }
  }
}

/* A row of windows: their gradients and places. */
typedef struct windows {
  const stored *d;
  const float *place;
} windows;

/* What the window at o gives its pixel at a place. */
AI vf given(const windows *w, size_t o, const int place) { return vkeep_eq(aload(w->d + o), vload(w->place + o), vset((float)place)); }

/* Of two neighbouring pixels, unless the second is beyond the row. */
AI void write_two(stored *to, const vf *v, int two, int stream) {
#if PAIR == 2
  if (two && (uintptr_t)to % 64 == 0) {
    if (stream) _mm512_stream_ps((float *)(void *)to, vjoin(v[0], v[1]));
    else _mm512_store_ps((float *)(void *)to, vjoin(v[0], v[1]));
    return;
  }
#endif
  awrite(to, v[0], stream);
  if (two) awrite(to + 16, v[1], stream);
}

/* Row 2p - 1 of the gradient, which the windows above see from below and those here from above, and row 2p, whose windows are here. Sums of a row, to
 * double at once. */
AI void gradient_rows(const anx_call *call, const stored *x, stored *g, int p, const windows *above, const windows *here, size_t c, double *total) {
  const anx_op *op = call->op;
  const vf mean = vset(((const float *)call->in[4])[c]);
  const int stream = anx_streams(call->images, op->h, op->w, op->c), from = above ? 0 : 1, end = here ? 2 : 1;
  const ptrdiff_t width = (ptrdiff_t)op->w * 16, first = (2 * p - 1) * width;
  float lanes[2][2][16] __attribute__((aligned(64)));
  for (int l = 0; l < 16; l += VL) {
    vf s1[2] = {vzero(), vzero()}, s2[2] = {vzero(), vzero()};
    for (int q = 0; q < op->q; q++) {
      const size_t o = (size_t)q * 16 + (size_t)l;
      const int more = q + 1 < op->q, two = 2 * q + 1 < op->w;
      vf v[2][2];
      if (above) {
        v[0][0] = given(above, o, 7);
        v[0][1] = given(above, o, 8);
        if (more) v[0][1] = v[0][1] + given(above, o + 16, 6);
        if (here) {
          v[0][0] = v[0][0] + given(here, o, 1);
          v[0][1] = v[0][1] + given(here, o, 2);
          if (more) v[0][1] = v[0][1] + given(here, o + 16, 0);
        }
      }
      if (here) {
        v[1][0] = given(here, o, 4);
        v[1][1] = given(here, o, 5);
        if (more) v[1][1] = v[1][1] + given(here, o + 16, 3);
      }
      UNROLL for (int r = from; r < end; r++) {
        const ptrdiff_t at = first + r * width + q * 32 + l;
        UNROLL for (int i = 0; i < 2; i++) {
          if (i && !two) break;
          s1[r] = s1[r] + v[r][i];
          s2[r] = vfma(v[r][i], aload(x + at + 16 * i) - mean, s2[r]);
        }
        write_two(g + at, v[r], two, stream);
      }
    }
    for (int r = from; r < end; r++) {
      vstore(lanes[r][0] + l, s1[r]);
      vstore(lanes[r][1] + l, s2[r]);
    }
  }
  for (int r = from; r < end; r++) {
    total[0] += anx_lane_sum_f64(lanes[r][0]);
    total[1] += anx_lane_sum_f64(lanes[r][1]);
  }
}

/* The gradient of a window goes to its first maximum. Rows 2p - 1 and 2p are complete once the windows of row p have their places. */
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
  const maxima m = {{b0, b0 + row}, b0 + 2 * row, b0 + 3 * row};
  double *total = call->partial + 2 * (b * (size_t)op->c + c);
  total[0] = total[1] = 0;
  windows above = {0};
  for (int p = 0; p < op->p; p++) {
    place_row(op, x, p, s, t, &m);
    const windows here = {d + (size_t)p * row, m.place[p % 2]};
    if (p) gradient_rows(call, x, g, p, &above, &here, c, total);
    else gradient_rows(call, x, g, p, NULL, &here, c, total);
    above = here;
  }
  if (op->h % 2 == 0) gradient_rows(call, x, g, op->p, &above, NULL, c, total);
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
