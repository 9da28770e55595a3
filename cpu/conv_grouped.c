/* conv_grouped.c - convolutions of RxR: grouped, dense, the stem's forward pass (its weight gradient: conv_stem.c).
 *
 * Layout: per slice and group, the activated input as a zero-padded tile [gi][rows][columns][blocks][16] and, backward, the gradient
 *   D = al G + be Y + de as a tile with its halo. Large maps: one image block and some rows, register tiles run along a row. Small maps (rows
 *   of at most 4 pixels): up to 8 image blocks, register tiles run along the blocks of one pixel, and taps outside the map are not computed.
 * Filter rows and columns that never meet the map (1x1 maps: 8 of 9 taps) are dropped by the plan.
 * The input gradient is the same register tile over D with the taps from the last to the first; at stride 2 each parity of a row has its own taps.
 * Backward, some rows of the slice (weight_rows) at a time go through everything.
 * Where a filter has three columns and pixels are neighbours, a forward tile loads a row once for all three, and a weight tile needs one address
 *   for them. While a slice is computed, the memory of the next one is fetched (fetch.h).
 * 3x3 groups of 2 to 32 channels at stride 1 have their weight gradient from X where it lies (row_weights.c): no tile of X, and D in one that the input
 *   gradient shares.
 *
 * Groups of at most four channels at stride 1 are conv_narrow.c's, backward on maps of at most 8 x 8 pixels, 3x3 groups of at most 32 at stride 2
 *   conv_strided.c's; what is left of them here: maps of 2 px or that become them, bf16 of g >= 2 (at stride 2: 4, backward 6) but for small maps.
 *
 * Percent of the FMA peak on a Zen 5 (262 GFLOP/s of one core), batch 16, machine quiet; forward / both gradients / weight gradient alone:
 *        28 px, 128 channels    14 px, 256 channels    7 px, 512 channels
 *   g 2       60 / 58                61 / 60              (forward, and 7 px: conv_narrow.c)
 *   g 4       71 / 70                73 / 74
 *   g 5  81 / 76 / 74           78 / 80 / 77           76 / 73 / 71
 *   g 8  85 / 82 / 80           85 / 83 / 82           83 / 82 / 78
 *   g 32 96 / 87 / 85           98 / 91 / 90          102 / 92 / 86
 */
#include "conv_kernels.h"
#include "row_weights.h"

#define FIRST_LEVEL_VECTORS 384 /* 24 KB */

typedef struct view {
  int block, blocks, p0, p1; /* of the slice */
  int rows;                  /* tile rows filled for it */
} view;

static view slice_view(const anx_conv_plan *p, const anx_op *op, int slice) {
  view v;
  v.block = slice / p->row_slices * p->blocks;
  v.blocks = p->blocks_total - v.block < p->blocks ? p->blocks_total - v.block : p->blocks;
  v.p0 = slice % p->row_slices * p->rows;
  v.p1 = op->p - v.p0 < p->rows ? op->p : v.p0 + p->rows;
  v.rows = (v.p1 - v.p0 - 1) * op->stride + p->r_count;
  return v;
}

/* Rows first..last-1 of a map of h x w pixels, whose block is v's, of n channels. */
static void ahead_rows(ahead *a, const stored *x, size_t stride, int channel, int n, const view *v, int h, int w, int first, int last) {
  if (first < 0) first = 0;
  if (last > h) last = h;
  ahead_add(a, x, stride, channel, n, (size_t)(v->block * h + first) * (size_t)w, ((v->blocks - 1) * h + last - first) * w);
}

static void ahead_input(ahead *a, const anx_call *call, const view *v, int group) {
  const anx_conv_plan *p = &call->conv;
  const anx_op *op = call->op;
  const int top = v->p0 * op->stride - (p->pad - p->r_low);
  ahead_rows(a, call->in[op->kind == ANX_CONV_BWD ? BWD_X : FWD_X], p->x_c, group * p->gi, p->gi, v, op->h, op->w, top, top + v->rows);
}

static void ahead_gradient(ahead *a, const anx_call *call, const view *v, int halo, int group, int k0, int k1) {
  const anx_conv_plan *p = &call->conv;
  const anx_op *op = call->op;
  const int first = v->p0 - halo, last = v->p1 + halo;
  ahead_rows(a, call->in[BWD_G], p->y_c, group * p->go + k0, k1 - k0, v, op->p, op->q, first, last);
  if (call->in[BWD_AL]) ahead_rows(a, call->in[BWD_Y], p->y_c, group * p->go + k0, k1 - k0, v, op->p, op->q, first, last);
}

