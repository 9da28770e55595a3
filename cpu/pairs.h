/* pairs.h - bf16: what lies in the slots of the tiles. Forward and input gradient reduce over channels: a slot is one image of two channels. The
 * weight gradient reduces over images and pixels: a slot is two images of one channel, as activations lie in memory.
 */
#ifndef ANX_CPU_PAIRS_H
#define ANX_CPU_PAIRS_H

#include "isa.h"
#if PAIR == 2

/* Takes the slots of two channels apart: n pixels, `step` slots from one to the next, become rows of values at low and (unless null) high, a
 * vector of two pixels each; half a vector of zeros follows an odd n. */
AI void anx_split_slots(float *low, float *high, const float *slots, size_t step, int n) {
  const __m512i one = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
  const __m512i even = _mm512_add_epi32(_mm512_set1_epi32(2 << 16), _mm512_mullo_epi32(one, _mm512_set1_epi32(4 << 16 | 4))); /* 0, 2, 4 .. 62 */
  const __m512i odd = _mm512_add_epi32(even, _mm512_set1_epi32(1 << 16 | 1));
  for (int i = 0; i < n; i += 2, slots += 2 * step, low += 16) {
    const __m512i a = (__m512i)vload(slots), b = i + 1 < n ? (__m512i)vload(slots + step) : _mm512_setzero_si512();
    vstore(low, (vf)_mm512_permutex2var_epi16(a, even, b));
    if (!high) continue;
    vstore(high, (vf)_mm512_permutex2var_epi16(a, odd, b));
    high += 16;
  }
}

/* n pixels of a channel, activated where s is given, as a row of values; half a vector of zeros follows an odd n. */
AI void anx_pack_act_row(float *row, const stored *src, size_t src_step, int n, const float *s, const float *t) {
  anx_pack_act((stored *)(void *)row, 16, src, src_step, n, s, t);
  if (n % 2) memset((stored *)(void *)row + (size_t)n * 16, 0, 16 * sizeof(stored));
}

/* Two pixels of a channel (the second is zero where there is none) as the vector of a row. */
AI vf anx_two_pixels(const stored *src, size_t src_step, int two, const float *s, const float *t) {
  if (!s && two && src_step == 16) return (vf)_mm512_loadu_ps((const float *)(const void *)src);
  vf a = aload(src), b = two ? aload(src + src_step) : vzero();
  if (s) {
    const vf vs = vset(*s), vt = vset(*t);
    a = vrelu(vaffine(vs, a, vt));
    if (two) b = vrelu(vaffine(vs, b, vt));
  }
  return vjoin(a, b);
}

#endif
#endif
