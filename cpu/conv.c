/* conv.c - geometry of convolutions (a function of the op record alone) and what both families share outside the vector code. */
#include "cpu.h"

#define TILE_FLOATS (192 * 1024)   /* 768 KB: both tiles of a slice stay in a 1 MB second level cache */
#define WEIGHT_PIXELS 256         /* between sums of lanes; 72 were 14 to 40 % slower, 512 no faster */
#define ROWS_FLOATS (64 * 1024) /* D of a slice whose weight gradient is row_weights.c's and has few channels: with X, G and Y it stays in a 1 MB cache */
#define POINTWISE_FLOATS (128 * 1024)
#define BUNDLE 8192               /* multiply-adds of vectors in a task */
#define STEM_FLOATS (128 * 1024)  /* of act(X) */
#define FILTER_READS 4             /* that a copy of the filter pays for */
#define SECTIONS 4                /* at most; threads up to so many find whole ones */

static int least(int a, int b) { return a < b ? a : b; }
static int most(int a, int b) { return a > b ? a : b; }

static int divide_up(int a, int b) { return (a + b - 1) / b; }

static int round16(int n) { return (n + 15) / 16 * 16; }

/* Cost per vector of images of a weight gradient, in multiply-adds: through transposed tiles, where channels are padded to 16 and transposing
 * takes 13, or from lane sums of a slice of n vectors, which take 2. From some 48 vectors on, lane sums were faster whatever the channels. */
static int transposing_pays(const anx_conv_plan *p, int n) {
  return n <= 32 && (int64_t)round16(p->gi) * (p->go + 13) * n < (int64_t)p->gi * p->go * (n + 2);
}

static int odd(int n) { return n | 1; }

static void plan_pointwise(anx_conv_plan *p, const anx_op *op) {
  const int backward = op->kind == ANX_CONV_BWD;
  p->pointwise = 1;
  p->blocks = 1;
  const int fit = p->pair * (backward ? POINTWISE_FLOATS / ANX_IMAGES / (2 * p->gi + p->pair * p->go) : TILE_FLOATS / 2 / ANX_IMAGES / p->gi);
  const int cap = backward ? 64 * p->pair : 128;
  p->rows = most(16, least(cap, fit / 8 * 8));
  const int unit = op->stride == 1 ? 1 : op->q, units = p->pixels / unit; /* strided: whole output rows, whose input rows a slice owns */
  p->sections = least(units, p->pixels >= 32 * SECTIONS ? SECTIONS : p->pixels >= 8 ? 2 : 1);
  if (backward) {
    p->transposed = transposing_pays(p, divide_up(least(cap, divide_up(p->pixels, p->sections)), p->pair));
    if (!p->transposed) p->rows = cap;
  }
  p->rows = least(most(1, p->rows / unit), units);
  p->slices = divide_up(divide_up(units, p->rows), p->sections) * p->sections; /* sections of equal size */
  p->unit = unit == 1 && divide_up(units, p->slices) > 16 ? 4 : unit; /* whole register tiles */
  p->units = divide_up(p->pixels, p->unit);
  p->slices = p->row_slices = least(p->slices, p->units);
  p->sections = least(p->sections, p->slices);
  p->rows = divide_up(p->units, p->slices) * p->unit;
  p->a_c = p->d_k = (size_t)odd(p->rows) * ANX_IMAGES;
  p->a_floats = p->a_c * (size_t)p->ci;
  if (backward) {
    const int vectors = divide_up(p->rows, p->pair);
    p->weights.a_c = p->weights.d_k = (size_t)odd(vectors) * ANX_IMAGES;
    p->a_floats = p->transposed ? (size_t)(round16(p->gi) * vectors) * ANX_IMAGES : p->weights.a_c * (size_t)p->gi;
    p->weights.d_floats = p->pair > 1 ? p->weights.d_k * (size_t)p->go : 0;
  }
  p->dense_floats = !backward ? 0 : p->a_c * (size_t)(op->stride > 1 ? p->gi : least(p->gi, ANX_END_CHANNELS));
}

