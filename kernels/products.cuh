// products.cuh - what a warp multiplies, D[32][8] += A[32][depth] B[depth][8], depth 8 or 16, in two instruction sets: kernels take one of
// them as a parameter, so that one source serves both.
//
// Sm80: m16n8k8 and m16n8k16, ldmatrix; half and bfloat16.
// Sm70: m8n8k4, of which each quarter of a warp makes 8 of the 32 rows, and plain loads; half only. Every quarter needs all of B.
//
// A    8 registers for a depth of 16, the first 4 for a depth of 8. rows: where A lies by rows, lane l names row l (8 values, 16 bytes).
//      rows_transposed: where A lies by depths, load j of `loads` takes from each lane the place of row row() at depth depth(j).
// B    `block` registers a depth of 8. columns: two B's where they lie by columns, columns_transposed: by depths, from a first element and
//      a pitch. column_values: one B of depth 8, each lane from the place of its column column(), or zeros.
// deep: a depth of 16 is less work than two of 8.
// D    8 floats; register i is row row_of(i), column column_of(i).
// Both A and B of a product lie the same way (transposed or not). All addresses of rows, and of columns' 8 values, are multiples of 16 bytes.
#pragma once
#include "instructions.cuh"

namespace anx {

struct Sm80 {
  static constexpr int block = 1, loads = 2;
  static constexpr bool deep = true;
  static __device__ __forceinline__ int lane() { return int(threadIdx.x) % 32; }
  static __device__ __forceinline__ int row() { return lane() / 8 * 8; }
  static __device__ __forceinline__ int depth(int j) { return 8 * j + lane() % 8; }
  static __device__ __forceinline__ int column() { return lane() / 4; }
  static __device__ __forceinline__ int row_of(int i) { return i / 4 * 16 + lane() / 4 + i / 2 % 2 * 8; }
  static __device__ __forceinline__ int column_of(int i) { return lane() % 4 * 2 + i % 2; }

  template <class T> static __device__ __forceinline__ void rows(uint32_t *a, const T *row) { ldmatrix(4, a, row); }
  template <class T> static __device__ __forceinline__ void rows_transposed(uint32_t *a, int j, const T *at) { ldmatrix_transposed(4, a + 4 * j, at); }
  template <class T> static __device__ __forceinline__ void columns(uint32_t (&b)[2][2], const T *first, int pitch) {
    ldmatrix(4, b[0], first + (lane() / 16 * 8 + lane() % 8) * pitch + lane() / 8 % 2 * 8);
  }
  template <class T> static __device__ __forceinline__ void columns_transposed(uint32_t (&b)[2][2], const T *first, int pitch) {
    ldmatrix_transposed(4, b[0], first + lane() % 16 * pitch + lane() / 16 * 8);
  }
  template <class T> static __device__ __forceinline__ void column_values(uint32_t *b, const T *column, bool there) {
    *b = there ? reinterpret_cast<const uint32_t *>(column)[lane() % 4] : 0;
  }
  template <class T, int depth, bool transposed> static __device__ __forceinline__ void multiply(float *d, const uint32_t *a, const uint32_t *b) {
#pragma unroll
    for (int m = 0; m < 2; m++) {
      const uint32_t sixteen[4] = {a[2 * m], a[2 * m + 1], depth == 16 ? a[2 * m + 4] : 0, depth == 16 ? a[2 * m + 5] : 0};
      if (depth == 16) mma_k16<T>(d + 4 * m, sixteen, b);
      else mma_k8<T>(d + 4 * m, sixteen, b);
    }
  }
};

struct Sm70 {
  static constexpr int block = 4, loads = 4;
  static constexpr bool deep = false;
  static __device__ __forceinline__ int lane() { return int(threadIdx.x) % 32; }
  static __device__ __forceinline__ int row() { return lane() / 4 * 4; }
  static __device__ __forceinline__ int depth(int j) { return 4 * j + lane() % 4; }
  static __device__ __forceinline__ int column() { return lane() / 16 * 4 + lane() % 4; }
  static __device__ __forceinline__ int row_of(int i) { return lane() / 4 * 4 + lane() % 2 + i / 2 % 2 * 2; }
  static __device__ __forceinline__ int column_of(int i) { return i / 4 * 4 + lane() / 2 % 2 * 2 + i % 2; }

  template <class T> static __device__ __forceinline__ void rows(uint32_t *a, const T *row) { four(a, row); }
  template <class T> static __device__ __forceinline__ void rows_transposed(uint32_t *a, int j, const T *at) { two(a + 2 * j, at); }
  template <class T> static __device__ __forceinline__ void columns(uint32_t (&b)[2][8], const T *first, int pitch) {
    __syncwarp(); // keeps the loads behind the products before: there are no registers for all of them
#pragma unroll
    for (int i = 0; i < 4; i++) four(b[i / 2] + i % 2 * 4, first + (i / 2 * 8 + column()) * pitch + i % 2 * 8);
  }
  template <class T> static __device__ __forceinline__ void columns_transposed(uint32_t (&b)[2][8], const T *first, int pitch) {
#pragma unroll
    for (int i = 0; i < 8; i++) two(b[i / 4] + i % 4 * 2, first + depth(i % 4) * pitch + i / 4 * 8 + lane() / 16 * 4);
  }
  template <class T> static __device__ __forceinline__ void column_values(uint32_t *b, const T *column, bool there) {
    if (there) four(b, column);
    else b[0] = b[1] = b[2] = b[3] = 0;
  }
  template <class T, int depth, bool transposed> static __device__ __forceinline__ void multiply(float *d, const uint32_t *a, const uint32_t *b) {
#pragma unroll
    for (int j = 0; j < depth / 4; j++) mma_k4<transposed>(d, a + 2 * j, b + 2 * j);
  }

private:
  static __device__ __forceinline__ void four(uint32_t *r, const void *at) {
    const uint4 v = *static_cast<const uint4 *>(at);
    r[0] = v.x, r[1] = v.y, r[2] = v.z, r[3] = v.w;
  }
  static __device__ __forceinline__ void two(uint32_t *r, const void *at) {
    const uint2 v = *static_cast<const uint2 *>(at);
    r[0] = v.x, r[1] = v.y;
  }
};

} // namespace anx
