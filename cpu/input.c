/* input.c - a batch of normalised crops from a uint8 set: gathers 16 images into the lanes. A task is some rows of one image block, 16 pixels
 * at a time: of each image they are normalised through a table of 256 values per channel, then transposed. A rectangle of the output's own
 * size is copied; another is resized bilinearly, with horizontal positions worked out once per task. The row that comes next is brought near: an
 * image is seldom in the caches.
 * Cost: 0.5 to 0.6 ns per value copied (Zen 5). */
#include <math.h>
#include "conv_kernels.h"

#define PARTS 4 /* of the rows of a block */

typedef struct job {
  const anx_call *call; /* of all sheets */
  float value[3][256]; /* normalised value of a byte */
  int64_t first;
} job;

/* An image, and where 16 columns of the output fall in its rows: byte of low and high, negative outside, and the share of high. */
typedef struct source {
  const uint8_t *image;
  const int32_t *sample;
  int h, w, c, copied;
  int32_t low[16], high[16];
  float share[16];
  int inside; /* all of them */
} source;

/* The two rows of an image that a row of the output lies between, null outside, and the share of the lower. */
typedef struct between {
  const uint8_t *upper, *lower;
  float share;
} between;

/* Where output position i falls in a side of `length` pixels: low, high and the share of high. */
static void place(int i, int size, int length, int *low, int *high, float *share) {
  double at = ((double)i + 0.5) * (double)length / (double)size - 0.5;
  if (at < 0) at = 0;
  if (at > (double)(length - 1)) at = (double)(length - 1);
  *low = (int)at;
  *high = *low + 1 < length ? *low + 1 : *low;
  *share = (float)(at - (double)*low);
}

static int32_t byte_of(const source *s, int x) {
  const int64_t at = (int64_t)s->sample[ANX_SAMPLE_X] + x;
  return at < 0 || at >= s->w ? -1 : (int32_t)at * s->c;
}

/* Columns x..x+15 of w. */
static void place_columns(source *s, int x, int w) {
  s->inside = 1;
  for (int i = 0; i < 16; i++) {
    const int column = s->sample[ANX_SAMPLE_FLIP] ? w - 1 - (x + i) : x + i, there = x + i < w;
    int low = column, high = column;
    if (!s->copied && there) place(column, w, s->sample[ANX_SAMPLE_W], &low, &high, &s->share[i]);
    s->low[i] = there ? byte_of(s, low) : -1;
    s->high[i] = there ? byte_of(s, high) : -1;
    s->inside &= s->low[i] >= 0 && s->high[i] >= 0;
  }
}

static const uint8_t *row_of(const source *s, int y) {
  const int64_t at = (int64_t)s->sample[ANX_SAMPLE_Y] + y;
  return at < 0 || at >= s->h ? NULL : s->image + (size_t)at * (size_t)s->w * (size_t)s->c;
}

/* Of output row y of h. */
static between rows_of(const source *s, int y, int h) {
  int low = y, high = y;
  between b = {.share = 0};
  if (!s->copied) place(y, h, s->sample[ANX_SAMPLE_H], &low, &high, &b.share);
  b.upper = row_of(s, low);
  b.lower = row_of(s, high);
  return b;
}

/* Both ends of the columns in a row that is needed soon: an image is seldom in the caches. */
static void fetch(const source *s, const uint8_t *row) {
  if (!row) return;
  if (s->low[0] >= 0) __builtin_prefetch(row + s->low[0]);
  if (s->low[15] >= 0) __builtin_prefetch(row + s->low[15]);
}

AI float pixel(const float *value, const uint8_t *row, int32_t at, const int INSIDE) { return INSIDE || (row && at >= 0) ? value[row[at]] : 0; }

AI void fill_channel(const float *value, const source *s, const between *b, float *to, const int INSIDE) {
  if (s->copied) {
    for (int i = 0; i < 16; i++) to[i] = pixel(value, b->upper, s->low[i], INSIDE);
    return;
  }
  for (int i = 0; i < 16; i++) {
    const float right = s->share[i];
    const float upper = (1 - right) * pixel(value, b->upper, s->low[i], INSIDE) + right * pixel(value, b->upper, s->high[i], INSIDE);
    const float lower = (1 - right) * pixel(value, b->lower, s->low[i], INSIDE) + right * pixel(value, b->lower, s->high[i], INSIDE);
    to[i] = (1 - b->share) * upper + b->share * lower;
  }
}

/* The columns of a row, three channels: rows[channel][lane][pixel], of one lane. */
static void fill(const job *j, const source *s, between b, float *rows) {
  const int inside = s->inside && b.upper && b.lower, step = s->c == 3;
  for (int channel = 0; channel < 3; channel++, rows += 256) {
    if (inside) fill_channel(j->value[channel], s, &b, rows, 1);
    else fill_channel(j->value[channel], s, &b, rows, 0);
    if (b.upper) b.upper += step;
    if (b.lower) b.lower += step;
  }
}