/* The rows (or columns) of the filter that meet the map at all: on a 1x1 map only the centre of a 3x3 filter does. */
static void window(int *low, int *count, int r, int pad, int stride, int in, int out) {
  int lo = r, hi = -1;
  for (int i = 0; i < r; i++) {
    for (int p = 0; p < out; p++) {
      const int h = p * stride + i - pad;
      if (h >= 0 && h < in) {
        lo = least(lo, i);
        hi = most(hi, i);
      }
    }
  }
  *low = lo;
  *count = hi - lo + 1;
}

/* The weight gradient's own tiles, see anx_weight_tiles. */
static void weight_tiles(anx_conv_plan *p, const anx_op *op) {
  anx_weight_tiles *w = &p->weights;
  const int by_block = p->blocks > 1;
  const size_t pixel = (size_t)p->blocks * ANX_IMAGES;
  if (p->pair == 1) {
    *w = (anx_weight_tiles){.a_c = p->a_c, .a_row = (size_t)p->a_wp * pixel, .a_pixel = pixel, .a_step = by_block ? ANX_IMAGES : (size_t)op->stride * ANX_IMAGES,
                            .d_k = p->d_k, .d_row = (size_t)p->d_wp * pixel, .d_pixel = pixel, .phases = 1};
    return;
  }
  *w = (anx_weight_tiles){.a_step = ANX_IMAGES, .phases = by_block ? 1 : op->stride};
  if (by_block) {
    w->a_pixel = w->d_pixel = (size_t)divide_up(p->blocks, 2) * ANX_IMAGES;
    w->a_row = (size_t)p->a_wp * w->a_pixel;
    w->d_row = (size_t)op->q * w->d_pixel;
  } else {
    w->a_pixel = w->d_pixel = ANX_IMAGES / 2;
    w->a_phase = (size_t)(op->q + (p->s_count - 1) / op->stride + 1) * w->a_pixel; /* the last vector of an odd row reads one pixel more */
    w->a_row = (size_t)op->stride * w->a_phase;
    w->d_row = (size_t)divide_up(op->q, 2) * ANX_IMAGES;
  }
  w->a_c = (((size_t)p->a_rows * w->a_row / ANX_IMAGES + 1) | 1) * ANX_IMAGES;
  w->d_k = (((size_t)p->rows * w->d_row / ANX_IMAGES) | 1) * ANX_IMAGES;
  w->d_floats = w->d_k * (size_t)p->go;
}

static void tiles(anx_conv_plan *p, const anx_op *op, int backward) {
  p->a_rows = (p->rows - 1) * op->stride + p->r_count;
  p->a_wp = (op->q - 1) * op->stride + p->s_count;
  p->d_rows = p->rows + 2 * p->d_pad_h;
  p->d_wp = op->q + 2 * p->d_pad_w;
  p->a_c = (((size_t)p->a_rows * (size_t)p->a_wp * (size_t)p->blocks) | 1) * ANX_IMAGES;
  p->d_k = backward ? (((size_t)p->d_rows * (size_t)p->d_wp * (size_t)p->blocks) | 1) * ANX_IMAGES : 0;
  if (backward) weight_tiles(p, op);
}

static size_t tile_floats(const anx_conv_plan *p) {
  return (p->by_rows ? 0 : p->weights.a_c ? p->weights.a_c * (size_t)p->gi : p->a_c * (size_t)p->ci) + p->d_k * (size_t)p->co + p->weights.d_floats;
}

/* Whose weight gradient is row_weights.c's, and D with it. What conv_narrow.c takes too is faster there on maps of up to 8 x 8 pixels. */
static int by_rows(const anx_conv_plan *p, const anx_op *op) {
  const int channels = op->h * op->w > 64 || op->w == 2 ? 2 : ANX_NARROW + 1;
  return op->kind == ANX_CONV_BWD && op->r == 3 && op->stride == 1 && p->gi == p->go && p->gi >= channels && p->gi <= ANX_ROWS && p->pair == 1 &&
         p->r_count == 3 && p->s_count == 3 && op->out[2] < 0;
}

/* What conv_narrow.c and conv_depthwise.c take. Maps of two columns are better packed, many images side by side; so are channels that bf16's products take
 * in pairs, but for two or three on small maps (measured). */
