/* conv_stem.c - the weight gradient of a dense RxR convolution whose input gradient nobody wants: the stem.
 *
 * Few input channels and many taps: dW is K rows of C R R columns. It is a product over pixels x images with output channels in the lanes: D = al G +
 *   be Y + de is transposed on the way in, up to WIDE channels of CHUNK pixels at a time, which stay in the first level cache while all columns pass;
 *   act(X), a zero-padded tile in the second level, is broadcast. A register tile is two vectors of output channels x COLUMNS columns, starts at zero
 *   for every chunk and is then added to the sums of the section, [column][output channel], which are turned round at its end.
 * The next chunk's G and Y, a short row of each of many channels, are brought near meanwhile (anx_ahead).
 *
 * Percent of the peak on a Zen 5 (265 GFLOP/s of one core, 530 in bf16), machine quiet; in brackets what lane sums over packed tiles came to, whose
 *   D, read from the second level cache for every four columns, bound them:
 *                          fp32      bf16      avx2
 *   7x7, 32 px, batch 128  84 (58)   81 (52)   87 (75)
 *   7x7, 224 px            82 (64)   81 (56)   85 (79)
 *   3x3, 32 px, batch 128  59 (45)   54 (40)   65 (52)
 *   3x3, 224 px            53 (35)   49 (28)   61 (38)
 * What is left, 224 px: D takes 7 cycles a vector, two lines in and one out, which serve 14 cycles of multiply-adds in fp32 at 3x3, 74 at 7x7 (27 and 8 %
 *   of the time); packing X 12 and 4 %.
 */
#include "conv_kernels.h"
#include "point.h"

#define CHUNK (ANX_STEM_PIXELS * PAIR)
#define WIDE ANX_STEM_CHANNELS
#define COLUMNS (ANX_ACCUMULATORS / 2)
#define SLOTS (16 / PAIR) /* of a pixel */

/* Neighbouring outputs of a block: whole rows, or a part of one. */
typedef struct chunk {
  int block, row, column, rows, columns; /* the first; how many */
} chunk;

/* Up to WIDE output channels of a chunk. */
typedef struct panel {
  const float *d;       /* [pixel][slot][width] */
  size_t width;
  int rows, columns;    /* of the chunk */
  size_t a_row, a_step; /* of the tile of act(X), from one output row and pixel to the next */
  size_t pitch;         /* of the sums, from one column to the next */
  int lines;            /* to bring near every 4 slots */
  anx_ahead *ahead;
} panel;

/* to[j][..] += sums over the chunk of D times column j: KV vectors of D from channel v on, JB columns. */
AI void columns_body(const panel *p, const float *const *columns, size_t v, float *to, const int KV, const int JB) {
  vf a[2 * COLUMNS];
  UNROLL for (int i = 0; i < KV * JB; i++) a[i] = vzero();
  const size_t width = p->width, step = p->a_step, pitch = p->pitch;
  const float *d = p->d + v;
  anx_ahead *const ahead = p->ahead;
  const char *line = ahead->line, *end = ahead->end;
  for (int row = 0; row < p->rows; row++) {
    const float *c[COLUMNS];
    UNROLL for (int j = 0; j < JB; j++) c[j] = columns[j] + (size_t)row * p->a_row;
    for (size_t o = 0; o < (size_t)p->columns * step; o += step) {
      UNROLL for (int i = 0; i < SLOTS; i++, d += width) {
        if (i % 4 == 0) {
          for (int j = 0; j < p->lines; j++) AHEAD_TURN(ahead, line, end);
        }
        vf of_d[2];
        UNROLL for (int k = 0; k < KV; k++) of_d[k] = vload(d + k * VL);
        UNROLL for (int j = 0; j < JB; j++) {
          const vf b = vheld(vset(c[j][o + (size_t)i]));
          UNROLL for (int k = 0; k < KV; k++) a[k * JB + j] = vmac(of_d[k], b, a[k * JB + j]);
        }
      }
    }
  }
  ahead->line = line;
  to += v;
  UNROLL for (int j = 0; j < JB; j++, to += pitch) {
    UNROLL for (int k = 0; k < KV; k++) vstore(to + k * VL, vload(to + k * VL) + a[k * JB + j]);
  }
}

