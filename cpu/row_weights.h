/* row_weights.h - the weight gradient of a 3x3 convolution of stride 1, from the input where it lies: row_weights.c. */
#ifndef ANX_CPU_ROW_WEIGHTS_H
#define ANX_CPU_ROW_WEIGHTS_H

#include "fetch.h"

/* Some rows of an image block, and a group. X, G and Y have the same strides. */
typedef struct anx_row_weights {
  const stored *x, *g, *y;   /* the first of the rows; g: null if D is there; y: null without coefficients */
  size_t channel, block;     /* strides of channels and of image blocks */
  const float *s, *t;        /* of X's activation, or null */
  const float *al, *be, *de; /* with y */
  float *d;                  /* D = al G + be Y + de, the first of the rows; where the map goes on, there is one above them and one below */
  size_t d_k, d_row, d_pixel; /* strides of its channels, rows and pixels; blocks lie side by side */
  int zeros;                 /* are written beside its rows as they are made */
  float *lanes;              /* [K][C][9][16] sums of each lane, and 3 vectors; they are kept for the next rows */
  int channels, blocks, rows, columns; /* of the group; of images; of D and of the map */
  int top, bottom;           /* whether the map begins and ends here */
  int first;                 /* of the rows whose sums these are */
} anx_row_weights;

#if ANX_ACCUMULATORS >= 24
#define ROW_CHANNELS 3 /* channels of D at once */
#else
#define ROW_CHANNELS 1
#endif

/* Pieces in which FN(anx_row_weights) fetches. */
AI int anx_row_weights_pieces(int channels, int columns, int k) {
  return channels * ((columns + ANX_STRIP - 1) / ANX_STRIP) * ((k + ROW_CHANNELS - 1) / ROW_CHANNELS);
}
/* Adds what the rows contribute to the weights of output channels k0..k1-1. */
void FN(anx_row_weights)(const anx_row_weights *, int k0, int k1, ahead *next);
/* The sums over all lanes, to dw of the group. */
void FN(anx_row_weights_sum)(const anx_row_weights *, int k0, int k1, float *dw);

#endif
