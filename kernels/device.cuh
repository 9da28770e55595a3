// device.cuh - what the kernels share: types of storage, vectors of 8 channels, convolution shapes and per-channel partial sums.
//
// Activations are [n][h][w][stride] with stride = channels rounded up to 8; the padding channels are zeros, and every kernel that writes an
// activation writes them. Per-channel vectors and filters have no padding: they are read behind a test.
//
// Models that share a launch (anx.h) are blockIdx.z. All that kernels know of them is in PerModel and slot_of below: every pointer to a
// model's own memory among a kernel's arguments is a PerModel, and nothing else depends on the model.
//
// Sums over pixels have two stages, so that their order never depends on timing: every block leaves one partial per channel and quantity in
// the workspace, and one kernel (batchnorm.cuh, reduce.cuh) adds the partials in the order of the blocks, in double.
#pragma once
#include <type_traits>
#include "instructions.cuh"

namespace anx {

// Where the first model's values lie, and how many bytes further those of the next: in a kernel, the pointer of the block's own model.
template <class T> struct PerModel {
  T *first = nullptr;
  int64_t stride = 0;
  PerModel() = default;
  __host__ __device__ PerModel(decltype(nullptr)) {}
  __host__ __device__ PerModel(T *first, int64_t stride) : first(first), stride(stride) {}
  template <class U> __host__ __device__ PerModel(const PerModel<U> &other) : first(other.first), stride(other.stride) {}
  __host__ __device__ __forceinline__ explicit operator bool() const { return first; }
  __device__ __forceinline__ operator T *() const {
    return reinterpret_cast<T *>(const_cast<char *>(reinterpret_cast<const char *>(first)) + int64_t(blockIdx.z) * stride);
  }
};
// The block's model's value of a scalar slot: those of the models stand behind one another.
__device__ __forceinline__ double slot_of(const double *slots, int slot) { return slots[slot + int(blockIdx.z)]; }

__device__ __forceinline__ float to_float(float v) { return v; }
__device__ __forceinline__ float to_float(__half v) { return __half2float(v); }
__device__ __forceinline__ float to_float(__nv_bfloat16 v) { return __bfloat162float(v); }
template <class T> __device__ __forceinline__ T stored(float v); // rounded to the type of storage
template <> __device__ __forceinline__ float stored<float>(float v) { return v; }
template <> __device__ __forceinline__ __half stored<__half>(float v) { return __float2half_rn(v); }
template <> __device__ __forceinline__ __nv_bfloat16 stored<__nv_bfloat16>(float v) { return __float2bfloat16_rn(v); }

__device__ __forceinline__ float relu(float v) { return v < 0.f ? 0.f : v; } // a NaN stays one
// Before the ReLU. One rounding, written out: forward, masks and the pool's comparisons must agree to the bit.
__device__ __forceinline__ float affine(float s, float x, float t) { return fmaf(s, x, t); }

// `width` neighbouring channels, 8 of them in most places: 16 bytes of 16-bit values, 32 of float; always aligned to their size up to 16.
template <class T, int width> union Vector {
  using Word = typename std::conditional<sizeof(T) * width % 16 == 0, uint4, uint2>::type;
  T v[width];
  Word words[sizeof(T) * width / sizeof(Word)];
};
template <int width, class T> __device__ __forceinline__ Vector<T, width> load_vector(const T *at) {
  Vector<T, width> x;
#pragma unroll
  for (int i = 0; i < int(sizeof(x) / sizeof(x.words[0])); i++) x.words[i] = reinterpret_cast<const typename Vector<T, width>::Word *>(at)[i];
  return x;
}
template <class T, int width> __device__ __forceinline__ void store_vector(T *at, const Vector<T, width> &x) {
#pragma unroll
  for (int i = 0; i < int(sizeof(x) / sizeof(x.words[0])); i++) reinterpret_cast<typename Vector<T, width>::Word *>(at)[i] = x.words[i];
}
template <class T, int width> __device__ __forceinline__ Vector<T, width> zero_vector() {
  Vector<T, width> x;
#pragma unroll
  for (int i = 0; i < int(sizeof(x) / sizeof(x.words[0])); i++) x.words[i] = {};
  return x;
}
template <class T> using Vector8 = Vector<T, 8>;
template <class T> __device__ __forceinline__ Vector8<T> load8(const T *at) { return load_vector<8>(at); }
template <class T> __device__ __forceinline__ void store8(T *at, const Vector8<T> &x) { store_vector(at, x); }
template <class T> __device__ __forceinline__ Vector<T, 4> half_of(const Vector8<T> &x, int h) {
  Vector<T, 4> half;
#pragma unroll
  for (int i = 0; i < 4; i++) half.v[i] = x.v[4 * h + i];
  return half;
}
template <class T> __device__ __forceinline__ Vector8<T> zero8() { return zero_vector<T, 8>(); }

// Values of a per-channel vector from channel c on, 0 from `channels` on or where there is no vector.
template <int width> __device__ __forceinline__ void channel_values(float (&out)[width], const PerModel<const float> &vector, int c, int channels) {
#pragma unroll
  for (int i = 0; i < width; i++) out[i] = vector && c + i < channels ? vector[c + i] : 0.f;
}

// The sum over a warp, in every lane.
template <class V> __device__ __forceinline__ V warp_sum(V v) {
  for (int d = 16; d; d >>= 1) v += __shfl_xor_sync(0xffffffffu, v, d);
  return v;
}

__host__ __device__ constexpr int padded(int channels) { return (channels + 7) / 8 * 8; }

// A convolution: n h w c -> p q k with filters of r x r, stride, g input and go output channels a group.
struct ConvShape {
  int n, h, w, c, p, q, k, r, stride, g, go;
};

// The gradient at a convolution's output: D = al G + be Y + de, or G where al is NULL.
template <class T> struct Incoming {
  PerModel<const T> grad, y;
  PerModel<const float> al, be, de;
  __device__ __forceinline__ float at(int64_t index, int k) const {
    const float d = to_float(grad[index]);
    return al ? al[k] * d + be[k] * to_float(y[index]) + de[k] : d;
  }
};
// What a convolution reads: X, or act(X) = ReLU(s X + t) where s is given.
template <class T> struct Input {
  PerModel<const T> x;
  PerModel<const float> s, t;
  __device__ __forceinline__ float at(int64_t index, int c) const {
    const float v = to_float(x[index]);
    return s ? relu(affine(s[c], v, t[c])) : v;
  }
};

// 256 threads as 8 vectors of 8 channels (64 channels, a slab) x 32 rows of pixels: the mapping of every kernel that goes over maps.
constexpr int map_threads = 256, slab = 64, map_rows = 32;

// Sums over the rows of threads (thread t holds vector t % 8) to partial[row][quantity][channels] of the slab that starts at channel first:
// slab_clear, a barrier, slab_add as often as there are sums, a barrier, slab_write. All threads of the block call them.
template <int quantities, int warps = 8> struct SlabShared { float sum[warps][quantities][slab]; };
template <int quantities, int warps> __device__ __forceinline__ void slab_clear(SlabShared<quantities, warps> &shared) {
  for (int i = threadIdx.x; i < warps * quantities * slab; i += warps * 32) (&shared.sum[0][0][0])[i] = 0.f;
}
template <int quantities, int warps> __device__ __forceinline__ void slab_add(SlabShared<quantities, warps> &shared, const float (&sums)[quantities][8]) {
  const int thread = threadIdx.x, vector = thread % 8, warp = thread / 32;
#pragma unroll
  for (int k = 0; k < quantities; k++)
#pragma unroll
    for (int i = 0; i < 8; i++) {
      float v = sums[k][i];
      v += __shfl_xor_sync(0xffffffffu, v, 8);
      v += __shfl_xor_sync(0xffffffffu, v, 16);
      if (thread % 32 < 8) shared.sum[warp][k][vector * 8 + i] += v;
    }
}
template <int quantities, int warps>
__device__ __forceinline__ void slab_write(const SlabShared<quantities, warps> &shared, float *partial, int row, int first, int channels) {
  for (int i = threadIdx.x; i < quantities * slab; i += warps * 32) {
    const int k = i / slab, c = i % slab;
    if (first + c >= channels) continue;
    float v = 0.f;
    for (int r = 0; r < warps; r++) v += shared.sum[r][k][c];
    partial[(int64_t(row) * quantities + k) * channels + first + c] = v;
  }
}
// The same of one set of sums, with nothing of shared in use.
template <int quantities, int warps>
__device__ __forceinline__ void slab_partials(SlabShared<quantities, warps> &shared, float (&sums)[quantities][8], float *partial, int row, int first, int channels) {
  slab_clear(shared);
  __syncthreads();
  slab_add(shared, sums);
  __syncthreads();
  slab_write(shared, partial, row, first, channels);
}

} // namespace anx
