// instructions.h - what the wrappers of instructions.cuh mean, for the harness. Fragment layouts are those of the PTX manual.
#pragma once
#include "cuda_bf16.h"
#include "cuda_fp16.h"

namespace host {

inline float widen(uint16_t bits, __half) { _Float16 h; memcpy(&h, &bits, 2); return static_cast<float>(h); }
inline float widen(uint16_t bits, __nv_bfloat16) { return __bfloat162float({bits}); }
template <class T> float half_of(uint32_t pair, int high) { return widen(uint16_t(high ? pair >> 16 : pair), T{}); }

// D[16][8] += A[16][K] B[K][8], K = 8 or 16. Row group r = lane / 4, column pair t = lane % 4:
// a[i]: row r + 8 (i & 1), k = 2 t + {0, 1} + 8 (i >> 1);  b[i]: k = 2 t + {0, 1} + 8 i, column r;  d[i]: row r + 8 (i >> 1), column 2 t + (i & 1).
template <class T, int K> void mma(float *d, const uint32_t *a, const uint32_t *b, const Site *site) {
  struct Fragments { float *d; const uint32_t *a, *b; } mine{d, a, b};
  meet(0xffffffffu, site, &mine, [](void **lanes, const void *) HOST_UNSEEN {
    float A[16][K], B[8][K];
    for (int l = 0; l < 32; l++) {
      auto *x = static_cast<Fragments *>(lanes[l]);
      const int r = l / 4, t = l % 4;
      for (int i = 0; i < K / 4; i++)
        for (int e = 0; e < 2; e++) A[r + (i & 1) * 8][2 * t + e + (i >> 1) * 8] = half_of<T>(x->a[i], e);
      for (int i = 0; i < K / 8; i++)
        for (int e = 0; e < 2; e++) B[r][2 * t + e + i * 8] = half_of<T>(x->b[i], e);
    }
    for (int l = 0; l < 32; l++) {
      auto *x = static_cast<Fragments *>(lanes[l]);
      const int r = l / 4, t = l % 4;
      for (int i = 0; i < 4; i++) {
        const float *row = A[r + (i >> 1) * 8], *column = B[2 * t + (i & 1)];
        float sum = x->d[i];
        for (int k = 0; k < K; k++) sum += row[k] * column[k];
        x->d[i] = sum;
      }
    }
  });
}

// Quarter q of the warp: D[8][8] += A[8][4] B[4][8] of half. In it lane l is e = l % 4 + l / 16 * 4; A and B hold a row, a column of e, or,
// transposed, 4 rows, 4 columns from e / 4 * 4 on at k = e % 4.
template <bool transposed> void mma_k4(float *d, const uint32_t *a, const uint32_t *b, const Site *site) {
  struct Fragments { float *d; const uint32_t *a, *b; } mine{d, a, b};
  meet(0xffffffffu, site, &mine, [](void **lanes, const void *) HOST_UNSEEN {
    for (int q = 0; q < 4; q++) {
      const auto of = [&](int e) { return static_cast<Fragments *>(lanes[q * 4 + e % 4 + e / 4 * 16]); };
      float A[8][4], B[8][4];
      for (int e = 0; e < 8; e++)
        for (int i = 0; i < 4; i++) {
          const int line = transposed ? e / 4 * 4 + i : e, k = transposed ? e % 4 : i;
          A[line][k] = half_of<__half>(of(e)->a[i / 2], i % 2);
          B[line][k] = half_of<__half>(of(e)->b[i / 2], i % 2);
        }
      for (int e = 0; e < 8; e++)
        for (int i = 0; i < 8; i++) {
          const float *row = A[e / 4 * 4 + e % 2 + (i & 2)], *column = B[(i & 4) + (e & 2) + (i & 1)];
          float sum = of(e)->d[i];
          for (int k = 0; k < 4; k++) sum += row[k] * column[k];
          of(e)->d[i] = sum;
        }
    }
  });
}

// count 8x8 matrices of 16-bit values; lane 8 m + i names row i of matrix m.
template <int count, bool transposed> void ldmatrix(uint32_t *registers, const void *row, const Site *site) {
  struct Load { uint32_t *registers; const char *row; } mine{registers, static_cast<const char *>(row)};
  meet(0xffffffffu, site, &mine, [](void **lanes, const void *) HOST_UNSEEN {
    auto load = [&](int l) { return static_cast<Load *>(lanes[l]); };
    for (int l = 0; l < 8 * count; l++) races::read_by_warp(load(l)->row, 16);
    for (int m = 0; m < count; m++)
      for (int l = 0; l < 32; l++) {
        if (reinterpret_cast<uintptr_t>(load(m * 8 + l % 8)->row) % 16) fault("a row of ldmatrix is not aligned to 16 bytes");
        uint16_t pair[2];
        for (int e = 0; e < 2; e++) {
          if (transposed) memcpy(&pair[e], load(m * 8 + l % 4 * 2 + e)->row + l / 4 * 2, 2);
          else memcpy(&pair[e], load(m * 8 + l / 4)->row + (l % 4 * 2 + e) * 2, 2);
        }
        load(l)->registers[m] = pair[0] | uint32_t(pair[1]) << 16;
      }
  });
}

} // namespace host
