// emit.h - from ops to launches. An emitter goes over an op twice: without memory it only measures the workspace, with memory it appends
// launches. Choices of kernel, tile and split are functions of the op record and the device model alone, so that bits are too.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include "backend.h"
#include "cudnn.h"
#include "reduce.cuh"

namespace anx {
struct ImageSet;
template <class T> struct LibraryFilters;
}

namespace anx_cuda {

class Emitter {
public:
  anx_context *context;
  const anx_tensor *tensors;
  const anx_op *ops;
  int count;                       // of ops
  anx_buffer *const *buffers;      // NULL: measuring
  std::vector<Launch> *launches;
  char *base;                      // of an op's workspace
  double *slots;
  int *fault;
  uint64_t used = 0, most = 0;     // workspace of the op in turn, of the greediest op

  const anx_op *op = nullptr;
  int number = 0, models = 1; // of the op in turn

  anx_status emit(int number);
  // The op behind the convolution in turn where it is the ANX_JOIN_BWD that alone reads its dX, so that one launch can make both, else NULL:
  // dX is transient, and the plan keeps what the join writes away from what the convolution reads.
  const anx_op *block_end() const;
  // The ANX_INPUT that makes tensor x where all who read x are stem convolutions: they load the set's pixels themselves, and x is not written.
  const anx_op *gathered(int32_t x) const;
  anx::ImageSet images_of(const anx_op *input) const;
  // The ANX_POOL_BWD that makes tensor g where a stem's filter gradient alone reads g: it makes g itself, from the winners that lie in g's place.
  const anx_op *pooled(int32_t g) const;

  // The memory of a tensor; NULL where it is absent or nothing is bound.
  template <class T> anx::PerModel<T> at(int32_t id) const {
    if (id < 0 || !buffers) return nullptr;
    return {reinterpret_cast<T *>(buffers[tensors[id].buffer]->data + tensors[id].offset), models > 1 ? int64_t(tensors[id].stride) : 0};
  }
  template <class T> anx::PerModel<T> in(int i) const { return at<T>(op->in[i]); }
  template <class T> anx::PerModel<T> out(int i) const { return at<T>(op->out[i]); }
  template <class T> anx::PerModel<T> scratch(uint64_t count) {
    const uint64_t begin = used, bytes = (count * sizeof(T) + 255) / 256 * 256;
    used += bytes * uint64_t(models);
    if (used > most) most = used;
    return base ? anx::PerModel<T>(reinterpret_cast<T *>(base + begin), int64_t(bytes)) : nullptr;
  }
  // One kernel; beside its grid stand the models that share the op. Nothing else may depend on how many they are.
  template <class Arguments>
  void launch(const char *name, void (*kernel)(Arguments), dim3 grid, int threads, size_t shared, const Arguments &arguments);

  // Blocks over `pixels` in steps of 32, beside `slabs` of 64 channels: enough to fill the device some times.
  int blocks(int64_t pixels, int slabs) const;

  // cudnn_emit.cu: false where our own kernels are to take the op.
  template <class T> bool library_forward(const anx::ConvShape &);
  template <class T> bool library_backward(const anx::ConvShape &);
  void tell_refusal(size_t first); // launch of the op

  // emit_conv.cu, emit_map.cu
  template <class T> anx_status conv_forward();
  template <class T> anx_status conv_backward();
  template <class T> bool fused_gradients(const anx::ConvShape &);
  template <class T> bool pointwise_gradients(const anx::ConvShape &, const anx_op *end);
  template <class T> bool joined_convolution();
  template <class T> bool stem_forward(const anx::ConvShape &);
  template <class T> bool stem_filter_gradient(const anx::ConvShape &);
  bool is_stem(const anx_op *) const; // with the models of the op in turn
  template <class T> void input_gradient(const anx::ConvShape &, const anx_op *end);
  template <class T> void filter_gradient(const anx::ConvShape &);
  template <class T> anx_status map();
  void small(); // coefficients, SGD, loss scale
  // Output `i` of an op, sums double [2][c], comes from partial float [rows][quantities][c], quantities 0 and `second`. The next op adds
  // them up if it is the batch norm that reads them, else a launch of their own: until then their workspace stays taken.
  void sums_from(const anx_op *, int i, anx::PerModel<const float> partial, int rows, int quantities, int second, int c);
  void block_sums_from(const anx_op *end, anx::PerModel<const float> partial, int rows, int c) { // of an ANX_JOIN_BWD, partial [rows][3][c]
    sums_from(end, 1, partial, rows, 3, 1, c);
    sums_from(end, 2, partial, rows, 3, 2, c);
  }
  // The gradients of the op's filters (and biases: `values` in all) come from partial float [rows][values]. They are added up together with
  // those of other ops, before an op that touches one of them: until then all of the op's workspace stays taken.
  void filters_from(anx::PerModel<const float> partial, int rows, int64_t filters, int64_t values);
  void finish(); // of the program: what is still waiting

private:
  struct Waiting { int number, models, tensor; anx::Partials partials; };
  std::vector<Waiting> waiting;
  anx::Partials take(int32_t tensor, int c); // of the waiting ones, or the sums as they lie there
  void flush();
  struct WaitingFilters { int number; anx::FilterPartials partials; };
  std::vector<WaitingFilters> waiting_filters;
  uint64_t held = 0; // bytes of the workspace that they lie in
  bool touches_waiting_filters() const;
  void flush_filters();

  int done = -1; // the op that was emitted with the one before it
  bool any_overlap(const int32_t *a, int as, const int32_t *b, int bs, int models) const; // of tensors, -1: absent
  std::string refusal; // of cuDNN, for the op in turn
  bool library_takes(Pass, const anx::ConvShape &);
  void library_call(Pass, const anx::ConvShape &, void *x, void *filter, void *y);
  template <class T> anx::LibraryFilters<T> library_filter(const anx::ConvShape &, float *filter);
  template <class T, class Source> const T *library_map(const Source &, bool as_it_is, const T *raw, int64_t pixels, int c);
};

template <class Arguments>
void Emitter::launch(const char *name, void (*kernel)(Arguments), dim3 grid, int threads, size_t shared, const Arguments &arguments) {
  if (!buffers) return;
  grid.z = unsigned(models);
  launches->push_back({number, name,
#if defined(__CUDACC__)
                       [=](cudaStream_t stream) {
                         Arguments copy = arguments;
                         void *pointers[] = {&copy};
                         return cudaLaunchKernel(reinterpret_cast<const void *>(kernel), grid, dim3(threads), pointers, shared, stream);
                       },
#else
                       [=](cudaStream_t stream) { return host::enqueue(stream, reinterpret_cast<const void *>(kernel), grid, dim3(threads), shared, [=] { kernel(arguments); }); },
#endif
                       [=, most = int(context->shared_bytes)] {
                         cudaFuncAttributes attributes;
                         cudaError_t e = cudaFuncGetAttributes(&attributes, kernel);
                         // The limit is the kernel's, not the launch's: the device's most, or a smaller launch would take it from a larger one.
                         if (e == cudaSuccess && shared > (48 << 10)) e = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, most);
                         return e;
                       }});
}

} // namespace anx_cuda
