/* conv.c - convolution forward and backward.
 *
 *   A(n,h,w,c) = X, or act(X) = ReLU(s_c X + t_c)
 *   Y(n,p,q,k) = bias_k + sum over i, j < R and e < g of W(k,i,j,e) A(n, p stride + i - R/2, q stride + j - R/2, first(k) + e)
 *   first(k) = g floor(k / (K / (C/g))), the first input channel of output k's group; A is 0 outside the map
 *
 * X [N][H][W][C], Y [N][P][Q][K], W [K][R][R][g], all float. Backward is the same loop nest read the other way: where forward adds
 * W A to Y, backward adds W D to dA and A D to dW. Scratch: A of one image, dA of one image, dW; all in double. */
#include <string.h>

#include "reference.h"

/* act(X) of one image of `pixels` pixels, or X itself where s is NULL. */
static void load(double *a, const float *x, const float *s, const float *t, int64_t pixels, int64_t channels) {
  for (int64_t i = 0; i < pixels; i++)
    for (int64_t c = 0; c < channels; c++) {
      double v = x[i * channels + c];
      a[i * channels + c] = s ? ref_relu((double)s[c] * v + t[c]) : v;
    }
}

anx_status ref_conv_fwd(const ref_call *call) {
  const anx_op *o = call->op;
  const float *x = call->in[0], *s = call->in[1], *t = call->in[2], *filter = call->in[3], *bias = call->in[4];
  float *y = call->out[0];
  double *sums = call->out[1], *a = call->scratch;
  const int64_t H = o->h, W = o->w, C = o->c, P = o->p, Q = o->q, K = o->k, R = o->r, g = o->group;
  const int64_t outputs_per_group = K / (C / g);

  if (sums) memset(sums, 0, 2 * (size_t)K * sizeof *sums);
  for (int64_t n = 0; n < o->n; n++) {
    load(a, x + n * H * W * C, s, t, H * W, C);
    for (int64_t p = 0; p < P; p++)
      for (int64_t q = 0; q < Q; q++)
        for (int64_t k = 0; k < K; k++) {
          const int64_t first = g * (k / outputs_per_group);
          double sum = bias ? bias[k] : 0;
          for (int64_t i = 0; i < R; i++) {
            const int64_t h = p * o->stride + i - R / 2;
            if (h < 0 || h >= H) continue;
            for (int64_t j = 0; j < R; j++) {
              const int64_t w = q * o->stride + j - R / 2;
              if (w < 0 || w >= W) continue;
              for (int64_t e = 0; e < g; e++) sum += (double)filter[((k * R + i) * R + j) * g + e] * a[(h * W + w) * C + first + e];
            }
          }
          const float stored = ref_stored(o, sum);
          y[((n * P + p) * Q + q) * K + k] = stored;
          if (sums) {
            sums[k] += stored;
            sums[K + k] += (double)stored * stored;
          }
        }
  }
  return ANX_OK;
}

/* dX of one image: dA + add, masked by act(X) > 0 under an affine, and its sums with X - mean. */
static void store(const ref_call *call, int64_t n, const double *a, const double *da) {
  const int64_t C = call->op->c, values = (int64_t)call->op->h * call->op->w * C;
  const float *x = (const float *)call->in[5] + n * values, *mean = call->in[8];
  const float *add = call->in[10] ? (const float *)call->in[10] + n * values : NULL;
  float *dx = (float *)call->out[0] + n * values;
  double *sums = call->out[3];
  const int masked = call->in[6] != NULL;
  for (int64_t i = 0; i < values; i++) {
    const int64_t c = i % C;
    double v = da[i] + (add ? add[i] : 0);
    if (masked && !(a[i] > 0)) v = 0;
    dx[i] = ref_stored(call->op, v);
    if (sums) {
      sums[c] += dx[i];
      sums[C + c] += dx[i] * ((double)x[i] - mean[c]);
    }
  }
}

anx_status ref_conv_bwd(const ref_call *call) {
  const anx_op *o = call->op;
  const float *grad = call->in[0], *y = call->in[1], *al = call->in[2], *be = call->in[3], *de = call->in[4];
  const float *x = call->in[5], *s = call->in[6], *t = call->in[7], *filter = call->in[9];
  float *dx = call->out[0], *dw = call->out[1], *dbias = call->out[2];
  double *sums = call->out[3];
  const int64_t H = o->h, W = o->w, C = o->c, P = o->p, Q = o->q, K = o->k, R = o->r, g = o->group;
  const int64_t outputs_per_group = K / (C / g), filters = K * R * R * g;
  double *a = call->scratch, *da = a + H * W * C, *dfilter = da + H * W * C, *dsum = dfilter + filters;

  memset(dfilter, 0, (size_t)(filters + K) * sizeof *dfilter);
  if (sums) memset(sums, 0, 2 * (size_t)C * sizeof *sums);
  for (int64_t n = 0; n < o->n; n++) {
    load(a, x + n * H * W * C, s, t, H * W, C);
    memset(da, 0, (size_t)(H * W * C) * sizeof *da);
    for (int64_t p = 0; p < P; p++)
      for (int64_t q = 0; q < Q; q++)
        for (int64_t k = 0; k < K; k++) {
          const int64_t first = g * (k / outputs_per_group), at = ((n * P + p) * Q + q) * K + k;
          const double d = al ? (double)al[k] * grad[at] + (double)be[k] * y[at] + de[k] : grad[at];
          dsum[k] += d;
          for (int64_t i = 0; i < R; i++) {
            const int64_t h = p * o->stride + i - R / 2;
            if (h < 0 || h >= H) continue;
            for (int64_t j = 0; j < R; j++) {
              const int64_t w = q * o->stride + j - R / 2;
              if (w < 0 || w >= W) continue;
              for (int64_t e = 0; e < g; e++) {
                const int64_t f = ((k * R + i) * R + j) * g + e, m = (h * W + w) * C + first + e;
                da[m] += filter[f] * d;
                dfilter[f] += a[m] * d;
              }
            }
          }
        }
    if (dx) store(call, n, a, da);
  }
  for (int64_t f = 0; f < filters; f++) dw[f] = (float)dfilter[f];
  for (int64_t k = 0; dbias && k < K; k++) dbias[k] = (float)dsum[k];
  return ANX_OK;
}
