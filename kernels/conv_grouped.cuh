// conv_grouped.cuh - convolutions with few input channels a group, any odd filter, on tensor cores, 16-bit storage: forward, input gradient
// and both gradients in one launch. One kernel for every group width: the band of channels that 16 outputs touch is worked out at run time.
//
// Computes   Y = conv(act(X), W) with sums; dX = conv^T(D, W) [+ add], masked, with sums; D = al G + be Y + de on load.
// Layout     maps [n][h][w][channels padded to 8] of T, W float [k][r][r][g]; vectors float.
// Mapping    a tile is up to 128 output pixels (rows x columns of some images, cuda/emit_conv.cu chooses) x 64 channels. 128 threads make it, a
//            warp 128 pixels x 16 channels. The input tile with its halo lies in shared memory, activated, zeros outside the map; an output
//            pixel is a row of A, found by an address table, so maps of every size and both strides fill the tensor cores alike. Filters are
//            stationary in shared memory, each output's over the chunks of 8 inputs that it touches, zeros beside them; blockIdx.x is the
//            slab of 64 channels, blockIdx.y strides over tiles.
//            The input gradient is the same loop over flipped filters. At stride 2 a tap meets pixels of dX of one parity (of row and of column):
//            the tile has 32 of each of the four, and of a tap only those that it meets are computed.
//            Both gradients: from the same tiles of D and X a warp makes the filter gradient of its 16 channels too, in quads of four units
//            of (tap, chunk of 8 channels of D), of one parity, in registers from tile to tile. Up to 5 quads are one warp's; of more, 256
//            threads and two warps for 16 channels have 14, and then each makes dX of 64 pixels. Where these do not suffice there are more
//            passes: blockIdx.x is slab and pass, every pass loads every tile, and dX of a tile is made by one of them in turn.
// Numerics   products of T (W rounded to T), sums in float over pairs of chunks of 8 channels, taps inside.
// Cost       reads the input (rows + halo) / rows times, writes once; both gradients 4 n accesses where two kernels take 7 n, more passes mostly
//            from the second cache. Matrix work: ceil to chunks of 8 channels per 16 outputs, hence 2 times the useful work at g = 8, 1 at 16
//            and 32, more at widths that straddle. Not measured on a GPU yet.
// Tests      reference/conv.c; conformance cases conv_fwd and conv_bwd in f16 and bf16.
#pragma once
#include "conv_pointwise.cuh"

