/* cpu.h - what the files of this back end share: contexts, programs, the call that an op kernel receives, and plans of convolutions.
 *
 * Layout of an activation: [C][channel stride][16] of fp32 or bf16, where the vector at pixel (b H W + h W + w) of a channel holds image 16 b + lane.
 * All image blocks of a channel are contiguous, so that a 1x1 convolution sees one long row of N/16 H W pixels however small the map is.
 * The channel stride is an odd number of vectors: channels never share an L1 set by being a multiple of 4 KB apart.
 * A large batch lies in memory as two sheets, each the layout above for half of the images, one after the other. Two threads then write far from each
 * other: where halves of channels alternate, a core's prefetchers fetch what the other is about to write, 9 times slower (docs/cpu.md).
 */
#ifndef ANX_CPU_H
#define ANX_CPU_H

#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include "anx.h"

#define ANX_IMAGES 16 /* images in the lanes of one pixel's vectors */
#define ANX_MAX_FILTER 11 /* rows of the largest filter */
#define ANX_STRIP 56      /* columns of the weight gradient of a 3x3 that go down the map together */
#define ANX_NARROW 4      /* channels of the widest group that conv_narrow.c takes */
#define ANX_ROWS 32       /* channels of the widest group that row_weights.c takes */
#define ANX_END_CHANNELS 48 /* of an input gradient that a block ends with, in the second level cache */
#define ANX_STRIDED 32      /* channels of the widest group that conv_strided.c takes */
#define ANX_STRIDED_STRIP 6 /* channels of the widest group whose forward pass conv_strided.c computes in strips */
#define ANX_STEM_PIXELS 16   /* whose gradient conv_stem.c has in the first level cache (bf16: twice as many), */
#define ANX_STEM_CHANNELS 32 /* of so many channels */

typedef struct anx_pool anx_pool;
typedef void (*anx_task)(void *arg, int index, int thread);
int anx_pool_create(anx_pool **out, int threads); /* 0, or an errno */
void anx_pool_destroy(anx_pool *);
int anx_pool_threads(const anx_pool *);
/* Runs task(arg, 0..count-1, thread) on all threads and returns when all are done. Thread t begins with part t of the indices (anx_part_range), but
 * who runs which is not fixed: a task must own what it writes. Indices that follow the pixels keep a core's data in its caches. */
void anx_pool_run(anx_pool *, anx_task task, void *arg, int count);

/* Tiles over which the weight gradient runs, input [gi] and gradient [go], strides in slots. In fp32 they are the tiles of the other passes. In
 * bf16 a slot is two images here, so that a vector is two pixels of a row (or two blocks of a pixel), and no channel is interleaved with another;
 * at a stride, columns lie by their remainder, phase after phase, so that the two pixels are neighbours. */
typedef struct anx_weight_tiles {
  size_t a_c, a_row, a_pixel, a_phase, a_step; /* a_step: from one vector of a run (a row, or the blocks of a pixel) to the next */
  size_t d_k, d_row, d_pixel, d_floats;        /* d_floats: 0 in fp32 */
  int phases;
} anx_weight_tiles;

/* Geometry of a convolution: a function of the op record alone, because slices fix the order of reductions.
 * A slice is `blocks` image blocks x `rows` output rows, or (pointwise: R = 1) its part
 * of the `units` of the one long row of outputs (anx_part_range), `rows` pixels at most: the more equal slices are, the less one thread waits for another. */