#define ONE(KV, JB)                                                                                                            \
  static __attribute__((noinline)) void columns_##KV##_##JB(const panel *p, const float *const *columns, size_t v, float *to) { \
    columns_body(p, columns, v, to, KV, JB);                                                                                  \
  }
#define NAME(KV, JB) [JB] = columns_##KV##_##JB,
#if ANX_ACCUMULATORS >= 24
#define ALL(F, KV) F(KV, 1) F(KV, 2) F(KV, 3) F(KV, 4) F(KV, 5) F(KV, 6) F(KV, 7) F(KV, 8) F(KV, 9) F(KV, 10) F(KV, 11) F(KV, 12)
#else
#define ALL(F, KV) F(KV, 1) F(KV, 2) F(KV, 3) F(KV, 4) F(KV, 5) F(KV, 6)
#endif
typedef void (*columns_fn)(const panel *, const float *const *, size_t v, float *to);
ALL(ONE, 2)
static const columns_fn two_vectors[COLUMNS + 1] = {ALL(NAME, 2)};
#if VL == 16
ALL(ONE, 1)
static const columns_fn one_vector[COLUMNS + 1] = {ALL(NAME, 1)};
#endif

/* All columns of the filter, input channels inside, that meet the map: of tile a, from the chunk's first output on. */
static void all_columns(const anx_conv_plan *plan, const panel *p, const float *a, float *to) {
  const int all = plan->r_count * plan->s_count * plan->gi;
  int y = 0, x = 0, c = 0;
  for (int j = 0; j < all;) {
    const int jb = anx_part(all, COLUMNS, j);
    const float *columns[COLUMNS];
    for (int i = 0; i < jb; i++) {
      columns[i] = a + (size_t)c * plan->weights.a_c + (size_t)y * plan->weights.a_row + (size_t)x * plan->weights.a_pixel;
      if (++c < plan->gi) continue;
      c = 0;
      if (++x < plan->s_count) continue;
      x = 0;
      y++;
    }
    float *at = to + (size_t)j * p->pitch;
    size_t v = 0;
    for (; v + 2 * VL <= p->width; v += 2 * VL) two_vectors[jb](p, columns, v, at);
#if VL == 16
    if (v < p->width) one_vector[jb](p, columns, v, at);
#endif
    j += jb;
  }
}

/* The first chunk at or behind a place in a slice. */
static chunk chunk_at(const anx_conv_plan *p, const anx_op *op, int slice, int row, int column) {
  const int first = slice % p->row_slices * p->rows, rows = op->p - first < p->rows ? op->p - first : p->rows;
  chunk c = {.block = slice / p->row_slices, .row = first + row, .column = column, .rows = 1, .columns = op->q};
  if (op->q > CHUNK) c.columns = anx_part(op->q, CHUNK, column);
  else c.rows = rows - row < CHUNK / op->q ? rows - row : CHUNK / op->q;
  return c;
}

/* Where its outputs begin in a channel, values. */
static size_t outputs_at(const anx_op *op, const chunk *c) {
  return (((size_t)c->block * (size_t)op->p + (size_t)c->row) * (size_t)op->q + (size_t)c->column) * 16;
}

static void look_ahead(anx_ahead *a, const anx_call *call, const chunk *c, int k, int channels) {
  const size_t y_c = call->conv.y_c, at = (size_t)k * y_c + outputs_at(call->op, c);
  const int bytes = c->rows * c->columns * 16 * (int)sizeof(stored);
  if (call->in[BWD_AL]) a->list[a->kinds++] = (anx_rows){(const char *)((const stored *)call->in[BWD_Y] + at), y_c * sizeof(stored), channels, bytes};
  a->list[a->kinds++] = (anx_rows){(const char *)((const stored *)call->in[BWD_G] + at), y_c * sizeof(stored), channels, bytes};
}