namespace anx {

constexpr int grouped_pixels = 128, grouped_out_pitch = 68, grouped_own_pitch = 72; // pitches of a finished tile, of a tile of 64 channels

// n / divisor by a multiplication; exact for n < 2^16 and beyond.
struct Divider {
  uint32_t magic, divisor;
  __device__ __forceinline__ int divide(int n) const {
#if defined(__CUDA_ARCH__)
    return divisor == 1 ? n : int(__umulhi(uint32_t(n), magic));
#else
    return divisor == 1 ? n : int(uint64_t(n) * magic >> 32);
#endif
  }
};

// Output pixels of a tile: images x rows x columns, of each parity where they are split; the input tile and the shared memory behind it, in
// elements of T.
struct GroupedTile {
  int images, rows, columns;               // of output pixels
  int split;                               // 1: by the parity of row and of column, an input gradient at stride 2; else 0
  int skew;                                // tap y of an output lies (y + skew) >> split input rows behind its first
  int in_rows, in_columns;                 // of the input, with halo, per image
  int step;                                // input pixels between neighbouring outputs
  int across, down, along;                 // tiles over a map and over the batch
  int pitch;                               // channels of an input pixel
  int own_chunks, filter_pitch;            // chunks of 8 inputs that one output touches, at most; values of an output's filter
  int band;                                // channels loaded, at most: a multiple of 8
  int halo_elements, filter_elements;
  Divider by_columns, by_map, by_in_columns, by_in_map, by_vectors; // by_vectors: of the widest band
};

// Parity 0 .. 3 of outputs is row % 2 and column % 2; the order gives two halves of about the same work.
__host__ __device__ constexpr int parity_of(int row, int column) { return (row & 1) + ((row + column) & 1) * 2; }
__host__ __device__ constexpr int row_parity(int parity) { return parity & 1; }
__host__ __device__ constexpr int column_parity(int parity) { return (parity + (parity >> 1)) & 1; }
// Along one side of r taps, the first that outputs of a parity meet and how many; then every second one.
__host__ __device__ constexpr int first_tap(int parity, int r) { return (parity + r / 2) & 1; }
__host__ __device__ constexpr int met_taps(int parity, int r) { return (r + 1 - first_tap(parity, r)) / 2; }
__host__ __device__ constexpr int met_taps_of(int split, int parity, int r) { return split ? met_taps(row_parity(parity), r) * met_taps(column_parity(parity), r) : r * r; }
// Of four units (tap, chunk) each.
__host__ __device__ constexpr int grouped_quads(int split, int r, int chunks) {
  int quads = 0;
  for (int parity = 0; parity < (split ? 4 : 1); parity++) quads += (met_taps_of(split, parity, r) * chunks + 3) / 4;
  return quads;
}

// Filter gradient's accumulators a warp: quads, none, up to 5, up to 7. The last form has two warps for 16 channels and one block a
// multiprocessor, the others one warp and more blocks.
constexpr int grouped_none = 0, grouped_few = 5, grouped_many = 7;
__host__ __device__ constexpr int grouped_halves(int quads) { return quads == grouped_many ? 2 : 1; }
__host__ __device__ constexpr int grouped_threads(int quads) { return 128 * grouped_halves(quads); }

template <class Conv> struct Grouped {
  Conv conv; // ConvForward or ConvInputGradient
  GroupedTile tile;
  int passes;            // of the filter gradient, where it is made too
  PerModel<float> filter_partial; // [gridDim.y][k r r g]
};

// The depth side of outputs: output i reads channels first .. first + width of the input.
struct Band {
  int outs, group_outs, width, channels; // outs: output channels; channels: input channels
  __device__ __forceinline__ int first(int out) const { return out / group_outs * width; }
};
template <bool backward> __device__ __forceinline__ Band band_of(const ConvShape &s) {
  return backward ? Band{s.c, s.g, s.go, s.k} : Band{s.k, s.go, s.g, s.c};
}

// An output pixel of the tile: slots of a parity stand together.
struct TilePixel { int image, row, column; }; // in the tile
__device__ __forceinline__ int parity_shift(const GroupedTile &t) { return 7 - 2 * t.split; }
__device__ __forceinline__ TilePixel tile_pixel(const GroupedTile &t, int slot) {
  const int parity = slot >> parity_shift(t), in_parity = slot - (parity << parity_shift(t));
  const int image = t.by_map.divide(in_parity), in_map = in_parity - image * t.rows * t.columns, y = t.by_columns.divide(in_map), x = in_map - y * t.columns;
  return {image, (y << t.split) + row_parity(parity), (x << t.split) + column_parity(parity)};
}

// The coefficients of the band, in shared memory: [3][band].
__device__ __forceinline__ void set_table_row(float *table, int band, int c, const Coefficients &k) {
#pragma unroll
  for (int j = 0; j < 3; j++)
#pragma unroll
    for (int e = 0; e < 8; e++) table[j * band + c + e] = k.v[j][e];
}
template <class Side> __device__ __forceinline__ void grouped_coefficients(float *table, int band, const Side &side, int first, int channels) {
  for (int i = threadIdx.x * 8; i < band; i += blockDim.x * 8) {
    Coefficients k = {};
    coefficients(k, side, first + i, channels);
    set_table_row(table, band, i, k);
  }
}
__device__ __forceinline__ Coefficients table_row(const float *table, int band, int c) {
  Coefficients k;
#pragma unroll
  for (int j = 0; j < 3; j++)
#pragma unroll
    for (int e = 0; e < 8; e += 4) {
      const float4 four = *reinterpret_cast<const float4 *>(table + j * band + c + e);
      k.v[j][e] = four.x, k.v[j][e + 1] = four.y, k.v[j][e + 2] = four.z, k.v[j][e + 3] = four.w;
    }
  return k;
}

// Fills the input tile: channels first .. first + band of the pixels around the tile's outputs, activated.
template <class T, bool backward, class Side>
__device__ __forceinline__ void grouped_load(T *halo, const float *table, const GroupedTile &t, const ConvShape &s, const Side &side, int channels, int first,
                                             int64_t image0, int row0, int column0) {
  const int vectors = t.band / 8, total = t.images * t.in_rows * t.in_columns * vectors, stride = padded(channels);
  const int high = backward ? s.p : s.h, wide = backward ? s.q : s.w, half = (s.r / 2) >> t.split;
  row0 = (row0 >> t.split) * t.step - half, column0 = (column0 >> t.split) * t.step - half;
  for (int i = threadIdx.x; i < total; i += blockDim.x) {
    const int pixel = t.by_vectors.divide(i), c = (i - pixel * vectors) * 8;
    const int image = t.by_in_map.divide(pixel), in_map = pixel - image * t.in_rows * t.in_columns;
    const int in_row = t.by_in_columns.divide(in_map), row = row0 + in_row, column = column0 + in_map - in_row * t.in_columns;
    Vector8<T> v = zero8<T>();
    if (image0 + image < s.n && row >= 0 && row < high && column >= 0 && column < wide && first + c < stride) {
      const int64_t at = (((image0 + image) * high + row) * wide + column) * stride + first + c;
      v = activated(side, table_row(table, t.band, c), raw8(side, at), second8(side, at));
    }
    store8(halo + pixel * t.pitch + c, v);
  }
}

// Loads 64 channels from out0 on of the tile's own pixels (no halo), activated; pixels outside the map are zeros.
template <class T, class Side>
__device__ __forceinline__ void grouped_own(T *own, const float *table, const GroupedTile &t, const Side &side, int images, int high, int wide, int channels, int out0,
                                            int64_t image0, int row0, int column0) {
  const int stride = padded(channels), c = threadIdx.x % 8 * 8;
  for (int slot = threadIdx.x / 8; slot < grouped_pixels; slot += blockDim.x / 8) {
    const TilePixel pixel = tile_pixel(t, slot);
    const int row = row0 + pixel.row, column = column0 + pixel.column;
    Vector8<T> v = zero8<T>();
    if (pixel.image < t.images && image0 + pixel.image < images && row < high && column < wide && out0 + c < stride) {
      const int64_t at = (((image0 + pixel.image) * high + row) * wide + column) * stride + out0 + c;
      v = activated(side, table_row(table, slab, c), raw8(side, at), second8(side, at));
    }
    store8(own + slot * grouped_own_pitch + c, v);
  }
}

// Where the input under the first tap of each of the tile's pixels lies in the halo.
__device__ __forceinline__ void grouped_pixel_table(int *pixel_at, const GroupedTile &t) {
  for (int slot = threadIdx.x; slot < grouped_pixels; slot += blockDim.x) {
    const TilePixel pixel = tile_pixel(t, slot);
    pixel_at[slot] = pixel.image < t.images ? ((pixel.image * t.in_rows + (pixel.row >> t.split) * t.step) * t.in_columns + (pixel.column >> t.split) * t.step) * t.pitch : 0;
  }
}

// Where tap (y, x) of an output lies in the halo, from its first.
__device__ __forceinline__ int tap_at(const GroupedTile &t, int y, int x) { return (((y + t.skew) >> t.split) * t.in_columns + ((x + t.skew) >> t.split)) * t.pitch; }

// Unit `number` of a quad, of `chunks` chunks; those behind the last of a parity have a chunk beyond.
struct Unit { int y, x, chunk, parity; };
__device__ __forceinline__ Unit unit_of(const GroupedTile &t, int r, int chunks, int quad, int number) {
  int parity = 0;
#pragma unroll 1
  for (; t.split && parity < 3; parity++) {
    const int quads = (met_taps_of(1, parity, r) * chunks + 3) / 4;
    if (quad < quads) break;
    quad -= quads;
  }
  const int taps = met_taps_of(t.split, parity, r), across = t.split ? met_taps(column_parity(parity), r) : r;
  const int unit = quad * 4 + number, chunk = unit / taps, tap = unit - chunk * taps, y = tap / across, x = tap - y * across;
  if (!t.split) return {y, x, chunk, parity};
  return {first_tap(row_parity(parity), r) + 2 * y, first_tap(column_parity(parity), r) + 2 * x, chunk, parity};
}

// A warp's part of a filter gradient: 16 channels of its own x units of (tap, chunk of 8 channels that they touch), four units a product.
template <class Isa, int quads> struct Correlation {
  int first, count, chunks; // quads
  int parities;             // of the quads, 2 bits each
  int unit_at[quads];       // in the halo, of this lane's unit of each four
  float acc[quads][2][8];

  // `part` of `parts` of the units of `of_chunks` chunks.
  __device__ __forceinline__ void start(const GroupedTile &t, int r, int part, int parts, int chunk_first, int of_chunks) {
    chunks = of_chunks, parities = 0;
    const int all = grouped_quads(t.split, r, chunks), share = (all + parts - 1) / parts;
    first = part * share;
    count = all - first < share ? all - first : share;
#pragma unroll
    for (int q = 0; q < quads; q++) {
      unit_at[q] = 0;
      if (q < count) {
        const Unit unit = unit_of(t, r, chunks, first + q, Isa::row() / 8);
        if (unit.chunk < chunks) unit_at[q] = tap_at(t, unit.y, unit.x) + (chunk_first + unit.chunk) * 8 + Isa::row() % 8;
        parities |= unit.parity << 2 * q;
      }
#pragma unroll
      for (int i = 0; i < 16; i++) acc[q][i / 8][i % 8] = 0.f;
    }
  }
  // += halo^T own over the tile's pixels, of its parity for each quad.
  template <class T> __device__ __forceinline__ void add(const T *own, const T *halo, const int *pixel_at, const GroupedTile &t) {
    const int used = t.images * t.rows * t.columns;
#pragma unroll 1
    for (int step = 0; step < grouped_pixels; step += 16) {
      const int parity = step >> parity_shift(t);
      if (step - (parity << parity_shift(t)) >= used) continue;
      uint32_t b[2][2 * Isa::block];
      Isa::columns_transposed(b, own + step * grouped_own_pitch, grouped_own_pitch);
      int at[Isa::loads];
#pragma unroll
      for (int j = 0; j < Isa::loads; j++) at[j] = pixel_at[step + Isa::depth(j)];
#pragma unroll
      for (int q = 0; q < quads; q++) {
        if (q >= count || ((parities >> 2 * q) & 3) != parity) continue; // a warp as one
        uint32_t a[8];
#pragma unroll
        for (int j = 0; j < Isa::loads; j++) Isa::rows_transposed(a, j, halo + at[j] + unit_at[q]);
#pragma unroll
        for (int n = 0; n < 2; n++) Isa::template multiply<T, 16, true>(acc[q][n], a, b[n]);
      }
    }
  }
  // Calls f(own channel of 16, channel from the first chunk's first on, tap, sum). room: 512 floats a warp that nobody uses.
  template <class F> __device__ __forceinline__ void finish(float *room, const GroupedTile &t, int r, F f) const {
    float *const mine = room + threadIdx.x / 32 * 512;
#pragma unroll
    for (int q = 0; q < quads; q++) {
      if (q >= count) continue;
      __syncwarp();
#pragma unroll
      for (int i = 0; i < 16; i++) mine[Isa::row_of(i % 8) * 16 + i / 8 * 8 + Isa::column_of(i % 8)] = acc[q][i / 8][i % 8];
      __syncwarp();
#pragma unroll 1
      for (int i = threadIdx.x % 32; i < 512; i += 32) {
        const Unit unit = unit_of(t, r, chunks, first + q, i / 128);
        if (unit.chunk < chunks) f(i % 16, unit.chunk * 8 + i / 16 % 8, unit.y * r + unit.x, mine[i]);
      }
    }
  }
};

// acc += the tile's pixels, 32 a block from `block` on, x 16 outputs, over one or two chunks (depth 8 or 16) from `chunk` on under all taps
// that they meet. Of this lane's outputs: own_first: their first chunk; filter: where in filters theirs begin.
template <class Isa, int depth, int blocks, class T>
__device__ __forceinline__ void grouped_convolve(float (&acc)[blocks][2][8], const T *halo, const int (&pixel)[blocks], const T *filters, const int (&filter)[2],
                                                 const int (&own_first)[2], const GroupedTile &t, int r, int chunk, int block) {
  int column[2][2];
  bool there[2][2];
#pragma unroll
  for (int n = 0; n < 2; n++)
#pragma unroll
    for (int i = 0; i < 2; i++) {
      const int own = chunk + i - own_first[n];
      there[n][i] = own >= 0 && own < t.own_chunks;
      column[n][i] = there[n][i] ? filter[n] + own * r * r * 8 : 0;
    }
#pragma unroll 1
  for (int y = 0; y < r; y++)
#pragma unroll 1
    for (int x = 0; x < r; x++) {
      const int met = parity_of(y + r / 2, x + r / 2) - block; // the only block, where they are split
      if (t.split && unsigned(met) >= unsigned(blocks)) continue;
      uint32_t b[2][depth / 8 * Isa::block];
#pragma unroll
      for (int n = 0; n < 2; n++)
#pragma unroll
        for (int i = 0; i < depth / 8; i++) Isa::column_values(b[n] + i * Isa::block, filters + column[n][i] + (y * r + x) * 8, there[n][i]);
      const T *at = halo + tap_at(t, y, x) + chunk * 8;
#pragma unroll
      for (int m = 0; m < blocks; m++) {
        if (t.split && m != met) continue;
        uint32_t a[8];
#pragma unroll
        for (int i = 0; i < depth / 8; i++) Isa::rows(a + 4 * i, at + pixel[m] + 8 * i);
#pragma unroll
        for (int n = 0; n < 2; n++) Isa::template multiply<T, depth, false>(acc[m][n], a, b[n]);
      }
    }
}

template <class Isa, class Conv, int quads> __global__ void __launch_bounds__(grouped_threads(quads), quads ? 2 / grouped_halves(quads) : 3) conv_grouped(Grouped<Conv> a) {
  using T = typename Conv::Element;
  constexpr bool backward = Conv::backward, fused = quads > 0;
  constexpr int halves = grouped_halves(quads), blocks = 4 / halves; // of 32 pixels a warp
  ANX_ONLY(Isa);
  ANX_SHARED(unsigned char, memory);
  const ConvShape s = a.conv.shape;
  const GroupedTile t = a.tile;
  const Band band = band_of<backward>(s);
  float *const table = reinterpret_cast<float *>(&memory);
  float *const table_own = table + 3 * t.band;
  int *const pixel_at = reinterpret_cast<int *>(table_own + 3 * slab);
  auto &sums = *reinterpret_cast<SlabShared<2, grouped_threads(quads) / 32> *>(pixel_at + grouped_pixels); // between tiles: registers are scarce
  T *const filters = reinterpret_cast<T *>(&sums + 1);
  T *const own = filters + t.filter_elements;
  T *const halo = own + (fused ? grouped_pixels * grouped_own_pitch : 0);
  float *const staged = reinterpret_cast<float *>(halo); // the finished tile takes the place of the input's
  const int thread = threadIdx.x, lane = thread % 32, warp_out = thread / 32 % 4 * 16, half = thread / 128, taps = s.r * s.r;
  const int pass = fused ? int(blockIdx.x) % a.passes : 0, out0 = int(blockIdx.x) / a.passes * slab, first = band.first(out0) / 8 * 8;

  grouped_coefficients(table, t.band, side(a.conv), first, band.channels);
  if (thread < 8) set_table_row(table_own, slab, thread * 8, finish_coefficients(a.conv, out0 + thread * 8)); // also those of X
  grouped_pixel_table(pixel_at, t);
  slab_clear(sums);
  // Filters of the slab, [out][chunk of its own][tap][8]; backward: of input channel out, flipped, over the outputs of its group.
  for (int i = thread; i < slab * t.filter_pitch; i += grouped_threads(quads)) {
    const int o = i / t.filter_pitch, in_out = i - o * t.filter_pitch, chunk = in_out / 8 / taps, tap = in_out / 8 - chunk * taps, out = out0 + o;
    const int from = band.first(out), e = (from / 8 + chunk) * 8 + in_out % 8 - from;
    float w = 0.f;
    if (out < band.outs && chunk < t.own_chunks && e >= 0 && e < band.width)
      w = backward ? a.conv.filter[(int64_t(from + e) * taps + taps - 1 - tap) * s.g + out % s.g] : a.conv.filter[(int64_t(out) * taps + tap) * s.g + e];
    filters[i] = stored<T>(w);
  }

  // This warp's 16 outputs and the chunks of 8 input channels they touch; this lane's two and where their filters begin.
  const int mine = out0 + warp_out, last = mine + 15 < band.outs ? mine + 15 : band.outs - 1;
  const bool live = mine < band.outs;
  const int chunk_first = live ? (band.first(mine) - first) / 8 : 0, chunk_end = live ? (band.first(last) + band.width - first + 7) / 8 : 0;
  int own_first[2], filter[2];
#pragma unroll
  for (int n = 0; n < 2; n++) {
    const int o = warp_out + n * 8 + Isa::column();
    own_first[n] = (band.first(out0 + o) - first) / 8;
    filter[n] = o * t.filter_pitch;
  }
  Correlation<Isa, fused ? quads : 1> correlation;
  if constexpr (fused) correlation.start(t, s.r, pass * halves + half, a.passes * halves, chunk_first, chunk_end - chunk_first);
  const int tiles = t.across * t.down * t.along;
  for (int tile = blockIdx.y, turn = 0; tile < tiles; tile += gridDim.y, turn++) {
    const int column0 = (tile % t.across * t.columns) << t.split, row0 = (tile / t.across % t.down * t.rows) << t.split;
    const int64_t image0 = int64_t(tile / t.across / t.down) * t.images;
    __syncthreads(); // tables and filters are there; the staged tile before has been read
    grouped_load<T, backward>(halo, table, t, s, side(a.conv), band.channels, first, image0, row0, column0);
    if constexpr (fused) grouped_own(own, table_own, t, a.conv.in, s.n, s.h, s.w, s.c, out0, image0, row0, column0);
    __syncthreads();
    if constexpr (fused) {
      correlation.add(own + warp_out, halo, pixel_at, t);
      if (turn % a.passes != pass) continue; // another pass makes this tile's dX
    }
    float acc[blocks][2][8] = {};
    int pixel[blocks];
#pragma unroll
    for (int m = 0; m < blocks; m++) pixel[m] = pixel_at[(half * blocks + m) * 32 + lane];
    int chunk = chunk_first;
    if constexpr (Isa::deep)
      for (; chunk + 1 < chunk_end; chunk += 2) grouped_convolve<Isa, 16>(acc, halo, pixel, filters, filter, own_first, t, s.r, chunk, half * blocks);
    for (; chunk < chunk_end; chunk++) grouped_convolve<Isa, 8>(acc, halo, pixel, filters, filter, own_first, t, s.r, chunk, half * blocks);
    __syncthreads();
#pragma unroll
    for (int m = 0; m < blocks; m++)
#pragma unroll
      for (int n = 0; n < 2; n++)
#pragma unroll
        for (int i = 0; i < 8; i++)
          staged[((half * blocks + m) * 32 + Isa::row_of(i)) * grouped_out_pitch + warp_out + n * 8 + Isa::column_of(i)] = acc[m][n][i];
    __syncthreads();
    const int c = thread % 8 * 8, high = backward ? s.h : s.p, wide = backward ? s.w : s.q;
    float tile_sums[2][8] = {};
#pragma unroll 1
    for (int slot = thread / 8; slot < grouped_pixels; slot += grouped_threads(quads) / 8) {
      const TilePixel in_tile = tile_pixel(t, slot);
      const int row = row0 + in_tile.row, column = column0 + in_tile.column;
      if (in_tile.image >= t.images || image0 + in_tile.image >= s.n || row >= high || column >= wide || out0 + c >= padded(band.outs)) continue;
      float v[8];
#pragma unroll
      for (int i = 0; i < 8; i++) v[i] = staged[slot * grouped_out_pitch + c + i];
      finish(a.conv, table_row(table_own, slab, c), ((image0 + in_tile.image) * high + row) * wide + column, out0 + c, v, tile_sums);
    }
    if (a.conv.partial) slab_add(sums, tile_sums);
  }
  if constexpr (fused) {
    float *partial = a.filter_partial + int64_t(blockIdx.y) * s.k * taps * s.g;
    __syncthreads(); // the last tile is done with
    correlation.finish(reinterpret_cast<float *>(own), t, s.r, [&](int out, int channel, int tap, float sum) {
      const int c = mine + out, k = first + chunk_first * 8 + channel, e = k - band.first(c);
      if (c < s.c && e >= 0 && e < s.go) partial[(int64_t(k) * taps + taps - 1 - tap) * s.g + c % s.g] = sum;
    });
  }
  if (!a.conv.partial) return;
  __syncthreads();
  slab_write(sums, a.conv.partial, int(blockIdx.y) * a.passes + pass, out0, band.outs);
}

} // namespace anx
