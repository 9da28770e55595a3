/* join.c - residual joins: Y = ReLU(s C + t + Z) and its backward, one pass. A task is what a thread has of a sheet: some pixels of every
 * channel where those are long rows, as convolutions share them out, else some channels: where the rows of two threads alternate and are short, a
 * core's prefetchers fetch what the other writes.
 * Cost: memory bandwidth (forward 3 streams, backward 4 or 5; the last is written past the caches where it is large). Most ends of large maps are
 * made inside a 1x1 instead, backward the one before, forward the one behind (fuse.c). */
#include "conv_kernels.h"

#define LONG_ROW 256 /* vectors */

/* Tasks of a sheet. */
typedef struct cuts {
  int pixels, channels;
} cuts;

static cuts cuts_of(const anx_call *call) {
  const int sheets = anx_sheets(call->op->n), each = (anx_pool_threads(call->pool) + sheets - 1) / sheets;
  const anx_op *op = call->sheets->op;
  const int pieces = anx_join_pieces(op), rows = op->n / ANX_IMAGES * op->h * op->w / LONG_ROW;
  cuts n = {.pixels = rows < each ? 1 : each < pieces ? each : pieces};
  n.channels = (each + n.pixels - 1) / n.pixels;
  if (n.channels > op->c) n.channels = op->c;
  return n;
}

static int tasks_of(const anx_call *call) {
  const cuts n = cuts_of(call);
  return anx_sheets(call->op->n) * n.pixels * n.channels;
}

typedef struct part {
  const anx_call *call; /* of the sheet */
  int piece, pieces_end, channel, channels_end;
} part;

static part part_of(const anx_call *call, int index) {
  const cuts n = cuts_of(call);
  part p = {.call = call->sheets + index / (n.pixels * n.channels)};
  anx_part_range(anx_join_pieces(p.call->op), n.pixels, index / n.channels % n.pixels, &p.piece, &p.pieces_end);
  anx_part_range(p.call->op->c, n.channels, index % n.channels, &p.channel, &p.channels_end);
  return p;
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
    WRITE_RUN(y, 0, n, VL, stream, i, vrelu(vaffine(s, aload(x + i), t) + vaffine(sp, aload(z + i), tp)));
  } else if (z) {
    WRITE_RUN(y, 0, n, VL, stream, i, vrelu(vaffine(s, aload(x + i), t) + aload(z + i)));
  } else {
    WRITE_RUN(y, 0, n, VL, stream, i, vrelu(vaffine(s, aload(x + i), t)));
  }
}

static void forward_task(void *argument, int index, int thread) {
  const part p = part_of(argument, index);
  const size_t first = piece_begin(p.call->op, p.piece);
  (void)thread;
  for (int c = p.channel; c < p.channels_end; c++) forward_channel(p.call, c, first, piece_begin(p.call->op, p.pieces_end) - first);
}

void FN(anx_join_fwd)(const anx_call *call) { anx_pool_run(call->pool, forward_task, (void *)call, tasks_of(call)); }

/* Lane sums of at most SPAN vectors go to double at once. */
#define SPAN 256

typedef struct sums {
  vf g, g_x, g_p;
} sums;

/* The gradient's vector v, masked; to the sums. p may be null. */
AI vf masked(vf v, const stored *y, const stored *x, vf mean, const stored *p, vf mean_p, sums *s) {
  v = vkeep_gt(vheld(v), aload(y), vzero()); /* held: a load through the mask would wait for y */
  s->g = s->g + v;
  s->g_x = vfma(v, aload(x) - mean, s->g_x);
  if (p) s->g_p = vfma(v, aload(p) - mean_p, s->g_p);
  return v;
}

/* Where dX comes from: a map, a vector for the whole map, or fp32 of a convolution's tiles, and add to it. */
enum { MAP, SPREAD, TILES, TILES_ADD };

/* Of a channel, from its first vector on; dx and add from the span's. */
typedef struct channel {
  stored *g;
  const stored *y, *x, *p, *dx, *add;
  const float *tiles;
  vf mean, mean_p, share;
  size_t map, tiles_from;
  int stream;
} channel;

