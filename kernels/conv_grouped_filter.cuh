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

constexpr int grouped_units = 18, grouped_d_pitch = 72;

template <class T> struct GroupedFilter {
  ConvFilterGradient<T> conv;
  GroupedTile tile; // of the forward pass
  int passes;
};

template <class T> __global__ void __launch_bounds__(grouped_threads) conv_grouped_filter_gradient(GroupedFilter<T> a) {
  ANX_SHARED(unsigned char, memory);
  const ConvShape s = a.conv.shape;
  const GroupedTile t = a.tile;
  const Band band = band_of<false>(s);
  float *const table = reinterpret_cast<float *>(&memory), *const table_d = table + 3 * t.band;
  T *const delta = reinterpret_cast<T *>(table_d + 3 * slab); // [128][pitch]
  T *const halo = delta + grouped_pixels * grouped_d_pitch;
  const int thread = threadIdx.x, warp = thread / 32, lane = thread % 32, taps = s.r * s.r;
  const int out0 = int(blockIdx.x) / a.passes * slab, pass = int(blockIdx.x) % a.passes, first = band.first(out0) / 8 * 8;
  const int mine = out0 + warp * 16, last = mine + 15 < s.k ? mine + 15 : s.k - 1;
  const int chunk_first = mine < s.k ? (band.first(mine) - first) / 8 : 0;
  const int chunks = mine < s.k ? (band.first(last) + band.width - first + 7) / 8 - chunk_first : 0, units = chunks * taps;
  const bool live = pass * grouped_units < units;

  grouped_coefficients(table, t.band, a.conv.in, first, s.c, grouped_threads);
  grouped_coefficients(table_d, slab, a.conv.d, out0, s.k, grouped_threads);
  // Offsets of the units: lanes 16..31 name the odd one of each pair.
  int unit_at[grouped_units / 2];
#pragma unroll
  for (int j = 0; j < grouped_units / 2; j++) {
    const int unit = pass * grouped_units + 2 * j + lane / 16, tap = unit % taps, chunk = unit / taps;
    unit_at[j] = unit < units ? (tap / s.r * t.in_columns + tap % s.r) * t.pitch + (chunk_first + chunk) * 8 : 0;
  }
  float acc[grouped_units][4] = {};
  const int tiles = t.across * t.down * t.along, pixels = t.images * t.rows * t.columns, ks = padded(s.k);
  for (int tile = blockIdx.y; tile < tiles; tile += gridDim.y) {
    const int column0 = tile % t.across * t.columns, row0 = tile / t.across % t.down * t.rows;
    const int64_t image0 = int64_t(tile / t.across / t.down) * t.images;
    __syncthreads(); // tables are there; the tile before is done with
    grouped_load<T, false>(halo, table, t, s, a.conv.in, s.c, first, image0, row0, column0);
    for (int slot = thread / 8; slot < grouped_pixels; slot += grouped_threads / 8) {
      const int c = thread % 8 * 8, image = t.by_map.divide(slot), in_map = slot - image * t.rows * t.columns, y = t.by_columns.divide(in_map);
      const int row = row0 + y, column = column0 + in_map - y * t.columns;
      Vector8<T> v = zero8<T>();
      if (slot < pixels && image0 + image < s.n && row < s.p && column < s.q && out0 + c < ks) {
        const int64_t at = (((image0 + image) * s.p + row) * s.q + column) * ks + out0 + c;
        v = activated(a.conv.d, table_row(table_d, slab, c), raw8(a.conv.d, at), second8(a.conv.d, at));
      }
      store8(delta + slot * grouped_d_pitch + c, v);
    }
    __syncthreads();
    if (!live) continue; // a warp as one
#pragma unroll 1
    for (int step = 0; step < pixels; step += 16) {
      uint32_t af[4];
      ldmatrix_transposed(4, af, delta + (step + lane / 16 * 8 + lane % 8) * grouped_d_pitch + warp * 16 + lane / 8 % 2 * 8);
      const int slot = step + lane % 16, image = t.by_map.divide(slot), in_map = slot - image * t.rows * t.columns, y = t.by_columns.divide(in_map);
      const int at = slot < pixels ? ((image * t.in_rows + y * t.step) * t.in_columns + (in_map - y * t.columns) * t.step) * t.pitch : 0;
#pragma unroll
      for (int j = 0; j < grouped_units / 2; j++) {
        uint32_t bf[4];
        ldmatrix_transposed(4, bf, halo + at + unit_at[j]);
        mma_k16<T>(acc[2 * j], af, bf);
        mma_k16<T>(acc[2 * j + 1], af, bf + 2);
      }
    }
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
