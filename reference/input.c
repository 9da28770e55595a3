/* input.c - normalised crops of a uint8 set.
 *
 * Row r of the sample table names an image and a source rectangle (y, x, height h, width w). Output pixel (i,j), flipped: (i, W-1-j),
 * looks at rectangle pixel ((i + 1/2) h / H - 1/2, (j + 1/2) w / W - 1/2), kept inside the rectangle, and takes the bilinear mean of
 * the four pixels around it (which is that pixel itself where the sizes agree). A pixel v of channel c counts as
 * (v / 255 - norm[0][c]) norm[1][c], and as 0 outside the image.
 *
 * images uint8 [count][ih][iw][1|3], labels int32 [count], samples int32 [rows][8], norm float [2][3]; X float [N][H][W][3],
 * y int32 [N]. */
#include <math.h>

#include "reference.h"

typedef struct source {
  const unsigned char *image;
  int64_t height, width, channels;
  const float *norm;
} source;

static double pixel(const source *s, int64_t y, int64_t x, int c) {
  if (y < 0 || y >= s->height || x < 0 || x >= s->width) return 0;
  const double v = s->image[(y * s->width + x) * s->channels + (s->channels == 1 ? 0 : c)];
  return (v / 255 - s->norm[c]) * s->norm[3 + c];
}

/* Where output position i of `size` falls in a rectangle side of `length`: between low and high, `share` of the way. */
static void place(int64_t i, int64_t size, int64_t length, int64_t *low, int64_t *high, double *share) {
  double at = ((double)i + 0.5) * (double)length / (double)size - 0.5;
  if (at < 0) at = 0;
  if (at > (double)(length - 1)) at = (double)(length - 1);
  *low = (int64_t)floor(at);
  *high = *low + 1 < length ? *low + 1 : *low;
  *share = at - (double)*low;
}

static anx_status check_row(const ref_call *call, int64_t row, const int32_t *sample, int32_t images) {
  const anx_op *o = call->op;
  if (sample[ANX_SAMPLE_IMAGE] < 0 || sample[ANX_SAMPLE_IMAGE] >= images)
    return ref_fail_op(call->context, ANX_INVALID_ARGUMENT, call->number, o, "sample %lld names image %d of a set of %d", (long long)row,
                       sample[ANX_SAMPLE_IMAGE], images);
  if (sample[ANX_SAMPLE_H] < 1 || sample[ANX_SAMPLE_W] < 1)
    return ref_fail_op(call->context, ANX_INVALID_ARGUMENT, call->number, o, "sample %lld has a rectangle of %d x %d pixels",
                       (long long)row, sample[ANX_SAMPLE_H], sample[ANX_SAMPLE_W]);
  if (sample[ANX_SAMPLE_FLIP] != 0 && sample[ANX_SAMPLE_FLIP] != 1)
    return ref_fail_op(call->context, ANX_INVALID_ARGUMENT, call->number, o, "sample %lld has flip %d, not 0 or 1", (long long)row,
                       sample[ANX_SAMPLE_FLIP]);
  return ANX_OK;
}

anx_status ref_input(const ref_call *call) {
  const anx_op *o = call->op;
  const anx_tensor *images = &call->tensors[o->in[0]], *table = &call->tensors[o->in[2]];
  const int32_t *labels = call->in[1], *samples = call->in[2];
  float *out = call->out[0];
  int32_t *y = call->out[1];
  const int64_t H = o->h, W = o->w, rows = (int64_t)table->n * table->h * table->w * table->c / ANX_SAMPLE_COLUMNS;
  const double wanted = call->slots[o->slot[0]];
  if (!(wanted >= 0 && wanted + o->n <= (double)rows) || wanted != floor(wanted))
    return ref_fail_op(call->context, ANX_INVALID_ARGUMENT, call->number, o, "%d rows from %g on of a sample table of %lld", o->n, wanted,
                       (long long)rows);
  const int64_t first = (int64_t)wanted;
  for (int64_t n = 0; n < o->n; n++) {
    const anx_status status = check_row(call, first + n, samples + (first + n) * ANX_SAMPLE_COLUMNS, images->n);
    if (status != ANX_OK) return status;
  }

  for (int64_t n = 0; n < o->n; n++) {
    const int32_t *sample = samples + (first + n) * ANX_SAMPLE_COLUMNS;
    const int64_t top = sample[ANX_SAMPLE_Y], left = sample[ANX_SAMPLE_X];
    const source s = {(const unsigned char *)call->in[0] + (int64_t)sample[ANX_SAMPLE_IMAGE] * images->h * images->w * images->c, images->h,
                      images->w, images->c, call->in[3]};
    y[n] = labels[sample[ANX_SAMPLE_IMAGE]];
    for (int64_t i = 0; i < H; i++)
      for (int64_t j = 0; j < W; j++) {
        int64_t y0, y1, x0, x1;
        double fy, fx;
        place(i, H, sample[ANX_SAMPLE_H], &y0, &y1, &fy);
        place(sample[ANX_SAMPLE_FLIP] ? W - 1 - j : j, W, sample[ANX_SAMPLE_W], &x0, &x1, &fx);
        for (int c = 0; c < 3; c++) {
          const double upper = (1 - fx) * pixel(&s, top + y0, left + x0, c) + fx * pixel(&s, top + y0, left + x1, c);
          const double lower = (1 - fx) * pixel(&s, top + y1, left + x0, c) + fx * pixel(&s, top + y1, left + x1, c);
          out[((n * H + i) * W + j) * 3 + c] = ref_stored(o, (1 - fy) * upper + fy * lower);
        }
      }
  }
  return ANX_OK;
}
