// conv_grouped.cuh - convolutions with few input channels a group, any odd filter, on tensor cores, 16-bit storage: forward and input
// gradient. One kernel for every group width: the band of channels that 16 outputs touch is worked out at run time.
//
// Computes   Y = conv(act(X), W) with sums; dX = conv^T(D, W) [+ add], masked, with sums; D = al G + be Y + de on load.
// Layout     maps [n][h][w][channels padded to 8] of T, W float [k][r][r][g]; vectors float.
// Mapping    128 threads make a tile of up to 128 output pixels (rows x columns of some images, cuda/emit_conv.cu chooses) x 64 channels; a
//            warp 128 pixels x 16 channels. The input tile with its halo lies in shared memory, activated, zeros outside the map; an output
//            pixel is a row of A, found by an address table, so maps of every size and both strides fill the tensor cores alike. Filters
//            are stationary in shared memory; blockIdx.x is the slab of 64 channels, blockIdx.y strides over tiles.
//            The input gradient is the same loop over flipped filters; at stride 2 the tile of D has zeros between its pixels. At stride 1
//            and up to 2 chunks it makes the filter gradient from the same tile (fused): D is then read once.
// Numerics   products of T (W rounded to T), sums in float over chunks of 8 channels, taps inside.
// Cost       reads the input (rows + halo) / rows times, writes once; fused backward 4 n accesses where the two kernels take 7 n. Matrix work: ceil to chunks of 8 channels per 16 outputs, hence 2 times
//            the useful work at g = 8, 1 at 16 and 32, more at widths that straddle; k8 products. Not measured on a GPU yet.
// Tests      reference/conv.c; conformance cases conv_fwd and conv_bwd in f16 and bf16.
#pragma once
#include "conv_pointwise.cuh"