/* Rows or columns of the filter. */
typedef struct range {
  int from, to;
} range;

static range between(int low, int count, int first, int end) { return (range){first > low ? first : low, end < low + count ? end : low + count}; }
static int same(range a, range b) { return a.from == b.from && a.to == b.to; }

/* Rows of the filter that meet the map for output row h; columns alike. */
static range met_forward(int low, int count, int first, int in) { return between(low, count, -first, in - first); }

/* Those from..to-1 that leave the remainder of `at` by the stride: every st-th, from the first. */
static range stepped(int from, int to, int at, int st) {
  while (from < to && (at - from) % st) from++;
  return (range){from, to};
}
static int taps_of(range r, int st) { return r.to > r.from ? (r.to - r.from + st - 1) / st : 0; }

/* Rows of the filter through which row h of the input had a part in one of `out` output rows; columns alike. */
static range met_gradient(const anx_conv_plan *p, int out, int h, int st, int low, int count) {
  const range r = between(low, count, h + p->pad - out * st + 1, h + p->pad + 1);
  return stepped(r.from, r.to, h + p->pad, st);
}

/* Number of parts of at most `most`. */
static int calls(int n, int most) { return (n + most - 1) / most; }

/* Rows first..last-1 of the tile of act(X), zero outside the map; rows outside it only if `outside`, else no tap looks there. */
static void pack_input(const anx_call *call, const view *v, int group, int first, int last, int outside, const stored *x0, const float *s, const float *t,
                       float *tile) {
  const anx_conv_plan *p = &call->conv;
  const anx_op *op = call->op;
  const int top = v->p0 * op->stride - (p->pad - p->r_low), left = p->pad - p->s_low;
  const size_t pixel = (size_t)p->blocks * 16, row = (size_t)p->a_wp * pixel, map = (size_t)op->h * (size_t)op->w * 16;
  int right = p->a_wp - left; /* columns of the map in the tile: 0..right-1 */
  if (right > op->w) right = op->w;
  for (int c = 0; c < p->gi; c += PAIR) {
    const int channel = group * p->gi + c;
    const stored *x = x0 + (size_t)channel * p->x_c + (size_t)v->block * map;
    float of_s[PAIR] = {0}, of_t[PAIR] = {0}; /* copies, which no store can change */
    for (int j = 0; s && j < PAIR && c + j < p->gi; j++) of_s[j] = s[channel + j], of_t[j] = t[channel + j];
    const float *cs = s ? of_s : NULL, *ct = s ? of_t : NULL;
    for (int i = first; i < last; i++) {
      float *dst = tile + (size_t)(c / PAIR) * p->a_c + (size_t)i * row;
      const int h = top + i;
      if (h < 0 || h >= op->h) {
        if (outside) anx_zero_vectors(dst, p->a_wp * p->blocks);
        continue;
      }
      anx_zero_vectors(dst, left * p->blocks);
      anx_zero_vectors(dst + (size_t)(left + right) * pixel, (p->a_wp - left - right) * p->blocks);
      dst += (size_t)left * pixel;
      const stored *src = x + (size_t)h * (size_t)op->w * 16;
      if (p->blocks == 1) {
        anx_pack_act_slots(dst, 16, src, p->x_c, p->gi - c, 16, right, cs, ct);
      } else {
        for (int w = 0; w < right; w++) anx_pack_act_slots(dst + (size_t)w * pixel, 16, src + (size_t)w * 16, p->x_c, p->gi - c, map, v->blocks, cs, ct);
      }
    }
  }
}

