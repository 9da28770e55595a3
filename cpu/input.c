/* input.c - a batch of normalised crops from a uint8 set: gathers 16 images into the lanes. A task is some rows of one image block.
 * A rectangle of the output's own size is copied through a table of 256 normalised values per channel; another is resized bilinearly with
 * horizontal positions worked out once per image. Cost: about 1 ns per value copied, 5 ns per value resized. */
#include <math.h>
#include "cpu.h"

#define PARTS 4 /* of the rows of a block */

typedef struct job {
  const anx_call *call; /* of all sheets */
  float value[3][256]; /* normalised value of a byte */
  int64_t first;
} job;

typedef struct source {
  const uint8_t *image;
  int h, w, c;
} source;

/* Where output position i falls in a side of `length` pixels: low, high and the share of high. */
static void place(int i, int size, int length, int *low, int *high, float *share) {
  double at = ((double)i + 0.5) * (double)length / (double)size - 0.5;
  if (at < 0) at = 0;
  if (at > (double)(length - 1)) at = (double)(length - 1);
  *low = (int)at;
  *high = *low + 1 < length ? *low + 1 : *low;
  *share = (float)(at - (double)*low);
}

static float pixel(const job *j, const source *s, int64_t y, int64_t x, int channel) {
  if (y < 0 || x < 0 || y >= s->h || x >= s->w) return 0;
  return j->value[channel][s->image[((size_t)y * (size_t)s->w + (size_t)x) * (size_t)s->c + (size_t)(s->c == 3 ? channel : 0)]];
}

static void resize(const job *j, const source *s, const int32_t *sample, void *tensor, size_t out, size_t channel_stride, int h0, int h1, int h, int w) {
  const int64_t top = sample[ANX_SAMPLE_Y], left = sample[ANX_SAMPLE_X];
  for (int x = 0; x < w; x++) {
    int x0, x1;
    float fx;
    place(sample[ANX_SAMPLE_FLIP] ? w - 1 - x : x, w, sample[ANX_SAMPLE_W], &x0, &x1, &fx);
    for (int y = h0; y < h1; y++) {
      int y0, y1;
      float fy;
      place(y, h, sample[ANX_SAMPLE_H], &y0, &y1, &fy);
      for (int c = 0; c < 3; c++) {
        const float a = pixel(j, s, top + y0, left + x0, c), b = pixel(j, s, top + y0, left + x1, c);
        const float d = pixel(j, s, top + y1, left + x0, c), e = pixel(j, s, top + y1, left + x1, c);
        const float upper = (1 - fx) * a + fx * b, lower = (1 - fx) * d + fx * e;
        anx_put(tensor, out + (size_t)c * channel_stride + ((size_t)y * (size_t)w + (size_t)x) * 16, j->call->op->dtype,
                (1 - fy) * upper + fy * lower);
      }
    }
  }
}

static void copy(const job *j, const source *s, const int32_t *sample, void *tensor, size_t out, size_t channel_stride, int h0, int h1, int w) {
  const int64_t top = sample[ANX_SAMPLE_Y], left = sample[ANX_SAMPLE_X];
  const int flip = sample[ANX_SAMPLE_FLIP];
  for (int c = 0; c < 3; c++) {
    const float *value = j->value[c];
    size_t to = out + (size_t)c * channel_stride + (size_t)h0 * (size_t)w * 16;
    for (int y = h0; y < h1; y++) {
      const int64_t sy = top + y;
      const int inside = sy >= 0 && sy < s->h;
      const uint8_t *row = inside ? s->image + (size_t)sy * (size_t)s->w * (size_t)s->c + (s->c == 3 ? c : 0) : NULL;
      for (int x = 0; x < w; x++, to += 16) {
        const int64_t sx = left + (flip ? w - 1 - x : x);
        anx_put(tensor, to, j->call->op->dtype, inside && sx >= 0 && sx < s->w ? value[row[(size_t)sx * (size_t)s->c]] : 0);
      }
    }
  }
}

static void part_of_block(void *argument, int part, int thread) {
  const job *j = argument;
  const int parts = j->call->sheets->op->n / ANX_IMAGES * PARTS, sheet = part / parts; /* of a sheet */
  const anx_call *call = j->call->sheets + sheet;
  const anx_op *op = call->op;
  const anx_tensor *images = call->tin[0];
  const int32_t *labels = call->in[1], *samples = call->in[2];
  int32_t *y = call->out[1];
  const int b = part % parts / PARTS;
  int h0, h1;
  (void)thread;
  anx_part_range(op->h, PARTS, part % PARTS, &h0, &h1);
  const size_t channel_stride = anx_channel_values(op->n, op->h, op->w), bytes = (size_t)images->h * (size_t)images->w * (size_t)images->c;
  for (int lane = 0; lane < ANX_IMAGES; lane++) {
    const int row = sheet * op->n + b * ANX_IMAGES + lane;
    const int32_t *sample = samples + (size_t)(j->first + row) * ANX_SAMPLE_COLUMNS;
    const source s = {(const uint8_t *)call->in[0] + (size_t)sample[ANX_SAMPLE_IMAGE] * bytes, images->h, images->w, images->c};
    const size_t out = (size_t)b * (size_t)op->h * (size_t)op->w * 16 + (size_t)lane;
    if (part % PARTS == 0) y[row] = labels[sample[ANX_SAMPLE_IMAGE]];
    if (sample[ANX_SAMPLE_H] == op->h && sample[ANX_SAMPLE_W] == op->w) copy(j, &s, sample, call->out[0], out, channel_stride, h0, h1, op->w);
    else resize(j, &s, sample, call->out[0], out, channel_stride, h0, h1, op->h, op->w);
  }
}

void anx_input(const anx_call *call) {
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