namespace anx {

constexpr int grouped_threads = 128, grouped_pixels = 128, grouped_out_pitch = 68;

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

// Output pixels of a tile: images x rows x columns; the input tile and the shared memory behind it, in elements of T.
struct GroupedTile {
  int images, rows, columns;               // of output pixels
  int in_rows, in_columns;                 // of the input, with halo, per image
  int step;                                // input pixels between neighbouring outputs
  int across, down, along;                 // tiles over a map and over the batch
  int pitch, filter_pitch;                 // channels of an input pixel; of a filter's tap
  int band;                                // channels loaded, at most: a multiple of 8
  int halo_elements, filter_elements;
  Divider by_columns, by_map, by_in_columns, by_in_map, by_vectors; // by_vectors: of the widest band
};

constexpr int grouped_units = 18, grouped_own_pitch = 72; // of a filter gradient: units of (tap, chunk) a warp; pitch of a tile of 64 channels

template <class Conv> struct Grouped {
  Conv conv; // ConvForward or ConvInputGradient
  GroupedTile tile;
  float *filter_partial; // [gridDim.y][k r r g], where the filter gradient is made too
};

// The depth side of outputs: output i reads channels first .. first + width of the input.
struct Band {
  int outs, group_outs, width, channels; // outs: output channels; channels: input channels
  __device__ __forceinline__ int first(int out) const { return out / group_outs * width; }
};
template <bool backward> __device__ __forceinline__ Band band_of(const ConvShape &s) {
  return backward ? Band{s.c, s.g, s.go, s.k} : Band{s.k, s.go, s.g, s.c};
}

// Where input tile pixel (image, y, x) of the tile lies in the tensor, or -1. With dilation D's pixels stand `stride` apart.
template <bool backward> __device__ __forceinline__ int64_t grouped_source(const ConvShape &s, int64_t image, int y, int x) {
  if (image >= s.n || y < 0 || x < 0) return -1;
  if (!backward) return y < s.h && x < s.w ? (image * s.h + y) * s.w + x : -1;
  if (s.stride > 1) {
    if (y % s.stride || x % s.stride) return -1;
    y /= s.stride;
    x /= s.stride;
  }
  return y < s.p && x < s.q ? (image * s.p + y) * s.q + x : -1;
}

// The coefficients of the band, in shared memory: [3][band].
template <class Side> __device__ __forceinline__ void grouped_coefficients(float *table, int band, const Side &side, int first, int channels, int threads) {
  for (int i = threadIdx.x * 8; i < band; i += threads * 8) {
    Coefficients k = {};
    coefficients(k, side, first + i, channels);
#pragma unroll
    for (int j = 0; j < 3; j++)
#pragma unroll
      for (int e = 0; e < 8; e++) table[j * band + i + e] = k.v[j][e];
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
  const int vectors = t.band / 8, total = t.images * t.in_rows * t.in_columns * vectors, stride = padded(channels), half = s.r / 2;
  for (int i = threadIdx.x; i < total; i += grouped_threads) {
    const int pixel = t.by_vectors.divide(i), c = (i - pixel * vectors) * 8;
    const int image = t.by_in_map.divide(pixel), in_map = pixel - image * t.in_rows * t.in_columns;
    const int y = t.by_in_columns.divide(in_map), x = in_map - y * t.in_columns;
    const int64_t source = grouped_source<backward>(s, image0 + image, row0 * t.step + y - half, column0 * t.step + x - half);
    Vector8<T> v = zero8<T>();
    if (source >= 0 && first + c < stride) {
      const int64_t at = source * stride + first + c;
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
  for (int slot = threadIdx.x / 8; slot < grouped_pixels; slot += grouped_threads / 8) {
    const int image = t.by_map.divide(slot), in_map = slot - image * t.rows * t.columns, y = t.by_columns.divide(in_map);
    const int row = row0 + y, column = column0 + in_map - y * t.columns;
    Vector8<T> v = zero8<T>();
    if (slot < t.images * t.rows * t.columns && image0 + image < images && row < high && column < wide && out0 + c < stride) {
      const int64_t at = (((image0 + image) * high + row) * wide + column) * stride + out0 + c;
      v = activated(side, table_row(table, slab, c), raw8(side, at), second8(side, at));
    }
    store8(own + slot * grouped_own_pitch + c, v);
  }
}

// The products of a filter gradient over the tile's pixels: acc[unit] += own(16 channels of the warp)^T halo(8 channels under a tap).
template <class T>
__device__ __forceinline__ void grouped_correlate(float (&acc)[grouped_units][4], const T *own, const T *halo, const GroupedTile &t, const int (&unit_at)[grouped_units / 2]) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, pixels = t.images * t.rows * t.columns;
#pragma unroll 1
  for (int step = 0; step < pixels; step += 16) {
    uint32_t af[4];
    ldmatrix_transposed(4, af, own + (step + lane / 16 * 8 + lane % 8) * grouped_own_pitch + warp * 16 + lane / 8 % 2 * 8);
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

// Where a unit's channels lie in the halo; lanes 16..31 name the odd one of each pair.
__device__ __forceinline__ void grouped_units_at(int (&unit_at)[grouped_units / 2], const GroupedTile &t, int r, int first_unit, int units, int chunk_first) {
#pragma unroll
  for (int j = 0; j < grouped_units / 2; j++) {
    const int unit = first_unit + 2 * j + int(threadIdx.x) % 32 / 16, tap = unit % (r * r), chunk = unit / (r * r);
    unit_at[j] = unit < units ? (tap / r * t.in_columns + tap % r) * t.pitch + (chunk_first + chunk) * 8 : 0;
  }
}

// `fused`, of the input gradient at stride 1: makes the filter gradient too, from the same tile of D and the tile's own pixels of A.
template <class Conv, bool fused> __global__ void __launch_bounds__(grouped_threads) conv_grouped(Grouped<Conv> a) {
  using T = typename Conv::Element;
  constexpr bool backward = Conv::backward;
  ANX_ONLY(Sm80);
  ANX_SHARED(unsigned char, memory);
  const ConvShape s = a.conv.shape;
  const GroupedTile t = a.tile;
  const Band band = band_of<backward>(s);
  float *const table = reinterpret_cast<float *>(&memory);
  float *const table_own = table + 3 * t.band;
  T *const filters = reinterpret_cast<T *>(table_own + (fused ? 3 * slab : 0));
  T *const own = filters + t.filter_elements;
  T *const halo = own + (fused ? grouped_pixels * grouped_own_pitch : 0);
  float *const staged = reinterpret_cast<float *>(halo); // the finished tile takes the place of the input's
  const int thread = threadIdx.x, warp = thread / 32, lane = thread % 32, taps = s.r * s.r, out0 = blockIdx.x * slab;
  const int out_end = out0 + slab < band.outs ? out0 + slab : band.outs, first = band.first(out0) / 8 * 8;

  grouped_coefficients(table, t.band, side(a.conv), first, band.channels, grouped_threads);
  if constexpr (fused) grouped_coefficients(table_own, slab, a.conv.in, out0, s.c, grouped_threads);
  // Filters of the slab, [out][tap][width]; backward: of input channel out, flipped, over the outputs of its group.
  for (int i = thread; i < slab * taps * band.width; i += grouped_threads) {
    const int e = i % band.width, tap = i / band.width % taps, o = i / band.width / taps, out = out0 + o;
    float w = 0.f;
    if (out < band.outs)
      w = backward ? a.conv.filter[(int64_t(band.first(out) + e) * taps + taps - 1 - tap) * s.g + out % s.g] : a.conv.filter[(int64_t(out) * taps + tap) * s.g + e];
    filters[(o * taps + tap) * t.filter_pitch + e] = stored<T>(w);
  }

  // This warp's 16 outputs and the chunks of 8 input channels they touch.
  const int mine = out0 + warp * 16, last = mine + 15 < band.outs ? mine + 15 : band.outs - 1;
  const bool live = mine < band.outs;
  const int chunk_first = live ? (band.first(mine) - first) / 8 : 0, chunk_end = live ? (band.first(last) + band.width - first + 7) / 8 : 0;
  // Rows of A: the input pixel under the first tap of output pixel 32 m + lane.
  int rows[4];
#pragma unroll
  for (int m = 0; m < 4; m++) {
    const int slot = m * 32 + lane, image = t.by_map.divide(slot), in_map = slot - image * t.rows * t.columns, y = t.by_columns.divide(in_map);
    rows[m] = image < t.images ? ((image * t.in_rows + y * t.step) * t.in_columns + (in_map - y * t.columns) * t.step) * t.pitch : 0;
  }
  float correlation[fused ? grouped_units : 1][4] = {};
  int unit_at[fused ? grouped_units / 2 : 1];
  if constexpr (fused) grouped_units_at(unit_at, t, s.r, 0, (chunk_end - chunk_first) * taps, chunk_first);
  float sums[2][8] = {};
  const int tiles = t.across * t.down * t.along;
  for (int tile = blockIdx.y; tile < tiles; tile += gridDim.y) {
    const int column0 = tile % t.across * t.columns, row0 = tile / t.across % t.down * t.rows;
    const int64_t image0 = int64_t(tile / t.across / t.down) * t.images;
    __syncthreads(); // table and filters are there; the staged tile before has been read
    grouped_load<T, backward>(halo, table, t, s, side(a.conv), band.channels, first, image0, row0, column0);
    if constexpr (fused) grouped_own(own, table_own, t, a.conv.in, s.n, s.h, s.w, s.c, out0, image0, row0, column0);
    __syncthreads();
    if constexpr (fused) {
      if (live) grouped_correlate(correlation, own, halo, t, unit_at);
    }
    float acc[8][2][4] = {};
    for (int chunk = chunk_first; chunk < chunk_end; chunk++) {
      int from[2];   // position of the lane's pair of channels in its output's filter
      const T *filter[2];
#pragma unroll
      for (int n = 0; n < 2; n++) {
        const int o = warp * 16 + n * 8 + lane / 4;
        from[n] = out0 + o < out_end ? first + chunk * 8 + lane % 4 * 2 - band.first(out0 + o) : -2;
        filter[n] = filters + o * taps * t.filter_pitch + from[n];
      }
      int tap = 0;
      for (int y = 0; y < s.r; y++)
        for (int x = 0; x < s.r; x++, tap++) {
          uint32_t b[2];
#pragma unroll
          for (int n = 0; n < 2; n++) {
            union { T v[2]; uint32_t pair; } w;
            w.pair = 0;
            if (from[n] >= 0 && from[n] < band.width) w.v[0] = filter[n][tap * t.filter_pitch];
            if (from[n] >= -1 && from[n] + 1 < band.width) w.v[1] = filter[n][tap * t.filter_pitch + 1];
            b[n] = w.pair;
          }
          const T *at = halo + (y * t.in_columns + x) * t.pitch + chunk * 8;
#pragma unroll
          for (int m = 0; m < 4; m++) {
            uint32_t af[4];
            ldmatrix(4, af, at + rows[m]);
#pragma unroll
            for (int n = 0; n < 2; n++) {
              mma_k8<T>(acc[2 * m][n], af, &b[n]);
              mma_k8<T>(acc[2 * m + 1][n], af + 2, &b[n]);
            }
          }
        }
    }
    __syncthreads();
#pragma unroll
    for (int m = 0; m < 8; m++)
#pragma unroll
      for (int n = 0; n < 2; n++)
#pragma unroll
        for (int i = 0; i < 4; i++)
          staged[(m * 16 + lane / 4 + i / 2 * 8) * grouped_out_pitch + warp * 16 + n * 8 + lane % 4 * 2 + i % 2] = acc[m][n][i];
    __syncthreads();
    const Coefficients k8 = finish_coefficients(a.conv, out0 + thread % 8 * 8);
    const int c = thread % 8 * 8, high = backward ? s.h : s.p, wide = backward ? s.w : s.q;
#pragma unroll 1
    for (int slot = thread / 8; slot < t.images * t.rows * t.columns; slot += grouped_threads / 8) {
      const int image = t.by_map.divide(slot), in_map = slot - image * t.rows * t.columns, y = t.by_columns.divide(in_map);
      const int row = row0 + y, column = column0 + in_map - y * t.columns;
      if (image0 + image >= s.n || row >= high || column >= wide || out0 + c >= padded(band.outs)) continue;
      float v[8];
#pragma unroll
      for (int i = 0; i < 8; i++) v[i] = staged[slot * grouped_out_pitch + c + i];
      finish(a.conv, k8, ((image0 + image) * high + row) * wide + column, out0 + c, v, sums);
    }
  }
  if constexpr (fused) {
    float *partial = a.filter_partial + int64_t(blockIdx.y) * s.k * taps * s.g;
#pragma unroll
    for (int u = 0; u < grouped_units; u++)
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const int c = mine + lane / 4 + i / 2 * 8, k = first + (chunk_first + u / taps) * 8 + lane % 4 * 2 + i % 2, e = k - band.first(c);
        if (u < (chunk_end - chunk_first) * taps && c < s.c && e >= 0 && e < s.go) partial[(int64_t(k) * taps + taps - 1 - u % taps) * s.g + c % s.g] = correlation[u][i];
      }
  }
  __syncthreads();
  if (a.conv.partial) slab_partials(reinterpret_cast<SlabShared<2, 4> &>(*staged), sums, a.conv.partial, blockIdx.y, out0, band.outs);
}

} // namespace anx