/* Values first, first + 16, ... below last. */
AI sums span(const channel *c, size_t first, size_t last, const int FROM, const int P) {
  sums s = {vzero(), vzero(), vzero()};
  const channel k = *c;
#define END(value) WRITE_RUN(k.g, first, last, 16, k.stream, i, masked(value, k.y + i, k.x + i, k.mean, P ? k.p + i : NULL, k.mean_p, &s))
  if (FROM == SPREAD) END(aload(k.dx + i / 16 / k.map * 16 + first % 16) * k.share);
  else if (FROM == TILES) END(vload(k.tiles + (i - k.tiles_from)));
  else if (FROM == TILES_ADD) END(vload(k.tiles + (i - k.tiles_from)) + aload(k.add + i));
  else END(aload(k.dx + i));
#undef END
  return s;
}

void FN(anx_end_channel)(const anx_call *call, int c, size_t from, size_t to, const float *dx, const stored *add, double *total) {
  const anx_op *op = call->op;
  const size_t at = (size_t)c * anx_channel_values(op->n, op->h, op->w);
  const int broadcast = (op->flags & ANX_BROADCAST) != 0, source = broadcast ? SPREAD : !dx ? MAP : add ? TILES_ADD : TILES;
  const stored *p = call->in[END_P];
  const channel k = {
      .g = (stored *)call->out[END_G] + at, .y = (const stored *)call->in[END_Y] + at, .x = (const stored *)call->in[END_C] + at, .p = p ? p + at : NULL,
      .dx = (const stored *)call->in[END_DX] + (broadcast ? (size_t)c * anx_channel_values(op->n, 1, 1) : at), .add = add ? add + at : NULL,
      .tiles = dx, .tiles_from = from * 16, .mean = vset(((const float *)call->in[END_MEAN])[c]),
      .mean_p = vset(p ? ((const float *)call->in[END_MEAN_P])[c] : 0.0f), .share = vset(1.0f / (float)(op->h * op->w)),
      .map = (size_t)op->h * (size_t)op->w, .stream = anx_streams(call->images, op->h, op->w, op->c)};
  total[0] = total[1] = total[2] = 0;
  for (size_t first = from; first < to; first += SPAN) {
    const size_t last = (first + SPAN < to ? first + SPAN : to) * 16;
    float lanes[3][16] __attribute__((aligned(64)));
    for (size_t l = 0; l < 16; l += VL) {
      sums s;
      switch (2 * source + (p != NULL)) {
#define CASE(FROM, P) case 2 * FROM + P: s = span(&k, first * 16 + l, last, FROM, P); break
        CASE(SPREAD, 0); CASE(SPREAD, 1); CASE(TILES, 0); CASE(TILES, 1); CASE(TILES_ADD, 0); CASE(TILES_ADD, 1); CASE(MAP, 0);
        default: s = span(&k, first * 16 + l, last, MAP, 1);
#undef CASE
      }
      vstore(lanes[0] + l, s.g);
      vstore(lanes[1] + l, s.g_x);
      vstore(lanes[2] + l, s.g_p);
    }
    for (int i = 0; i < (p ? 3 : 2); i++) total[i] += anx_lane_sum_f64(lanes[i]);
  }
}

static void backward_task(void *argument, int index, int thread) {
  const part p = part_of(argument, index);
  const anx_op *op = p.call->op;
  (void)thread;
  for (int c = p.channel; c < p.channels_end; c++) {
    for (int i = p.piece; i < p.pieces_end; i++)
      FN(anx_end_channel)(p.call, c, piece_begin(op, i), piece_begin(op, i + 1), NULL, NULL, p.call->partial + ((size_t)i * (size_t)op->c + (size_t)c) * 3);
  }
}

void FN(anx_join_bwd)(const anx_call *call) {
  anx_pool_run(call->pool, backward_task, (void *)call, tasks_of(call));
  anx_combine_end(call, call->partial, anx_sheets(call->op->n) * anx_join_pieces(call->sheets->op));
}
