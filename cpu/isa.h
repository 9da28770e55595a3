/* isa.h - one vector type for every instruction set.
 *
 * A kernel source is compiled once per instruction set with -DANX_ISA=name; FN(f) gives its symbols that name's suffix. 16 logical lanes
 * everywhere (they are 16 images): LANES vectors of VL floats make one pixel. -ffp-contract=off is set for the whole back end and every
 * fused multiply-add is written as vfma, so AVX-512 and AVX2 execute the same operations in the same order per lane: equal bits.
 *
 * ANX_STORE_BF16 compiles the same sources once more, for activations of bf16: `stored` is an activation in memory, which aload widens and astore
 *   rounds. Convolutions work on tiles of slots of 32 bits: a slot is one value in fp32 and a pair of neighbours of the reduction in bf16, whose two
 *   products vmac adds at once. All else (parameters, coefficients, sums) is fp32 as before.
 */
#ifndef ANX_CPU_ISA_H
#define ANX_CPU_ISA_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define ANX_CAT_(a, b) a##_##b
#define ANX_CAT(a, b) ANX_CAT_(a, b)
#define FN(name) ANX_CAT(name, ANX_ISA)

#define AI static inline __attribute__((always_inline, unused))
#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 32")
#endif

#if defined(__AVX512F__)
#include <immintrin.h>
#define VL 16
#define ANX_ACCUMULATORS 24 /* of 32 registers */
typedef __m512 vf;
AI vf vload(const float *p) { return _mm512_load_ps(p); }
AI void vstore(float *p, vf a) { _mm512_store_ps(p, a); }
AI void vstream(float *p, vf a) { _mm512_stream_ps(p, a); } /* past the caches */
AI vf vset(float a) { return _mm512_set1_ps(a); }
AI vf vfma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }
AI vf vmax(vf a, vf b) { return _mm512_max_ps(a, b); } /* b if either is NaN */
AI vf vmin(vf a, vf b) { return _mm512_min_ps(a, b); } /* likewise */
AI vf vkeep_gt(vf value, vf a, vf b) { return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(a, b, _CMP_GT_OQ), value); }
AI vf vselect_gt(vf a, vf b, vf yes, vf no) { return _mm512_mask_mov_ps(no, _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ), yes); }
AI vf vkeep_eq(vf value, vf a, vf b) { return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ), value); }
AI vf vselect_nan(vf a, vf yes, vf no) { return _mm512_mask_mov_ps(no, _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q), yes); }

#elif defined(__AVX2__) && defined(__FMA__)
#include <immintrin.h>
#define VL 8
#define ANX_ACCUMULATORS 12 /* of 16 registers */
typedef __m256 vf;
AI vf vload(const float *p) { return _mm256_load_ps(p); }
AI void vstore(float *p, vf a) { _mm256_store_ps(p, a); }
AI void vstream(float *p, vf a) { _mm256_stream_ps(p, a); }
AI vf vset(float a) { return _mm256_set1_ps(a); }
AI vf vfma(vf a, vf b, vf c) { return _mm256_fmadd_ps(a, b, c); }
AI vf vmax(vf a, vf b) { return _mm256_max_ps(a, b); }
AI vf vmin(vf a, vf b) { return _mm256_min_ps(a, b); }
AI vf vkeep_gt(vf value, vf a, vf b) { return _mm256_and_ps(_mm256_cmp_ps(a, b, _CMP_GT_OQ), value); }
AI vf vselect_gt(vf a, vf b, vf yes, vf no) { return _mm256_blendv_ps(no, yes, _mm256_cmp_ps(a, b, _CMP_GT_OQ)); }
AI vf vkeep_eq(vf value, vf a, vf b) { return _mm256_and_ps(_mm256_cmp_ps(a, b, _CMP_EQ_OQ), value); }
AI vf vselect_nan(vf a, vf yes, vf no) { return _mm256_blendv_ps(no, yes, _mm256_cmp_ps(a, a, _CMP_UNORD_Q)); }

