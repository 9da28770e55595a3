/* conv_pointwise.c - 1x1 convolutions, FC layers and strided projections included: Y = W act(X) as one matrix product over the pixels of all
 * images.
 *
 * Layout: a channel is one row of N/16 H W pixels of 16 images, so that 1x1 maps tile as well as large ones. With a stride, the pixels that
 *   are used are gathered into a tile.
 * Forward: pixels run outside and output channels inside, so that the pixels' columns stay in the first level cache while the weights stream past
 *   (1 byte per cycle). The first block of channels activates the columns on its way (bf16: and pairs channels up), behind its multiply-adds: 2 to
 *   3 cycles a vector less than a pass of its own over the slice (88->88 at 8 px 83 -> 88 % of the peak). The register tiles: point.h.
 * Backward: per slice of 16..64 pixels D = al G + be Y + de is formed once; dX = W^T D with mask and sums in registers; the mask's activation is left
 *   for the weight gradient, which is lane sums over the slice. Where slices have at most 32 vectors (1x1 and 2x2 maps) it is a product over pixels x
 *   images with input channels in the lanes (A transposed on the way in; no sums of lanes). Weights owned by a task see the slices in order.
 * Ahead: a slice is a row of 1..8 KB of each channel, rows as far apart as channels are. No hardware prefetcher follows that: packing D took 16 cycles
 *   a vector from memory (28 GB/s; one long run: 53) and takes 7 when the rows are brought near while the slice before is computed (anx_ahead).
 * The end of the block before, where it is one with the convolution (fuse.c): join_fwd in the registers of the first block of channels, join_bwd in rows,
 *   right behind the tiles of 48 channels.
 * Measured (Zen 5, one core, fp32, idle, lowest-median-highest of the peak): forward 84-90-93, 90-93-95, 94-94-97 % at 28, 14, 7 px, 70-85-91 % at 8 px,
 *   84-97 % below; both gradients 69-84-87, 80-86-89, 84-88-89 %, 60-74-83 %, 70-86 %; at 56 px 73-86-91 and 50-71-82 %.
 * What bounds the rest: D takes 7 cycles a vector (two lines in, one out) and serves C cycles of multiply-adds of both gradients: 15 % of 32->128 at
 *   28 px, the lowest there, and 30 % of 16->64 at 56 px. Writing results and first reads add 3 to 4 cycles an output vector.
 * Tried, no faster: forming D four pixels at a time; or behind the multiply-adds of the first block, as forward does: 38->152 at 8 px 71 -> 74 %, but
 *   16->64 at 56 px 51 -> 47, 64->256 at 28 px 76 -> 74, as G and Y then come in short pieces (D formed from the first level cache would give 80, 72 and
 *   85 %); or row by row behind the weight gradient's multiply-adds (32->128 at 28 px 68 %, as now; 80 without its loads and stores); columns that pass
 *   half as often, for two blocks of rows; asking for what backward reads half a slice ahead, or only while weight gradients are computed; asking for
 *   Y's lines before they are written; slices of 40, 65 or 96 pixels, or as long as the second level cache holds; always the product, or never.
 */
#include "conv_kernels.h"
#include "point.h"

#define COLUMNS 128       /* rows of A that stay in the second level cache while D's rows pass */
#define WIDE 64           /* input channels of one panel of the transposed tile */
#define ROWS 48           /* of the weight gradient that are taken through one such panel together */

static void slice_range(const anx_conv_plan *p, int slice, int *first, int *count) {
  int from, to;
  anx_part_range(p->units, p->slices, slice, &from, &to);
  *first = from * p->unit;
  *count = (to < p->units ? to * p->unit : p->pixels) - *first;
}

/* Where the input pixel of output pixel i lies in its channel, values. */
AI size_t input_at(const anx_op *op, int i) {
  if (op->stride == 1) return (size_t)i * 16;
  const int row = i / op->q, q = i % op->q, b = row / op->p, p = row % op->p;
  return (((size_t)b * (size_t)op->h + (size_t)(p * op->stride)) * (size_t)op->w + (size_t)(q * op->stride)) * 16;
}

