// input.cuh - normalised crops of a uint8 set that lies on the device, and their labels.
//
// Computes   X(i) = crop (and bilinear resize, flip) of the image that row first + i of the sample table names, (v/255 - mean) invstd.
// Layout     images uint8 [count][ih][iw][1|3], labels int [count], samples int [rows][8], norm float [2][3]; X [n][h][w][8], of which 3
//            channels count; y int [n].
// Mapping    a thread per output pixel, blockIdx.y the row of the batch.
// Numerics   positions and means in float.
// Cost       bound by writing X; not measured on a GPU yet.
// Tests      reference/input.c; conformance cases input.
#pragma once
#include "device.cuh"

namespace anx {

// The first fault of a program: {1 + op, what, row, value}. Written by whoever comes first, read by the host.
enum FaultKind { fault_image = 1, fault_rectangle, fault_flip, fault_label };
__device__ __forceinline__ void report(int *fault, int op, int what, int row, int value) {
  if (atomicCAS(fault, 0, op + 1) != 0) return;
  fault[1] = what;
  fault[2] = row;
  fault[3] = value;
}

template <class T> struct Gather {
  PerModel<const unsigned char> images;
  PerModel<const int> labels, samples;
  PerModel<const float> norm;
  const double *slots;
  PerModel<T> x;
  PerModel<int> y;
  int *fault;
  int count, ih, iw, channels, h, w, first_slot, op;
};

__device__ __forceinline__ float gather_pixel(const unsigned char *image, float mean, float scale, int ih, int iw, int channels, int y, int x, int c) {
  if (y < 0 || y >= ih || x < 0 || x >= iw) return 0.f;
  const float v = image[(int64_t(y) * iw + x) * channels + (channels == 1 ? 0 : c)];
  constexpr float part = 1.f / 255.f; // v / 255 without a division's registers; the same bits for all 256 values
  return (fmaf(fmaf(-255.f, v * part, v), part, v * part) - mean) * scale;
}

// Output position i of `size` falls between low and high of a rectangle side of `length`, share of the way.
__device__ __forceinline__ void gather_place(int i, int size, int length, int &low, int &high, float &share) {
  float at = size == length ? float(i) : (float(i) + 0.5f) * float(length) / float(size) - 0.5f;
  at = fminf(fmaxf(at, 0.f), float(length - 1));
  low = int(at);
  high = low + 1 < length ? low + 1 : low;
  share = at - float(low);
}

template <class T> __global__ void __launch_bounds__(256) gather(Gather<T> a) {
  const int row = int(slot_of(a.slots, a.first_slot)) + int(blockIdx.y);
  const int *sample = a.samples + int64_t(row) * 8;
  const int image = sample[0], top = sample[1], left = sample[2], height = sample[3], width = sample[4], flip = sample[5];
  const int pixel = blockIdx.x * 256 + threadIdx.x;
  const int what = image < 0 || image >= a.count ? fault_image : height < 1 || width < 1 ? fault_rectangle : flip != 0 && flip != 1 ? fault_flip : 0;
  if (what) {
    if (pixel == 0) report(a.fault, a.op, what, row, what == fault_image ? image : what == fault_flip ? flip : height < 1 ? height : width);
    return;
  }
  if (pixel == 0) a.y[blockIdx.y] = a.labels[image];
  if (pixel >= a.h * a.w) return;
  const int i = pixel / a.w, j = pixel % a.w;
  int y0, y1, x0, x1;
  float fy, fx;
  gather_place(i, a.h, height, y0, y1, fy);
  gather_place(flip ? a.w - 1 - j : j, a.w, width, x0, x1, fx);
  const unsigned char *source = a.images + int64_t(image) * a.ih * a.iw * a.channels;
  Vector8<T> out = zero8<T>();
  for (int c = 0; c < 3; c++) {
    const float mean = a.norm[c], scale = a.norm[3 + c];
    const auto at = [&](int y, int x) { return gather_pixel(source, mean, scale, a.ih, a.iw, a.channels, top + y, left + x, c); };
    const float upper = (1.f - fx) * at(y0, x0) + (fx > 0.f ? fx * at(y0, x1) : 0.f);
    const float lower = fy > 0.f ? (1.f - fx) * at(y1, x0) + (fx > 0.f ? fx * at(y1, x1) : 0.f) : 0.f;
    out.v[c] = stored<T>((1.f - fy) * upper + fy * lower);
  }
  store8(a.x + (int64_t(blockIdx.y) * a.h * a.w + pixel) * 8, out);
}

} // namespace anx
