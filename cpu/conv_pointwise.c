/* conv_pointwise.c - 1x1 convolutions of stride 1, FC layers included: Y = W act(X) as one matrix product over all pixels of all images.
 *
 * Layout: a channel is one row of N/16 H W pixels of 16 images, so that 1x1 maps tile as well as large ones.
 * Tile: a slice of up to 128 pixels is activated once into a per-thread tile; within it, pixels run outside and output channels inside, so
 *   that the pixels' columns stay in the first level cache while the weights stream past (1 byte per cycle).
 * Backward: a slice of 64 pixels; D = al G + be Y + de and A = act(X) are formed once, then dX = W^T D with mask and sums in registers, and
 *   dW += D A^T from lane accumulators. Weights owned by a task see the slices in order.
 */
#include "conv_kernels.h"

#define PANEL_FLOATS 4096 /* of a group of pixels over all reduction channels: 16 KB */
#define COLUMNS 128       /* rows of A that stay in the second level cache while D's rows pass */

static void slice_range(const anx_conv_plan *p, int slice, int *first, int *count) {
  *first = slice * p->rows;
  *count = p->pixels - *first < p->rows ? p->pixels - *first : p->rows;
}

/* Output channels k0..k1-1 of `count` pixels; arrays of t indexed by output channel start at channel 0. */
static void product(const anx_forward_tile *base, int k0, int k1, int count) {
  int panel = PANEL_FLOATS / 16 / base->channels;
  const int least = anx_forward_width[FORWARD_CHANNELS];
  if (panel < least) panel = least;
  for (int at = 0; at < count;) {
    const int n = anx_part(count, panel, at);
    for (int k = k0; k < k1;) {
      const int kb = anx_part(k1 - k0, FORWARD_CHANNELS, k - k0);
      anx_forward_tile t = *base;
      t.x += (size_t)at * 16;
      t.w += (size_t)k * t.w_k;
      const size_t o = (size_t)k * t.y_k + (size_t)at * 16;
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
      FN(anx_forward)(&t, kb, n);
      k += kb;
    }
    at += n;
  }
}

static const int32_t no_offset[1] = {0};

void FN(anx_pointwise_forward)(const anx_call *call, const anx_share *share, float *scratch) {
  const anx_conv_plan *p = &call->conv;
  int first, count;
  slice_range(p, share->slice, &first, &count);
  const int c_first = share->group * p->gi, k_first = share->group * p->go;
  const float *x = (const float *)call->in[FWD_X] + (size_t)c_first * p->x_c + (size_t)first * 16;
  size_t x_c = p->x_c;
  if (call->in[FWD_S]) {
    const float *s = (const float *)call->in[FWD_S] + c_first, *t = (const float *)call->in[FWD_T] + c_first;
    for (int c = 0; c < p->gi; c++) anx_pack_act(scratch + (size_t)c * p->a_c, 16, x + (size_t)c * x_c, 16, count, 1, s[c], t[c]);
    x = scratch;
    x_c = p->a_c;
  }
  float *sums = NULL;
  if (call->out[FWD_SUMS]) {
    sums = scratch + p->a_floats;
    memset(sums + 32 * share->k0, 0, (size_t)(share->k1 - share->k0) * 32 * sizeof(float));
  }
  const anx_forward_tile t = {
      .x = x, .x_c = x_c, .x_p = 16,
      .w = (const float *)call->in[FWD_W] + (size_t)k_first * (size_t)p->gi, .w_k = (size_t)p->gi, .w_c = 1,
      .x_tap = no_offset, .w_tap = no_offset, .channels = p->gi, .taps = 1,
      .y = (float *)call->out[FWD_Y] + (size_t)k_first * p->y_c + (size_t)first * 16, .y_k = p->y_c, .y_p = 16,
      .bias = call->in[FWD_BIAS] ? (const float *)call->in[FWD_BIAS] + k_first : NULL, .sums = sums};
  product(&t, share->k0, share->k1, count);
  if (sums)
    anx_store_partials(call->partial + ((size_t)share->slice * (size_t)call->op->k + (size_t)(k_first + share->k0)) * 2, sums + 32 * share->k0,
                       share->k1 - share->k0);
}

static void input_gradient(const anx_call *call, const anx_share *share, const float *d, size_t d_k, int first, int count, float *sums) {
  const anx_conv_plan *p = &call->conv;
  const int c_first = share->group * p->gi, k_first = share->group * p->go;
  const size_t at = (size_t)c_first * p->x_c + (size_t)first * 16;
  const int masked = call->in[BWD_S] != NULL;
  const float *mean = call->in[call->in[BWD_MEAN] ? BWD_MEAN : BWD_T]; /* no mean: its sums are not wanted */
  if (masked) memset(sums + 32 * share->c0, 0, (size_t)(share->c1 - share->c0) * 32 * sizeof(float));
  const anx_forward_tile t = {
      .x = d, .x_c = d_k, .x_p = 16,
      .w = (const float *)call->in[BWD_W] + (size_t)k_first * (size_t)p->gi, .w_k = 1, .w_c = (size_t)p->gi,
      .x_tap = no_offset, .w_tap = no_offset, .channels = p->go, .taps = 1,
      .y = (float *)call->out[BWD_DX] + at, .y_k = p->x_c, .y_p = 16,
      .add = call->in[BWD_ADD] ? (const float *)call->in[BWD_ADD] + at : NULL,
      .raw = masked ? (const float *)call->in[BWD_X] + at : NULL,
      .s = masked ? (const float *)call->in[BWD_S] + c_first : NULL,
      .t = masked ? (const float *)call->in[BWD_T] + c_first : NULL,
      .mean = masked ? mean + c_first : NULL,
      .sums = masked ? sums : NULL};
  product(&t, share->c0, share->c1, count);
  if (call->out[BWD_SUMS])
    anx_store_partials(call->partial + ((size_t)share->slice * (size_t)call->op->c + (size_t)(c_first + share->c0)) * 2, sums + 32 * share->c0,
                       share->c1 - share->c0);
}