/* Rows first..last-1 of D that exist, columns zero outside the map. */
static void pack_gradient(const anx_call *call, const view *v, int first, int last, int group, int k0, int k1, float *tile) {
  const anx_conv_plan *p = &call->conv;
  const anx_op *op = call->op;
  const size_t pixel = (size_t)p->blocks * 16, row = (size_t)p->d_wp * pixel, map = (size_t)op->p * (size_t)op->q * 16;
  const float *al = call->in[BWD_AL], *be = call->in[BWD_BE], *de = call->in[BWD_DE];
  for (int k = k0 / PAIR * PAIR; k < k1; k += PAIR) {
    const int channel = group * p->go + k, channels = p->go - k;
    const size_t at = (size_t)channel * p->y_c + (size_t)v->block * map;
    const stored *g = (const stored *)call->in[BWD_G] + at, *y = al ? (const stored *)call->in[BWD_Y] + at : NULL;
    float ca[PAIR] = {0}, cb[PAIR] = {0}, cd[PAIR] = {0}; /* copies, which no store can change */
    for (int j = 0; al && j < PAIR && k + j < p->go; j++) ca[j] = al[channel + j], cb[j] = be[channel + j], cd[j] = de[channel + j];
    for (int h = first < 0 ? 0 : first; h < last && h < op->p; h++) { /* taps outside are not computed */
      float *dst = tile + (size_t)(k / PAIR) * p->d_k + (size_t)(h - v->p0 + p->d_pad_h) * row;
      if (p->d_pad_w) {
        anx_zero_vectors(dst, p->d_pad_w * p->blocks);
        anx_zero_vectors(dst + (size_t)(op->q + p->d_pad_w) * pixel, p->d_pad_w * p->blocks);
        dst += (size_t)p->d_pad_w * pixel;
      }
      const size_t o = (size_t)h * (size_t)op->q * 16;
      if (p->blocks == 1) {
        anx_pack_gradient_slots(dst, 16, g + o, y ? y + o : NULL, p->y_c, channels, 16, op->q, ca, cb, cd);
      } else {
        for (int q = 0; q < op->q; q++)
          anx_pack_gradient_slots(dst + (size_t)q * pixel, 16, g + o + (size_t)q * 16, y ? y + o + (size_t)q * 16 : NULL, p->y_c, channels, map,
                                  v->blocks, ca, cb, cd);
      }
    }
  }
}

/* Runs of an input gradient's row: its pixels, or one for each remainder of the columns. */
static int gradient_runs(const anx_conv_plan *p, const anx_op *op) { return p->blocks > 1 || op->stride > op->w ? op->w : op->stride; }

/* Rows to compute at once: what several register tiles read in turn should stay in the first level cache. A row of outputs is computed from
 * `vectors` vectors that the row before has not read. */
static int rows_at_once(const anx_conv_plan *p, int outputs, int vectors) {
  if (p->blocks > 1) return 1;
  if (outputs <= FORWARD_CHANNELS) return INT32_MAX;
  const int rows = FIRST_LEVEL_VECTORS / vectors - p->r_count;
  return rows < 1 ? 1 : rows;
}

void FN(anx_spatial_forward)(const anx_call *call, const anx_share *share, float *scratch) {
  const anx_conv_plan *p = &call->conv;
  const anx_op *op = call->op;
  const view v = slice_view(p, op, share->slice);
  const int k_first = share->group * p->go, st = op->stride, by_block = p->blocks > 1;
  float *sums = NULL;
  if (call->out[FWD_SUMS]) {
    sums = scratch + p->a_floats;
    memset(sums + 32 * share->k0, 0, (size_t)(share->k1 - share->k0) * 32 * sizeof(float));
  }
  const size_t pixel = (size_t)p->blocks * 16, row = (size_t)p->a_wp * pixel, map = (size_t)op->p * (size_t)op->q * 16;
  const float *filter = anx_filter(call) + (size_t)k_first * (size_t)p->taps * (size_t)p->ci;
  anx_forward_tile t = {
      .x_c = p->a_c, .x_p = by_block ? 16 : (size_t)st * 16, .x_row = (size_t)st * row, .x_tr = (ptrdiff_t)row, .x_tc = (ptrdiff_t)pixel,
      .w_k = (size_t)p->taps * (size_t)p->ci, .w_c = 1, .w_tr = op->r * p->ci, .w_tc = p->ci, .channels = p->ci,
      .y = (stored *)call->out[FWD_Y] + (size_t)k_first * p->y_c + (size_t)v.block * map, .y_k = p->y_c, .y_p = by_block ? map : 16,
      .y_row = (size_t)op->q * 16, .stream = anx_streams(call->images, op->p, op->q, op->k),
      .bias = call->in[FWD_BIAS] ? (const float *)call->in[FWD_BIAS] + k_first : NULL, .sums = sums};
  ahead next = {0};
  if (share->next) {
    const view n = slice_view(p, op, share->next_slice);
    ahead_input(&next, share->next, &n, share->next_group);
    ahead_spread(&next, (v.p1 - v.p0) * (by_block ? op->q : 1));
  }
  const int most = rows_at_once(p, share->k1 - share->k0, p->ci * p->a_wp * st);
  pack_input(call, &v, share->group, 0, v.rows, 0, call->in[FWD_X], call->in[FWD_S], call->in[FWD_T], scratch);
  for (int h = v.p0, rows; h < v.p1; h += rows) {
    const range r = met_forward(p->r_low, p->r_count, h * st - p->pad, op->h);
    for (rows = 1; rows < most && h + rows < v.p1 && same(r, met_forward(p->r_low, p->r_count, (h + rows) * st - p->pad, op->h));) rows++;
    t.more_rows = rows - 1;
    for (int q = 0; q < (by_block ? op->q : 1); q++) {
      const range s = by_block ? met_forward(p->s_low, p->s_count, q * st - p->pad, op->w) : (range){p->s_low, p->s_low + p->s_count};
      t.tap_rows = r.to - r.from;
      t.tap_columns = s.to - s.from;
      t.w = filter + (r.from * op->r + s.from) * p->ci;
      t.x = scratch + (size_t)((h - v.p0) * st + r.from - p->r_low) * row + (size_t)(q * st + s.from - p->s_low) * pixel;
      const int count = by_block ? v.blocks : op->q;
      t.fetch = ahead_take(&next, rows, anx_fetch_turns(&t, share->k1 - share->k0, count));
      FN(anx_forward)(&t, share->k0, share->k1, ((size_t)h * (size_t)op->q + (size_t)q) * 16, count);
    }
  }
  if (sums)
    anx_store_partials(call->partial + ((size_t)share->slice * (size_t)op->k + (size_t)(k_first + share->k0)) * 2, sums + 32 * share->k0,
                       share->k1 - share->k0);
}