/* Slots of a pixel of D of 16 channels, n of them there, in bf16 of two pixels, the second zero where there is none; transposed. */
AI void turn_pixels(const anx_call *call, const stored *g, const stored *y, int k, const int n, int two, float *to, size_t width) {
  const size_t y_c = call->conv.y_c;
  const float *al = call->in[BWD_AL], *be = call->in[BWD_BE], *de = call->in[BWD_DE];
  vf v[16 * LANES];
  UNROLL for (int c = 0; c < 16; c++) {
    UNROLL for (int l = 0; l < LANES; l++) {
      vf pixel[PAIR];
      UNROLL for (int i = 0; i < PAIR; i++) {
        const size_t at = (size_t)c * y_c + (size_t)(i * 16 + l * VL);
        pixel[i] = vzero();
        if (c >= n || (i && !two)) continue;
        pixel[i] = aload(g + at);
        if (y) pixel[i] = vfma(vset(al[k + c]), pixel[i], vfma(vset(be[k + c]), aload(y + at), vset(de[k + c])));
      }
#if PAIR == 2
      v[c] = vjoin(pixel[0], pixel[1]);
#else
      v[c * LANES + l] = pixel[0];
#endif
    }
  }
  anx_transpose16(v, to, width);
}

/* D of a chunk and of channels k..k+n-1, as panel.d. */
static void turn_gradient(const anx_call *call, const chunk *c, int k, int n, float *to, size_t width) {
  const size_t first = outputs_at(call->op, c);
  const int pixels = c->rows * c->columns;
  for (int k0 = 0; k0 < n; k0 += 16) {
    const size_t at = (size_t)(k + k0) * call->conv.y_c + first;
    const stored *g = (const stored *)call->in[BWD_G] + at, *y = call->in[BWD_AL] ? (const stored *)call->in[BWD_Y] + at : NULL;
    for (int i = 0; i < pixels; i += PAIR, g += 16 * PAIR) {
      float *rows = to + (size_t)(i * SLOTS) * width + k0;
      const int two = i + 1 < pixels;
      if (n - k0 >= 16) turn_pixels(call, g, y, k + k0, 16, two, rows, width);
      else turn_pixels(call, g, y, k + k0, n - k0, two, rows, width);
      if (y) y += 16 * PAIR;
    }
  }
}

/* act(X) of the rows that a slice looks at, as they lie in memory, zero outside the map. */
static void pack_input(const anx_call *call, int slice, float *tile) {
  const anx_conv_plan *p = &call->conv;
  const anx_weight_tiles *w = &p->weights;
  const anx_op *op = call->op;
  const int top = slice % p->row_slices * p->rows * op->stride - (p->pad - p->r_low), left = p->pad - p->s_low;
  const int inside = p->a_wp - left < op->w ? p->a_wp - left : op->w;
  for (int c = 0; c < p->gi; c++) {
    const stored *x = (const stored *)call->in[BWD_X] + (size_t)c * p->x_c + (size_t)(slice / p->row_slices) * (size_t)op->h * (size_t)op->w * 16;
    const float *s = call->in[BWD_S] ? (const float *)call->in[BWD_S] + c : NULL, *t = s ? (const float *)call->in[BWD_T] + c : NULL;
    for (int i = 0; i < p->a_rows; i++) {
      float *row = tile + (size_t)c * w->a_c + (size_t)i * w->a_row;
      const int h = top + i, there = h >= 0 && h < op->h ? inside : 0, before = there ? left : 0;
      memset(row, 0, (size_t)before * w->a_pixel * sizeof *row);
      memset(row + (size_t)(before + there) * w->a_pixel, 0, (size_t)(p->a_wp - before - there) * w->a_pixel * sizeof *row);
      if (there) anx_pack_act((stored *)(void *)(row + (size_t)before * w->a_pixel), 16, x + (size_t)h * (size_t)op->w * 16, 16, there, s, t);
    }
  }
}

