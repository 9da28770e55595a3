/* conv_grouped.c - every convolution that is not a 1x1 of stride 1: grouped and dense RxR, the stem, strided projections.
 *
 * Layout: per slice and group, the activated input as a zero-padded tile [gi][rows][columns][blocks][16] and, backward, the gradient
 *   D = al G + be Y + de as a tile with its halo. Large maps: one image block and some rows, register tiles run along a row. Small maps (rows
 *   of at most 4 pixels): up to 8 image blocks, register tiles run along the blocks of one pixel, and taps outside the map are not computed.
 * Filter rows and columns that never meet the map (1x1 maps: 8 of 9 taps) are dropped by the plan.
 * The input gradient is the same register tile over D with reversed taps; at stride 2 each parity of a row has its own taps.
 */
#include "conv_kernels.h"

#define MAX_TAPS (ANX_MAX_FILTER * ANX_MAX_FILTER)

typedef struct view {
  int block, blocks, p0, p1; /* of the slice */
  int rows;                  /* tile rows filled for it */
} view;

static view slice_view(const anx_conv_plan *p, const anx_op *op, int slice) {
  view v;
  v.block = slice / p->row_slices * p->blocks;
  v.blocks = p->blocks_total - v.block < p->blocks ? p->blocks_total - v.block : p->blocks;
  v.p0 = slice % p->row_slices * p->rows;
  v.p1 = op->p - v.p0 < p->rows ? op->p : v.p0 + p->rows;
  v.rows = (v.p1 - v.p0 - 1) * op->stride + p->r_count;
  return v;
}

/* Tile of act(X) for the slice, zero outside the map. all_rows: rows outside the map are cleared too. */
static void pack_input(const anx_call *call, const view *v, int group, const float *x0, const float *s, const float *t, float *tile) {
  const anx_conv_plan *p = &call->conv;
  const anx_op *op = call->op;
  const int top = v->p0 * op->stride - (p->pad - p->r_low), left = p->pad - p->s_low;
  const size_t pixel = (size_t)p->blocks * 16, row = (size_t)p->a_wp * pixel, map = (size_t)op->h * (size_t)op->w * 16;
  int right = p->a_wp - left; /* columns of the map in the tile: 0..right-1 */
  if (right > op->w) right = op->w;
  for (int c = 0; c < p->gi; c++) {
    const int channel = group * p->gi + c;
    const float *x = x0 + (size_t)channel * p->x_c + (size_t)v->block * map;
    const float cs = s ? s[channel] : 0, ct = s ? t[channel] : 0;
    for (int i = 0; i < v->rows; i++) {
      float *dst = tile + (size_t)c * p->a_c + (size_t)i * row;
      const int h = top + i;
      if (h < 0 || h >= op->h) {
        anx_zero_vectors(dst, (size_t)p->a_wp * (size_t)p->blocks);
        continue;
      }
      if (left) anx_zero_vectors(dst, (size_t)left * (size_t)p->blocks);
      if (left + right < p->a_wp) anx_zero_vectors(dst + (size_t)(left + right) * pixel, (size_t)(p->a_wp - left - right) * (size_t)p->blocks);
      dst += (size_t)left * pixel;
      const float *src = x + (size_t)h * (size_t)op->w * 16;
      if (p->blocks == 1) {
        anx_pack_act(dst, 16, src, 16, right, s != NULL, cs, ct);
      } else {
        for (int w = 0; w < right; w++) anx_pack_act(dst + (size_t)w * pixel, 16, src + (size_t)w * 16, map, v->blocks, s != NULL, cs, ct);
      }
    }
  }
}

