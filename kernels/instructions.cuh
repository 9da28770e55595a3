// instructions.cuh - the only place with PTX: tensor-core products, matrix loads, asynchronous copies. On the CPU the harness supplies
// the same functions (host/instructions.h), so what stands here is checked against it once on a GPU, and kernels only call.
//
// mma<T>: D[16][8] += A[16][K] B[K][8], K = 8 (mma_k8) or 16 (mma_k16), T = half or bfloat16, D float. Row group r = lane / 4, pair t = lane % 4:
//   a[i]: row r + 8 (i & 1), k = 2 t + {0, 1} + 8 (i >> 1);  b[i]: k = 2 t + {0, 1} + 8 i, column r;  d[i]: row r + 8 (i >> 1), column 2 t + (i & 1)
// mma_k4, half only: quarter q of a warp (lanes 4 q .. 4 q + 3 and 16 more) makes a product of its own, D[8][8] += A[8][4] B[4][8]; in it
//   lane l is e = l % 4 + l / 16 * 4. a[i]: row e, k = 2 i + {0, 1};  b[i]: k = 2 i + {0, 1}, column e. Transposed: a[i]: rows e / 4 * 4 +
//   2 i + {0, 1}, k = e % 4;  b[i]: k = e % 4, columns e / 4 * 4 + 2 i + {0, 1};  d[i]: row e / 4 * 4 + e % 2 + (i & 2), column (i & 4) + (e & 2) + (i & 1)
// ldmatrix<count>: lane 8 m + i names row i (16 bytes, aligned) of matrix m; transposed: rows and columns change places.
// All but mma_k4 need sm_80. A kernel is compiled for the instruction set it is made of alone: Sm80 from sm_80 on, Sm70 before
// (products.cuh); cuda/emit_conv.cu launches the one that the device has.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <cstdint>
#include <type_traits>

// First in a kernel of instruction set Isa: where the target has another, nothing of the kernel is compiled.
#if defined(__CUDA_ARCH__)
#define ANX_ONLY(Isa) \
  if (std::is_same<Isa, Sm80>::value != (__CUDA_ARCH__ >= 800)) return
#else
#define ANX_ONLY(Isa)
#endif

#if defined(__CUDACC__)

#define ANX_SHARED(type, name)                                       \
  extern __shared__ __align__(16) unsigned char anx_shared_memory[]; \
  type &name = *reinterpret_cast<type *>(anx_shared_memory)

namespace anx {

template <class T> __device__ __forceinline__ void mma_k16(float *d, const uint32_t *a, const uint32_t *b);
template <class T> __device__ __forceinline__ void mma_k8(float *d, const uint32_t *a, const uint32_t *b);

#if __CUDA_ARCH__ >= 800
#define ANX_MMA(type, name)                                                                                                                          \
  template <> __device__ __forceinline__ void mma_k16<type>(float *d, const uint32_t *a, const uint32_t *b) {                                        \
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." name "." name ".f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"                    \
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));               \
  }                                                                                                                                                  \
  template <> __device__ __forceinline__ void mma_k8<type>(float *d, const uint32_t *a, const uint32_t *b) {                                         \
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32." name "." name ".f32 {%0,%1,%2,%3},{%4,%5},{%6},{%0,%1,%2,%3};"                              \
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(a[0]), "r"(a[1]), "r"(b[0]));                                                \
  }
#else
#define ANX_MMA(type, name)                                                                             \
  template <> __device__ __forceinline__ void mma_k16<type>(float *, const uint32_t *, const uint32_t *) {} \
  template <> __device__ __forceinline__ void mma_k8<type>(float *, const uint32_t *, const uint32_t *) {}
#endif
ANX_MMA(__half, "f16")
ANX_MMA(__nv_bfloat16, "bf16")
#undef ANX_MMA

template <bool transposed> __device__ __forceinline__ void mma_k4(float *d, const uint32_t *a, const uint32_t *b) {
#if __CUDA_ARCH__ >= 700
#define ANX_MMA_K4(layouts)                                                                                                                          \
  asm volatile("mma.sync.aligned.m8n8k4." layouts ".f32.f16.f16.f32 {%0,%1,%2,%3,%4,%5,%6,%7},{%8,%9},{%10,%11},{%0,%1,%2,%3,%4,%5,%6,%7};"          \
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]) : "r"(a[0]), "r"(a[1]), "r"(b[0]), "r"(b[1]))
  if (transposed) ANX_MMA_K4("col.row");
  else ANX_MMA_K4("row.col");
#undef ANX_MMA_K4
#endif
}

template <int count, bool transposed> __device__ __forceinline__ void ldmatrix_any(uint32_t *r, const void *row) {
#if __CUDA_ARCH__ >= 750
  const uint32_t at = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  if (count == 4 && transposed)
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3},[%4];" : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(at));
  else if (count == 4)
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3},[%4];" : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(at));
  else if (count == 2 && transposed)
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1},[%2];" : "=r"(r[0]), "=r"(r[1]) : "r"(at));
  else if (count == 2)
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1},[%2];" : "=r"(r[0]), "=r"(r[1]) : "r"(at));
  else if (transposed)
    asm volatile("ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {%0},[%1];" : "=r"(r[0]) : "r"(at));
  else
    asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0},[%1];" : "=r"(r[0]) : "r"(at));
#endif
}

// 16 bytes from device to shared memory, of which the first `valid` are read and the rest become zeros.
__device__ __forceinline__ void copy_async(void *to, const void *from, unsigned valid = 16) {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.cg.shared.global [%0],[%1],16,%2;" ::"r"(static_cast<uint32_t>(__cvta_generic_to_shared(to))), "l"(from), "r"(valid) : "memory");
#endif
}
__device__ __forceinline__ void commit_copies() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}
template <int groups_left> __device__ __forceinline__ void wait_copies() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;" ::"n"(groups_left) : "memory");
#endif
}

} // namespace anx

#define ldmatrix(count, registers, row) ldmatrix_any<count, false>(registers, row)
#define ldmatrix_transposed(count, registers, row) ldmatrix_any<count, true>(registers, row)

#else

#include "instructions.h"

#define ANX_SHARED(type, name) type &name = *reinterpret_cast<type *>(host::block->shared)

namespace anx {
template <class T> void mma_k16(float *d, const uint32_t *a, const uint32_t *b) { host::mma<T, 16>(d, a, b, HOST_SITE); }
template <class T> void mma_k8(float *d, const uint32_t *a, const uint32_t *b) { host::mma<T, 8>(d, a, b, HOST_SITE); }
template <bool transposed> void mma_k4(float *d, const uint32_t *a, const uint32_t *b) { host::mma_k4<transposed>(d, a, b, HOST_SITE); }
inline void copy_async(void *to, const void *from, unsigned valid = 16) { host::copy_async(to, from, 16, valid); }
inline void commit_copies() { host::commit_copies(); }
template <int groups_left> void wait_copies() { host::wait_copies(groups_left); }
} // namespace anx
#define ldmatrix(count, registers, row) host::ldmatrix<count, false>(registers, row, HOST_SITE)
#define ldmatrix_transposed(count, registers, row) host::ldmatrix<count, true>(registers, row, HOST_SITE)

#endif
