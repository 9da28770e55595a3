// A libcudnn.so.9 for the harness: the part of the backend API that cuda/cudnn.cpp uses, strict about what it is given, computing in float at
// once. FAKE_CUDNN makes it fail: old, start, graph, nothing, memory, nondeterministic, execute. Of its three engines the first is said
// to be nondeterministic (and computes nothing), the second cannot be planned, the third works and needs a workspace.
#include <cstdlib>
#include <cstring>
#include <map>
#include <vector>
#include "cuda_bf16.h"
#include "cuda_fp16.h"
#include "cudnn_abi.h"

using namespace cudnn;

namespace {

enum Failure { success = 0, not_initialized = 1001, bad_param = 2000, not_supported = 3000, no_memory = 4004, execution_failed = 5000 };
enum Engine { unsteady = 7, unplannable = 3, working = 12 };
constexpr int64_t workspace_bytes = 1000;

bool asked(const char *what) {
  const char *text = getenv("FAKE_CUDNN");
  return text && !strcmp(text, what);
}

struct Descriptor {
  int type;
  explicit Descriptor(int t) : type(t) {}
  bool final = false;
  std::map<int, std::vector<char>> values;
  std::map<int, int64_t> counts;
  int engine = 0;              // of an engine or its configuration
  const Descriptor *of = nullptr; // the graph of a configuration