/* Sums of D over the chunk. */
static void add_bias(const panel *p, float *to) {
  for (size_t v = 0; v < p->width; v += VL) {
    vf sum = vzero();
    for (size_t i = 0; i < (size_t)(p->rows * p->columns * SLOTS); i++) sum = vmac(vones(), vload(p->d + i * p->width + v), sum);
    vstore(to + v, vload(to + v) + sum);
  }
}

/* The section's sums into the gradient, whose other taps are zero. */
static void store_weights(const anx_call *call, const anx_share *share, const float *sums, size_t pitch) {
  const anx_conv_plan *p = &call->conv;
  const size_t filter = (size_t)p->taps * (size_t)p->gi, run = (size_t)p->s_count * (size_t)p->gi;
  for (int k = share->k0; k < share->k1; k++, sums++) {
    float *dw = share->dw + (size_t)k * filter;
    const float *from = sums;
    memset(dw, 0, filter * sizeof *dw);
    for (int y = 0; y < p->r_count; y++) {
      float *row = dw + (size_t)((p->r_low + y) * call->op->r + p->s_low) * (size_t)p->gi;
      for (size_t i = 0; i < run; i++, from += pitch) row[i] = *from;
    }
    if (call->out[BWD_DBIAS]) share->dbias[k] = *from;
  }
}

void FN(anx_stem_backward)(const anx_call *call, const anx_share *share, float *scratch) {
  const anx_conv_plan *p = &call->conv;
  const anx_op *op = call->op;
  const int channels = share->k1 - share->k0, all = p->r_count * p->s_count * p->gi, first = share->slice % p->row_slices * p->rows;
  const int rows = op->p - first < p->rows ? op->p - first : p->rows;
  const size_t pitch = (size_t)(channels + 15) / 16 * 16;
  float *a = scratch, *d = a + p->a_floats, *sums = d + p->d_floats;
  if (share->first) memset(sums, 0, (size_t)(all + 1) * pitch * sizeof *sums);
  pack_input(call, share->slice, a);
  anx_ahead ahead;
  const int passes = (all + COLUMNS - 1) / COLUMNS * (int)((pitch + 2 * VL - 1) / (2 * VL)); /* that see a pixel */
  const int lines = ((call->in[BWD_AL] ? 2 : 1) * channels * 16 * (int)sizeof(stored) / 64 + passes * (SLOTS / 4) - 1) / passes / (SLOTS / 4);
  chunk c = chunk_at(p, op, share->slice, 0, 0);
  while (c.row < first + rows) {
    const int below = c.column + c.columns == op->q;
    const chunk next = chunk_at(p, op, share->slice, c.row - first + (below ? c.rows : 0), below ? 0 : c.column + c.columns);
    ahead = (anx_ahead){.idle = (const char *)scratch};
    if (next.row < first + rows) {
      look_ahead(&ahead, call, &next, share->k0, channels);
    } else if (share->next) {
      const chunk other = chunk_at(&share->next->conv, share->next->op, share->next_slice, 0, 0);
      look_ahead(&ahead, share->next, &other, share->k0, channels);
    }
    anx_ahead_row(&ahead);
    for (int k = 0; k < channels; k += WIDE) {
      const int n = channels - k < WIDE ? channels - k : WIDE;
      const panel of = {.d = d, .width = (size_t)(n + 15) / 16 * 16, .rows = c.rows, .columns = c.columns, .a_row = (size_t)op->stride * p->weights.a_row,
                        .a_step = p->weights.a_step, .pitch = pitch, .lines = lines, .ahead = &ahead};
      turn_gradient(call, &c, share->k0 + k, n, d, of.width);
      all_columns(p, &of, a + (size_t)(c.row - first) * of.a_row + (size_t)c.column * of.a_step, sums + k);
      if (call->out[BWD_DBIAS]) add_bias(&of, sums + (size_t)all * pitch + k);
    }
    c = next;
  }
  if (share->last) store_weights(call, share, sums, pitch);
}
