// conv_stem.cuh - convolutions of an image: so few channels that all taps and channels are one depth of a product; 16-bit storage.
//
// Computes   Y = conv(X, W) [+ bias] with sums; dW = correlation of X with D, D = al G + be Y + de on load.
//            Behind a max-pool G need not exist: it is made from dX0 and the windows' winners (StemPool).
// Layout     X [n][h][w][8] of T, of which c <= 4 count, or crops of a uint8 set as input.cuh makes them (StemSet); Y, G [n][p][q][k padded to 8] of
//            T; dX0, winners as pool.cuh has them; W, dW float [k][r][r][c]; partials float [ranges][k][r r c].
// Mapping    256 threads make tiles of 8 x 16 output pixels x 64 channels; blockIdx.x is the slab of channels, blockIdx.y strides over tiles. The
//            pixels that a tile sees go to shared memory, and from there what one pixel's filter sees, as a row of r r c values, zeros outside the map. Forward: a warp makes 16 pixels x 64
//            channels. Filter gradient: a warp keeps 32 k x 48 of (tap, channel); where fewer warps hold all of it, groups of them share out the
//            pixels and are added in order at the end.
// Numerics   products of T (W rounded to T), sums in float; over ranges in double (reduce.cuh).
// Cost       reads X (of a set 3 bytes a pixel; tiles of 7x7/2 overlap by half) once and, backward, G and Y once: conv_grouped takes 3 passes for 7x7 and 8/3 of the products. Not measured on a GPU yet.
// Tests      reference/conv.c; conformance cases conv_fwd and conv_bwd with 3 channels, in f16 and bf16.
#pragma once
#include "conv_grouped.cuh"
#include "input.cuh"
#include "pool.cuh"