  template <class V> V at(int name, int64_t i = 0) const {
    V v;
    memcpy(&v, values.at(name).data() + size_t(i) * sizeof v, sizeof v);
    return v;
  }
  const Descriptor &to(int name) const { return *at<Descriptor *>(name); }
  int64_t dim(int i) const { return at<int64_t>(tensor_dimensions, i); }
};

size_t bytes_of(int type) {
  switch (type) {
    case type_handle: case type_int64: case type_pointer: case type_descriptor: return 8;
    case type_data_type: case type_float: case type_convolution_mode: case type_heuristic_mode: return 4;
    default: return 0;
  }
}

struct Rule { int descriptor, name, type; int64_t count; };
const Rule rules[] = {
    {tensor, tensor_data_type, type_data_type, 1}, {tensor, tensor_dimensions, type_int64, 4}, {tensor, tensor_strides, type_int64, 4},
    {tensor, tensor_id, type_int64, 1}, {tensor, tensor_alignment, type_int64, 1},
    {convolution, convolution_compute_type, type_data_type, 1}, {convolution, convolution_mode, type_convolution_mode, 1},
    {convolution, convolution_dilations, type_int64, 2}, {convolution, convolution_strides, type_int64, 2}, {convolution, convolution_pre_paddings, type_int64, 2},
    {convolution, convolution_post_paddings, type_int64, 2}, {convolution, convolution_spatial_dims, type_int64, 1},
    {convolution_forward, forward_alpha, type_float, 1}, {convolution_forward, forward_beta, type_float, 1}, {convolution_forward, cudnn::forward_convolution, type_descriptor, 1},
    {convolution_forward, forward_w, type_descriptor, 1}, {convolution_forward, forward_x, type_descriptor, 1}, {convolution_forward, forward_y, type_descriptor, 1},
    {convolution_data, data_alpha, type_float, 1}, {convolution_data, data_beta, type_float, 1}, {convolution_data, cudnn::data_convolution, type_descriptor, 1},
    {convolution_data, data_w, type_descriptor, 1}, {convolution_data, data_dx, type_descriptor, 1}, {convolution_data, data_dy, type_descriptor, 1},
    {convolution_filter, filter_alpha, type_float, 1}, {convolution_filter, filter_beta, type_float, 1}, {convolution_filter, cudnn::filter_convolution, type_descriptor, 1},
    {convolution_filter, filter_dw, type_descriptor, 1}, {convolution_filter, filter_x, type_descriptor, 1}, {convolution_filter, filter_dy, type_descriptor, 1},
    {graph, graph_handle, type_handle, 1}, {graph, graph_ops, type_descriptor, 1},
    {heuristics, cudnn::heuristics_graph, type_descriptor, 1}, {heuristics, cudnn::heuristics_mode, type_heuristic_mode, 1},
    {plan, plan_handle, type_handle, 1}, {plan, plan_config, type_descriptor, 1},
    {variant_pack, pack_ids, type_int64, 3}, {variant_pack, pack_pointers, type_pointer, 3}, {variant_pack, pack_workspace, type_pointer, 1}};

int the_handle; // its address is the only one

const Descriptor &operand(const Descriptor &o, int forward, int data, int filter) {
  return o.to(o.type == convolution_forward ? forward : o.type == convolution_data ? data : filter);
}

// The operation's three tensors, its convolution and what follows.
struct Shape {
  const Descriptor &x, &w, &y, &c;
  explicit Shape(const Descriptor &o)
      : x(operand(o, forward_x, data_dx, filter_x)), w(operand(o, forward_w, data_w, filter_dw)), y(operand(o, forward_y, data_dy, filter_dy)),
        c(operand(o, cudnn::forward_convolution, cudnn::data_convolution, cudnn::filter_convolution)) {}
  bool fits() const {
    const int64_t groups = w.dim(1) ? x.dim(1) / w.dim(1) : 0;
    bool right = groups >= 1 && x.dim(1) == groups * w.dim(1) && w.dim(0) == y.dim(1) && y.dim(1) % groups == 0 && x.dim(0) == y.dim(0);
    for (int i = 0; i < 2; i++)
      right = right && y.dim(2 + i) == (x.dim(2 + i) + c.at<int64_t>(convolution_pre_paddings, i) + c.at<int64_t>(convolution_post_paddings, i) - w.dim(2 + i)) / c.at<int64_t>(convolution_strides, i) + 1;
    for (const Descriptor *t : {&x, &w, &y}) // 16-bit, channels last, dense, whole vectors
      right = right && t->at<int>(tensor_data_type) == x.at<int>(tensor_data_type) && t->at<int>(tensor_data_type) != data_float && t->at<int64_t>(tensor_strides, 1) == 1 &&
              t->at<int64_t>(tensor_strides, 3) == t->dim(1) && t->at<int64_t>(tensor_strides, 2) == t->dim(1) * t->dim(3) &&
              t->at<int64_t>(tensor_strides, 0) == t->dim(1) * t->dim(3) * t->dim(2) && t->dim(1) % 8 == 0;
    return right;
  }
};

float load(const void *at, int64_t i, int type) {
  return type == data_half ? __half2float(static_cast<const __half *>(at)[i]) : __bfloat162float(static_cast<const __nv_bfloat16 *>(at)[i]);
}
void store(void *at, int64_t i, int type, float v) {
  if (type == data_half) static_cast<__half *>(at)[i] = __float2half_rn(v);
  else static_cast<__nv_bfloat16 *>(at)[i] = __float2bfloat16_rn(v);
}

void compute(const Descriptor &o, void *const (&p)[3]) {
  const Shape s(o);
  const int type = s.x.at<int>(tensor_data_type);
  const int64_t n = s.x.dim(0), c = s.x.dim(1), h = s.x.dim(2), w = s.x.dim(3), k = s.w.dim(0), g = s.w.dim(1), r = s.w.dim(2), q = s.w.dim(3);
  const int64_t high = s.y.dim(2), wide = s.y.dim(3), stride = s.c.at<int64_t>(convolution_strides), pad = s.c.at<int64_t>(convolution_pre_paddings), go = k / (c / g);
  const auto values = [&](int i, int64_t count) {
    std::vector<float> v(static_cast<size_t>(count));
    for (int64_t j = 0; j < count; j++) v[size_t(j)] = load(p[i], j, type);
    return v;
  };
  std::vector<float> x = values(0, n * h * w * c), f = values(1, k * r * q * g), y = values(2, n * high * wide * k);
  std::vector<float> &out = o.type == convolution_forward ? y : o.type == convolution_data ? x : f;
  std::fill(out.begin(), out.end(), 0.f);
  for (int64_t image = 0; image < n; image++)
    for (int64_t a = 0; a < high; a++)
      for (int64_t b = 0; b < wide; b++)
        for (int64_t i = 0; i < r; i++)
          for (int64_t j = 0; j < q; j++) {
            const int64_t row = a * stride + i - pad, column = b * stride + j - pad;
            if (row < 0 || row >= h || column < 0 || column >= w) continue;
            float *xs = &x[size_t(((image * h + row) * w + column) * c)], *ys = &y[size_t(((image * high + a) * wide + b) * k)];
            for (int64_t m = 0; m < k; m++) {
              float *fs = &f[size_t(((m * r + i) * q + j) * g)], *xg = xs + m / go * g;
              if (o.type == convolution_forward) for (int64_t l = 0; l < g; l++) ys[m] += xg[l] * fs[l];
              else if (o.type == convolution_data) for (int64_t l = 0; l < g; l++) xg[l] += ys[m] * fs[l];
              else for (int64_t l = 0; l < g; l++) fs[l] += ys[m] * xg[l];
            }
          }
  void *to = p[o.type == convolution_forward ? 2 : o.type == convolution_data ? 0 : 1];
  for (size_t i = 0; i < out.size(); i++) store(to, int64_t(i), type, out[i]);
}

} // namespace

#define PUBLIC extern "C" __attribute__((visibility("default")))