/* Tile of D for the slice: rows p0-pad..p1-1+pad that exist, columns zero outside the map. */
static void pack_gradient(const anx_call *call, const view *v, int group, int k0, int k1, float *tile) {
  const anx_conv_plan *p = &call->conv;
  const anx_op *op = call->op;
  const size_t pixel = (size_t)p->blocks * 16, row = (size_t)p->d_wp * pixel, map = (size_t)op->p * (size_t)op->q * 16;
  const float *al = call->in[BWD_AL], *be = call->in[BWD_BE], *de = call->in[BWD_DE];
  for (int k = k0; k < k1; k++) {
    const int channel = group * p->go + k;
    const size_t at = (size_t)channel * p->y_c + (size_t)v->block * map;
    const float *g = (const float *)call->in[BWD_G] + at, *y = al ? (const float *)call->in[BWD_Y] + at : NULL;
    const float ca = al ? al[channel] : 0, cb = al ? be[channel] : 0, cd = al ? de[channel] : 0;
    for (int h = v->p0 - p->d_pad_h; h < v->p1 + p->d_pad_h; h++) {
      if (h < 0 || h >= op->p) continue; /* taps there are not computed */
      float *dst = tile + (size_t)k * p->d_k + (size_t)(h - v->p0 + p->d_pad_h) * row;
      if (p->d_pad_w) {
        anx_zero_vectors(dst, (size_t)p->d_pad_w * (size_t)p->blocks);
        anx_zero_vectors(dst + (size_t)(op->q + p->d_pad_w) * pixel, (size_t)p->d_pad_w * (size_t)p->blocks);
        dst += (size_t)p->d_pad_w * pixel;
      }
      const size_t o = (size_t)h * (size_t)op->q * 16;
      if (p->blocks == 1) {
        anx_pack_gradient(dst, 16, g + o, y ? y + o : NULL, 16, op->q, ca, cb, cd);
      } else {
        for (int q = 0; q < op->q; q++)
          anx_pack_gradient(dst + (size_t)q * pixel, 16, g + o + (size_t)q * 16, y ? y + o + (size_t)q * 16 : NULL, map, v->blocks, ca, cb, cd);
      }
    }
  }
}

/* All output channels k0..k1-1 of one run of pixels; `at` is its offset in y, add and raw. */
static void run_channels(const anx_forward_tile *base, int k0, int k1, size_t at, int count) {
  for (int k = k0; k < k1;) {
    const int kb = anx_part(k1 - k0, FORWARD_CHANNELS, k - k0);
    anx_forward_tile t = *base;
    const size_t o = (size_t)k * t.y_k + at;
    t.w += (size_t)k * t.w_k;
    t.y += o;
    if (t.bias) t.bias += k;
    if (t.add) t.add += o;
    if (t.raw) {
      t.raw += o;
      t.s += k;
      t.t += k;
      t.mean += k;
    }
    if (t.sums) t.sums += 32 * k;
    FN(anx_forward)(&t, kb, count);
    k += kb;
  }
}

void FN(anx_spatial_forward)(const anx_call *call, const anx_share *share, float *scratch) {
  const anx_conv_plan *p = &call->conv;
  const anx_op *op = call->op;
  const view v = slice_view(p, op, share->slice);
  const int k_first = share->group * p->go, st = op->stride, by_block = p->blocks > 1;
  pack_input(call, &v, share->group, call->in[FWD_X], call->in[FWD_S], call->in[FWD_T], scratch);
  float *sums = NULL;
  if (call->out[FWD_SUMS]) {
    sums = scratch + p->a_floats;
    memset(sums + 32 * share->k0, 0, (size_t)(share->k1 - share->k0) * 32 * sizeof(float));
  }
  const size_t pixel = (size_t)p->blocks * 16, row = (size_t)p->a_wp * pixel, map = (size_t)op->p * (size_t)op->q * 16;
  int32_t x_tap[MAX_TAPS], w_tap[MAX_TAPS];
  anx_forward_tile t = {
      .x_c = p->a_c, .x_p = by_block ? 16 : (size_t)st * 16,
      .w = (const float *)call->in[FWD_W] + (size_t)k_first * (size_t)p->taps * (size_t)p->gi, .w_k = (size_t)p->taps * (size_t)p->gi, .w_c = 1,
      .x_tap = x_tap, .w_tap = w_tap, .channels = p->gi,
      .y = (float *)call->out[FWD_Y] + (size_t)k_first * p->y_c + (size_t)v.block * map, .y_k = p->y_c, .y_p = by_block ? map : 16,
      .bias = call->in[FWD_BIAS] ? (const float *)call->in[FWD_BIAS] + k_first : NULL, .sums = sums};
  for (int h = v.p0; h < v.p1; h++) {
    for (int q = 0; q < (by_block ? op->q : 1); q++) {
      t.taps = 0;
      for (int r = p->r_low; r < p->r_low + p->r_count; r++) {
        const int ih = h * st + r - p->pad;
        if (ih < 0 || ih >= op->h) continue;
        for (int s = p->s_low; s < p->s_low + p->s_count; s++) {
          const int iw = q * st + s - p->pad;
          if (by_block && (iw < 0 || iw >= op->w)) continue;
          x_tap[t.taps] = (int32_t)((size_t)(r - p->r_low) * row + (size_t)(s - p->s_low) * pixel);
          w_tap[t.taps++] = (r * op->r + s) * p->gi;
        }
      }
      t.x = scratch + (size_t)((h - v.p0) * st) * row + (size_t)(q * st) * pixel;
      run_channels(&t, share->k0, share->k1, ((size_t)h * (size_t)op->q + (size_t)q) * 16, by_block ? v.blocks : op->q);
    }
  }
  if (sums)
    anx_store_partials(call->partial + ((size_t)share->slice * (size_t)op->k + (size_t)(k_first + share->k0)) * 2, sums + 32 * share->k0,
                       share->k1 - share->k0);
}