static int narrow(const anx_conv_plan *p, const anx_op *op) {
  const int pixels = op->h * op->w, channels = p->pair == 1 ? ANX_NARROW : pixels <= 36 ? 3 : pixels <= 64 ? 2 : 1;
  if (p->by_rows || (op->kind == ANX_CONV_BWD && op->out[2] >= 0)) return 0;
  return op->r == 3 && op->stride == 1 && p->gi == p->go && p->gi <= channels && p->r_count == 3 && op->w > 2;
}

/* What conv_strided.c takes: with more channels, bf16's dot products are faster although they need packed tiles. Maps of two columns are better packed,
 * many images side by side, but for the gradients of few channels. */
static int strided(const anx_conv_plan *p, const anx_op *op) {
  const int backward = op->kind == ANX_CONV_BWD, widest = p->pair == 1 ? ANX_STRIDED : backward ? 5 : 3, small = backward ? ANX_NARROW : 0;
  return op->r == 3 && op->stride == 2 && p->gi == p->go && p->gi <= (op->w > 4 ? widest : least(widest, small)) && p->r_count == 3 && op->w > 2 &&
         !(backward && op->out[2] >= 0);
}

static void plan_strided(anx_conv_plan *p, const anx_op *op) {
  const int backward = op->kind == ANX_CONV_BWD, row = backward ? p->gi * 2 * op->w + p->go * (op->q + 1) : 0;
  p->strided = p->blocks = 1;
  if (backward) p->rows = least(op->p, most(1, TILE_FLOATS / ANX_IMAGES / row));
  p->row_slices = divide_up(op->p, p->rows);
  p->rows = divide_up(op->p, p->row_slices);
  p->row_slices = divide_up(op->p, p->rows);
  p->slices = p->row_slices * p->blocks_total;
  p->sections = p->groups < SECTIONS ? least(SECTIONS / p->groups, p->slices) : 1; /* adding lanes is dear */
  p->d_k = backward ? (size_t)odd((p->rows + 1) * (op->q + 1)) * ANX_IMAGES : 0;
  if (backward) p->a_floats = (size_t)(4 * p->gi + p->taps * p->gi * p->go + 3) * ANX_IMAGES;
  else if (p->gi <= ANX_STRIDED_STRIP) p->a_floats = (size_t)(2 * p->go * op->p) * ANX_IMAGES;
  else p->a_floats = (size_t)(2 * p->go) * ANX_IMAGES + (size_t)(p->taps * p->gi * p->go); /* and the filter times s */
}

/* conv_stem.c: a slice is some rows of an image block, whose tile of act(X) leaves room in the second level cache. */
static void plan_stem(anx_conv_plan *p, const anx_op *op) {
  anx_weight_tiles *w = &p->weights;
  p->stem = p->blocks = 1;
  w->a_pixel = (size_t)(ANX_IMAGES / p->pair);
  w->a_step = (size_t)op->stride * w->a_pixel;
  for (int n = 1;; n++) {
    p->rows = divide_up(op->p, n);
    p->a_rows = (p->rows - 1) * op->stride + p->r_count;
    p->a_wp = (op->q - 1) * op->stride + p->s_count;
    w->a_row = (size_t)p->a_wp * w->a_pixel;
    w->a_c = (size_t)odd(divide_up(p->a_rows * p->a_wp, p->pair)) * ANX_IMAGES;
    p->a_floats = w->a_c * (size_t)p->gi;
    if (p->a_floats <= STEM_FLOATS || p->rows == 1) break;
  }
  p->row_slices = divide_up(op->p, p->rows);
  p->slices = p->row_slices * p->blocks_total;
  p->sections = least(SECTIONS, p->slices);
  p->d_floats = (size_t)(ANX_STEM_PIXELS * ANX_IMAGES * ANX_STEM_CHANNELS);
  p->sums_floats = (size_t)(p->taps * p->gi + 1) * (size_t)round16(p->go);
}