#else /* portable: GCC and clang vector extensions, four lanes */
#define VL 4
typedef float vf __attribute__((vector_size(16)));
typedef int32_t vmask __attribute__((vector_size(16)));
AI vf vload(const float *p) { return *(const vf *)p; }
AI void vstore(float *p, vf a) { *(vf *)p = a; }
AI void vstream(float *p, vf a) { vstore(p, a); }
AI vf vset(float a) { return (vf){a, a, a, a}; }
#if defined(__aarch64__)
#include <arm_neon.h>
#define ANX_ACCUMULATORS 24
AI vf vfma(vf a, vf b, vf c) { return (vf)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b); }
#else
#define ANX_ACCUMULATORS 12
AI vf vfma(vf a, vf b, vf c) { return a * b + c; } /* two roundings: another device model */
#endif
AI vf vblend(vmask m, vf yes, vf no) { return (vf)(((vmask)yes & m) | ((vmask)no & ~m)); }
AI vf vmax(vf a, vf b) { return vblend(a > b, a, b); }
AI vf vmin(vf a, vf b) { return vblend(a < b, a, b); }
AI vf vkeep_gt(vf value, vf a, vf b) { return (vf)((vmask)value & (a > b)); }
AI vf vselect_gt(vf a, vf b, vf yes, vf no) { return vblend(a > b, yes, no); }
AI vf vkeep_eq(vf value, vf a, vf b) { return (vf)((vmask)value & (a == b)); }
AI vf vselect_nan(vf a, vf yes, vf no) { return vblend(a != a, yes, no); }
#endif

#define LANES (16 / VL)

/* s x + t rounded once, so that its sign, which masks gradients, is exact on every instruction set. */
#if VL == 4 && !defined(__aarch64__)
typedef double vd __attribute__((vector_size(32)));
AI vf vaffine(vf s, vf x, vf t) {
  return __builtin_convertvector(__builtin_convertvector(s, vd) * __builtin_convertvector(x, vd) + __builtin_convertvector(t, vd), vf);
}
#else
AI vf vaffine(vf s, vf x, vf t) { return vfma(s, x, t); }
#endif

AI vf vzero(void) { return vset(0.0f); }

/* A vector that stays in a register: the compiler would load it anew for each of the multiply-adds that need it. */
AI vf vheld(vf a) {
#if defined(__x86_64__)
  __asm__("" : "+v"(a));
#elif defined(__aarch64__)
  __asm__("" : "+w"(a));
#endif
  return a;
}

#if defined(ANX_STORE_BF16)
#define PAIR 2 /* values in a slot */
typedef uint16_t stored; /* the upper half of an fp32 */
AI vf aload(const stored *p) { return (vf)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_load_si256((const __m256i *)(const void *)p)), 16); }
AI void astore(stored *p, vf a) { _mm256_store_si256((__m256i *)(void *)p, (__m256i)_mm512_cvtneps_pbh(a)); }
AI void awrite(stored *p, vf a, int stream) {
  (void)stream; /* half a line: see write_lines */
  astore(p, a);
}
AI vf vload_slots(const float *p) { return _mm512_loadu_ps(p); } /* a tile's pixel is half a vector there */
AI vf vmac(vf a, vf b, vf sum) { return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b); }
/* 16 slots of one value of low and one of high each; and the 32 values of low, then high */
AI vf vinterleave(vf low, vf high) {
  const __m512i slot = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
  const __m512i order = _mm512_or_si512(_mm512_set1_epi32(16 << 16), _mm512_mullo_epi32(_mm512_set1_epi32(0x10001), slot));
  return (vf)_mm512_permutexvar_epi16(order, (__m512i)_mm512_cvtne2ps_pbh(high, low));
}
AI vf vjoin(vf low, vf high) { return (vf)_mm512_cvtne2ps_pbh(high, low); }
/* n neighbouring pixels, past the caches two at a time, which are a line; only a half whose other half is not among them goes through the caches. */
AI void write_lines(stored *to, const vf *a, const int n) {
  if ((uintptr_t)to % 64) {
    astore(to, a[0]);
    UNROLL for (int i = 1; i + 1 < n; i += 2) _mm512_stream_ps((float *)(void *)(to + 16 * i), vjoin(a[i], a[i + 1]));
    if (n % 2 == 0) astore(to + 16 * (n - 1), a[n - 1]);
  } else {
    UNROLL for (int i = 0; i + 1 < n; i += 2) _mm512_stream_ps((float *)(void *)(to + 16 * i), vjoin(a[i], a[i + 1]));
    if (n % 2) astore(to + 16 * (n - 1), a[n - 1]);
  }
}
/* Every step-th value, from `first` to n, of the run at `to` becomes value, an expression of i; past the caches if stream. Two neighbours are a line. */
#define WRITE_RUN(to, first, n, step, stream, i, value)                                                                                \
  do {                                                                                                                                 \
    stored *const to_ = (to);                                                                                                          \
    const size_t n_ = (n), step_ = (step);                                                                                             \
    size_t i = (first);                                                                                                                \
    if ((uintptr_t)(to_ + i) % 64 && i < n_) { astore(to_ + i, value); i += step_; }                                                   \
    while (i + step_ < n_) {                                                                                                           \
      stored *const line_ = to_ + i;                                                                                                   \
      const vf low_ = value;                                                                                                           \
      i += step_;                                                                                                                      \
      const vf high_ = value;                                                                                                          \
      i += step_;                                                                                                                      \
      if (stream) _mm512_stream_ps((float *)(void *)line_, vjoin(low_, high_));                                                        \
      else _mm512_store_ps((float *)(void *)line_, vjoin(low_, high_));                                                                \
    }                                                                                                                                  \
    if (i < n_) astore(to_ + i, value);                                                                                                \
  } while (0)
