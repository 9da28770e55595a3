// conv_grouped_filter.cuh - filter gradient of convolutions with few input channels a group, on tensor cores, 16-bit storage.
//
// Computes   dW(k, tap, e) = sum over output pixels of D(k) A(first(k) + e under the tap), D = al G + be Y + de, A = X or act(X), on load.
// Layout     as conv_grouped.cuh; partial float [ranges][k][r][r][g], added up by reduce.cuh.
// Mapping    a block of 256 threads has 64 output channels, two warps share 16 of them, and loops over tiles of up to 128 output pixels
//            (blockIdx.y strides over them). D (pixels x 64) and the input tile with halo lie in shared memory; pixels are the depth of the
//            product, found by the address table for the input side. A warp accumulates up to 16 units of (tap, chunk of 8 input
//            channels) in registers; blockIdx.x is slab and pass, so that many units (7x7 taps, wide groups) take more passes over the input.
// Numerics   products of T, sums in float over the pixels of a range, in double between ranges.
// Cost       reads D's tensors and X once per pass; 1 pass for up to 32 units, 2 for a stem of 7x7. Not measured on a GPU yet.
// Tests      reference/conv.c; conformance cases conv_bwd in f16 and bf16.
#pragma once
#include "conv_grouped.cuh"

namespace anx {

constexpr int grouped_filter_threads = 256, grouped_filter_quads = 4;

template <class T> struct GroupedFilter {
  ConvFilterGradient<T> conv;
  GroupedTile tile; // of the forward pass
  int passes;
};

template <class Isa, class T> __global__ void __launch_bounds__(grouped_filter_threads, 2) conv_grouped_filter_gradient(GroupedFilter<T> a) {
  ANX_ONLY(Isa);
  ANX_SHARED(unsigned char, memory);
  const ConvShape s = a.conv.shape;
  const GroupedTile t = a.tile;
  const Band band = band_of<false>(s);
  float *const table = reinterpret_cast<float *>(&memory), *const table_d = table + 3 * t.band;
  int *const pixel_at = reinterpret_cast<int *>(table_d + 3 * slab);
  T *const delta = reinterpret_cast<T *>(pixel_at + grouped_pixels); // [128][pitch]
  T *const halo = delta + grouped_pixels * grouped_own_pitch;
  const int thread = threadIdx.x, warp_out = thread / 32 % 4 * 16, taps = s.r * s.r;
  const int out0 = int(blockIdx.x) / a.passes * slab, pass = int(blockIdx.x) % a.passes, first = band.first(out0) / 8 * 8;
  const int mine = out0 + warp_out, last = mine + 15 < s.k ? mine + 15 : s.k - 1;
  const int chunk_first = mine < s.k ? (band.first(mine) - first) / 8 : 0;
  const int chunks = mine < s.k ? (band.first(last) + band.width - first + 7) / 8 - chunk_first : 0;

  grouped_coefficients(table, t.band, a.conv.in, first, s.c);
  grouped_coefficients(table_d, slab, a.conv.d, out0, s.k);
  grouped_pixel_table(pixel_at, t);
  Correlation<Isa, grouped_filter_quads> correlation;
  correlation.start(t, s.r, pass * 2 + thread / 128, a.passes * 2, chunk_first, chunks);
  const int tiles = t.across * t.down * t.along;
  for (int tile = blockIdx.y; tile < tiles; tile += gridDim.y) {
    const int column0 = tile % t.across * t.columns, row0 = tile / t.across % t.down * t.rows;
    const int64_t image0 = int64_t(tile / t.across / t.down) * t.images;
    __syncthreads(); // tables are there; the tile before is done with
    grouped_load<T, false>(halo, table, t, s, a.conv.in, s.c, first, image0, row0, column0);
    grouped_own(delta, table_d, t, a.conv.d, s.n, s.p, s.q, s.k, out0, image0, row0, column0);
    __syncthreads();
    correlation.add(delta + warp_out, halo, pixel_at, t);
  }
  float *partial = a.conv.partial + int64_t(blockIdx.y) * s.k * taps * s.g;
  __syncthreads(); // the last tile is done with
  correlation.finish(reinterpret_cast<float *>(delta), t, s.r, [&](int out, int channel, int tap, float sum) {
    const int k = mine + out, e = first + chunk_first * 8 + channel - band.first(k);
    if (k < s.k && e >= 0 && e < s.g) partial[(int64_t(k) * taps + tap) * s.g + e] = sum;
  });
}

} // namespace anx