/* The 16 rows of a channel as n pixels; next: those of the next row. */
static void write_pixels(const float *rows, int n, stored *to, int stream, const stored *next) {
  for (int i = 0; i < n && !stream; i += 4 / (int)sizeof(stored)) __builtin_prefetch(next + i * 16, 1); /* lines that will be written */
  float pixels[256] __attribute__((aligned(64)));
  vf v[16 * LANES];
  UNROLL for (int i = 0; i < 16 * LANES; i++) v[i] = vload(rows + i * VL);
  anx_transpose16(v, pixels, 16);
  WRITE_RUN(to, 0, (size_t)n * 16, VL, stream, i, vload(pixels + i));
}

static void part_of_block(void *argument, int part, int thread) {
  const job *j = argument;
  const int parts = j->call->sheets->op->n / ANX_IMAGES * PARTS, sheet = part / parts; /* of a sheet */
  const anx_call *call = j->call->sheets + sheet;
  const anx_op *op = call->op;
  const anx_tensor *images = call->tin[0];
  const int32_t *labels = call->in[1], *samples = call->in[2];
  int32_t *y = call->out[1];
  const int b = part % parts / PARTS, stream = anx_streams(call->images, op->h, op->w, op->c);
  source sources[16];
  int h0, h1;
  (void)thread;
  anx_part_range(op->h, PARTS, part % PARTS, &h0, &h1);
  for (int lane = 0; lane < ANX_IMAGES; lane++) {
    const int row = sheet * op->n + b * ANX_IMAGES + lane;
    const int32_t *sample = samples + (size_t)(j->first + row) * ANX_SAMPLE_COLUMNS, number = sample[ANX_SAMPLE_IMAGE];
    if (part % PARTS == 0) y[row] = labels[number];
    sources[lane] = (source){.image = (const uint8_t *)call->in[0] + (size_t)number * (size_t)images->h * (size_t)images->w * (size_t)images->c,
                             .sample = sample, .h = images->h, .w = images->w, .c = images->c,
                             .copied = sample[ANX_SAMPLE_H] == op->h && sample[ANX_SAMPLE_W] == op->w};
  }
  const size_t channel = anx_channel_values(op->n, op->h, op->w);
  for (int x = 0; x < op->w; x += 16) {
    const int n = op->w - x < 16 ? op->w - x : 16;
    between at[16];
    for (int lane = 0; lane < ANX_IMAGES; lane++) {
      place_columns(&sources[lane], x, op->w);
      at[lane] = rows_of(&sources[lane], h0, op->h);
      fetch(&sources[lane], at[lane].upper);
    }
    for (int h = h0; h < h1; h++) {
      float rows[3][16][16] __attribute__((aligned(64)));
      for (int lane = 0; lane < ANX_IMAGES; lane++) {
        const between here = at[lane];
        at[lane] = rows_of(&sources[lane], h + 1, op->h);
        fetch(&sources[lane], at[lane].lower);
        fill(j, &sources[lane], here, rows[0][lane]);
      }
      stored *to = (stored *)call->out[0] + (((size_t)b * (size_t)op->h + (size_t)h) * (size_t)op->w + (size_t)x) * 16;
      for (int c = 0; c < 3; c++, to += channel) write_pixels(rows[c][0], n, to, stream, to + (h + 1 < h1 ? op->w * 16 : 0));
    }
  }
}

void FN(anx_input)(const anx_call *call) {
  const anx_op *op = call->op;
  const anx_tensor *table = call->tin[2];
  const int64_t rows = (int64_t)table->n * table->h * table->w * table->c / ANX_SAMPLE_COLUMNS;
  const double wanted = call->slot[0];
  if (!(wanted >= 0 && wanted + op->n <= (double)rows) || wanted != floor(wanted)) {
    anx_fail_op(call->failure, ANX_INVALID_ARGUMENT, call->number, op, "rows from %g on of a table of %lld", wanted, (long long)rows);
    return;
  }
  job j = {.call = call, .first = (int64_t)wanted};
  const int count = call->tin[0]->n;
  for (int i = 0; i < op->n; i++) {
    const int32_t *s = (const int32_t *)call->in[2] + (size_t)(j.first + i) * ANX_SAMPLE_COLUMNS;
    if (s[ANX_SAMPLE_IMAGE] < 0 || s[ANX_SAMPLE_IMAGE] >= count || s[ANX_SAMPLE_H] < 1 || s[ANX_SAMPLE_W] < 1 || (s[ANX_SAMPLE_FLIP] & ~1)) {
      anx_fail_op(call->failure, ANX_INVALID_ARGUMENT, call->number, op, "sample %lld: image %d of %d, rectangle %d x %d, flip %d",
                  (long long)(j.first + i), s[ANX_SAMPLE_IMAGE], count, s[ANX_SAMPLE_H], s[ANX_SAMPLE_W], s[ANX_SAMPLE_FLIP]);
      return;
    }
  }
  const float *norm = call->in[3];
  for (int c = 0; c < 3; c++) {
    for (int v = 0; v < 256; v++) j.value[c][v] = (float)(((double)v / 255 - (double)norm[c]) * (double)norm[3 + c]);
  }
  anx_pool_run(call->pool, part_of_block, &j, op->n / ANX_IMAGES * PARTS);
}