typedef struct anx_conv_plan {
  int pointwise, transposed; /* transposed: the weight gradient as a product over images and pixels, see conv_pointwise.c */
  int narrow; /* taken by conv_narrow.c, or backward with one channel a group by conv_depthwise.c: a slice is an image block */
  int by_rows;  /* backward: the weight gradient is row_weights.c's */
  int strided; /* taken by conv_strided.c */
  int stem;   /* taken by conv_stem.c */
  int groups, gi, go; /* groups; input and output channels of one */
  int pair, ci, co;   /* values in a slot of a tile, 2 in bf16 (isa.h); slots that hold gi and go channels */
  int pad, taps;      /* R/2; R R */
  int blocks_total, pixels; /* N/16; N/16 P Q */
  int blocks, rows, row_slices, slices;
  int unit, units; /* pointwise: pixels that lie in one slice together, and the number of such units */
  int sections; /* of the slices (anx_part_range): each adds up a weight gradient of its own, and these are added in order */
  int weight_rows; /* spatial: rows whose lanes are summed together by the weight gradient */
  int r_low, r_count, s_low, s_count; /* rows and columns of the filter that meet the map */
  int a_rows, a_wp;                   /* padded input tile [ci][a_rows][a_wp][blocks][16] */
  int d_rows, d_wp, d_pad_h, d_pad_w; /* padded gradient tile [co][d_rows][d_wp][blocks][16] */
  size_t a_c, d_k;                    /* channel strides of the tiles, slots */
  size_t x_c, y_c;                    /* channel strides of X and Y, values */
  anx_weight_tiles weights;           /* of the weight gradient; in fp32 they are those above */
  size_t a_floats, d_floats, sums_floats, dense_floats; /* per thread; dense: input gradient of a 1x1 before it is spread (stride) or a block ends with it */
  size_t filter_floats; /* shared by the threads: a copy of the filter, in bf16 in pairs; 0: it is read where it is */
  size_t filter_row;    /* backward, from one (pair of) output channel to the next, slots */
  size_t weight_floats; /* of the gradients of filter and bias; one for each section but the first, whose place is the op's outputs */
} anx_conv_plan;

/* How the work is cut for a number of threads. Nobody's bits depend on it: every task owns whole outputs. Of each sheet, fused: sections x bundles,
 * both gradients of each; otherwise, one after the other: sections x bundles x weight_parts, slices x bundles x parts. A bundle: some groups. */
typedef struct anx_conv_parts {
  int fused, tasks, weight_parts, parts; /* tasks: of a sheet */
  int bundles;                           /* of the groups (anx_part_range) */
} anx_conv_parts;

/* The text goes to text, "op 7 conv_fwd [...]: " in front where op is given; returns status. */
typedef struct anx_failure {
  anx_status status;
  char text[512];
} anx_failure;
anx_status anx_fail(anx_failure *, anx_status, const char *format, ...) __attribute__((format(printf, 3, 4)));
anx_status anx_fail_op(anx_failure *, anx_status, int number, const anx_op *, const char *format, ...) __attribute__((format(printf, 5, 6)));

typedef struct anx_call anx_call;
typedef void (*anx_kernel)(const anx_call *);
struct anx_call {
  const anx_op *op;
  const anx_call *sheets; /* this call for each sheet: op has its images, tensors and partial are its own */
  int images;             /* of all sheets */
  const anx_call *end;    /* conv_bwd: the join_bwd behind it, where both are one (fuse.c); of a sheet the sheet's */
  const anx_call *start;  /* conv_fwd: the same of the join_fwd before it */
  anx_kernel kernel;      /* null: a neighbour makes this one too */
  void *in[ANX_MAX_IN], *out[ANX_MAX_OUT]; /* null where absent */
  const anx_tensor *tin[ANX_MAX_IN], *tout[ANX_MAX_OUT];
  anx_conv_plan conv; /* of a sheet: ANX_CONV_FWD and ANX_CONV_BWD */
  double slot[2];
  int number;
  anx_failure *failure; /* input and xent look at data and may refuse it */
  anx_pool *pool;
  float *scratch; /* threads x scratch_floats */
  size_t scratch_floats;
  double *partial; /* shared by the threads; see anx_conv_partials */
  float *filter;   /* shared; conv.filter_floats, see anx_filter */
  float *sections; /* shared; conv.weight_floats for each section of all sheets but the first */
};

typedef struct anx_kernels {
  const char *isa;
  anx_kernel op[ANX_OP_KINDS];
} anx_kernels;

