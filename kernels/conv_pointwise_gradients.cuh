// conv_pointwise_gradients.cuh - both gradients of a dense 1x1 convolution of stride 1 in one launch, 16-bit storage, where a block's
// registers hold the whole filter gradient (k c up to some 24,000).
//
// Computes   dX = D W [+ add], masked, with sums (or the end of the block before: ConvBlockGradient), and dW = D^T act(X), D = al G + be Y + de.
// Layout     maps [pixels][channels padded to 8] of T, W float [k][c]; filter_partial float [gridDim.y][k][c], added up by reduce.cuh.
// Mapping    8 or 16 warps; a block strides over tiles of `rows` pixels. Raw G, Y and X of the next tile travel to shared memory by
//            asynchronous copies while the tensor cores work on this one; a thread activates what it copied itself. W lies in shared memory
//            all the time. dX: a warp makes 16 pixels x 48 channels. dW: a warp keeps 48 k x 32 c; where fewer warps hold all of it, groups
//            of them share out the pixels and are added in order at the end.
// Numerics   as conv_pointwise.cuh; the partial of a block is a sum in float over its tiles.
// Cost       reads G, Y, X once and writes dX: 4 n accesses (5 with add), where two kernels take 7 (8). X is read again for the mask, from the
//            second cache. Not measured on a GPU yet.
// Tests      reference/conv.c; conformance cases conv_bwd with 1x1/1, in f16 and bf16; programs in verify/fused_test.go.
#pragma once
#include "conv_grouped.cuh"