/* Pixels first..first+count-1 of all channels of a group, activated, as rows of slots. */
static void pack_rows(const anx_call *call, int first, int count, const stored *x, const float *s, const float *t, float *tile) {
  const anx_conv_plan *p = &call->conv;
  const anx_op *op = call->op;
  const int run = op->stride == 1 ? count : op->q; /* strided slices are whole rows */
  for (int c = 0; c < p->gi; c += PAIR) {
    for (int i = 0; i < count; i += run)
      anx_pack_act_slots(tile + (size_t)(c / PAIR) * p->a_c + (size_t)i * 16, 16, x + (size_t)c * p->x_c + input_at(op, first + i), p->x_c,
                         p->gi - c, (size_t)op->stride * 16, run, s ? s + c : NULL, s ? t + c : NULL);
  }
}

/* The same as rows of values for the weight gradient. */
static void pack_weight_rows(const anx_call *call, int first, int count, const stored *x, const float *s, const float *t, float *tile) {
#if PAIR == 1
  pack_rows(call, first, count, x, s, t, tile);
#else
  const anx_conv_plan *p = &call->conv;
  for (int c = 0; c < p->gi; c++, x += p->x_c, tile += p->weights.a_c) {
    for (int i = 0; i < count; i += 2) {
      const size_t at = input_at(call->op, first + i), next = i + 1 < count ? input_at(call->op, first + i + 1) : at;
      vstore(tile + (size_t)i * 8, anx_two_pixels(x + at, next - at, next > at, s ? s + c : NULL, s ? t + c : NULL));
    }
  }
#endif
}

/* The same, transposed: panels of up to WIDE channels [pixel][image][channel], in bf16 [two pixels][two images][channel] of slots; channels
 * beyond gi are zero. */
static void pack_transposed(const anx_call *call, int first, int count, const stored *x, const float *s, const float *t, float *tile) {
  const anx_conv_plan *p = &call->conv;
  const anx_op *op = call->op;
  const int padded = (p->gi + 15) / 16 * 16;
  for (int c0 = 0; c0 < padded; c0 += 16) {
    const int panel = c0 / WIDE * WIDE, width = padded - panel < WIDE ? padded - panel : WIDE, n = p->gi - c0 < 16 ? p->gi - c0 : 16;
    float *to = tile + (size_t)panel * (size_t)((count + PAIR - 1) / PAIR) * 16 + (c0 - panel);
    for (int i = 0; i < count; i += PAIR, to += (size_t)width * 16) {
      const size_t pixel = input_at(op, first + i);
      const stored *at = x + (size_t)c0 * p->x_c + pixel;
      vf v[16 * LANES];
#if PAIR == 2
      const size_t next = i + 1 < count ? input_at(op, first + i + 1) - pixel : 0;
      for (int c = 0; c < 16; c++)
        v[c] = c < n ? anx_two_pixels(at + (size_t)c * p->x_c, next, next > 0, s ? s + c0 + c : NULL, s ? t + c0 + c : NULL) : vzero();
#else
      if (n == 16) {
        UNROLL for (int c = 0; c < 16; c++) {
          UNROLL for (int l = 0; l < LANES; l++) v[c * LANES + l] = vload(at + (size_t)c * p->x_c + l * VL);
        }
      } else {
        for (int c = 0; c < 16; c++) {
          for (int l = 0; l < LANES; l++) v[c * LANES + l] = c < n ? vload(at + (size_t)c * p->x_c + l * VL) : vzero();
        }
      }
      if (s) {
        for (int c = 0; c < n; c++) {
          const vf vs = vset(s[c0 + c]), vt = vset(t[c0 + c]);
          UNROLL for (int l = 0; l < LANES; l++) v[c * LANES + l] = vrelu(vaffine(vs, v[c * LANES + l], vt));
        }
      }
#endif
      anx_transpose16(v, to, (size_t)width);
    }
  }
}

/* Adds the rows that a slice reads of a tensor's channels. */
static void look_ahead(anx_ahead *a, const stored *channels, size_t pitch, int count_channels, int first, int count) {
  a->list[a->kinds++] = (anx_rows){(const char *)(channels + (size_t)first * 16), pitch * sizeof(stored), count_channels, count * 16 * (int)sizeof(stored)};
}

static void look_forward(anx_ahead *a, const anx_share *share) {
  const anx_call *call = share->next;
  if (!call || call->op->stride > 1) return;
  const anx_conv_plan *p = &call->conv;
  const size_t channel = (size_t)(share->next_group * p->gi) * p->x_c;
  int first, count;
  slice_range(p, share->next_slice, &first, &count);
  if (call->start) look_ahead(a, (const stored *)call->start->in[JOIN_Z] + channel, p->x_c, p->gi, first, count);
  look_ahead(a, (const stored *)(call->start ? call->start->in[JOIN_C] : call->in[FWD_X]) + channel, p->x_c, p->gi, first, count);
}

