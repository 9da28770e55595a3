/* storage.c - values of F16 and BF16.
 *
 * An op works on floats whatever the storage is: program.c widens the 16-bit activations that it reads, which is exact, and narrows those
 * it has written, which is exact too, because the op rounds every value that it stores (ref_stored), so that its sums are of what lies in
 * memory. Rounding is to nearest even from double, once. */
#include <math.h>
#include <string.h>

#include "reference.h"

/* To nearest even of `digits` significant bits, fewer where the exponent would be below `lowest`; infinite beyond `largest`. */
static double round_to(double v, int digits, int lowest, double largest) {
  int exponent;
  if (v == 0 || !isfinite(v)) return v;
  frexp(v, &exponent); /* |v| = 0.5..1 times 2^exponent */
  if (exponent - 1 < lowest) exponent = lowest + 1;
  const double unit = ldexp(1, exponent - digits), rounded = nearbyint(v / unit) * unit;
  return fabs(rounded) > largest ? copysign(INFINITY, v) : rounded;
}

float ref_rounded(int32_t dtype, double v) {
  switch (dtype) {
    case ANX_F16: return (float)round_to(v, 11, -14, 65504);
    case ANX_BF16: return (float)round_to(v, 8, -126, 0x1.fep127);
    default: return (float)v;
  }
}

static uint32_t bits_of(float v) {
  uint32_t bits;
  memcpy(&bits, &v, sizeof bits);
  return bits;
}

static float widened(int32_t dtype, uint16_t stored) {
  const int exponent = stored >> 10 & 31, mantissa = stored & 1023;
  if (dtype == ANX_BF16) {
    const uint32_t bits = (uint32_t)stored << 16;
    float v;
    memcpy(&v, &bits, sizeof v);
    return v;
  }
  const double v = exponent == 31 ? (mantissa ? NAN : INFINITY) : exponent ? ldexp(1024 + mantissa, exponent - 25) : ldexp(mantissa, -24);
  return (float)copysign(v, stored & 0x8000 ? -1 : 1);
}

/* v is a value of dtype. */
static uint16_t narrowed(int32_t dtype, float v) {
  const uint32_t bits = bits_of(v);
  const uint16_t sign = bits >> 16 & 0x8000;
  if (dtype == ANX_BF16) return (uint16_t)(v == v ? bits >> 16 : sign | 0x7fc0);
  if (v != v) return sign | 0x7e00;
  if (isinf(v)) return sign | 0x7c00;
  if (fabsf(v) < 0x1p-14f) return sign | (uint16_t)(fabsf(v) * 0x1p24f);
  return sign | (uint16_t)((bits >> 13 & 0x3ffff) - (112 << 10));
}

void ref_widen(float *values, const void *stored, int32_t dtype, uint64_t count) {
  for (uint64_t i = 0; i < count; i++) values[i] = widened(dtype, ((const uint16_t *)stored)[i]);
}

void ref_narrow(void *stored, const float *values, int32_t dtype, uint64_t count) {
  for (uint64_t i = 0; i < count; i++) ((uint16_t *)stored)[i] = narrowed(dtype, values[i]);
}