/* Rows of the input that outputs before `row` of the slice own: the last ones have what a stride leaves over. */
static int owned(const anx_op *op, int row) { return row == op->p ? op->h : row * op->stride; }

/* Rows of the input gradient that belong to output rows p0..p1-1 of v. */
static void input_gradient(const anx_call *call, const anx_share *share, const view *v, int p0, int p1, const float *d, float *sums, ahead *next) {
  const anx_conv_plan *p = &call->conv;
  const anx_op *op = call->op;
  const int c_first = share->group * p->gi, st = op->stride, by_block = p->blocks > 1;
  const int masked = call->in[BWD_S] != NULL;
  const float *mean = call->in[call->in[BWD_MEAN] ? BWD_MEAN : BWD_T]; /* no mean: its sums are not wanted */
  const size_t pixel = (size_t)p->blocks * 16, row = (size_t)p->d_wp * pixel, map = (size_t)op->h * (size_t)op->w * 16;
  const size_t base = (size_t)c_first * p->x_c + (size_t)v->block * map;
  const float *filter = anx_filter(call) + (size_t)share->group * (size_t)p->co * (size_t)p->taps * (size_t)p->gi;
  anx_forward_tile t = {
      .x_c = p->d_k, .x_p = 16, .x_row = row, .x_tr = (ptrdiff_t)row, .x_tc = (ptrdiff_t)pixel, /* the last tap is the first */
      .w_k = 1, .w_c = (size_t)p->taps * (size_t)p->gi, .w_tr = -st * op->r * p->gi, .w_tc = -st * p->gi, .channels = p->co,
      .y = (stored *)call->out[BWD_DX] + base, .y_k = p->x_c, .y_p = by_block ? map : (size_t)st * 16,
      .y_row = (size_t)op->w * 16, .stream = anx_streams(call->images, op->h, op->w, op->c),
      .add = call->in[BWD_ADD] ? (const stored *)call->in[BWD_ADD] + base : NULL,
      .raw = masked ? (const stored *)call->in[BWD_X] + base : NULL,
      .s = masked ? (const float *)call->in[BWD_S] + c_first : NULL,
      .t = masked ? (const float *)call->in[BWD_T] + c_first : NULL,
      .mean = masked ? mean + c_first : NULL,
      .sums = masked ? sums : NULL};
  const int h1 = owned(op, p1), most = st > 1 ? 1 : rows_at_once(p, share->c1 - share->c0, p->co * p->d_wp);
  for (int h = owned(op, p0), rows; h < h1; h += rows) {
    const range r = met_gradient(p, op->p, h, st, p->r_low, p->r_count);
    for (rows = 1; rows < most && h + rows < h1 && same(r, met_gradient(p, op->p, h + rows, st, p->r_low, p->r_count));) rows++;
    t.more_rows = rows - 1;
    t.tap_rows = taps_of(r, st);
    for (int w = 0; w < gradient_runs(p, op); w++) {
      range s = met_gradient(p, op->q, w, st, p->s_low, p->s_count);
      if (!by_block) s = stepped(p->s_low, p->s_low + p->s_count, w + p->pad, st);
      t.tap_columns = taps_of(s, st);
      const int r_last = r.from + (t.tap_rows - 1) * st, s_last = s.from + (t.tap_columns - 1) * st;
      t.w = filter + (r_last * op->r + s_last) * p->gi;
      t.x = d + ((h + p->pad - r_last) / st - v->p0 + p->d_pad_h) * (ptrdiff_t)row + ((w + p->pad - s_last) / st + p->d_pad_w) * (ptrdiff_t)pixel;
      const int count = by_block ? v->blocks : (op->w - w + st - 1) / st;
      t.fetch = ahead_take(next, rows, anx_fetch_turns(&t, share->c1 - share->c0, count));
      FN(anx_forward)(&t, share->c0, share->c1, ((size_t)h * (size_t)op->w + (size_t)w) * 16, count);
    }
  }
}

