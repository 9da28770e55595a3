/* fuse.c - which neighbouring ops run as one: a block's first convolution and the end of the block before. Forward, the end is made in the registers of the
 * convolution's first channels (point.c); backward, dX stays in the second level cache (end_block in conv_pointwise.c). What the end reads arrives behind
 * multiply-adds. */
#include "cpu.h"

/* Channels of the convolution's output at least, for each map that the end reads: with fewer, both took longer as one, since a tile asks for a line with
 * each of them and 24 vectors of dX (measured with 48, 64 and 96 channels of three maps, with 64 and 96 of four). */
#define CHANNELS 20

/* The same forward: with fewer, too little of what the end reads can be asked for (measured with 4, 20, 32, 38, 64, 88 and 96). Ends that the caches keep
 * are faster in long rows, apart. */
#define START_CHANNELS 36

static int any_overlap(const anx_tensor *tensors, const int32_t *a, int as, const int32_t *b, int bs) {
  for (int i = 0; i < as; i++) {
    for (int j = 0; j < bs; j++) {
      if (a[i] >= 0 && b[j] >= 0 && anx_overlap(&tensors[a[i]], &tensors[b[j]])) return 1;
    }
  }
  return 0;
}

int anx_ends_block(const anx_program_desc *d, const anx_tensor *tensors, const anx_op *ops, int i) {
  const anx_op *op = &ops[i], *end = op + 1;
  if (i + 1 >= d->ops || op->kind != ANX_CONV_BWD || op->r != 1 || op->stride != 1 || op->in[6] >= 0 || op->out[0] < 0) return 0;
  const int32_t dx = op->out[0], channels = op->k / (op->c / op->group), maps = 2 + (op->in[10] >= 0) + (end->in[4] >= 0);
  if (channels < CHANNELS * maps) return 0;
  if (end->kind != ANX_JOIN_BWD || end->flags & ANX_BROADCAST || end->in[0] != dx || end->in[1] != op->in[5] || !(tensors[dx].flags & ANX_TRANSIENT)) return 0;
  for (int j = i + 1; j < d->ops; j++) {
    for (int k = j == i + 1; k < ANX_MAX_IN; k++) { /* nobody else reads dX */
      if (ops[j].in[k] == dx) return 0;
    }
  }
  return !any_overlap(tensors, end->out, ANX_MAX_OUT, op->in, ANX_MAX_IN) && !any_overlap(tensors, end->out, ANX_MAX_OUT, op->out + 1, ANX_MAX_OUT - 1) &&
         !any_overlap(tensors, op->out + 1, ANX_MAX_OUT - 1, end->in, ANX_MAX_IN);
}

int anx_starts_block(const anx_tensor *tensors, const anx_op *ops, int i) {
  const anx_op *op = &ops[i], *join = op - 1;
  if (!i || op->kind != ANX_CONV_FWD || op->r != 1 || op->stride != 1 || op->in[1] >= 0 || op->k / (op->c / op->group) < START_CHANNELS ||
      !anx_streams(op->n, op->h, op->w, op->c))
    return 0;
  return join->kind == ANX_JOIN_FWD && join->in[3] >= 0 && join->out[0] == op->in[0] && !any_overlap(tensors, op->out, ANX_MAX_OUT, join->in, ANX_MAX_IN) &&
         !any_overlap(tensors, join->out, ANX_MAX_OUT, op->in + 1, ANX_MAX_IN - 1);
}