static void input_gradient(const anx_call *call, const anx_share *share, const view *v, const float *d, float *sums) {
  const anx_conv_plan *p = &call->conv;
  const anx_op *op = call->op;
  const int c_first = share->group * p->gi, k_first = share->group * p->go, st = op->stride, by_block = p->blocks > 1;
  const int masked = call->in[BWD_S] != NULL;
  const float *mean = call->in[call->in[BWD_MEAN] ? BWD_MEAN : BWD_T]; /* no mean: its sums are not wanted */
  if (masked) memset(sums + 32 * share->c0, 0, (size_t)(share->c1 - share->c0) * 32 * sizeof(float));
  const size_t pixel = (size_t)p->blocks * 16, row = (size_t)p->d_wp * pixel, map = (size_t)op->h * (size_t)op->w * 16;
  const size_t base = (size_t)c_first * p->x_c + (size_t)v->block * map;
  int32_t x_tap[MAX_TAPS], w_tap[MAX_TAPS];
  anx_forward_tile t = {
      .x = d, .x_c = p->d_k, .x_p = 16,
      .w = (const float *)call->in[BWD_W] + (size_t)k_first * (size_t)p->taps * (size_t)p->gi, .w_k = 1, .w_c = (size_t)p->taps * (size_t)p->gi,
      .x_tap = x_tap, .w_tap = w_tap, .channels = p->go,
      .y = (float *)call->out[BWD_DX] + base, .y_k = p->x_c, .y_p = by_block ? map : (size_t)st * 16,
      .add = call->in[BWD_ADD] ? (const float *)call->in[BWD_ADD] + base : NULL,
      .raw = masked ? (const float *)call->in[BWD_X] + base : NULL,
      .s = masked ? (const float *)call->in[BWD_S] + c_first : NULL,
      .t = masked ? (const float *)call->in[BWD_T] + c_first : NULL,
      .mean = masked ? mean + c_first : NULL,
      .sums = masked ? sums : NULL};
  const int h1 = v->p1 == op->p ? op->h : v->p1 * st;
  for (int h = v->p0 * st; h < h1; h++) {
    for (int w = 0; w < (by_block || st > op->w ? op->w : st); w++) {
      t.taps = 0;
      for (int r = p->r_low; r < p->r_low + p->r_count; r++) {
        const int ph = h + p->pad - r;
        if (ph < 0 || ph % st || ph / st >= op->p) continue;
        for (int s = p->s_low; s < p->s_low + p->s_count; s++) {
          const int qw = w + p->pad - s + op->r * st; /* kept positive for the remainder */
          if (qw % st) continue;
          const int q = qw / st - op->r;
          if (by_block && (q < 0 || q >= op->q)) continue;
          x_tap[t.taps] = (int32_t)((size_t)(ph / st - v->p0 + p->d_pad_h) * row + (size_t)(q + p->d_pad_w) * pixel);
          w_tap[t.taps++] = (r * op->r + s) * p->gi;
        }
      }
      const int count = by_block ? v->blocks : (op->w - w + st - 1) / st;
      run_channels(&t, share->c0, share->c1, ((size_t)h * (size_t)op->w + (size_t)w) * 16, count);
    }
  }
  if (call->out[BWD_SUMS])
    anx_store_partials(call->partial + ((size_t)share->slice * (size_t)op->c + (size_t)(c_first + share->c0)) * 2, sums + 32 * share->c0,
                       share->c1 - share->c0);
}