#if PAIR == 2
/* Rows first..last-1 of the tile of act(X) for the weight gradient: one channel after the other, columns by phase; see anx_weight_tiles. */
static void pack_weight_input(const anx_call *call, const view *v, int group, int first, int last, float *tile) {
  const anx_conv_plan *p = &call->conv;
  const anx_weight_tiles *tiles = &p->weights;
  const anx_op *op = call->op;
  const int top = v->p0 * op->stride - (p->pad - p->r_low), left = p->pad - p->s_low, by_block = p->blocks > 1;
  const size_t map = (size_t)op->h * (size_t)op->w * 16;
  for (int c = 0; c < p->gi; c++) {
    const int channel = group * p->gi + c;
    const stored *x = (const stored *)call->in[BWD_X] + (size_t)channel * p->x_c + (size_t)v->block * map;
    const float *s = call->in[BWD_S] ? (const float *)call->in[BWD_S] + channel : NULL, *t = s ? (const float *)call->in[BWD_T] + channel : NULL;
    for (int i = first; i < last; i++) {
      float *row = tile + (size_t)c * tiles->a_c + (size_t)i * tiles->a_row;
      const int h = top + i;
      memset(row, 0, tiles->a_row * sizeof *row);
      if (h < 0 || h >= op->h) continue;
      const stored *src = x + (size_t)h * (size_t)op->w * 16;
      if (by_block) {
        for (int j = left; j < p->a_wp && j - left < op->w; j++)
          anx_pack_act((stored *)(void *)(row + (size_t)j * tiles->a_pixel), 16, src + (size_t)(j - left) * 16, map, v->blocks, s, t);
        continue;
      }
      for (int phase = 0; phase < tiles->phases; phase++) {
        const int outside = left > phase ? (left - phase + op->stride - 1) / op->stride : 0; /* columns of the phase left of the map */
        const int j = phase + outside * op->stride, end = left + op->w < p->a_wp ? left + op->w : p->a_wp;
        if (j < end)
          anx_pack_act((stored *)(void *)(row + (size_t)phase * tiles->a_phase + (size_t)outside * tiles->a_pixel), 16, src + (size_t)(j - left) * 16,
                       (size_t)op->stride * 16, (end - j + op->stride - 1) / op->stride, s, t);
      }
    }
  }
}

/* Rows first..last-1 of the slice, of the gradient's tile, one channel after the other. */
static void split_gradient(const anx_call *call, const view *v, const anx_share *share, int first, int last, const float *d, float *rows) {
  const anx_conv_plan *p = &call->conv;
  const anx_weight_tiles *tiles = &p->weights;
  const int q = call->op->q, by_block = p->blocks > 1;
  const size_t pixel = (size_t)p->blocks * 16, row = (size_t)p->d_wp * pixel;
  d += (size_t)p->d_pad_h * row + (size_t)p->d_pad_w * pixel;
  for (int k = share->k0 / 2 * 2; k < share->k1; k += 2) {
    for (int i = first; i < last; i++) {
      for (int j = 0; j < (by_block ? q : 1); j++) {
        float *low = rows + (size_t)k * tiles->d_k + (size_t)i * tiles->d_row + (size_t)j * tiles->d_pixel;
        anx_split_slots(low, k + 1 < p->go ? low + tiles->d_k : NULL, d + (size_t)(k / 2) * p->d_k + (size_t)i * row + (size_t)j * pixel, 16,
                        by_block ? v->blocks : q);
      }
    }
  }
}
#endif