namespace anx {

constexpr int gradients_wide_k = 48, gradients_wide_c = 32, gradients_wide_dx = 48; // a warp's part of dW; its channels of dX

// What lies where in shared memory, in bytes (every part starts on 16), and who does what: from the host, for registers are scarce.
struct PointwiseGradientsPlan {
  int warps, rows;     // pixels of a tile
  int k16, c16;        // channels rounded up to the depth of a product
  int ks, cs;          // and to 8, as they lie in memory
  int kept, filters, raw, deltas, inputs, bytes;
  int k_pitch, c_pitch, raw_pitch, out_pitch; // elements: of D's and X's tiles odd multiples of 16 bytes
  int pixels;
  int across, parts, groups;       // parts of dW, groups of warps that hold all of them
  int dx_across, slabs, finishers; // parts of dX beside one another; slabs of 64 channels, and warps that finish one
  Divider by_k, by_c;  // vectors of 8 channels of a row
};

template <class Conv> struct PointwiseGradients {
  Conv conv; // ConvInputGradient or ConvBlockGradient
  PointwiseGradientsPlan plan;
  PerModel<float> filter_partial;
};

// A warp's group and part of dW, its part of dX, and the slab it finishes together with the other warps of the slab.
struct GradientsRole { int group, k0, c0, dx_row, dx_c, finisher, slab0, unused; };

// Parts that reach beyond the last channel repeat it and are not stored: a branch around a product costs registers.
__device__ __forceinline__ int at_most(int a, int b) { return a < b ? a : b; }

template <class Conv, int warps> __global__ void __launch_bounds__(warps * 32, 16 / warps) conv_pointwise_gradients(PointwiseGradients<Conv> a) {
  using T = typename Conv::Element;
  constexpr int threads = warps * 32, quantities = Conv::quantities;
  ANX_ONLY(Sm80);
  ANX_SHARED(unsigned char, memory);
  const ConvShape &s = a.conv.shape;
  const PointwiseGradientsPlan &p = a.plan;
  const int thread = threadIdx.x, warp = thread / 32, lane = thread % 32;
  GradientsRole *const roles = reinterpret_cast<GradientsRole *>(&memory);
  float *const table_d = reinterpret_cast<float *>(roles + warps), *const table_x = table_d + 3 * p.k16;
  float(*const kept)[slab] = reinterpret_cast<float(*)[slab]>(&memory + p.kept); // [warp * quantities + quantity]: sums of the slab that the warp finishes
  T *const filters = reinterpret_cast<T *>(&memory + p.filters), *const raw = reinterpret_cast<T *>(&memory + p.raw);
  T *const deltas = reinterpret_cast<T *>(&memory + p.deltas), *const inputs = reinterpret_cast<T *>(&memory + p.inputs);
  float *const staged = reinterpret_cast<float *>(deltas); // finished values take the place of D and act(X)

  grouped_coefficients(table_d, p.k16, a.conv.d, 0, s.k);
  grouped_coefficients(table_x, p.c16, a.conv.in, 0, s.c);
  for (int i = thread; i < p.k16 * p.c16; i += threads) {
    const int k = p.by_c.divide(i / 8), c = i - k * p.c16;
    filters[k * p.c_pitch + c] = stored<T>(k < s.k && c < s.c ? a.conv.filter[int64_t(k) * s.c + c] : 0.f);
  }
  for (int i = lane; i < quantities * slab; i += 32) kept[warp * quantities + i / slab][i % slab] = 0.f;

  // A thread copies and activates the same vectors, so that it need not wait for others' copies.
  const auto fetch = [&](int first) {
#pragma unroll 1
    for (int i = thread; i < p.rows * p.k16 / 8; i += threads) {
      const int row = p.by_k.divide(i), k = i * 8 - row * p.k16;
      if (k >= p.ks) continue;
      const bool there = first + row < p.pixels;
      const int64_t at = there ? int64_t(first + row) * p.ks + k : 0;
      copy_async(raw + row * p.raw_pitch + k, a.conv.d.grad + at, there ? 16 : 0);
      if (a.conv.d.al) copy_async(raw + row * p.raw_pitch + p.ks + k, a.conv.d.y + at, there ? 16 : 0);
    }
#pragma unroll 1
    for (int i = thread; i < p.rows * p.c16 / 8; i += threads) {
      const int row = p.by_c.divide(i), c = i * 8 - row * p.c16;
      if (c >= p.cs) continue;
      const bool there = first + row < p.pixels;
      copy_async(raw + row * p.raw_pitch + 2 * p.ks + c, a.conv.in.x + (there ? int64_t(first + row) * p.cs + c : 0), there ? 16 : 0);
    }
    commit_copies();
  };
  const auto deposit = [&](int first) { // behind the last pixel act(X) is 0, and D of no use
#pragma unroll 1
    for (int i = thread; i < p.rows * p.k16 / 8; i += threads) {
      const int row = p.by_k.divide(i), k = i * 8 - row * p.k16;
      const T *from = raw + row * p.raw_pitch + k;
      Vector8<T> v = zero8<T>();
      if (k < p.ks) v = activated(a.conv.d, table_row(table_d, p.k16, k), load8(from), a.conv.d.al ? load8(from + p.ks) : v);
      store8(deltas + row * p.k_pitch + k, v);
    }
#pragma unroll 1
    for (int i = thread; i < p.rows * p.c16 / 8; i += threads) {
      const int row = p.by_c.divide(i), c = i * 8 - row * p.c16;
      Vector8<T> v = zero8<T>();
      if (c < p.cs && first + row < p.pixels) v = activated(a.conv.in, table_row(table_x, p.c16, c), load8(raw + row * p.raw_pitch + 2 * p.ks + c), v);
      store8(inputs + row * p.c_pitch + c, v);
    }
  };

  // What this warp does, read again for every tile. A barrier follows.
  if (lane == 0)
    roles[warp] = {warp / p.parts, warp % p.parts / p.across * gradients_wide_k, warp % p.parts % p.across * gradients_wide_c, warp / p.dx_across * 16,
                   warp % p.dx_across * gradients_wide_dx, warp / p.slabs, warp % p.slabs * slab, 0};
  float gradient[3][4][4] = {};
  int first = int(blockIdx.y) * p.rows;
  if (first < p.pixels) fetch(first);
  for (; first < p.pixels; first += int(gridDim.y) * p.rows) {
    wait_copies<0>();
    __syncthreads(); // filters and tables are there; the staged tile before has been read
    deposit(first);
    if (first + int(gridDim.y) * p.rows < p.pixels) fetch(first + int(gridDim.y) * p.rows);
    __syncthreads();
    const int group = roles[warp].group, k0 = roles[warp].k0, c0 = roles[warp].c0;
#pragma unroll 1
    for (int row = group * 16; row < p.rows && group < p.groups; row += p.groups * 16) {
      uint32_t af[3][4], bf[2][4];
#pragma unroll
      for (int m = 0; m < 3; m++)
        ldmatrix_transposed(4, af[m], deltas + (row + lane / 16 * 8 + lane % 8) * p.k_pitch + at_most(k0 + m * 16, p.k16 - 16) + lane / 8 % 2 * 8);
#pragma unroll
      for (int n = 0; n < 2; n++)
        ldmatrix_transposed(4, bf[n], inputs + (row + lane / 8 % 2 * 8 + lane % 8) * p.c_pitch + at_most(c0 + n * 16, p.c16 - 16) + lane / 16 * 8);
#pragma unroll
      for (int m = 0; m < 3; m++)
#pragma unroll
        for (int n = 0; n < 4; n++) mma_k16<T>(gradient[m][n], af[m], bf[n / 2] + n % 2 * 2);
    }
    const int dx_row = roles[warp].dx_row, dx_c = roles[warp].dx_c;
    float out[6][4] = {};
    if (dx_row < p.rows)
#pragma unroll 1
      for (int k = 0; k < p.k16; k += 16) {
        uint32_t af[4], bf[4];
        ldmatrix(4, af, deltas + (dx_row + lane % 16) * p.k_pitch + k + lane / 16 * 8);
#pragma unroll
        for (int n = 0; n < 3; n++) {
          ldmatrix_transposed(4, bf, filters + (k + lane / 8 % 2 * 8 + lane % 8) * p.c_pitch + at_most(dx_c + n * 16, p.c16 - 16) + lane / 16 * 8);
          mma_k16<T>(out[2 * n], af, bf);
          mma_k16<T>(out[2 * n + 1], af, bf + 2);
        }
      }
    __syncthreads(); // D and act(X) have been read
    if (dx_row < p.rows)
#pragma unroll
      for (int n = 0; n < 6; n++)
#pragma unroll
        for (int i = 0; i < 4; i++)
          if (dx_c + n * 8 < p.c16) staged[(dx_row + lane / 4 + i / 2 * 8) * p.out_pitch + dx_c + n * 8 + lane % 4 * 2 + i % 2] = out[n][i];
    __syncthreads();
    const int finisher = roles[warp].finisher, own_c = roles[warp].slab0 + lane % 16 * 4; // 4 channels: registers are scarce
    if (finisher < p.finishers) { // a warp as one
      float sums[quantities][4] = {};
      if (own_c < p.cs) {
        const auto k4 = finish_coefficients<4>(a.conv, own_c);
#pragma unroll 1
        for (int r = finisher * 2 + lane / 16; r < p.rows && first + r < p.pixels; r += p.finishers * 2) {
          const float4 four = *reinterpret_cast<const float4 *>(staged + r * p.out_pitch + own_c);
          float v[4] = {four.x, four.y, four.z, four.w};
          finish(a.conv, k4, first + r, own_c, v, sums);
        }
      }
#pragma unroll
      for (int q = 0; q < quantities; q++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
          const float v = sums[q][i] + __shfl_xor_sync(0xffffffffu, sums[q][i], 16);
          if (lane < 16) kept[warp * quantities + q][lane * 4 + i] += v;
        }
    }
  }
  __syncthreads();
  if (a.conv.partial)
    for (int i = thread; i < quantities * s.c; i += threads) {
      const int q = i / s.c, c = i % s.c;
      float sum = 0.f;
      for (int f = 0; f < p.finishers; f++) sum += kept[(f * p.slabs + c / slab) * quantities + q][c % slab];
      a.conv.partial[(int64_t(blockIdx.y) * quantities + q) * s.c + c] = sum;
    }
  // The groups' filter gradients, added in order.
  const int group = roles[warp].group, k0 = roles[warp].k0, c0 = roles[warp].c0;
  float *const whole = reinterpret_cast<float *>(filters), *const mine = whole + (k0 + lane / 4) * p.c16 + c0 + lane % 4 * 2;
#pragma unroll 1
  for (int g = 0; g < p.groups; g++) {
    if (group == g)
#pragma unroll
      for (int m = 0; m < 3; m++)
#pragma unroll
        for (int n = 0; n < 4; n++)
          if (k0 + m * 16 < p.k16 && c0 + n / 2 * 16 < p.c16)
#pragma unroll
            for (int i = 0; i < 4; i++) {
              float &at = mine[(m * 16 + i / 2 * 8) * p.c16 + n * 8 + i % 2];
              at = g ? at + gradient[m][n][i] : gradient[m][n][i];
            }
    __syncthreads();
  }
  float *const partial = a.filter_partial + int64_t(blockIdx.y) * s.k * s.c;
  for (int i = thread; i < p.k16 * p.c16; i += threads) {
    const int k = p.by_c.divide(i / 8), c = i - k * p.c16;
    if (k < s.k && c < s.c) partial[k * s.c + c] = whole[i];
  }
}

} // namespace anx
