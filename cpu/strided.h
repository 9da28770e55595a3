/* strided.h - what both directions of conv_strided.c and conv_strided_gradients.c share: a slice of one group, and where it lies. */
#ifndef ANX_CPU_STRIDED_H
#define ANX_CPU_STRIDED_H

#include "conv_kernels.h"

/* One group of one slice; pointers to activations and maps are at its first image block's pixel, those to channels at the group's first. */
typedef struct strided_map {
  const stored *x, *g, *y; /* X at row 2 p0; backward G, Y (null without coefficients) at row p0 */
  const float *w, *bias;   /* bias or null */
  const float *s, *t;      /* of X's activation, or null */
  const float *al, *be, *de;
  const stored *add;       /* to the input gradient, or null */
  const float *mean;       /* the input gradient is masked, or null */
  stored *out;             /* Y at row p0, or the gradient of X at row 2 p0 */
  size_t x_c, y_c;         /* channel strides of X and Y, values */
  ptrdiff_t x_ahead;       /* forward: from here to the next slice's X */
  float *sums;             /* forward [outputs][2][16], in strips [outputs][2][rows][16], or null; backward [channels], even and odd rows, [2][16] */
  float *d, *lanes;        /* D [channels][rows + 1][columns + 1][16]; sums of the weight gradient [outputs][9][channels][16] */
  size_t d_k, d_row;
  int channels, outputs;   /* of the group */
  int w_in, columns;       /* of a row of X and of Y */
  int rows, rows_in;       /* of the slice, of Y and of X; the last slice of an odd map has an odd number */
  int below;               /* there is a row of Y below the slice; forward, it is a whole map */
  int stream;
} strided_map;

AI vf active_input(const stored *x, int active, vf s, vf t) { return active ? vrelu(vaffine(s, aload(x), t)) : aload(x); }

/* The image block of a slice, and its first row of Y. Divisions are dear where maps are small, which are one slice. */
AI int block_of(const anx_conv_plan *p, int slice) { return p->row_slices == 1 ? slice : slice / p->row_slices; }
AI int row_of(const anx_conv_plan *p, int slice) { return p->row_slices == 1 ? 0 : slice % p->row_slices * p->rows; }

AI strided_map map_of(const anx_call *call, const anx_share *share, const float *w) {
  const anx_conv_plan *p = &call->conv;
  const anx_op *op = call->op;
  const int p0 = row_of(p, share->slice), p1 = op->p - p0 < p->rows ? op->p : p0 + p->rows;
  strided_map m = {.w = w + (size_t)(share->group * p->go) * (size_t)(p->taps * p->gi), .x_c = p->x_c, .y_c = p->y_c, .channels = p->gi, .outputs = p->go,
                   .w_in = op->w, .columns = op->q, .rows = p1 - p0, .rows_in = (p1 == op->p ? op->h : 2 * p1) - 2 * p0, .below = p1 < op->p};
  return m;
}

/* Where a slice's rows begin in X, or in Y. */
AI size_t start_of_x(const anx_call *call, int group, int slice) {
  const anx_conv_plan *p = &call->conv;
  const anx_op *op = call->op;
  const size_t row = (size_t)block_of(p, slice) * (size_t)op->h + (size_t)(2 * row_of(p, slice));
  return (size_t)(group * p->gi) * p->x_c + row * (size_t)op->w * 16;
}
AI size_t start_of_y(const anx_call *call, int group, int slice) {
  const anx_conv_plan *p = &call->conv;
  const anx_op *op = call->op;
  const size_t row = (size_t)block_of(p, slice) * (size_t)op->p + (size_t)row_of(p, slice);
  return (size_t)(group * p->go) * p->y_c + row * (size_t)op->q * 16;
}

#endif