/* Columns of the weight gradient that are taken together by tiles of kb rows: three in a row of the filter where they are neighbours in the tile. */
static int columns_together(const anx_conv_plan *p, int kb) {
  return kb <= THREE_ROWS && p->s_count == 3 && p->blocks == 1 && p->weights.phases == 1 && p->weights.a_pixel == 16 / PAIR ? 3 : 1;
}

/* Blocks of the weight gradient's register tiles for one part of the rows. */
static int weight_blocks(const anx_conv_plan *p, const anx_share *share) {
  const int k = share->k1 - share->k0, parts = calls(k, WEIGHT_ROWS), kb = calls(k, parts), together = columns_together(p, kb);
  return parts * calls(p->r_count * p->s_count * p->gi / together, together == 3 ? anx_three_rows[kb] : anx_weight_width[kb]);
}

/* Adds what rows r0..r0+n-1 of the slice contribute. */
static void weight_gradient(const anx_call *call, const anx_share *share, const view *v, int r0, int n, const float *a, const float *d, ahead *next) {
  const anx_conv_plan *p = &call->conv;
  const anx_op *op = call->op;
  float lanes[32 * 16] __attribute__((aligned(64))), out[32];
  const float *columns[WEIGHT_COLUMNS];
  float *place[WEIGHT_COLUMNS];
  const anx_weight_tiles *w = &p->weights;
  const size_t d_row = w->d_row, st = (size_t)op->stride, gi = (size_t)p->gi, filter = (size_t)p->taps * gi;
  const int by_block = p->blocks > 1;
  const int vectors = ((by_block ? v->blocks : op->q) + PAIR - 1) / PAIR; /* of a run */
  for (int k = share->k0; k < share->k1;) {
    const int kb = anx_part(share->k1 - share->k0, WEIGHT_ROWS, k - share->k0);
    const float *dk = d + (size_t)k * w->d_k + (size_t)r0 * d_row, *ak = a + (size_t)r0 * st * w->a_row;
    float *dw = share->dw + (size_t)(share->group * p->go + k) * filter + (size_t)(p->r_low * op->r + p->s_low) * gi;
    const int together = columns_together(p, kb), all = p->r_count * p->s_count / together * p->gi;
    const int most = together == 3 ? anx_three_rows[kb] : anx_weight_width[kb];
    int c = 0, r = 0, s = 0; /* columns: input channel outside, tap inside, so that neighbours share rows of A */
    for (int j0 = 0; j0 < all;) {
      const int jb = anx_part(all, most, j0);
      for (int j = 0; j < jb; j++) {
        columns[j] = ak + (size_t)c * w->a_c + (size_t)r * w->a_row;
        if (s) columns[j] += (size_t)(s % w->phases) * w->a_phase + (size_t)(s / w->phases) * w->a_pixel;
        place[j] = dw + (size_t)(r * op->r + s) * gi + c;
        if ((s += together) < p->s_count) continue;
        s = 0;
        if (++r < p->r_count) continue;
        r = 0;
        c++;
      }
      anx_fetch fetch = ahead_take(next, 1, n * (by_block ? op->q : 1) * vectors * LANES * together);
      if (!fetch.at) fetch.at = (const char *)dk;
      if (by_block) FN(anx_weight)(dk, w->d_k, columns, n, d_row, st * w->a_row, op->q, w->d_pixel, st * w->a_pixel, vectors, 16, 16, fetch, lanes, kb, jb);
      else if (together == 3) FN(anx_weight_rows)(dk, w->d_k, columns, 1, 0, 0, n, d_row, st * w->a_row, vectors, 16, w->a_step, fetch, lanes, kb, jb);
      else FN(anx_weight)(dk, w->d_k, columns, 1, 0, 0, n, d_row, st * w->a_row, vectors, 16, w->a_step, fetch, lanes, kb, jb);
      for (int i = 0; i < kb * jb * together; i += 4) anx_lane_sum4(lanes + 16 * i, out + i);
      const float *sum = out;
      for (int i = 0; i < kb; i++) {
        for (int j = 0; j < jb; j++) {
          float *to = place[j] + (size_t)i * filter;
          for (int l = 0; l < together; l++) to[(size_t)l * gi] += *sum++;
        }
      }
      j0 += jb;
    }
    k += kb;
  }
}