PUBLIC size_t cudnnGetVersion() { return asked("old") ? 8907 : asked("later") ? 91101 : 91002; }
PUBLIC const char *cudnnGetErrorString(Status s) {
  switch (s) {
    case not_initialized: return "CUDNN_STATUS_NOT_INITIALIZED";
    case not_supported: return "CUDNN_STATUS_NOT_SUPPORTED";
    case no_memory: return "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED";
    case execution_failed: return "CUDNN_STATUS_EXECUTION_FAILED";
    default: return "CUDNN_STATUS_BAD_PARAM";
  }
}
PUBLIC Status cudnnCreate(Handle *h) {
  *h = &the_handle;
  return asked("start") ? not_initialized : success;
}
PUBLIC Status cudnnDestroy(Handle h) { return h == &the_handle ? success : bad_param; }
PUBLIC Status cudnnSetStream(Handle h, void *stream) { return h == &the_handle && stream ? success : bad_param; }
PUBLIC Status cudnnBackendCreateDescriptor(int type, Raw *out) {
  *out = new Descriptor(type);
  return success;
}
PUBLIC Status cudnnBackendDestroyDescriptor(Raw raw) {
  delete static_cast<Descriptor *>(raw);
  return success;
}
PUBLIC Status cudnnBackendSetAttribute(Raw raw, int name, int type, int64_t count, const void *values) {
  Descriptor *d = static_cast<Descriptor *>(raw);
  if (!d || d->final || !values) return bad_param;
  for (const Rule &r : rules)
    if (r.descriptor == d->type && r.name == name) {
      if (r.type != type || r.count != count) return bad_param;
      const char *bytes = static_cast<const char *>(values);
      d->values[name].assign(bytes, bytes + size_t(count) * bytes_of(type));
      if (type == type_descriptor && !d->to(name).final) return bad_param;
      return success;
    }
  return bad_param;
}
PUBLIC Status cudnnBackendFinalize(Raw raw) {
  Descriptor *d = static_cast<Descriptor *>(raw);
  if (!d || d->final) return bad_param;
  bool known = false;
  for (const Rule &r : rules)
    if (r.descriptor == d->type) {
      known = true;
      if (!d->values.count(r.name)) return bad_param;
    }
  if (!known) return bad_param;
  switch (d->type) {
    case convolution_forward: case convolution_data: case convolution_filter:
      if (!Shape(*d).fits()) return bad_param;
      break;
    case graph:
      if (asked("graph")) return not_supported;
      break;
    case plan:
      if (asked("memory")) return no_memory;
      if (d->to(plan_config).engine == unplannable) return not_supported;
      break;
    case tensor:
      if (d->at<int64_t>(tensor_alignment) != 16) return bad_param;
      break;
    default: break;
  }
  if ((d->type == graph || d->type == plan) && d->at<Handle>(d->type == graph ? graph_handle : plan_handle) != &the_handle) return bad_param;
  d->final = true;
  return success;
}
PUBLIC Status cudnnBackendGetAttribute(Raw raw, int name, int type, int64_t room, int64_t *count, void *out) {
  Descriptor *d = static_cast<Descriptor *>(raw);
  if (!d || !d->final) return bad_param;
  if (d->type == heuristics && name == heuristics_results && type == type_descriptor) {
    const Engine engines[] = {unsteady, unplannable, working};
    *count = asked("nothing") || d->at<int>(cudnn::heuristics_mode) == heuristic_fallback ? 0 : asked("nondeterministic") ? 1 : 3;
    for (int64_t i = 0; i < *count && i < room; i++) {
      Descriptor *config = static_cast<Descriptor **>(out)[i];
      if (config->type != engine_config) return bad_param;
      config->engine = engines[i], config->of = &d->to(cudnn::heuristics_graph), config->final = true;
    }
    return success;
  }
  if (room < 1 || !out) return bad_param;
  *count = 1;
  if (d->type == engine_config && name == config_engine && type == type_descriptor) {
    Descriptor *e = *static_cast<Descriptor **>(out);
    if (e->type != engine) return bad_param;
    e->engine = d->engine, e->final = true;
  } else if (d->type == engine && name == engine_index && type == type_int64) {
    *static_cast<int64_t *>(out) = d->engine;
  } else if (d->type == engine && name == engine_notes && type == type_numerical_note && room >= 2) {
    int *notes = static_cast<int *>(out);
    notes[0] = 0; // tensor cores
    if (d->engine == unsteady) notes[1] = note_nondeterministic, *count = 2;
  } else if (d->type == plan && name == plan_workspace && type == type_int64) {
    *static_cast<int64_t *>(out) = workspace_bytes;
  } else {
    return bad_param;
  }
  return success;
}
PUBLIC Status cudnnBackendExecute(Handle h, Raw raw, Raw pack_raw) {
  const Descriptor *d = static_cast<const Descriptor *>(raw), *pack = static_cast<const Descriptor *>(pack_raw);
  if (h != &the_handle || !d || !d->final || d->type != plan || !pack || !pack->final || pack->type != variant_pack) return bad_param;
  if (asked("execute")) return execution_failed;
  const Descriptor &config = d->to(plan_config), &operation = config.of->to(graph_ops);
  char *workspace = pack->at<char *>(pack_workspace);
  if (!workspace || config.engine != working) return bad_param;
  memset(workspace, 0x5a, size_t(workspace_bytes));
  const Shape s(operation);
  void *p[3] = {};
  for (int i = 0; i < 3; i++) {
    const int64_t id = pack->at<int64_t>(pack_ids, i);
    const Descriptor *const tensors[] = {&s.x, &s.w, &s.y};
    for (int t = 0; t < 3; t++)
      if (tensors[t]->at<int64_t>(tensor_id) == id) p[t] = pack->at<void *>(pack_pointers, i);
  }
  if (!p[0] || !p[1] || !p[2]) return bad_param;
  compute(operation, p);
  return success;
}
