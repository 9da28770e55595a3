// Convolutions that cuDNN takes: its call, and the kernels around it. False, with the reason kept, where our own kernels take them.
#include <algorithm>
#include "conv_library.cuh"
#include "cudnn.h"
#include "emit.h"

namespace anx_cuda {

using namespace anx;

static int ceil_divide(int64_t a, int64_t b) { return int((a + b - 1) / b); }
static int slabs(int c) { return ceil_divide(padded(c), slab); }

bool Emitter::library_takes(Pass pass, const ConvShape &s) {
  const Cudnn::Plan &p = context->cudnn->plan(pass, s, op->dtype);
  if (!p.refusal.empty()) refusal = p.refusal;
  return p.refusal.empty();
}

void Emitter::library_call(Pass pass, const ConvShape &s, void *x, void *filter, void *y) {
  const Cudnn::Plan *p = &context->cudnn->plan(pass, s, op->dtype);
  char *workspace = scratch<char>(p->workspace).first;
  if (!buffers) return;
  const std::shared_ptr<Cudnn> cudnn = context->cudnn;
  const std::shared_ptr<void> bound = cudnn->bind(*p, x, filter, y, workspace);
  const auto call = [=] { return cudnn->run(*p, bound.get()); };
  launches->push_back({number, p->name.c_str(),
#if defined(__CUDACC__)
                       [=](cudaStream_t) { return call(); },
#else
                       [=](cudaStream_t stream) { return host::later(stream, call); },
#endif
                       [] { return cudaSuccess; }});
}

template <class T> LibraryFilters<T> Emitter::library_filter(const ConvShape &s, float *filter) {
  const int pitch = s.g == s.c ? padded(s.c) : s.g;
  return {filter, scratch<T>(uint64_t(padded(s.k)) * uint64_t(s.r * s.r) * uint64_t(pitch)).first, s.k, s.r * s.r, s.g, padded(s.k), pitch};
}

// X as the library reads it; D likewise.
template <class T, class Source> const T *Emitter::library_map(const Source &from, bool as_it_is, const T *raw, int64_t pixels, int c) {
  if (as_it_is) return raw;
  T *to = scratch<T>(uint64_t(pixels) * uint64_t(padded(c))).first;
  launch("library_input", library_input<Source, T>, dim3(blocks(pixels, slabs(c)), slabs(c)), map_threads, 0, Before<Source, T>{from, to, pixels, c});
  return to;
}

template <class T> bool Emitter::library_forward(const ConvShape &s) {
  if (!context->cudnn || !context->cudnn->wants(s) || !library_takes(Pass::forward, s)) return false;
  if constexpr (sizeof(T) == 2) {
    const Input<T> input{in<T>(0), in<float>(1), in<float>(2)};
    const int64_t pixels = int64_t(s.n) * s.p * s.q;
    const T *x = library_map<T>(input, op->in[1] < 0, in<T>(0).first, int64_t(s.n) * s.h * s.w, s.c);
    const LibraryFilters<T> filters = library_filter<T>(s, in<float>(3).first);
    const int columns = slabs(s.k), rows = blocks(pixels, columns);
    launch("library_filters", library_filters<T>, dim3(std::min(ceil_divide(int64_t(filters.rows) * filters.taps * filters.pitch, 256), context->info.units * 16)), 256, 0, filters);
    library_call(Pass::forward, s, const_cast<T *>(x), filters.padded, out<T>(0).first);
    if (op->in[4] < 0 && op->out[1] < 0) return true;
    ConvForward<T> a{s, input, in<float>(3), in<float>(4), out<T>(0), nullptr};
    if (op->out[1] >= 0) a.partial = scratch<float>(uint64_t(rows) * 2 * uint64_t(s.k));
    launch("library_output", library_output<ConvForward<T>>, dim3(rows, columns), map_threads, sizeof(SlabShared<2>), Behind<ConvForward<T>>{a, out<T>(0).first, pixels, s.k});
    if (op->out[1] >= 0) sums_from(op, 1, a.partial, rows, 2, 1, s.k);
  }
  return true;
}

template <class T> bool Emitter::library_backward(const ConvShape &s) {
  if (!context->cudnn || !context->cudnn->wants(s)) return false;
  if (op->out[2] >= 0) {
    refusal = "it makes no gradient of a bias here";
    return false;
  }
  if (!library_takes(Pass::filter_gradient, s) || (op->out[0] >= 0 && !library_takes(Pass::input_gradient, s))) return false;
  if constexpr (sizeof(T) == 2) {
    const Incoming<T> incoming{in<T>(0), in<T>(1), in<float>(2), in<float>(3), in<float>(4)};
    const Input<T> input{in<T>(5), in<float>(6), in<float>(7)};
    const int64_t pixels = int64_t(s.n) * s.h * s.w;
    const T *d = library_map<T>(incoming, op->in[2] < 0, in<T>(0).first, int64_t(s.n) * s.p * s.q, s.k);
    const T *x = library_map<T>(input, op->in[6] < 0, in<T>(5).first, pixels, s.c);
    const LibraryFilters<T> gradient = library_filter<T>(s, out<float>(1).first);
    library_call(Pass::filter_gradient, s, const_cast<T *>(x), gradient.padded, const_cast<T *>(d));
    launch("library_filter_gradient", library_filter_gradient<T>, dim3(std::min(ceil_divide(int64_t(s.k) * gradient.taps * s.g, 256), context->info.units * 16)), 256, 0, gradient);
    if (op->out[0] < 0) return true;
    const LibraryFilters<T> filters = library_filter<T>(s, in<float>(9).first);
    launch("library_filters", library_filters<T>, dim3(std::min(ceil_divide(int64_t(filters.rows) * filters.taps * filters.pitch, 256), context->info.units * 16)), 256, 0, filters);
    library_call(Pass::input_gradient, s, out<T>(0).first, filters.padded, const_cast<T *>(d));
    if (op->in[6] < 0 && op->in[10] < 0 && op->out[3] < 0) return true;
    const int columns = slabs(s.c), rows = blocks(pixels, columns);
    ConvInputGradient<T> a{s, incoming, input, in<float>(9), in<float>(8), in<T>(10), out<T>(0), nullptr};
    if (op->out[3] >= 0) a.partial = scratch<float>(uint64_t(rows) * 2 * uint64_t(s.c));
    launch("library_output", library_output<ConvInputGradient<T>>, dim3(rows, columns), map_threads, sizeof(SlabShared<2>), Behind<ConvInputGradient<T>>{a, out<T>(0).first, pixels, s.c});
    if (op->out[3] >= 0) sums_from(op, 3, a.partial, rows, 2, 1, s.c);
  }
  return true;
}

// The names of the op's own kernels say why cuDNN did not take it.
void Emitter::tell_refusal(size_t first) {
  if (launches && !refusal.empty())
    for (size_t i = first; i < launches->size(); i++)
      if (Launch &l = (*launches)[i]; l.op == number) l.kernel = context->names.insert(l.kernel + (" instead of cuDNN: " + refusal)).first->c_str();
  refusal.clear();
}

template bool Emitter::library_forward<float>(const ConvShape &);
template bool Emitter::library_forward<__half>(const ConvShape &);
template bool Emitter::library_forward<__nv_bfloat16>(const ConvShape &);
template bool Emitter::library_backward<float>(const ConvShape &);
template bool Emitter::library_backward<__half>(const ConvShape &);
template bool Emitter::library_backward<__nv_bfloat16>(const ConvShape &);

} // namespace anx_cuda