#else
#define PAIR 1
typedef float stored;
AI vf aload(const stored *p) { return vload(p); }
AI void astore(stored *p, vf a) { vstore(p, a); }
AI void awrite(stored *p, vf a, int stream) { /* past the caches if stream */
  if (stream) vstream(p, a);
  else vstore(p, a);
}
#define WRITE_RUN(to, first, n, step, stream, i, value)                                       \
  do {                                                                                        \
    for (size_t i = (first); i < (size_t)(n); i += (step)) awrite((to) + i, value, stream);   \
  } while (0)
AI vf vload_slots(const float *p) { return vload(p); }
AI vf vmac(vf a, vf b, vf sum) { return vfma(a, b, sum); }
#endif
AI vf vrelu(vf a) { return vmax(vzero(), a); } /* NaN stays NaN: a diverged run is seen */

/* The sum of 16 lanes in the one order that every instruction set uses: halves, quarters, eighths, pairs. */
AI float anx_lane_sum(const float *v) {
  float a[8], b[4];
  for (int i = 0; i < 8; i++) a[i] = v[i] + v[i + 8];
  for (int i = 0; i < 4; i++) b[i] = a[i] + a[i + 4];
  return (b[0] + b[2]) + (b[1] + b[3]);
}

AI double anx_lane_sum_f64(const float *v) {
#if VL == 16
  const __m512 all = vload(v);
  const __m512d a = _mm512_add_pd(_mm512_cvtps_pd(_mm512_castps512_ps256(all)), _mm512_cvtps_pd(_mm512_extractf32x8_ps(all, 1)));
  const __m256d b = _mm256_add_pd(_mm512_castpd512_pd256(a), _mm512_extractf64x4_pd(a, 1));
  const __m128d c = _mm_add_pd(_mm256_castpd256_pd128(b), _mm256_extractf128_pd(b, 1));
  return c[0] + c[1];
#else
  double a[8], b[4];
  for (int i = 0; i < 8; i++) a[i] = (double)v[i] + (double)v[i + 8];
  for (int i = 0; i < 4; i++) b[i] = a[i] + a[i + 4];
  return (b[0] + b[2]) + (b[1] + b[3]);
#endif
}

/* Four sums at once, same order: rows of 16 floats at v, v+16, ... */
AI void anx_lane_sum4(const float *v, float *out) {
#if VL == 16
  const __m512 a = vload(v), b = vload(v + 16), c = vload(v + 32), d = vload(v + 48);
  const __m512 ab = _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xEE)); /* 8 sums of a, 8 of b */
  const __m512 cd = _mm512_add_ps(_mm512_shuffle_f32x4(c, d, 0x44), _mm512_shuffle_f32x4(c, d, 0xEE));
  __m512 e = _mm512_add_ps(_mm512_shuffle_f32x4(ab, cd, 0x88), _mm512_shuffle_f32x4(ab, cd, 0xDD)); /* 4 sums of each */
  e = _mm512_add_ps(e, _mm512_permute_ps(e, 0x4E));
  e = _mm512_add_ps(e, _mm512_permute_ps(e, 0xB1));
  const __m512i pick = _mm512_set_epi32(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 12, 8, 4, 0);
  _mm_storeu_ps(out, _mm512_castps512_ps128(_mm512_permutexvar_ps(pick, e)));
#elif VL == 8
  const __m256 a = vload(v) + vload(v + 8), b = vload(v + 16) + vload(v + 24), c = vload(v + 32) + vload(v + 40),
               d = vload(v + 48) + vload(v + 56);
  const __m256 ab = _mm256_permute2f128_ps(a, b, 0x20) + _mm256_permute2f128_ps(a, b, 0x31);
  const __m256 cd = _mm256_permute2f128_ps(c, d, 0x20) + _mm256_permute2f128_ps(c, d, 0x31);
  __m256 e = _mm256_shuffle_ps(ab, cd, 0x44) + _mm256_shuffle_ps(ab, cd, 0xEE); /* a0 a1 c0 c1 | b0 b1 d0 d1 */
  e = e + _mm256_permute_ps(e, 0xB1);
  float t[8] __attribute__((aligned(32)));
  _mm256_store_ps(t, e);
  out[0] = t[0], out[1] = t[4], out[2] = t[2], out[3] = t[6];