static void weight_gradient(const anx_call *call, const anx_share *share, const view *v, const float *a, const float *d) {
  const anx_conv_plan *p = &call->conv;
  const anx_op *op = call->op;
  float lanes[32 * 16] __attribute__((aligned(64))) = {0}, out[32];
  const float *columns[WEIGHT_COLUMNS];
  size_t place[WEIGHT_COLUMNS];
  const size_t pixel = (size_t)p->blocks * 16, a_row = (size_t)p->a_wp * pixel, d_row = (size_t)p->d_wp * pixel, st = (size_t)op->stride;
  const int met = p->r_count * p->s_count, all = met * p->gi, rows = v->p1 - v->p0, by_block = p->blocks > 1;
  const size_t filter = (size_t)p->taps * (size_t)p->gi;
  float *dw = (float *)call->out[BWD_DW] + (size_t)(share->group * p->go) * filter;
  d += (size_t)p->d_pad_h * d_row + (size_t)p->d_pad_w * pixel;
  if (share->slice == 0) memset(dw + (size_t)share->k0 * filter, 0, (size_t)(share->k1 - share->k0) * filter * sizeof(float));
  const int part = p->weight_rows;
  for (int r0 = 0; r0 < rows; r0 += part) {
    const int n = rows - r0 < part ? rows - r0 : part;
    for (int k = share->k0; k < share->k1;) {
      const int kb = anx_part(share->k1 - share->k0, WEIGHT_ROWS, k - share->k0);
      const float *dk = d + (size_t)k * p->d_k + (size_t)r0 * d_row, *ak = a + (size_t)r0 * st * a_row;
      int c = 0, r = 0, s = 0; /* columns: input channel outside, tap inside, so that neighbours share rows of A */
      for (int j0 = 0; j0 < all;) {
        const int jb = anx_part(all, anx_weight_width[kb], j0);
        for (int j = 0; j < jb; j++) {
          columns[j] = ak + (size_t)c * p->a_c + (size_t)r * a_row + (size_t)s * pixel;
          place[j] = (size_t)((r + p->r_low) * op->r + s + p->s_low) * (size_t)p->gi + (size_t)c;
          if (++s < p->s_count) continue;
          s = 0;
          if (++r < p->r_count) continue;
          r = 0;
          c++;
        }
        if (by_block) FN(anx_weight)(dk, p->d_k, columns, n, d_row, st * a_row, op->q, pixel, st * pixel, v->blocks, 16, 16, lanes, kb, jb);
        else FN(anx_weight)(dk, p->d_k, columns, 1, 0, 0, n, d_row, st * a_row, op->q, 16, st * 16, lanes, kb, jb);
        for (int i = 0; i < kb * jb; i += 4) anx_lane_sum4(lanes + 16 * i, out + i);
        for (int i = 0; i < kb; i++) {
          for (int j = 0; j < jb; j++) dw[(size_t)(k + i) * filter + place[j]] += out[i * jb + j];
        }
        j0 += jb;
      }
      k += kb;
    }
  }
  if (!call->out[BWD_DBIAS]) return;
  float *bias = (float *)call->out[BWD_DBIAS] + share->group * p->go;
  for (int k = share->k0; k < share->k1; k++) {
    float sum[16] __attribute__((aligned(64))) = {0};
    for (int i = 0; i < rows; i++) {
      for (int q = 0; q < op->q; q++) {
        for (int b = 0; b < v->blocks; b++) {
          const float *at = d + (size_t)k * p->d_k + (size_t)i * d_row + (size_t)q * pixel + (size_t)b * 16;
          for (int l = 0; l < 16; l += VL) vstore(sum + l, vload(sum + l) + vload(at + l));
        }
      }
    }
    const float total = anx_lane_sum(sum);
    bias[k] = share->slice ? bias[k] + total : total;
  }
}

void FN(anx_spatial_backward)(const anx_call *call, const anx_share *share, float *scratch) {
  const anx_conv_plan *p = &call->conv;
  const view v = slice_view(p, call->op, share->slice);
  const int need_dx = share->c1 > share->c0, need_dw = share->k1 > share->k0;
  float *d = scratch + p->a_floats;
  pack_gradient(call, &v, share->group, need_dx ? 0 : share->k0, need_dx ? p->go : share->k1, d);
  if (need_dx) input_gradient(call, share, &v, d, d + p->d_floats);
  if (!need_dw) return;
  pack_input(call, &v, share->group, call->in[BWD_X], call->in[BWD_S], call->in[BWD_T], scratch);
  weight_gradient(call, share, &v, scratch, d);
}
