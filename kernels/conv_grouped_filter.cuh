// conv_grouped_filter.cuh - filter gradient of convolutions with few input channels a group, on tensor cores, 16-bit storage.
//
// Computes   dW(k, tap, e) = sum over output pixels of D(k) A(first(k) + e under the tap), D = al G + be Y + de, A = X or act(X), on load.
// Layout     as conv_grouped.cuh; partial float [ranges][k][r][r][g], added up by reduce.cuh.
// Mapping    a block has 64 output channels, a warp 16 of them, and loops over tiles of up to 128 output pixels (blockIdx.y strides over
//            them). D (pixels x 64) and the input tile with halo lie in shared memory; pixels are the depth of the product, found by the
//            address table for the input side. A pass accumulates 18 units of (tap, chunk of 8 input channels) per warp in registers;
//            blockIdx.x is slab and pass, so that widths whose 16 outputs touch many chunks take more passes over the input.
// Numerics   products of T, sums in float over the pixels of a range, in double between ranges.
// Cost       reads D's tensors and X once per pass; 1 pass for g <= 8 and 16 at 3x3, 2 to 5 beyond. Not measured on a GPU yet.
// Tests      reference/conv.c; conformance cases conv_bwd in f16 and bf16.
#pragma once
#include "conv_grouped.cuh"

namespace anx {

template <class T> struct GroupedFilter {
  ConvFilterGradient<T> conv;
  GroupedTile tile; // of the forward pass
  int passes;
};

template <class T> __global__ void __launch_bounds__(grouped_threads) conv_grouped_filter_gradient(GroupedFilter<T> a) {
  ANX_ONLY(Sm80);
  ANX_SHARED(unsigned char, memory);
  const ConvShape s = a.conv.shape;
  const GroupedTile t = a.tile;
  const Band band = band_of<false>(s);
  float *const table = reinterpret_cast<float *>(&memory), *const table_d = table + 3 * t.band;
  T *const delta = reinterpret_cast<T *>(table_d + 3 * slab); // [128][pitch]
  T *const halo = delta + grouped_pixels * grouped_own_pitch;
  const int thread = threadIdx.x, warp = thread / 32, lane = thread % 32, taps = s.r * s.r;
  const int out0 = int(blockIdx.x) / a.passes * slab, pass = int(blockIdx.x) % a.passes, first = band.first(out0) / 8 * 8;
  const int mine = out0 + warp * 16, last = mine + 15 < s.k ? mine + 15 : s.k - 1;
  const int chunk_first = mine < s.k ? (band.first(mine) - first) / 8 : 0;
  const int chunks = mine < s.k ? (band.first(last) + band.width - first + 7) / 8 - chunk_first : 0, units = chunks * taps;
  const bool live = pass * grouped_units < units;

  grouped_coefficients(table, t.band, a.conv.in, first, s.c, grouped_threads);
  grouped_coefficients(table_d, slab, a.conv.d, out0, s.k, grouped_threads);
  int unit_at[grouped_units / 2];
  grouped_units_at(unit_at, t, s.r, pass * grouped_units, units, chunk_first);
  float acc[grouped_units][4] = {};
  const int tiles = t.across * t.down * t.along;
  for (int tile = blockIdx.y; tile < tiles; tile += gridDim.y) {
    const int column0 = tile % t.across * t.columns, row0 = tile / t.across % t.down * t.rows;
    const int64_t image0 = int64_t(tile / t.across / t.down) * t.images;
    __syncthreads(); // tables are there; the tile before is done with
    grouped_load<T, false>(halo, table, t, s, a.conv.in, s.c, first, image0, row0, column0);
    grouped_own(delta, table_d, t, a.conv.d, s.n, s.p, s.q, s.k, out0, image0, row0, column0);
    __syncthreads();
    if (live) grouped_correlate(acc, delta, halo, t, unit_at); // a warp as one
  }
  float *partial = a.conv.partial + int64_t(blockIdx.y) * s.k * taps * s.g;
#pragma unroll
  for (int u = 0; u < grouped_units; u++) {
    const int unit = pass * grouped_units + u, tap = unit % taps, channel = first + (chunk_first + unit / taps) * 8;
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const int k = mine + lane / 4 + i / 2 * 8, e = channel + lane % 4 * 2 + i % 2 - band.first(k);
      if (unit < units && k < s.k && e >= 0 && e < s.g) partial[(int64_t(k) * taps + tap) * s.g + e] = acc[u][i];
    }
  }
}

} // namespace anx