static void bias_gradient(const anx_call *call, const anx_share *share, const view *v, const float *d) {
  const anx_conv_plan *p = &call->conv;
  const anx_weight_tiles *w = &p->weights;
  const int by_block = p->blocks > 1, vectors = ((by_block ? v->blocks : call->op->q) + PAIR - 1) / PAIR;
  float *bias = share->dbias + share->group * p->go;
  for (int k = share->k0; k < share->k1; k++) {
    float sum[16] __attribute__((aligned(64))) = {0};
    for (int i = 0; i < v->p1 - v->p0; i++) {
      for (int q = 0; q < (by_block ? call->op->q : 1); q++) {
        for (int b = 0; b < vectors; b++) {
          const float *at = d + (size_t)k * w->d_k + (size_t)i * w->d_row + (size_t)q * w->d_pixel + (size_t)b * 16;
          for (int l = 0; l < 16; l += VL) vstore(sum + l, vmac(vones(), vload(at + l), vload(sum + l)));
        }
      }
    }
    const float total = anx_lane_sum(sum);
    bias[k] = share->first ? total : bias[k] + total;
  }
}

/* Some rows of the slice at a time go through all of it: D packed, input gradient, act(X) packed, weight gradient. */
void FN(anx_spatial_backward)(const anx_call *call, const anx_share *share, float *scratch) {
  const anx_conv_plan *p = &call->conv;
  const anx_op *op = call->op;
  const view v = slice_view(p, op, share->slice);
  const int need_dx = share->c1 > share->c0, need_dw = share->k1 > share->k0;
  const int halo = need_dx ? p->d_pad_h : 0, k0 = need_dx ? 0 : share->k0, k1 = need_dx ? p->go : share->k1;
  const int rows = v.p1 - v.p0, c_first = share->group * p->gi;
  const size_t filter = (size_t)p->taps * (size_t)p->gi;
  float *a = scratch, *tile = a + p->a_floats, *sums = tile + p->d_floats;
#if PAIR == 1
  float *d = tile + (size_t)p->d_pad_h * p->weights.d_row + (size_t)p->d_pad_w * p->weights.d_pixel;
#else
  float *d = sums + p->sums_floats;
#endif
  ahead during_dx = {0}, during_dw = {0};
  if (share->next) {
    const view n = slice_view(p, op, share->next_slice);
    ahead_gradient(need_dx ? &during_dx : &during_dw, share->next, &n, halo, share->next_group, k0, k1);
    ahead_input(need_dw ? &during_dw : &during_dx, share->next, &n, share->next_group);
    ahead_spread(&during_dx, (owned(op, v.p1) - owned(op, v.p0)) * gradient_runs(p, op));
    if (need_dw) ahead_spread(&during_dw, calls(rows, p->weight_rows) * weight_blocks(p, share));
  }
  if (call->in[BWD_S]) memset(sums + 32 * share->c0, 0, (size_t)(share->c1 - share->c0) * 32 * sizeof(float));
  if (share->first && need_dw)
    memset(share->dw + (size_t)(share->group * p->go + share->k0) * filter, 0, (size_t)(share->k1 - share->k0) * filter * sizeof(float));
  int d_packed = v.p0 - halo, a_packed = 0;
  for (int r0 = 0, r1; r0 < rows; r0 = r1) {
    r1 = r0 + p->weight_rows < rows ? r0 + p->weight_rows : rows;
    pack_gradient(call, &v, d_packed, v.p0 + r1 + halo, share->group, k0, k1, tile);
    d_packed = v.p0 + r1 + halo;
    if (need_dx) input_gradient(call, share, &v, v.p0 + r0, v.p0 + r1, tile, sums, &during_dx);
    if (!need_dw) continue;
    const int a_needed = (r1 - 1) * op->stride + p->r_count;
#if PAIR == 1
    pack_input(call, &v, share->group, a_packed, a_needed, 1, call->in[BWD_X], call->in[BWD_S], call->in[BWD_T], a);
#else
    pack_weight_input(call, &v, share->group, a_packed, a_needed, a);
    split_gradient(call, &v, share, r0, r1, tile, d);
#endif
    a_packed = a_needed;
    weight_gradient(call, share, &v, r0, r1 - r0, a, d, &during_dw);
  }
  if (call->out[BWD_SUMS])
    anx_store_partials(call->partial + ((size_t)share->slice * (size_t)op->c + (size_t)(c_first + share->c0)) * 2, sums + 32 * share->c0,
                       share->c1 - share->c0);
  if (need_dw && call->out[BWD_DBIAS]) bias_gradient(call, share, &v, d);
}