/* The tile's input is the end of the block before, which the first share of a slice also leaves in its place. */
static void start_block(const anx_call *call, anx_point_tile *t, int c_first, int first, int leave) {
  const anx_call *join = call->start;
  const size_t at = (size_t)c_first * call->conv.x_c + (size_t)first * 16;
  t->form = JOIN;
  t->from = (const stored *)join->in[JOIN_C] + at;
  t->from_s = (const float *)join->in[JOIN_S] + c_first;
  t->from_t = (const float *)join->in[JOIN_T] + c_first;
  t->other = (const stored *)join->in[JOIN_Z] + at;
  t->other_s = join->in[JOIN_SP] ? (const float *)join->in[JOIN_SP] + c_first : NULL;
  t->other_t = join->in[JOIN_SP] ? (const float *)join->in[JOIN_TP] + c_first : NULL;
  t->joined = leave ? (stored *)join->out[0] + at : NULL;
}

static void look_backward(anx_ahead *a, const anx_share *share) {
  const anx_call *call = share->next;
  if (!call) return;
  const anx_conv_plan *p = &call->conv;
  int first, count;
  slice_range(p, share->next_slice, &first, &count);
  const size_t x = (size_t)(share->next_group * p->gi) * p->x_c, y = (size_t)(share->next_group * p->go) * p->y_c;
  if (call->op->stride == 1 && !call->end) {
    if (call->in[BWD_ADD]) look_ahead(a, (const stored *)call->in[BWD_ADD] + x, p->x_c, p->gi, first, count);
    look_ahead(a, (const stored *)call->in[BWD_X] + x, p->x_c, p->gi, first, count);
  }
  if (call->in[BWD_AL]) look_ahead(a, (const stored *)call->in[BWD_Y] + y, p->y_c, p->go, first, count);
  look_ahead(a, (const stored *)call->in[BWD_G] + y, p->y_c, p->go, first, count);
}

void FN(anx_pointwise_forward)(const anx_call *call, const anx_share *share, float *scratch) {
  const anx_conv_plan *p = &call->conv;
  int first, count;
  slice_range(p, share->slice, &first, &count);
  const int c_first = share->group * p->gi, k_first = share->group * p->go;
  const stored *x = (const stored *)call->in[FWD_X] + (size_t)c_first * p->x_c;
  const float *s = call->in[FWD_S] ? (const float *)call->in[FWD_S] + c_first : NULL, *t = s ? (const float *)call->in[FWD_T] + c_first : NULL;
  anx_point_tile tile = {.x = scratch, .x_c = p->a_c};
  if (call->op->stride > 1) {
    pack_rows(call, first, count, x, s, t, scratch);
  } else if (PAIR == 2 || s || call->start) {
    tile.form = s ? ACTIVATE : PAIR_UP;
    tile.from = x + (size_t)first * 16;
    tile.from_c = p->x_c;
    tile.from_channels = p->gi;
    tile.from_s = s;
    tile.from_t = t;
    if (call->start) start_block(call, &tile, c_first, first, share->k0 == 0);
    tile.x_c = (size_t)(count < FORWARD_PIXELS ? count : FORWARD_PIXELS) * 16;
  } else {
    tile.x = (const float *)(const void *)(x + (size_t)first * 16);
    tile.x_c = p->x_c;
  }
  float *sums = NULL;
  if (call->out[FWD_SUMS]) {
    sums = scratch + p->a_floats;
    memset(sums + 32 * share->k0, 0, (size_t)(share->k1 - share->k0) * 32 * sizeof(float));
  }
  anx_ahead ahead = {.idle = (const char *)scratch};
  look_forward(&ahead, share);
  anx_ahead_row(&ahead);
  tile.ahead = &ahead;
  tile.w = anx_filter(call) + (size_t)k_first * (size_t)p->ci;
  tile.w_k = (size_t)p->ci;
  tile.w_c = 1;
  tile.channels = p->ci;
  tile.y = (stored *)call->out[FWD_Y] + (size_t)k_first * p->y_c + (size_t)first * 16;
  tile.y_k = p->y_c;
  tile.stream = anx_streams(call->images, call->op->p, call->op->q, call->op->k);
  tile.bias = call->in[FWD_BIAS] ? (const float *)call->in[FWD_BIAS] + k_first : NULL;
  tile.sums = sums;
  FN(anx_point)(&tile, share->k0, share->k1, count);
  if (sums)
    anx_store_partials(call->partial + ((size_t)share->slice * (size_t)call->op->k + (size_t)(k_first + share->k0)) * 2, sums + 32 * share->k0,
                       share->k1 - share->k0);
}

