/* xent.c - softmax cross-entropy with label smoothing, top-1 and top-5, gradient. Doubles, one image at a time, counters in image order.
 * Logits are activations of a 1x1 map: [C][channel stride][16]. exp and log are our own, so that bits do not depend on the C library.
 * Cost: about 10 ns per logit. */
#include <math.h>
#include <string.h>
#include "cpu.h"

/* e^x for x <= 0, relative error below 1e-15: x = n ln 2 + r, Taylor series of e^r for |r| <= ln 2 / 2 */
static double exponential(double x) {
  if (!(x > -700)) return x != x ? x : 0;
  const double n = (double)(int)(x * 1.4426950408889634 - 0.5);
  const double r = (x - n * 0.69314718036912382) - n * 1.9082149292705877e-10; /* ln 2 in two parts: n times the first is exact */
  static const double inverse_factorial[] = {1.0 / 6227020800, 1.0 / 479001600, 1.0 / 39916800, 1.0 / 3628800, 1.0 / 362880, 1.0 / 40320, 1.0 / 5040,
                                             1.0 / 720, 1.0 / 120, 1.0 / 24, 1.0 / 6, 0.5, 1, 1};
  double sum = inverse_factorial[0];
  for (int i = 1; i < 14; i++) sum = sum * r + inverse_factorial[i];
  const uint64_t bits = (uint64_t)((int64_t)n + 1023) << 52;
  double power;
  memcpy(&power, &bits, sizeof power);
  return sum * power;
}

/* ln x for x >= 1: x = 2^n m, ln m = 2 artanh((m - 1) / (m + 1)), m in sqrt(1/2)..sqrt(2) */
static double logarithm(double x) {
  if (x != x) return x;
  uint64_t bits;
  memcpy(&bits, &x, sizeof bits);
  int n = (int)(bits >> 52) - 1023;
  bits = (bits & 0xfffffffffffffull) | 0x3ff0000000000000ull;
  double m;
  memcpy(&m, &bits, sizeof m);
  if (m > 1.4142135623730951) {
    m *= 0.5;
    n++;
  }
  const double z = (m - 1) / (m + 1), zz = z * z;
  double sum = 0;
  for (int i = 25; i > 0; i -= 2) sum = sum * zz + 1.0 / i;
  return 2 * z * sum + n * 0.69314718055994531;
}

void anx_xent(const anx_call *call) {
  const anx_op *op = call->op;
  const int classes = op->c;
  const int images = op->n / anx_sheets(op->n); /* of a sheet */
  const size_t stride = anx_channel_values(images, 1, 1);
  const int32_t *labels = call->in[1];
  double *counters = call->out[0];
  const double smoothing = (double)op->f[0], wanted = call->slot[0], scale = call->in[2] ? (double)((const float *)call->in[2])[ANX_SCALE] : 1;
  if (!(wanted >= 0 && wanted <= op->n) || wanted != floor(wanted)) {
    anx_fail_op(call->failure, ANX_INVALID_ARGUMENT, call->number, op, "%g valid rows of a batch of %d", wanted, op->n);
    return;
  }
  const int valid = (int)wanted;
  for (int i = 0; i < valid; i++) {
    if (labels[i] < 0 || labels[i] >= classes) {
      anx_fail_op(call->failure, ANX_INVALID_ARGUMENT, call->number, op, "row %d has label %d of %d classes", i, labels[i], classes);
      return;
    }
  }
  double *z = call->partial, *e = z + classes; /* [C] each */
  for (int i = 0; i < valid; i++) {
    /* lane i % 16 of block i / 16: blocks are 16 values apart, so image i is value i of a channel */
    const anx_call *sheet = call->sheets + i / images;
    const size_t at = (size_t)(i % images);
    for (int c = 0; c < classes; c++) z[c] = (double)anx_get(sheet->in[0], at + (size_t)c * stride, op->dtype);
    const int label = labels[i];
    const double own = z[label];
    double most = z[0], sum = 0, all = 0;
    int before = 0, nan = 0;
    for (int c = 0; c < classes; c++) {
      const double v = z[c];
      if (v > most) most = v;
      nan |= v != v;
      before += v > own || (v == own && c < label);
      all += v;
    }
    for (int c = 0; c < classes; c++) {
      const double v = exponential(z[c] - most);
      e[c] = v;
      sum += v;
    }
    const double log_sum = logarithm(sum) + most, spread = smoothing / classes;
    double loss = (1 - smoothing) * (log_sum - own);
    if (smoothing > 0) loss += spread * (classes * log_sum - all);
    counters[ANX_LOSS_SUM] += loss;
    counters[ANX_TOP1_RIGHT] += !nan && before < 1;
    counters[ANX_TOP5_RIGHT] += !nan && before < 5;
    counters[ANX_SEEN] += 1;
    if (sheet->out[1]) {
      const double each = scale / valid;
      for (int c = 0; c < classes; c++)
        anx_put(sheet->out[1], at + (size_t)c * stride, op->dtype, (float)(each * (e[c] / sum - (spread + (c == label ? 1 - smoothing : 0)))));
    }
  }
  if (call->out[1]) {
    for (int c = 0; c < classes; c++) {
      for (int i = valid; i < op->n; i++) anx_put(call->sheets[i / images].out[1], (size_t)c * stride + (size_t)(i % images), op->dtype, 0);
    }
  }
}
