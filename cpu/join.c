/* join.c - residual joins: Y = ReLU(s C + t + Z) and its backward, one pass. A task is some pixels of every channel:
 * as many as a thread has, so that they are long rows.
 * Cost: memory bandwidth (forward 3 streams, backward 4 or 5; the last is written past the caches where it is large). */
#include "conv_kernels.h"

/* Tasks of a sheet. */
static int tasks_of(const anx_call *call) {
  const int sheets = anx_sheets(call->op->n), each = (anx_pool_threads(call->pool) + sheets - 1) / sheets, pieces = anx_join_pieces(call->sheets->op);
  return each < pieces ? each : pieces;
}

/* The pieces of the sheet that is returned, for a task of call. */
static const anx_call *task_of(const anx_call *call, int index, int *from, int *to) {
  const int tasks = tasks_of(call);
  anx_part_range(anx_join_pieces(call->sheets->op), tasks, index % tasks, from, to);
  return call->sheets + index / tasks;
}

/* Where piece i of a channel begins, vectors. */
static size_t piece_begin(const anx_op *op, int i) {
  int from, to;
  anx_part_range(op->n / 16 * op->h * op->w, anx_join_pieces(op), i, &from, &to);
  return (size_t)from;
}

static void forward_channel(const anx_call *call, int c, size_t first, size_t count) {
  const anx_op *op = call->op;
  const size_t at = (size_t)c * anx_channel_values(op->n, op->h, op->w) + first * 16, n = count * 16;
  const stored *x = (const stored *)call->in[0] + at, *z = call->in[3] ? (const stored *)call->in[3] + at : NULL;
  stored *y = (stored *)call->out[0] + at;
  const int stream = anx_streams(call->images, op->h, op->w, op->c);
  const vf s = vset(((const float *)call->in[1])[c]), t = vset(((const float *)call->in[2])[c]);
  if (z && call->in[4]) {
    const vf sp = vset(((const float *)call->in[4])[c]), tp = vset(((const float *)call->in[5])[c]);
    for (size_t i = 0; i < n; i += VL) awrite(y + i, vrelu(vaffine(s, aload(x + i), t) + vaffine(sp, aload(z + i), tp)), stream);
  } else if (z) {
    for (size_t i = 0; i < n; i += VL) awrite(y + i, vrelu(vaffine(s, aload(x + i), t) + aload(z + i)), stream);
  } else {
    for (size_t i = 0; i < n; i += VL) awrite(y + i, vrelu(vaffine(s, aload(x + i), t)), stream);
  }
}

static void forward_task(void *argument, int index, int thread) {
  int from, to;
  const anx_call *call = task_of(argument, index, &from, &to);
  const size_t first = piece_begin(call->op, from);
  (void)thread;
  for (int c = 0; c < call->op->c; c++) forward_channel(call, c, first, piece_begin(call->op, to) - first);
}

void FN(anx_join_fwd)(const anx_call *call) { anx_pool_run(call->pool, forward_task, (void *)call, anx_sheets(call->op->n) * tasks_of(call)); }

/* Lane sums of at most SPAN vectors go to double at once. */
#define SPAN 256

/* total: of the masked gradient, of it times x, of it times p */
static void backward_channel(const anx_call *call, int c, size_t begin, size_t end, double *total) {
  const anx_op *op = call->op;
  const int map = op->h * op->w, broadcast = (op->flags & ANX_BROADCAST) != 0;
  const size_t at = (size_t)c * anx_channel_values(op->n, op->h, op->w);
  const stored *dx = (const stored *)call->in[0] + (broadcast ? (size_t)c * anx_channel_values(op->n, 1, 1) : at);
  const stored *y = (const stored *)call->in[1] + at, *x = (const stored *)call->in[2] + at;
  const stored *p = call->in[4] ? (const stored *)call->in[4] + at : NULL;
  const vf mean = vset(((const float *)call->in[3])[c]), mean_p = vset(p ? ((const float *)call->in[5])[c] : 0.0f);
  const vf share = vset(1.0f / (float)map);
  stored *g = (stored *)call->out[0] + at;
  const int stream = anx_streams(call->images, op->h, op->w, op->c);
  total[0] = total[1] = total[2] = 0;
  for (size_t first = begin; first < end; first += SPAN) {
    const size_t last = first + SPAN < end ? first + SPAN : end;
    float lanes[3][16] __attribute__((aligned(64)));
    for (int l = 0; l < 16; l += VL) {
      vf s1 = vzero(), s2 = vzero(), s3 = vzero();
      for (size_t i = first; i < last; i++) {
        const size_t o = i * 16 + (size_t)l;
        vf v = aload(dx + (broadcast ? i / (size_t)map * 16 + (size_t)l : o));
        if (broadcast) v = v * share;
        v = vkeep_gt(v, aload(y + o), vzero());
        awrite(g + o, v, stream);
        s1 = s1 + v;
        s2 = vfma(v, aload(x + o) - mean, s2);
        if (p) s3 = vfma(v, aload(p + o) - mean_p, s3);
      }
      vstore(lanes[0] + l, s1);
      vstore(lanes[1] + l, s2);
      vstore(lanes[2] + l, s3);
    }
    for (int i = 0; i < (p ? 3 : 2); i++) total[i] += anx_lane_sum_f64(lanes[i]);
  }
}

static void backward_task(void *argument, int index, int thread) {
  int from, to;
  const anx_call *call = task_of(argument, index, &from, &to);
  const size_t channels = (size_t)call->op->c;
  (void)thread;
  for (int c = 0; c < call->op->c; c++) {
    for (int piece = from; piece < to; piece++)
      backward_channel(call, c, piece_begin(call->op, piece), piece_begin(call->op, piece + 1), call->partial + ((size_t)piece * channels + (size_t)c) * 3);
  }
}

void FN(anx_join_bwd)(const anx_call *call) {
  const int sheets = anx_sheets(call->op->n), pieces = sheets * anx_join_pieces(call->sheets->op), channels = call->op->c;
  double *sums = call->out[1], *sums_p = call->out[2];
  anx_pool_run(call->pool, backward_task, (void *)call, sheets * tasks_of(call));
  memset(sums, 0, (size_t)channels * 2 * sizeof *sums);
  if (sums_p) memset(sums_p, 0, (size_t)channels * 2 * sizeof *sums);
  const double *total = call->partial;
  for (int i = 0; i < pieces; i++) {
    for (int c = 0; c < channels; c++, total += 3) {
      sums[c] += total[0];
      sums[channels + c] += total[1];
      if (!sums_p) continue;
      sums_p[c] += total[0];
      sums_p[channels + c] += total[2];
    }
  }
}