/* Spreads a dense gradient of the pixels a strided 1x1 has used over the input rows of the slice, zero elsewhere; then as the register tile's
 * epilogue: residual gradient, mask, sums. */
static void spread(const anx_call *call, const anx_share *share, const float *dense, int first, int count, float *sums) {
  const anx_conv_plan *p = &call->conv;
  const anx_op *op = call->op;
  const float *mean = call->in[call->in[BWD_MEAN] ? BWD_MEAN : BWD_T];
  const int stream = anx_streams(call->images, op->h, op->w, op->c);
  for (int c = share->c0; c < share->c1; c++) {
    const int channel = share->group * p->gi + c;
    const size_t base = (size_t)channel * p->x_c;
    const int masked = call->in[BWD_S] != NULL;
    const vf s = vset(masked ? ((const float *)call->in[BWD_S])[channel] : 0), t = vset(masked ? ((const float *)call->in[BWD_T])[channel] : 0),
             m = vset(masked ? mean[channel] : 0);
    for (int i = 0; i < count; i += op->q) {
      const float *from = dense + (size_t)c * p->a_c + (size_t)i * 16;
      const int top = (first + i) / op->q % op->p * op->stride, rows = op->h - top < op->stride ? op->h - top : op->stride;
      const size_t at = base + input_at(op, first + i);
      for (int j = 0; j < rows * op->w; j++) {
        const int used = j < op->w && j % op->stride == 0;
        for (int l = 0; l < 16; l += VL) {
          const size_t o = at + (size_t)j * 16 + (size_t)l;
          vf v = vzero();
          if (used) v = vload(from + (size_t)(j / op->stride) * 16 + l);
          if (call->in[BWD_ADD]) v = v + aload((const stored *)call->in[BWD_ADD] + o);
          if (masked) {
            const vf raw = aload((const stored *)call->in[BWD_X] + o);
            v = vkeep_gt(v, vaffine(s, raw, t), vzero());
            vstore(sums + 32 * c + l, vload(sums + 32 * c + l) + v);
            vstore(sums + 32 * c + 16 + l, vfma(v, raw - m, vload(sums + 32 * c + 16 + l)));
          }
          awrite((stored *)call->out[BWD_DX] + o, v, stream);
        }
      }
    }
  }
}

/* The input gradient and, some channels at a time, the end of the block before, whose maps are asked for while dX of these channels is computed. Ends in
 * registers, a few pixels of each channel at a time, took as long as a pass of their own over the map: pieces too short for prefetchers. */
static void end_block(const anx_call *call, const anx_share *share, anx_point_tile t, int first, int count, float *dx) {
  const anx_conv_plan *p = &call->conv;
  const int c_first = share->group * p->gi;
  double *partial = call->partial + ((size_t)share->slice * (size_t)call->op->c + (size_t)c_first) * 3;
  t.y_k = p->a_c;
  t.w += share->c0;
  anx_point_floats(&t, dx);
  for (int c0 = share->c0; c0 < share->c1; c0 += ANX_END_CHANNELS) {
    const int c1 = share->c1 - c0 < ANX_END_CHANNELS ? share->c1 : c0 + ANX_END_CHANNELS;
    const void *const maps[] = {call->end->in[END_P], call->in[BWD_ADD], call->end->in[END_C], call->in[BWD_X]};
    anx_ahead ahead = {.idle = (const char *)dx};
    for (int i = 0; i < 4; i++) {
      if (maps[i]) look_ahead(&ahead, (const stored *)maps[i] + (size_t)(c_first + c0) * p->x_c, p->x_c, c1 - c0, first, count);
    }
    anx_ahead_row(&ahead);
    t.ahead = &ahead;
    FN(anx_point)(&t, 0, c1 - c0, count);
    t.w += c1 - c0;
    for (int c = c0; c < c1; c++)
      FN(anx_end_channel)(call->end, c_first + c, (size_t)first, (size_t)(first + count), dx + (size_t)(c - c0) * p->a_c, call->in[BWD_ADD], partial + 3 * c);
  }
}