static inline int anx_sheets(int n) { return n >= 8 * ANX_IMAGES && n % (2 * ANX_IMAGES) == 0 ? 2 : 1; }
/* From a channel to the next; n: the images of a sheet. */
static inline size_t anx_channel_values(int n, int h, int w) {
  const size_t pixels = (size_t)(n / ANX_IMAGES) * (size_t)h * (size_t)w;
  return (pixels | 1) * ANX_IMAGES;
}
/* A multiple of 64 bytes whatever is stored. */
static inline size_t anx_sheet_values(int n, int h, int w, int c) { return (anx_channel_values(n / anx_sheets(n), h, w) * (size_t)c + 31) / 32 * 32; }
/* One activation of a dtype, for code that is not worth a vector. Rounds to nearest even. */
static inline float anx_get(const void *values, size_t at, int dtype) {
  if (dtype == ANX_F32) return ((const float *)values)[at];
  const uint32_t bits = (uint32_t)((const uint16_t *)values)[at] << 16;
  float v;
  memcpy(&v, &bits, sizeof v);
  return v;
}
static inline void anx_put(void *values, size_t at, int dtype, float v) {
  if (dtype == ANX_F32) {
    ((float *)values)[at] = v;
    return;
  }
  uint32_t bits;
  memcpy(&bits, &v, sizeof bits);
  ((uint16_t *)values)[at] = (uint16_t)((v != v ? bits | 0x400000 : bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

struct anx_buffer {
  unsigned char *bytes, *sheets[2]; /* sheets: null until a tensor lies there, see memory.c */
  uint64_t size;
};
void *anx_allocate(uint64_t bytes); /* null: there is none */
void anx_release(void *, uint64_t bytes);
anx_status anx_make_sheets(anx_failure *, anx_buffer *, const anx_tensor *, int threads);
void anx_release_sheets(anx_buffer *);
unsigned char *anx_sheet_at(const anx_buffer *, const anx_tensor *, int sheet);

#define ANX_STREAM_BYTES ((size_t)9 << 19) /* the stem's output at 32 px has 8 / 9 of it, and its pool is 4 times as fast from the caches */

/* Whether an activation of n images is written past the caches: it is larger than what they keep until its reader comes, and an ordinary
 * store would first fetch the line that it overwrites. Every task ends with a fence (threads.c). */
static inline int anx_streams(int n, int h, int w, int c) {
  return anx_channel_values(n, h, w) * (size_t)c * sizeof(float) >= ANX_STREAM_BYTES;
}
static inline size_t anx_round64(size_t bytes) { return (bytes + 63) / 64 * 64; }

void anx_conv_plan_make(anx_conv_plan *, const anx_op *);
size_t anx_conv_scratch_floats(const anx_conv_plan *);
size_t anx_conv_partials(const anx_conv_plan *, const anx_op *, int ends_block); /* doubles */
anx_conv_parts anx_conv_split(const anx_conv_plan *, const anx_op *, int sheets, int threads, int need_dx);
void anx_part_range(int n, int parts, int part, int *from, int *to);
/* Pieces of the pixels of a sheet of a join: a function of the record, because its sums are added piece by piece. */
static inline int anx_join_pieces(const anx_op *op) {
  const int pixels = op->n / ANX_IMAGES * op->h * op->w;
  return pixels < 128 ? 1 : pixels < 256 ? 2 : pixels < 1024 ? pixels / 128 : 8;
}
/* Sums of slices in index order: out[0][c], out[1][c] from partial[slice][c][2]. */
void anx_combine_sums(double *out, const double *partial, int slices, int channels);
/* The outputs of a join_bwd from partial[slice][c][3]: sums of G, of G times C, of G times P. */
void anx_combine_end(const anx_call *end, const double *partial, int slices);

/* bf16: the context takes activations of it. buffer_bytes may be null: sizes of buffers are then not compared. */
anx_status anx_check_tensor(anx_failure *, int bf16, const char *what, const anx_tensor *, uint64_t *bytes);
int anx_overlap(const anx_tensor *, const anx_tensor *);
/* Whether op i, a convolution backward, and the op behind it, the end of the block before, run as one. */
int anx_ends_block(const anx_program_desc *, const anx_tensor *, const anx_op *, int i);
/* Whether op i, a convolution forward, and the op before it, the end of the block before, run as one. */
int anx_starts_block(const anx_tensor *, const anx_op *, int i);
anx_status anx_check_program(anx_failure *, int bf16, const anx_program_desc *, const anx_tensor *, const anx_op *, const uint64_t *buffer_bytes);

void anx_bn_fwd_coef(const anx_call *);
void anx_bn_bwd_coef(const anx_call *);
void anx_xent(const anx_call *);
void anx_loss_scale(const anx_call *);

#endif