static void plan_spatial(anx_conv_plan *p, const anx_op *op) {
  const int backward = op->kind == ANX_CONV_BWD;
  window(&p->r_low, &p->r_count, op->r, p->pad, op->stride, op->h, op->p);
  window(&p->s_low, &p->s_count, op->r, p->pad, op->stride, op->w, op->q);
  if (backward && op->out[0] >= 0) { /* the input gradient looks beyond the slice's outputs */
    p->d_pad_h = most(p->pad - p->r_low, p->r_low + p->r_count - 1 - p->pad);
    p->d_pad_w = most(p->pad - p->s_low, p->s_low + p->s_count - 1 - p->pad);
  }
  p->rows = op->p;
  p->by_rows = by_rows(p, op);
  if (p->by_rows) p->d_pad_h = 1;
  if (narrow(p, op)) {
    p->narrow = p->blocks = p->row_slices = p->sections = 1;
    p->slices = p->blocks_total;
    p->a_floats = (size_t)(2 * p->go * op->p + p->taps * p->gi * p->go + 3) * ANX_IMAGES;
    p->d_k = (size_t)(p->gi == 1 ? 3 * (op->q + 2) : (op->p + 1) * least(op->q, ANX_STRIP)) * ANX_IMAGES;
    return;
  }
  if (backward && op->out[0] < 0 && p->groups == 1 && !p->by_rows) {
    plan_stem(p, op);
    return;
  }
  if (strided(p, op)) {
    plan_strided(p, op);
    return;
  }
  p->blocks = least(p->blocks_total, 8);
  if (op->q > 4 || p->blocks < op->q) p->blocks = 1;
  const size_t fit = p->by_rows && p->gi <= ANX_NARROW ? ROWS_FLOATS : TILE_FLOATS;
  for (tiles(p, op, backward); p->blocks > 2 && tile_floats(p) > fit; tiles(p, op, backward)) p->blocks = divide_up(p->blocks, 2);
  for (; p->rows > 1 && tile_floats(p) > fit; tiles(p, op, backward)) p->rows = divide_up(p->rows, 2);
  p->row_slices = divide_up(op->p, p->rows);
  p->rows = divide_up(op->p, p->row_slices);
  p->row_slices = divide_up(op->p, p->rows);
  tiles(p, op, backward);
  p->slices = p->row_slices * divide_up(p->blocks_total, p->blocks);
  p->sections = least(SECTIONS, p->slices);
  if (p->by_rows) {
    p->a_floats = (size_t)(p->taps * p->gi * p->go + 3) * ANX_IMAGES;
    return;
  }
  p->weight_rows = most(1, least(p->rows, WEIGHT_PIXELS / (op->q * p->blocks)));
  p->a_floats = backward ? p->weights.a_c * (size_t)p->gi : p->a_c * (size_t)p->ci;
}

/* The input gradient of a 1x1 convolution reads columns of the filter. Where its rows are multiples of 4 KB, a column lies in one set of the caches and
 * falls out of them before the next columns are read: rows of a copy are a line longer (1024->1024 at 7 px, both gradients: 72 -> 86 % of the peak). */
static void plan_filter(anx_conv_plan *p, const anx_op *op) {
  const int backward = op->kind == ANX_CONV_BWD, apart = backward && p->pointwise && p->gi % 1024 == 0;
  const int copied = !p->narrow && !p->strided && !p->stem && (p->pair > 1 || (apart && p->slices >= FILTER_READS));
  p->filter_row = (size_t)(p->taps * p->gi + (copied && apart ? 16 : 0));
  if (copied) p->filter_floats = backward ? (size_t)(p->groups * p->co) * p->filter_row : (size_t)p->groups * (size_t)(p->taps * p->go * p->ci);
}

void anx_conv_plan_make(anx_conv_plan *p, const anx_op *op) {
  *p = (anx_conv_plan){0};
  p->groups = op->c / op->group;
  p->gi = op->group;
  p->go = op->k / p->groups;
  p->pair = op->dtype == ANX_BF16 ? 2 : 1;
  p->ci = divide_up(p->gi, p->pair);
  p->co = divide_up(p->go, p->pair);
  p->pad = op->r / 2;
  p->taps = op->r * op->r;
  p->blocks_total = op->n / ANX_IMAGES;
  p->pixels = p->blocks_total * op->p * op->q;
  p->x_c = anx_channel_values(op->n, op->h, op->w);
  p->y_c = anx_channel_values(op->n, op->p, op->q);
  if (op->r == 1) plan_pointwise(p, op);
  else plan_spatial(p, op);
  if (!p->stem) {
    p->d_floats = op->kind == ANX_CONV_BWD ? p->d_k * (size_t)(p->narrow || p->strided ? p->go : p->co) : 0;
    p->sums_floats = (size_t)2 * ANX_IMAGES * (size_t)(op->kind == ANX_CONV_BWD ? p->gi : p->go);
  }
  plan_filter(p, op);
  p->weight_floats = op->kind == ANX_CONV_BWD ? (size_t)op->k * ((size_t)p->taps * (size_t)p->gi + 1) : 0;
}

