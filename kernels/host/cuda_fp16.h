// cuda_fp16.h - half precision of the harness: storage and conversions, rounded to nearest even.
#pragma once
#include "harness.h"
struct __half { _Float16 v; };
inline __half __float2half_rn(float f) { return {static_cast<_Float16>(f)}; }
inline float __half2float(__half h) { return static_cast<float>(h.v); }