namespace anx {

constexpr int stem_rows = 8, stem_wide = 16, stem_pixels = stem_rows * stem_wide, stem_threads = 256, stem_depth_most = 160, stem_own_pitch = 72,
              stem_out_pitch = 68, stem_part_k = 32, stem_part_depth = 48, stem_table = 3 * slab,
              stem_seen_each = 4, stem_seen_most = stem_seen_each * stem_threads; // pixels that a tile sees: of a thread, in all

struct StemTile {
  int depth, depth16, pitch;     // r r c; rounded up to the depth of a product; of a pixel's row, an odd multiple of 16 bytes
  int across, down, tiles;       // over a map and in all
  int seen_columns, seen;        // input pixels that a tile sees: of a row, in all
  Divider by_seen_columns;
  int parts_across, parts, groups; // of a filter gradient: parts of the depth, of 64 channels, and groups of warps that hold all parts
};
__host__ __device__ constexpr int stem_seen_elements(const StemTile &t) { return (t.seen + 1) / 2 * 8; } // 16 bytes

// Where the pixels of X come from.
template <class T> struct StemMap {
  using Element = T;
  PerModel<const T> x;
};
template <class T> struct StemSet {
  using Element = T;
  ImageSet set;
};
template <class Conv, class Source> struct Stem {
  Conv conv; // ConvForward or ConvFilterGradient; X is source's
  Source source;
  StemTile tile;
};

// Where the gradient at Y comes from: Incoming, or the max-pool behind.
template <class T> struct StemPlain {
  static constexpr bool copies = false;
  static constexpr int at_once = stem_pixels / 32;
  struct Windows {};
};
template <class T> struct StemPool {
  static constexpr bool copies = true;
  static constexpr int at_once = 1; // there are no registers for more
  static constexpr int across = stem_wide / 2 + 1, windows = across * (stem_rows / 2 + 1); // those that reach into a tile
  struct Windows {
    T d[windows][slab]; // dX0
    unsigned char winner[windows][slab];
  };
  PerModel<const T> dx0;
  PerModel<const unsigned char> winners;
  int p, q;
};
template <class Source, class Behind> struct StemGradient : Stem<ConvFilterGradient<typename Source::Element>, Source> { Behind behind; };

// What a tile's D is made of travels to shared memory: Y to D's own place, where the thread that copied it makes D, and the windows.
template <class T>
__device__ __forceinline__ void stem_fetch(T *, typename StemPlain<T>::Windows *, const StemPlain<T> &, const Incoming<T> &, const ConvShape &, int64_t, int, int, int) {}
template <class T>
__device__ __forceinline__ void stem_fetch(T *deltas, typename StemPool<T>::Windows *windows, const StemPool<T> &a, const Incoming<T> &d, const ConvShape &s, int64_t image, int row0,
                                           int column0, int k0) {
  const int vector = threadIdx.x % 8 * 8, ks = padded(s.k);
  __syncthreads(); // D of the tile before has been read
  if (d.al)
#pragma unroll 1
    for (int pixel = threadIdx.x / 8; pixel < stem_pixels; pixel += stem_threads / 8) {
      const int p = row0 + pixel / stem_wide, q = column0 + pixel % stem_wide;
      const bool there = p < s.p && q < s.q && k0 + vector < ks;
      copy_async(deltas + pixel * stem_own_pitch + vector, d.y + (there ? ((image * s.p + p) * s.q + q) * ks + k0 + vector : 0), there ? 16 : 0);
    }
#pragma unroll 1
  for (int slot = threadIdx.x / 8; slot < a.windows; slot += stem_threads / 8) {
    const int p = row0 / 2 + slot / a.across, q = column0 / 2 + slot % a.across;
    Winners winners;
    winners.words = {0xffffffffu, 0xffffffffu};
    if (p < a.p && q < a.q && k0 + vector < ks) {
      const int64_t at = ((image * a.p + p) * a.q + q) * ks + k0 + vector;
      copy_async(&windows->d[slot][vector], a.dx0 + at);
      winners.words = *reinterpret_cast<const uint2 *>(a.winners + at);
    }
    *reinterpret_cast<uint2 *>(&windows->winner[slot][vector]) = winners.words;
  }
  commit_copies();
}
// G, and Y, of 8 channels of a pixel of the tile.
template <class T> __device__ __forceinline__ Vector8<T> stem_gradient(const typename StemPlain<T>::Windows *, const StemPlain<T> &, const Incoming<T> &d, int64_t at, int, int) {
  return raw8(d, at);
}
template <class T>
__device__ __forceinline__ Vector8<T> stem_gradient(const typename StemPool<T>::Windows *windows, const StemPool<T> &a, const Incoming<T> &, int64_t, int pixel, int vector) {
  float g[8] = {};
  pool_gather(g, windows->d, windows->winner, a.across, pixel / stem_wide, pixel % stem_wide, vector);
  Vector8<T> out;
#pragma unroll
  for (int i = 0; i < 8; i++) out.v[i] = stored<T>(g[i]);
  return out;
}
template <class T> __device__ __forceinline__ Vector8<T> stem_y(const StemPlain<T> &, const Incoming<T> &d, int64_t at, const T *) { return second8(d, at); }
template <class T> __device__ __forceinline__ Vector8<T> stem_y(const StemPool<T> &, const Incoming<T> &d, int64_t, const T *place) { return d.al ? load8(place) : zero8<T>(); }

template <class T> __device__ __forceinline__ const T *stem_image(const StemMap<T> &source, const ConvShape &s, int64_t image) {
  return source.x + image * s.h * s.w * 8;
}
template <class T> __device__ __forceinline__ Crop stem_image(const StemSet<T> &source, const ConvShape &, int64_t image) { return crop_of(source.set, int(image)); }
template <class T> __device__ __forceinline__ Vector<T, 4> stem_pixel(const StemMap<T> &, const ConvShape &s, const T *image, int h, int w) {
  return load_vector<4>(image + (int64_t(h) * s.w + w) * 8);
}
template <class T> __device__ __forceinline__ Vector<T, 4> stem_pixel(const StemSet<T> &source, const ConvShape &, const Crop &crop, int h, int w) {
  return crop.image < 0 ? zero_vector<T, 4>() : crop_pixel<T, 4>(source.set, crop, h, w);
}
template <class T> __device__ __forceinline__ void stem_label(const StemMap<T> &, int) {}
template <class T> __device__ __forceinline__ void stem_label(const StemSet<T> &source, int image) { label(source.set, image, crop_of(source.set, image)); }

// Fills seen[row][column], 4 channels each, with what the filters of a tile see.
template <class T, class Source>
__device__ __forceinline__ void stem_see(T *seen, const StemTile &t, const ConvShape &s, const Source &source, int64_t image, int row0, int column0) {
  const auto from = stem_image(source, s, image);
#pragma unroll
  for (int k = 0; k < stem_seen_each; k++) {
    const int i = int(threadIdx.x) + k * stem_threads, y = t.by_seen_columns.divide(i), h = row0 * s.stride - s.r / 2 + y,
              w = column0 * s.stride - s.r / 2 + i - y * t.seen_columns;
    if (i >= t.seen) continue;
    Vector<T, 4> v = zero_vector<T, 4>();
    if (h >= 0 && h < s.h && w >= 0 && w < s.w) v = stem_pixel(source, s, from, h, w);
    store_vector(seen + i * 4, v);
  }
}

// Fills rows[pixel] from what the tile sees: two threads a pixel, every other tap each.
template <class T> __device__ __forceinline__ void stem_spread(T *rows, const T *seen, const StemTile &t, const ConvShape &s, int row0, int column0) {
  const int pixel = threadIdx.x / 2, y = pixel / stem_wide, x = pixel % stem_wide;
  const bool inside = row0 + y < s.p && column0 + x < s.q;
  T *to = rows + pixel * t.pitch;
  for (int j = t.depth + int(threadIdx.x) % 2; j < t.depth16; j += 2) to[j] = stored<T>(0.f);
  to += int(threadIdx.x) % 2 * s.c;
  seen += (y * t.seen_columns + x) * s.stride * 4;
#pragma unroll 4
  for (int tap = threadIdx.x % 2; tap < s.r * s.r; tap += 2, to += 2 * s.c) {
    const Vector<T, 4> v = inside ? load_vector<4>(seen + (tap / s.r * t.seen_columns + tap % s.r) * 4) : zero_vector<T, 4>();
#pragma unroll
    for (int e = 0; e < 4; e++)
      if (e < s.c) to[e] = v.v[e];
  }
}

template <class Source> __global__ void __launch_bounds__(stem_threads, 2) conv_stem_forward(Stem<ConvForward<typename Source::Element>, Source> a) {
  using T = typename Source::Element;
  ANX_ONLY(Sm80);
  ANX_SHARED(unsigned char, memory);
  const ConvShape &s = a.conv.shape;
  const StemTile &t = a.tile;
  T *const filters = reinterpret_cast<T *>(&memory), *const seen = filters + slab * t.pitch, *const rows = seen + stem_seen_elements(t);
  float *const staged = reinterpret_cast<float *>(rows); // finished values take the place of the rows
  const int thread = threadIdx.x, warp = thread / 32, lane = thread % 32, k0 = blockIdx.x * slab, own = k0 + thread % 8 * 8;
  for (int i = thread; i < slab * t.depth16; i += stem_threads) {
    const int o = i / t.depth16, j = i % t.depth16;
    filters[o * t.pitch + j] = stored<T>(k0 + o < s.k && j < t.depth ? a.conv.filter[int64_t(k0 + o) * t.depth + j] : 0.f);
  }
  float sums[2][8] = {};
  for (int tile = blockIdx.y; tile < t.tiles; tile += gridDim.y) {
    const int column0 = tile % t.across * stem_wide, row0 = tile / t.across % t.down * stem_rows;
    const int64_t image = tile / t.across / t.down;
    if (blockIdx.x == 0 && thread == 0 && row0 == 0 && column0 == 0) stem_label(a.source, int(image));
    stem_see(seen, t, s, a.source, image, row0, column0);
    __syncthreads(); // filters and what the tile sees are there; the staged tile before has been read
    stem_spread(rows, seen, t, s, row0, column0);
    __syncwarp(); // a warp fills the rows that it loads
    float acc[8][4] = {};
#pragma unroll 1
    for (int j = 0; j < t.depth16; j += 16) {
      uint32_t af[4], bf[4];
      ldmatrix(4, af, rows + (warp * 16 + lane % 16) * t.pitch + j + lane / 16 * 8);
#pragma unroll
      for (int n = 0; n < 8; n += 2) {
        ldmatrix(4, bf, filters + (n * 8 + lane / 16 * 8 + lane % 8) * t.pitch + j + lane / 8 % 2 * 8);
        mma_k16<T>(acc[n], af, bf);
        mma_k16<T>(acc[n + 1], af, bf + 2);
      }
    }
    __syncthreads(); // rows have been read
#pragma unroll
    for (int n = 0; n < 8; n++)
#pragma unroll
      for (int i = 0; i < 4; i++) staged[(warp * 16 + lane / 4 + i / 2 * 8) * stem_out_pitch + n * 8 + lane % 4 * 2 + i % 2] = acc[n][i];
    __syncthreads();
    const Coefficients k8 = finish_coefficients(a.conv, own);
#pragma unroll 1
    for (int pixel = thread / 8; pixel < stem_pixels; pixel += stem_threads / 8) {
      const int p = row0 + pixel / stem_wide, q = column0 + pixel % stem_wide;
      if (p >= s.p || q >= s.q || own >= padded(s.k)) continue;
      float v[8];
#pragma unroll
      for (int i = 0; i < 8; i++) v[i] = staged[pixel * stem_out_pitch + thread % 8 * 8 + i];
      finish(a.conv, k8, (image * s.p + p) * s.q + q, own, v, sums);
    }
  }
  __syncthreads();
  if (a.conv.partial) slab_partials(reinterpret_cast<SlabShared<2> &>(*staged), sums, a.conv.partial, blockIdx.y, k0, s.k);
}

template <class Source, class Behind> __global__ void __launch_bounds__(stem_threads, 2) conv_stem_filter_gradient(StemGradient<Source, Behind> a) {
  using T = typename Source::Element;
  ANX_ONLY(Sm80);
  ANX_SHARED(unsigned char, memory);
  const ConvShape &s = a.conv.shape;
  const StemTile &t = a.tile;
  float *const table = reinterpret_cast<float *>(&memory); // al, be, de
  T *const deltas = reinterpret_cast<T *>(table + stem_table), *const seen = deltas + stem_pixels * stem_own_pitch, *const rows = seen + stem_seen_elements(t);
  const auto windows = reinterpret_cast<typename Behind::Windows *>(rows + stem_pixels * t.pitch);
  const int thread = threadIdx.x, warp = thread / 32, lane = thread % 32, vector = thread % 8 * 8, k0 = blockIdx.x * slab, ks = padded(s.k);
  const int group = warp / t.parts, part_k = warp % t.parts / t.parts_across * stem_part_k, part_j = warp % t.parts % t.parts_across * stem_part_depth;
  grouped_coefficients(table, slab, a.conv.d, k0, s.k);
  float acc[2][6][4] = {};
  for (int tile = blockIdx.y; tile < t.tiles; tile += gridDim.y) {
    const int column0 = tile % t.across * stem_wide, row0 = tile / t.across % t.down * stem_rows;
    const int64_t image = tile / t.across / t.down;
    stem_fetch<T>(deltas, windows, a.behind, a.conv.d, s, image, row0, column0, k0);
    stem_see(seen, t, s, a.source, image, row0, column0);
    if (Behind::copies) wait_copies<0>();
    __syncthreads(); // what the tile sees is there; the tile before has been read
    stem_spread(rows, seen, t, s, row0, column0);
#pragma unroll Behind::at_once
    for (int i = 0; i < stem_pixels / 32; i++) {
      const int pixel = thread / 8 + i * 32, p = row0 + pixel / stem_wide, q = column0 + pixel % stem_wide;
      T *const place = deltas + pixel * stem_own_pitch + vector;
      Vector8<T> v = zero8<T>();
      if (p < s.p && q < s.q && k0 + vector < ks) {
        const int64_t at = ((image * s.p + p) * s.q + q) * ks + k0 + vector;
        v = activated(a.conv.d, table_row(table, slab, vector), stem_gradient<T>(windows, a.behind, a.conv.d, at, pixel, vector), stem_y<T>(a.behind, a.conv.d, at, place));
      }
      store8(place, v);
    }
    __syncthreads();
#pragma unroll 1
    for (int pixel = group * 16; pixel < stem_pixels && group < t.groups; pixel += t.groups * 16) {
      uint32_t af[2][4], bf[4];
#pragma unroll
      for (int m = 0; m < 2; m++)
        ldmatrix_transposed(4, af[m], deltas + (pixel + lane / 16 * 8 + lane % 8) * stem_own_pitch + part_k + m * 16 + lane / 8 % 2 * 8);
#pragma unroll
      for (int n = 0; n < 6; n += 2) { // a part that reaches beyond the depth repeats its end and does not leave it
        const int j = part_j + n * 8 < t.depth16 - 16 ? part_j + n * 8 : t.depth16 - 16;
        ldmatrix_transposed(4, bf, rows + (pixel + lane / 8 % 2 * 8 + lane % 8) * t.pitch + j + lane / 16 * 8);
#pragma unroll
        for (int m = 0; m < 2; m++) {
          mma_k16<T>(acc[m][n], af[m], bf);
          mma_k16<T>(acc[m][n + 1], af[m], bf + 2);
        }
      }
    }
  }
  __syncthreads();
  // The groups' sums, added in order.
  float *const whole = reinterpret_cast<float *>(&memory), *const mine = whole + (part_k + lane / 4) * t.depth16 + part_j + lane % 4 * 2;
#pragma unroll 1
  for (int g = 0; g < t.groups; g++) {
    if (group == g)
#pragma unroll
      for (int m = 0; m < 2; m++)
#pragma unroll
        for (int n = 0; n < 6; n++)
          if (part_j + n * 8 < t.depth16)
#pragma unroll
            for (int i = 0; i < 4; i++) {
              float &at = mine[(m * 16 + i / 2 * 8) * t.depth16 + n * 8 + i % 2];
              at = g ? at + acc[m][n][i] : acc[m][n][i];
            }
    __syncthreads();
  }
  float *const partial = a.conv.partial + int64_t(blockIdx.y) * s.k * t.depth;
  for (int i = thread; i < slab * t.depth; i += stem_threads) {
    const int o = i / t.depth, j = i % t.depth;
    if (k0 + o < s.k) partial[int64_t(k0 + o) * t.depth + j] = whole[o * t.depth16 + j];
  }
}

} // namespace anx