#else
  for (int i = 0; i < 4; i++) out[i] = anx_lane_sum(v + 16 * i);
#endif
}

/* 16 x 16 transpose: to[l * stride + c] = lane l of v[c][...], v[c] being LANES vectors. */
AI void anx_transpose16(vf *v, float *to, size_t stride) {
#if VL == 16
  vf t[16];
  UNROLL for (int i = 0; i < 8; i++) {
    t[2 * i] = _mm512_unpacklo_ps(v[2 * i], v[2 * i + 1]);
    t[2 * i + 1] = _mm512_unpackhi_ps(v[2 * i], v[2 * i + 1]);
  }
  UNROLL for (int i = 0; i < 4; i++) { /* v[4 i + j]: of four channels, lanes j, 4 + j, 8 + j, 12 + j */
    v[4 * i] = _mm512_shuffle_ps(t[4 * i], t[4 * i + 2], 0x44);
    v[4 * i + 1] = _mm512_shuffle_ps(t[4 * i], t[4 * i + 2], 0xEE);
    v[4 * i + 2] = _mm512_shuffle_ps(t[4 * i + 1], t[4 * i + 3], 0x44);
    v[4 * i + 3] = _mm512_shuffle_ps(t[4 * i + 1], t[4 * i + 3], 0xEE);
  }
  UNROLL for (int j = 0; j < 4; j++) {
    const vf a = _mm512_shuffle_f32x4(v[j], v[4 + j], 0x88), b = _mm512_shuffle_f32x4(v[8 + j], v[12 + j], 0x88);
    const vf c = _mm512_shuffle_f32x4(v[j], v[4 + j], 0xDD), d = _mm512_shuffle_f32x4(v[8 + j], v[12 + j], 0xDD);
    vstore(to + (size_t)j * stride, _mm512_shuffle_f32x4(a, b, 0x88));
    vstore(to + (size_t)(8 + j) * stride, _mm512_shuffle_f32x4(a, b, 0xDD));
    vstore(to + (size_t)(4 + j) * stride, _mm512_shuffle_f32x4(c, d, 0x88));
    vstore(to + (size_t)(12 + j) * stride, _mm512_shuffle_f32x4(c, d, 0xDD));
  }
#elif VL == 8
  for (int half = 0; half < 2; half++) { /* of the lanes */
    for (int quad = 0; quad < 2; quad++) { /* eight channels at a time */
      vf t[8], u[8];
      UNROLL for (int i = 0; i < 4; i++) {
        t[2 * i] = _mm256_unpacklo_ps(v[(8 * quad + 2 * i) * 2 + half], v[(8 * quad + 2 * i + 1) * 2 + half]);
        t[2 * i + 1] = _mm256_unpackhi_ps(v[(8 * quad + 2 * i) * 2 + half], v[(8 * quad + 2 * i + 1) * 2 + half]);
      }
      UNROLL for (int i = 0; i < 2; i++) {
        u[4 * i] = _mm256_shuffle_ps(t[4 * i], t[4 * i + 2], 0x44);
        u[4 * i + 1] = _mm256_shuffle_ps(t[4 * i], t[4 * i + 2], 0xEE);
        u[4 * i + 2] = _mm256_shuffle_ps(t[4 * i + 1], t[4 * i + 3], 0x44);
        u[4 * i + 3] = _mm256_shuffle_ps(t[4 * i + 1], t[4 * i + 3], 0xEE);
      }
      UNROLL for (int j = 0; j < 4; j++) {
        vstore(to + (size_t)(8 * half + j) * stride + 8 * quad, _mm256_permute2f128_ps(u[j], u[4 + j], 0x20));
        vstore(to + (size_t)(8 * half + 4 + j) * stride + 8 * quad, _mm256_permute2f128_ps(u[j], u[4 + j], 0x31));
      }
    }
  }
#else
  for (int l = 0; l < 16; l++) {
    for (int c = 0; c < 16; c++) to[(size_t)l * stride + (size_t)c] = v[c * LANES + l / VL][l % VL];
  }
#endif
}

#endif