size_t anx_conv_scratch_floats(const anx_conv_plan *p) { return p->a_floats + p->d_floats + p->sums_floats + p->dense_floats + p->weights.d_floats; }

size_t anx_conv_partials(const anx_conv_plan *p, const anx_op *op, int ends_block) {
  return (size_t)p->slices * (ends_block ? 3 : 2) * (size_t)(op->kind == ANX_CONV_BWD ? op->c : op->k);
}

void anx_combine_sums(double *out, const double *partial, int slices, int channels) {
  memset(out, 0, (size_t)channels * 2 * sizeof *out);
  for (int s = 0; s < slices; s++) {
    for (int c = 0; c < channels; c++, partial += 2) {
      out[c] += partial[0];
      out[channels + c] += partial[1];
    }
  }
}

void anx_combine_end(const anx_call *end, const double *partial, int slices) {
  const int channels = end->op->c;
  double *sums = end->out[1], *sums_p = end->out[2];
  memset(sums, 0, (size_t)channels * 2 * sizeof *sums);
  if (sums_p) memset(sums_p, 0, (size_t)channels * 2 * sizeof *sums);
  for (int s = 0; s < slices; s++) {
    for (int c = 0; c < channels; c++, partial += 3) {
      sums[c] += partial[0];
      sums[channels + c] += partial[1];
      if (!sums_p) continue;
      sums_p[c] += partial[0];
      sums_p[channels + c] += partial[2];
    }
  }
}

#define PART 6 /* channels at least, of a group whose channels are shared out between threads */
_Static_assert(ANX_STRIDED_STRIP <= PART, "a strip has all outputs of its group");

/* Finding its place costs a task as much as some hundred multiply-adds: several small groups are one, if enough tasks are left for the threads. */
static int bundles(const anx_conv_plan *p, int sheets, int threads) {
  const int64_t each = (int64_t)p->pixels / p->slices * p->taps * p->gi * p->go, wanted = divide_up(16 * threads, sheets * p->slices);
  const int fit = (int)((each * p->groups + BUNDLE - 1) / BUNDLE);
  return least(p->groups, most(fit, (int)wanted));
}

anx_conv_parts anx_conv_split(const anx_conv_plan *p, const anx_op *op, int sheets, int threads, int need_dx) {
  anx_conv_parts s = {.parts = 1, .bundles = p->groups};
  const int outputs = op->kind == ANX_CONV_BWD ? p->gi : p->go, whole = sheets * p->sections * p->groups, slices = sheets * p->slices * p->groups;
  s.fused = op->kind == ANX_CONV_BWD && 4 * whole >= 3 * threads * divide_up(whole, threads); /* threads are idle for a quarter at most */
  if (s.fused || op->kind == ANX_CONV_FWD) s.bundles = bundles(p, sheets, threads);
  if (s.fused) {
    s.tasks = s.bundles * p->sections;
    return s;
  }
  if (threads > 1 && slices < 2 * threads) s.parts = least(divide_up(2 * threads, slices), divide_up(outputs, PART));
  if (op->kind == ANX_CONV_BWD) {
    s.weight_parts = least(divide_up(2 * threads, whole), divide_up(p->go, PART));
    s.tasks = (whole * s.weight_parts + (need_dx ? slices * s.parts : 0)) / sheets;
  } else {
    s.tasks = p->slices * s.bundles * s.parts;
  }
  return s;
}

void anx_part_range(int n, int parts, int part, int *from, int *to) {
  *from = (int)((int64_t)n * part / parts);
  *to = (int)((int64_t)n * (part + 1) / parts);
}
