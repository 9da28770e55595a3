// input.cuh - normalised crops of a uint8 set that lies on the device, and their labels.
//
// Computes   X(i) = crop (and bilinear resize, flip) of the image that row first + i of the sample table names, (v/255 - mean) invstd.
// Layout     images uint8 [count][ih][iw][1|3], labels int [count], samples int [rows][8], norm float [2][3]; X [n][h][w][8], of which 3
//            channels count; y int [n].
// Mapping    a thread per output pixel, blockIdx.y the row of the batch. Where all who read X are convolutions of conv_stem.cuh they make their
//            pixels themselves, and X is never written.
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

// The images of a batch: a set and, from the value of first_slot on, the rows of its sample table.
struct ImageSet {
  PerModel<const unsigned char> images;
  PerModel<const int> labels, samples;
  PerModel<const float> norm;
  const double *slots;
  PerModel<int> y;
  int *fault;
  int count, ih, iw, channels, h, w, first_slot, op;
};
template <class T> struct Gather {
  ImageSet set;
  PerModel<T> x;
};

// Of image i of the batch; image < 0: the row does not fit the set.
struct Crop { int image, top, left, height, width, flip; };
__device__ __forceinline__ Crop crop_of(const ImageSet &a, int i) {
  const int *sample = a.samples + (int64_t(slot_of(a.slots, a.first_slot)) + i) * 8;
  Crop crop = {sample[0], sample[1], sample[2], sample[3], sample[4], sample[5]};
  if (crop.image >= a.count || crop.height < 1 || crop.width < 1 || (crop.flip != 0 && crop.flip != 1)) crop.image = -1;
  return crop;
}
// The label of image i, or what is wrong with its row; one thread does so.
__device__ __forceinline__ void label(const ImageSet &a, int i, const Crop &crop) {
  if (crop.image >= 0) {
    a.y[i] = a.labels[crop.image];
    return;
  }
  const int row = int(slot_of(a.slots, a.first_slot)) + i;
  const int *sample = a.samples + int64_t(row) * 8;
  if (sample[0] < 0 || sample[0] >= a.count) report(a.fault, a.op, fault_image, row, sample[0]);
  else if (crop.height < 1 || crop.width < 1) report(a.fault, a.op, fault_rectangle, row, crop.height < 1 ? crop.height : crop.width);
  else report(a.fault, a.op, fault_flip, row, crop.flip);
}

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

// Pixel (i, j) of a crop, normalised and rounded; `width` channels, of which 3 count.
template <class T, int width> __device__ __forceinline__ Vector<T, width> crop_pixel(const ImageSet &a, const Crop &crop, int i, int j) {
  int y0, y1, x0, x1;
  float fy, fx;
  gather_place(i, a.h, crop.height, y0, y1, fy);
  gather_place(crop.flip ? a.w - 1 - j : j, a.w, crop.width, x0, x1, fx);
  const unsigned char *source = a.images + int64_t(crop.image) * a.ih * a.iw * a.channels;
  Vector<T, width> out = zero_vector<T, width>();
#pragma unroll
  for (int c = 0; c < 3; c++) {
    const float mean = a.norm[c], scale = a.norm[3 + c];
    const auto at = [&](int y, int x) { return gather_pixel(source, mean, scale, a.ih, a.iw, a.channels, crop.top + y, crop.left + x, c); };
    const float upper = (1.f - fx) * at(y0, x0) + (fx > 0.f ? fx * at(y0, x1) : 0.f);
    const float lower = fy > 0.f ? (1.f - fx) * at(y1, x0) + (fx > 0.f ? fx * at(y1, x1) : 0.f) : 0.f;
    out.v[c] = stored<T>((1.f - fy) * upper + fy * lower);
  }
  return out;
}

template <class T> __global__ void __launch_bounds__(256) gather(Gather<T> a) {
  const int image = blockIdx.y, pixel = blockIdx.x * 256 + threadIdx.x;
  const Crop crop = crop_of(a.set, image);
  if (pixel == 0) label(a.set, image, crop);
  if (crop.image < 0 || pixel >= a.set.h * a.set.w) return;
  store8(a.x + (int64_t(image) * a.set.h * a.set.w + pixel) * 8, crop_pixel<T, 8>(a.set, crop, pixel / a.set.w, pixel % a.set.w));
}

} // namespace anx
