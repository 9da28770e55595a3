// harness.h - runs unmodified CUDA kernels on the CPU, to prove them where there is no GPU.
//
// Every CUDA thread is a fiber; a block's fibers take turns on one OS thread and change places only where threads of a block can wait
// for each other (__syncthreads, warp collectives). Between those points the order of the fibers is random, by seed; between two barriers of
// the block either all warps go from collective to collective in step, or, three times of four, one warp runs to the barrier before the
// next begins, so that what one does early or late shows in the others.
// What is unwritten shows: shared memory starts as NaNs, ends at a page nobody may touch, and device memory stands between such pages.
// An asynchronous copy happens as late as CUDA allows, in random order, and its destination holds NaNs until then.
//
// What it finds: missing barriers, also those that warps which go in step would never need, divergent barriers and collectives, deadlocks,
// missing waits, reads of unwritten memory, addresses outside a buffer, misaligned vectors of ldmatrix and cp.async; built with ANX_RACES also
// every race that a schedule would have to bring to light, in a warp, a block or between blocks (races.h). What it cannot find:
// bank conflicts, registers, the real rounding of tensor cores (accumulation here is float, in the order of k).
// ANX_HOST_WITHOUT=conv_stem.cuh:80 leaves out the __syncthreads or __syncwarp of that line.
//
// A fault ends the launch, whose error is the stream's from then on (cudaErrorLaunchFailure); host::last_fault() has its text.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <cmath>
#include <functional>
#include <vector>
#include "races.h"

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
struct alignas(8) uint2 { uint32_t x, y; };
struct alignas(16) uint4 { uint32_t x, y, z, w; };
struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
inline uint4 make_uint4(uint32_t x, uint32_t y, uint32_t z, uint32_t w) { return {x, y, z, w}; }
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

namespace host {

enum class State : uint8_t { ready, at_block_barrier, at_warp_collective, done };

// Where threads wait for each other, in the source.
struct Site { const char *file; int line; };

struct AsyncCopy { void *to; const void *from; unsigned bytes, group; };

struct Fiber {
  void *stack_pointer;
  char *stack;
  dim3 thread;
  unsigned number; // in the block
  State state;
  const Site *site; // where it waits
  void *payload;    // what it brings to a warp collective
  unsigned mask;
  unsigned committed; // groups of asynchronous copies
  std::vector<AsyncCopy> copies;
};

// A small generator of its own, so that schedules are the same with every standard library.
struct Random {
  uint64_t state;
  uint32_t next() {
    state = state * 6364136223846793005ull + 1442695040888963407ull;
    return uint32_t((state ^ state >> 29) >> 16);
  }
  unsigned below(unsigned n) { return unsigned(uint64_t(next()) * n >> 32); }
};

struct Block {
  dim3 index, size, grid;
  unsigned threads;
  Fiber *fibers;
  char *shared;
  size_t shared_bytes;
  void *scheduler;
  const std::function<void()> *body;
  Random random;
  bool failed;
};

// The thread and block in turn, of this OS thread. The model avoids a call per access; it works in a library loaded late.
#define HOST_TLS __attribute__((tls_model("initial-exec")))
extern HOST_TLS __thread Fiber *current;
extern HOST_TLS __thread Block *block;

// Runs a grid, block after block in random order. False: a fault, whose text last_fault gives.
bool run_grid(dim3 grid, dim3 threads, size_t shared_bytes, uint64_t seed, const std::function<void()> &body);
const char *last_fault();
// Ends the launch in turn; a kernel does not come back from it.
[[noreturn]] void fault(const char *format, ...) __attribute__((format(printf, 1, 2)));
void yield();
void barrier(const Site *site);
void sync_warp(unsigned mask, const Site *site);
int barrier_reduce(const Site *site, int predicate, int kind); // kind 0: or, 1: and, 2: count

// The last lane of the mask to come runs operation over all lanes' payloads (NULL outside the mask) and frees the others.
void meet(unsigned mask, const Site *site, void *payload, void (*operation)(void **payloads, const void *argument), const void *argument = nullptr);

void copy_async(void *to, const void *from, unsigned bytes, unsigned valid);
void commit_copies();
void wait_copies(unsigned groups_left);

template <class T> struct Exchange { T in, out; int lane; };

template <class T, class Source> T shuffle(unsigned mask, T value, const Site *site, Source source, int argument) {
  Exchange<T> mine{value, value, argument};
  meet(mask, site, &mine, [](void **lanes, const void *from) HOST_UNSEEN {
    const Source &source = *static_cast<const Source *>(from);
    for (int i = 0; i < 32; i++) {
      if (!lanes[i]) continue;
      auto *x = static_cast<Exchange<T> *>(lanes[i]);
      int s = source(i, x->lane);
      if (s < 0 || s > 31) s = i;
      if (!lanes[s]) fault("lane %d shuffles from lane %d, which is not in the mask", i, s);
      x->out = static_cast<Exchange<T> *>(lanes[s])->in;
    }
  }, &source);
  return mine.out;
}

template <class T> T reduce(unsigned mask, T value, const Site *site, T (*join)(T, T)) {
  Exchange<T> mine{value, value, 0};
  meet(mask, site, &mine, [](void **lanes, const void *f) HOST_UNSEEN {
    T (*join)(T, T) = *static_cast<T (*const *)(T, T)>(f);
    bool first = true;
    T all{};
    for (int i = 0; i < 32; i++)
      if (lanes[i]) {
        T v = static_cast<Exchange<T> *>(lanes[i])->in;
        all = first ? v : join(all, v);
        first = false;
      }
    for (int i = 0; i < 32; i++)
      if (lanes[i]) static_cast<Exchange<T> *>(lanes[i])->out = all;
  }, &join);
  return mine.out;
}

inline unsigned vote(unsigned mask, int predicate, const Site *site) {
  const unsigned bit = predicate ? 1u << current->number % 32 : 0;
  return reduce<unsigned>(mask, bit, site, [](unsigned a, unsigned b) { return a | b; });
}

} // namespace host