static void input_gradient(const anx_call *call, const anx_share *share, const float *d, size_t d_k, int first, int count, float *sums,
                           float *dense, float *active, anx_ahead *ahead) {
  const anx_conv_plan *p = &call->conv;
  const int c_first = share->group * p->gi, strided = call->op->stride > 1;
  const size_t at = (size_t)c_first * p->x_c + (size_t)first * 16;
  const int masked = call->in[BWD_S] != NULL;
  const float *mean = call->in[call->in[BWD_MEAN] ? BWD_MEAN : BWD_T]; /* no mean: its sums are not wanted */
  if (masked) memset(sums + 32 * share->c0, 0, (size_t)(share->c1 - share->c0) * 32 * sizeof(float));
  anx_point_tile t = {
      .ahead = ahead, .x = d, .x_c = d_k,
      .w = anx_filter(call) + (size_t)(share->group * p->co) * p->filter_row, .w_k = 1, .w_c = p->filter_row,
      .channels = p->co, .y_k = strided ? p->a_c : p->x_c};
  if (strided) {
    anx_point_floats(&t, dense);
  } else if (!call->end) {
    t.y = (stored *)call->out[BWD_DX] + at;
    t.stream = anx_streams(call->images, call->op->h, call->op->w, call->op->c);
    t.add = call->in[BWD_ADD] ? (const stored *)call->in[BWD_ADD] + at : NULL;
    if (masked) {
      t.raw = (const stored *)call->in[BWD_X] + at;
      t.s = (const float *)call->in[BWD_S] + c_first;
      t.t = (const float *)call->in[BWD_T] + c_first;
      t.mean = mean + c_first;
      t.sums = sums;
      t.active = active;
      t.active_k = p->a_c;
    }
  }
  if (call->end) {
    end_block(call, share, t, first, count, dense);
    return;
  }
  FN(anx_point)(&t, share->c0, share->c1, count);
  if (strided) spread(call, share, dense, first, count, sums);
  if (call->out[BWD_SUMS])
    anx_store_partials(call->partial + ((size_t)share->slice * (size_t)call->op->c + (size_t)(c_first + share->c0)) * 2, sums + 32 * share->c0,
                       share->c1 - share->c0);
}

/* dW[k][c] (+)= sum over pixels x images of D[k] A[c]: channels c in the lanes, D broadcast. */
static void weights_by_product(const anx_conv_plan *p, float *dw, const anx_share *share, const float *d, size_t d_k, const float *a, int vectors,
                               anx_ahead *ahead) {
  const int padded = (p->gi + 15) / 16 * 16;
  float out[ROWS * WIDE] __attribute__((aligned(64)));
  for (int c0 = 0; c0 < p->gi; c0 += WIDE) {
    const int width = padded - c0 < WIDE ? padded - c0 : WIDE, cn = p->gi - c0 < WIDE ? p->gi - c0 : WIDE;
    for (int k = share->k0; k < share->k1;) {
      const int kb = share->k1 - k < ROWS ? share->k1 - k : ROWS;
      anx_point_tile t = {.ahead = ahead, .x = a + (size_t)c0 * (size_t)vectors * 16, .x_c = (size_t)width, .w = d + (size_t)k * d_k, .w_k = d_k,
                          .w_c = 1, .channels = vectors * 16, .y_k = WIDE};
      anx_point_floats(&t, out);
      FN(anx_point)(&t, 0, kb, width / 16);
      for (int i = 0; i < kb; i++) {
        float *row = dw + (size_t)(k + i) * (size_t)p->gi + (size_t)c0;
        if (!share->first) {
          for (int c = 0; c < cn; c++) row[c] += out[i * WIDE + c];
        } else {
          memcpy(row, out + i * WIDE, (size_t)cn * sizeof(float));
        }
      }
      k += kb;
    }
  }
}

static void weights_by_lanes(const anx_conv_plan *p, float *dw, const anx_share *share, const float *d, size_t d_k, const float *a, size_t a_c,
                             int vectors, anx_ahead *ahead) {
  const anx_lanes_tile t = {.d = d, .d_k = d_k, .a = a, .a_c = a_c, .vectors = vectors, .dw = dw, .dw_k = (size_t)p->gi, .add = !share->first,
                            .ahead = ahead};
  for (int c = 0; c < p->gi; c += COLUMNS) FN(anx_lanes)(&t, share->k0, share->k1, c, p->gi - c < COLUMNS ? p->gi : c + COLUMNS);
}

