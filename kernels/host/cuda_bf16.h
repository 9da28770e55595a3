// cuda_bf16.h - bfloat16 of the harness: storage and conversions, rounded to nearest even; a NaN stays one.
#pragma once
#include "harness.h"
struct __nv_bfloat16 { uint16_t v; };
inline __nv_bfloat16 __float2bfloat16_rn(float f) {
  uint32_t u;
  memcpy(&u, &f, 4);
  if ((u & 0x7fffffffu) > 0x7f800000u) return {0x7fff};
  return {static_cast<uint16_t>((u + 0x7fff + (u >> 16 & 1)) >> 16)};
}
inline float __bfloat162float(__nv_bfloat16 h) {
  const uint32_t u = uint32_t(h.v) << 16;
  float f;
  memcpy(&f, &u, 4);
  return f;
}