#define MADE_BYTES (256 * 1024) /* of X, G and Y of a slice that makes D on the way, */
#define MADE_COLUMNS 28         /* and of its rows where D is for the weight gradient alone */

/* The weight gradient of a slice, which makes D on the way if `made`. */
static void row_weights(const anx_call *call, const anx_share *share, const view *v, int made, float *d, float *lanes, ahead *next) {
  const anx_conv_plan *p = &call->conv;
  const anx_op *op = call->op;
  const int channel = share->group * p->gi;
  const size_t at = (size_t)channel * p->x_c + (size_t)((v->block * op->h + v->p0) * op->w) * 16;
  anx_row_weights m = {
      .x = (const stored *)call->in[BWD_X] + at, .channel = p->x_c, .block = (size_t)(op->h * op->w) * 16, .d = d, .d_k = p->d_k,
      .d_row = (size_t)(p->d_wp * p->blocks) * 16, .d_pixel = (size_t)p->blocks * 16, .zeros = p->d_pad_w, .lanes = lanes, .channels = p->gi,
      .blocks = v->blocks, .rows = v->p1 - v->p0, .columns = op->w, .top = v->p0 == 0, .bottom = v->p1 == op->p, .first = share->first};
  if (call->in[BWD_S]) m.s = (const float *)call->in[BWD_S] + channel, m.t = (const float *)call->in[BWD_T] + channel;
  if (made) {
    m.g = (const stored *)call->in[BWD_G] + at;
    if (call->in[BWD_AL]) {
      m.y = (const stored *)call->in[BWD_Y] + at;
      m.al = (const float *)call->in[BWD_AL] + channel, m.be = (const float *)call->in[BWD_BE] + channel, m.de = (const float *)call->in[BWD_DE] + channel;
    }
  }
  FN(anx_row_weights)(&m, share->k0, share->k1, next);
  if (share->last) FN(anx_row_weights_sum)(&m, share->k0, share->k1, share->dw + channel * p->taps * p->gi);
}

/* With the weight gradient from rows of X where it lies. That makes D on the way if the slice is small or D is not wanted otherwise: of large maps, memory
 * is read faster by a loop that does nothing else. */
void FN(anx_rows_backward)(const anx_call *call, const anx_share *share, float *scratch) {
  const anx_conv_plan *p = &call->conv;
  const anx_op *op = call->op;
  const view v = slice_view(p, op, share->slice);
  const int need_dx = share->c1 > share->c0, need_dw = share->k1 > share->k0, c_first = share->group * p->gi;
  const int small = 3 * sizeof(stored) * 16 * (size_t)(p->gi * v.rows * op->w * v.blocks) <= MADE_BYTES;
  const int made = need_dw && (small || (!need_dx && op->w <= MADE_COLUMNS));
  float *tile = scratch + p->a_floats, *sums = tile + p->d_floats, *d = tile + (size_t)((p->d_pad_h * p->d_wp + p->d_pad_w) * p->blocks) * 16;
  ahead during_dx = {0}, during_dw = {0};
  if (share->next) {
    const view n = slice_view(p, op, share->next_slice);
    ahead_gradient(need_dx ? &during_dx : &during_dw, share->next, &n, 1, share->next_group, need_dx ? 0 : share->k0, need_dx ? p->go : share->k1);
    ahead_input(need_dw ? &during_dw : &during_dx, share->next, &n, share->next_group);
    ahead_spread(&during_dx, (v.p1 - v.p0) * gradient_runs(p, op));
    if (need_dw) ahead_spread(&during_dw, anx_row_weights_pieces(p->gi, op->w, share->k1 - share->k0));
  }
  if (!made) pack_gradient(call, &v, v.p0 - 1, v.p1 + 1, share->group, 0, p->go, tile);
  if (made) row_weights(call, share, &v, 1, d, scratch, &during_dw);
  if (need_dx) {
    if (call->in[BWD_S]) memset(sums + 32 * share->c0, 0, (size_t)(share->c1 - share->c0) * 32 * sizeof(float));
    input_gradient(call, share, &v, v.p0, v.p1, tile, sums, &during_dx);
    if (call->out[BWD_SUMS])
      anx_store_partials(call->partial + ((size_t)share->slice * (size_t)op->c + (size_t)(c_first + share->c0)) * 2, sums + 32 * share->c0,
                         share->c1 - share->c0);
  }
  if (need_dw && !made) row_weights(call, share, &v, 0, d, scratch, &during_dw);
}
