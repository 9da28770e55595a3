/* point.h - the register tiles of 1x1 convolutions.
 *
 * KB output channels x PB pixels (x 16 images) stay in registers while the reduction runs over input channels; weights are broadcast. A call goes
 *   through many blocks of channels of the same pixels, whose columns stay in the first level cache, so that the loop of one block starts while the
 *   results of the block before are still written.
 * Cost beside the multiply-adds: 8 cycles a block that is only stored, 22 with sums, 66 with a mask (Zen 5, all in the first level cache; a tile
 *   that knows taps, rows and pitches takes 88, 107 and 139). What memory adds: conv_pointwise.c.
 *
 * The order of the additions into one output does not depend on KB or PB, which differ between instruction sets.
 */
#ifndef ANX_CPU_POINT_H
#define ANX_CPU_POINT_H

#include "tile.h"

/* Memory that the next slice reads, a short row of each of many channels, brought near while this one is computed: a line of it for each turn of a
 * tile's loop, until all have been asked for; two would be more than memory delivers meanwhile. Kinds of rows (of X, of G ...) are
 * taken from the last to the first. */
typedef struct anx_rows {
  const char *at;
  size_t pitch; /* from one row to the next, bytes */
  int rows, bytes;
} anx_rows;

typedef struct anx_ahead {
  const char *line, *end; /* of the row at hand */
  const char *idle;       /* memory that is near, for when nothing is left: cheaper than to ask */
  int kinds;
  anx_rows list[4];
} anx_ahead;

AI void anx_ahead_row(anx_ahead *a) {
  while (a->kinds && !a->list[a->kinds - 1].rows) a->kinds--;
  if (!a->kinds) {
    a->line = a->idle;
    a->end = a->idle + 4096;
    return;
  }
  anx_rows *r = &a->list[a->kinds - 1];
  a->line = r->at;
  a->end = r->at + r->bytes;
  r->at += r->pitch;
  r->rows--;
}

/* One turn, with copies of a's line and end in registers. */
#define AHEAD_TURN(a, line, end)               \
  do {                                         \
    __builtin_prefetch(line, 0, 2);            \
    line += 64;                                \
    if (__builtin_expect(line >= end, 0)) {    \
      anx_ahead_row(a);                        \
      line = (a)->line, end = (a)->end;        \
    }                                          \
  } while (0)

/* A tile's input lies there as slots, or is formed: ReLU(s x + t), the end of a block, or in bf16 two channels as they are. */
enum { READ, PAIR_UP, ACTIVATE, JOIN, FORMS };

typedef struct anx_point_tile {
  const float *x; /* slots of the input; pixels are neighbours. Formed: written by the first block of channels, one register tile after the other in
                   * the same place, which has room for FORWARD_PIXELS pixels or all */
  size_t x_c;     /* channel stride, slots */
  int form;
  const stored *from; /* what is formed: from_channels channels; pixels are neighbours */
  size_t from_c;
  int from_channels;
  const float *from_s, *from_t;
  const float *w;
  size_t w_k, w_c; /* output channel stride, reduction channel stride */
  int channels;
  stored *y;   /* pixels are neighbours */
  float *wide; /* bf16: results in fp32 in place of y, or null; see anx_point_floats */
  size_t y_k;
  int stream;         /* y is written past the caches, see anx_streams */
  const float *bias;  /* [K] or null; not with raw */
  const stored *add;  /* same strides as y, or null; with sums only beside raw */
  const stored *raw;  /* raw input whose activation masks, same strides as y, or null */
  const float *s, *t, *mean; /* [K], with raw */
  float *active;      /* null, or where to leave the activation that masks, for the weight gradient; pixels are neighbours; not in bf16 */
  size_t active_k;
  float *sums;        /* [K][2][16] lane vectors, or null; there with raw */
  anx_ahead *ahead;
  const stored *other;            /* JOIN: ReLU(s x + t + s' other + t'), same strides as from */
  const float *other_s, *other_t; /* null: other as it is */
  stored *joined;                 /* where that is left, past the caches, or null; same strides as from */
} anx_point_tile;

/* The results of a tile go to fp32 memory whatever is stored elsewhere. */
AI void anx_point_floats(anx_point_tile *t, float *y) {
#if PAIR == 1
  t->y = y;
#else
  t->wide = y;
#endif
}

#define POINT_CHANNELS FORWARD_CHANNELS

/* Output channels k0..k1-1 of count pixels; arrays indexed by output channel start at channel 0. */
void FN(anx_point)(const anx_point_tile *, int k0, int k1, int count);

/* Weight gradients from lane sums: dw[k][c] (+)= sum over vectors and lanes of d[k] a[c]. */
typedef struct anx_lanes_tile {
  const float *d, *a;
  size_t d_k, a_c; /* channel strides, slots */
  int vectors;
  float *dw;
  size_t dw_k;
  int add; /* to what is in dw */
  anx_ahead *ahead;
} anx_lanes_tile;

void FN(anx_lanes)(const anx_lanes_tile *, int k0, int k1, int c0, int c1);

#endif