static void weight_gradient(const anx_conv_plan *p, float *dw, const anx_share *share, const float *d, size_t d_k, const float *a, size_t a_c,
                            int count) {
  float lanes[32 * 16] __attribute__((aligned(64))) = {0}, out[32];
  const float *columns[WEIGHT_COLUMNS];
  for (int c0 = 0; c0 < p->gi; c0 += COLUMNS) {
    const int cn = p->gi - c0 < COLUMNS ? p->gi - c0 : COLUMNS;
    for (int k = share->k0; k < share->k1;) {
      const int kb = anx_part(share->k1 - share->k0, WEIGHT_ROWS, k - share->k0);
      for (int c = 0; c < cn;) {
        const int jb = anx_part(cn, anx_weight_width[kb], c);
        for (int j = 0; j < jb; j++) columns[j] = a + (size_t)(c0 + c + j) * a_c;
        FN(anx_weight)(d + (size_t)k * d_k, d_k, columns, 1, 0, 0, 1, 0, 0, count, 16, 16, lanes, kb, jb);
        for (int i = 0; i < kb * jb; i += 4) anx_lane_sum4(lanes + 16 * i, out + i);
        for (int i = 0; i < kb; i++) {
          float *row = dw + (size_t)(k + i) * (size_t)p->gi + (size_t)(c0 + c);
          for (int j = 0; j < jb; j++) row[j] = share->slice ? row[j] + out[i * jb + j] : out[i * jb + j];
        }
        c += jb;
      }
      k += kb;
    }
  }
}

void FN(anx_pointwise_backward)(const anx_call *call, const anx_share *share, float *scratch) {
  const anx_conv_plan *p = &call->conv;
  int first, count;
  slice_range(p, share->slice, &first, &count);
  const int c_first = share->group * p->gi, k_first = share->group * p->go, need_dx = share->c1 > share->c0, need_dw = share->k1 > share->k0;
  const size_t y_at = (size_t)k_first * p->y_c + (size_t)first * 16;
  const float *d = (const float *)call->in[BWD_G] + y_at;
  size_t d_k = p->y_c;
  if (call->in[BWD_AL]) {
    const float *al = (const float *)call->in[BWD_AL] + k_first, *be = (const float *)call->in[BWD_BE] + k_first,
                *de = (const float *)call->in[BWD_DE] + k_first, *y = (const float *)call->in[BWD_Y] + y_at;
    float *tile = scratch + p->a_floats;
    for (int k = need_dx ? 0 : share->k0; k < (need_dx ? p->go : share->k1); k++)
      anx_pack_gradient(tile + (size_t)k * p->d_k, 16, d + (size_t)k * d_k, y + (size_t)k * d_k, 16, count, al[k], be[k], de[k]);
    d = tile;
    d_k = p->d_k;
  }
  if (need_dx) input_gradient(call, share, d, d_k, first, count, scratch + p->a_floats + p->d_floats);
  if (!need_dw) return;
  const float *a = (const float *)call->in[BWD_X] + (size_t)c_first * p->x_c + (size_t)first * 16;
  size_t a_c = p->x_c;
  if (call->in[BWD_S]) {
    const float *s = (const float *)call->in[BWD_S] + c_first, *t = (const float *)call->in[BWD_T] + c_first;
    for (int c = 0; c < p->gi; c++) anx_pack_act(scratch + (size_t)c * p->a_c, 16, a + (size_t)c * a_c, 16, count, 1, s[c], t[c]);
    a = scratch;
    a_c = p->a_c;
  }
  weight_gradient(p, (float *)call->out[BWD_DW] + (size_t)k_first * (size_t)p->gi, share, d, d_k, a, a_c, count);
  if (call->out[BWD_DBIAS]) {
    float *bias = (float *)call->out[BWD_DBIAS] + k_first;
    for (int k = share->k0; k < share->k1; k++) {
      float lanes[16] __attribute__((aligned(64))) = {0};
      for (int i = 0; i < count; i++) {
        for (int l = 0; l < 16; l += VL) vstore(lanes + l, vload(lanes + l) + vload(d + (size_t)k * d_k + (size_t)i * 16 + l));
      }
      const float sum = anx_lane_sum(lanes);
      bias[k] = share->slice ? bias[k] + sum : sum;
    }
  }
}