#define HOST_SITE ([]() -> const host::Site * { static const host::Site here{__FILE__, __LINE__}; return &here; }())
#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __restrict__ __restrict
#define threadIdx (host::current->thread)
#define blockIdx (host::block->index)
#define blockDim (host::block->size)
#define gridDim (host::block->grid)
#define __syncthreads() host::barrier(HOST_SITE)
#define __syncthreads_or(p) host::barrier_reduce(HOST_SITE, (p), 0)
#define __syncthreads_and(p) host::barrier_reduce(HOST_SITE, (p), 1)
#define __syncthreads_count(p) host::barrier_reduce(HOST_SITE, (p), 2)
#define HOST_FIRST(a, ...) a
#define __syncwarp(...) host::sync_warp(HOST_FIRST(__VA_ARGS__ __VA_OPT__(,) 0xffffffffu), HOST_SITE)
#define __shfl_xor_sync(m, v, a) host::shuffle(m, v, HOST_SITE, [](int lane, int k) { return lane ^ k; }, a)
#define __shfl_down_sync(m, v, a) host::shuffle(m, v, HOST_SITE, [](int lane, int k) { return lane + k; }, a)
#define __shfl_up_sync(m, v, a) host::shuffle(m, v, HOST_SITE, [](int lane, int k) { return lane - k; }, a)
#define __shfl_sync(m, v, a) host::shuffle(m, v, HOST_SITE, [](int, int k) { return k & 31; }, a)
#define __ballot_sync(m, p) host::vote(m, p, HOST_SITE)
#define __any_sync(m, p) (host::vote(m, p, HOST_SITE) != 0)
#define __all_sync(m, p) (host::vote(m, !(p), HOST_SITE) == 0)
#define __reduce_add_sync(m, v) host::reduce<unsigned>(m, v, HOST_SITE, [](unsigned a, unsigned b) { return a + b; })
#define __reduce_max_sync(m, v) host::reduce<unsigned>(m, v, HOST_SITE, [](unsigned a, unsigned b) { return a > b ? a : b; })

// Fibers change places nowhere in these, so plain arithmetic is atomic.
namespace host {
template <class T, class F> HOST_UNSEEN T atomic(T *at, F value) {
  races::touch_atomically(at, sizeof(T));
  const T old = *at;
  *at = value(old);
  return old;
}
} // namespace host
template <class T, class U> T atomicAdd(T *at, U value) { return host::atomic(at, [=](T old) { return T(old + value); }); }
template <class T, class U> T atomicMax(T *at, U value) { return host::atomic(at, [=](T old) { return T(value) > old ? T(value) : old; }); }
template <class T, class U> T atomicOr(T *at, U value) { return host::atomic(at, [=](T old) { return T(old | value); }); }
template <class T, class U> T atomicExch(T *at, U value) { return host::atomic(at, [=](T) { return T(value); }); }
template <class T, class U, class V> T atomicCAS(T *at, U expected, V value) { return host::atomic(at, [=](T old) { return old == T(expected) ? T(value) : old; }); }
inline void __threadfence() {}
template <class T> T __ldg(const T *at) { return *at; }
inline int __popc(unsigned v) { return __builtin_popcount(v); }
inline float __fdividef(float a, float b) { return a / b; }
inline float rsqrtf(float v) { return 1.0f / std::sqrt(v); }