static void bias_gradient(const anx_share *share, float *bias, const float *d, size_t d_k, int vectors) {
  for (int k = share->k0; k < share->k1; k++) {
    float lanes[16] __attribute__((aligned(64))) = {0};
    for (int i = 0; i < vectors; i++) {
      for (int l = 0; l < 16; l += VL) vstore(lanes + l, vmac(vones(), vload(d + (size_t)k * d_k + (size_t)i * 16 + l), vload(lanes + l)));
    }
    const float sum = anx_lane_sum(lanes);
    bias[k] = share->first ? sum : bias[k] + sum;
  }
}

void FN(anx_pointwise_backward)(const anx_call *call, const anx_share *share, float *scratch) {
  const anx_conv_plan *p = &call->conv;
  int first, count;
  slice_range(p, share->slice, &first, &count);
  const int c_first = share->group * p->gi, k_first = share->group * p->go, need_dx = share->c1 > share->c0, need_dw = share->k1 > share->k0;
  const size_t y_at = (size_t)k_first * p->y_c + (size_t)first * 16;
  const stored *g = (const stored *)call->in[BWD_G] + y_at, *y = call->in[BWD_AL] ? (const stored *)call->in[BWD_Y] + y_at : NULL;
  float *tile = scratch + p->a_floats, *sums = tile + p->d_floats, *dense = sums + p->sums_floats;
  const float *d = tile;
  size_t d_k = p->d_k;
  if (PAIR == 2 || y) {
    const float *al = call->in[BWD_AL], *be = call->in[BWD_BE], *de = call->in[BWD_DE];
    const int k1 = need_dx ? p->go : share->k1;
    for (int k = need_dx ? 0 : share->k0 / PAIR * PAIR; k < k1; k += PAIR)
      anx_pack_gradient_slots(tile + (size_t)(k / PAIR) * d_k, 16, g + (size_t)k * p->y_c, y ? y + (size_t)k * p->y_c : NULL, p->y_c, p->go - k, 16,
                              count, y ? al + k_first + k : NULL, y ? be + k_first + k : NULL, y ? de + k_first + k : NULL);
  } else {
    d = (const float *)(const void *)g;
    d_k = p->y_c;
  }
  anx_ahead ahead = {.idle = (const char *)scratch};
  look_backward(&ahead, share);
  anx_ahead_row(&ahead);
  /* The input gradient's mask is the weight gradient's input: formed once. */
  const int once = PAIR == 1 && need_dw && share->c1 - share->c0 == p->gi && call->in[BWD_S] && call->op->stride == 1 && !p->transposed;
  if (need_dx) input_gradient(call, share, d, d_k, first, count, sums, dense, once ? scratch : NULL, &ahead);
  if (!need_dw) return;
#if PAIR == 2
  float *rows = dense + p->dense_floats;
  for (int k = share->k0 / 2 * 2; k < share->k1; k += 2)
    anx_split_slots(rows + (size_t)k * p->weights.d_k, k + 1 < p->go ? rows + (size_t)(k + 1) * p->weights.d_k : NULL, d + (size_t)(k / 2) * d_k, 16, count);
  d = rows;
  d_k = p->weights.d_k;
#endif
  const int vectors = (count + PAIR - 1) / PAIR;
  const stored *x = (const stored *)call->in[BWD_X] + (size_t)c_first * p->x_c;
  const float *s = call->in[BWD_S] ? (const float *)call->in[BWD_S] + c_first : NULL;
  const float *t = call->in[BWD_S] ? (const float *)call->in[BWD_T] + c_first : NULL;
  float *dw = share->dw + (size_t)k_first * (size_t)p->gi;
  if (p->transposed) {
    pack_transposed(call, first, count, x, s, t, scratch);
    weights_by_product(p, dw, share, d, d_k, scratch, vectors, &ahead);
  } else if (PAIR == 2 || s || call->op->stride > 1) {
    if (!once) pack_weight_rows(call, first, count, x, s, t, scratch);
    weights_by_lanes(p, dw, share, d, d_k, scratch, p->weights.a_c, vectors, &ahead);
  } else {
    weights_by_lanes(p, dw, share, d, d_k, (const float *)(const void *)(x + (size_t)first * 16), p->x_c, vectors, &ahead);
  }
  if (call->out[BWD_DBIAS]) bias_gradient(share, share->dbias + k_first, d, d_k, vectors);
}
