// The one file that knows cuDNN: its graph API through dlopen. Every call can fail, and then there is no plan but a sentence.
#include "cudnn.h"
#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <dlfcn.h>
#include <vector>
#include "cudnn_abi.h"

namespace anx_cuda {

using namespace cudnn;

constexpr uint64_t workspace_most = uint64_t(1) << 30;

struct Cudnn::Library {
  void *file = nullptr;
  Api api = {};
  Handle handle = nullptr;

  ~Library() { // the file stays: cuDNN starts threads
    if (handle) api.cudnnDestroy(handle);
  }
  std::string open(const char *path, int sm, cudaStream_t stream) {
    file = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!file) return std::string("it cannot be loaded: ") + dlerror();
    const char *absent = nullptr;
    const auto find = [&](auto &function, const char *name) {
      function = reinterpret_cast<std::decay_t<decltype(function)>>(dlsym(file, name));
      if (!function) absent = name;
    };
#define FIND(name) find(api.name, #name)
    FIND(cudnnGetVersion), FIND(cudnnGetErrorString), FIND(cudnnCreate), FIND(cudnnDestroy), FIND(cudnnSetStream), FIND(cudnnBackendCreateDescriptor);
    FIND(cudnnBackendDestroyDescriptor), FIND(cudnnBackendFinalize), FIND(cudnnBackendSetAttribute), FIND(cudnnBackendGetAttribute), FIND(cudnnBackendExecute);
#undef FIND
    if (absent) return std::string("it has no ") + absent;
    const size_t version = api.cudnnGetVersion();
    char text[120];
    const size_t unit = version < 90000 ? 1000 : 10000; // of the first number: it once was smaller
    snprintf(text, sizeof text, "it is version %zu.%zu", version / unit, version % unit / 100);
    if (version / unit != 9) return std::string(text) + ", and 9 is needed";
    if (sm < 75 && version >= 91100) return std::string(text) + ", the last with code for this GPU is 9.10";
    Status status = api.cudnnCreate(&handle);
    if (status == 0) status = api.cudnnSetStream(handle, stream);
    return status == 0 ? "" : std::string("it does not start: ") + api.cudnnGetErrorString(status);
  }
};

namespace {

// Descriptors on the way to a plan. The first call that fails is kept, and nothing is called behind it.
struct Builder {
  const Api &api;
  Status status = 0;
  const char *where = "";
  std::vector<std::shared_ptr<void>> all;

  explicit Builder(const Api &a) : api(a) {}
  std::shared_ptr<void> make(DescriptorType type) {
    Raw raw = nullptr;
    if (status == 0) right(api.cudnnBackendCreateDescriptor(type, &raw), "a descriptor");
    all.push_back({raw, [destroy = api.cudnnBackendDestroyDescriptor](void *d) { if (d) destroy(d); }});
    return all.back();
  }
  std::string text() const { return std::string(where) + ": " + api.cudnnGetErrorString(status); }
  bool right(Status s, const char *what) {
    if (status == 0 && s != 0) status = s, where = what;
    return status == 0;
  }
  template <class V> void set(const std::shared_ptr<void> &d, Attribute name, Type type, const std::vector<V> &values) {
    if (status == 0) right(api.cudnnBackendSetAttribute(d.get(), name, type, int64_t(values.size()), values.data()), "an attribute");
  }
  void set(const std::shared_ptr<void> &d, Attribute name, const std::shared_ptr<void> &value) { set(d, name, type_descriptor, std::vector<Raw>{value.get()}); }
  bool finalize(const std::shared_ptr<void> &d, const char *what) { return status == 0 && right(api.cudnnBackendFinalize(d.get()), what); }

  // [n][h][w][c], or a filter [k][r][r][g]; cuDNN counts dimensions as n c h w.
  std::shared_ptr<void> map(int64_t id, DataType type, int64_t n, int64_t h, int64_t w, int64_t c) {
    auto d = make(cudnn::tensor);
    set(d, tensor_data_type, type_data_type, std::vector<int>{type});
    set(d, tensor_dimensions, type_int64, std::vector<int64_t>{n, c, h, w});
    set(d, tensor_strides, type_int64, std::vector<int64_t>{h * w * c, 1, w * c, c});
    set(d, tensor_id, type_int64, std::vector<int64_t>{id});
    set(d, tensor_alignment, type_int64, std::vector<int64_t>{16});
    finalize(d, "a tensor");
    return d;
  }
};

enum : int64_t { id_x = 1, id_filter = 2, id_y = 3 };

std::shared_ptr<void> build_operation(Builder &b, Pass pass, const anx::ConvShape &s, DataType type) {
  const int64_t c = anx::padded(s.c), k = anx::padded(s.k), g = s.g == s.c ? c : s.g, padding = s.r / 2;
  const auto x = b.map(id_x, type, s.n, s.h, s.w, c), filter = b.map(id_filter, type, k, s.r, s.r, g), y = b.map(id_y, type, s.n, s.p, s.q, k);
  const auto convolution = b.make(cudnn::convolution);
  b.set(convolution, convolution_compute_type, type_data_type, std::vector<int>{data_float});
  b.set(convolution, convolution_mode, type_convolution_mode, std::vector<int>{cross_correlation});
  b.set(convolution, convolution_dilations, type_int64, std::vector<int64_t>{1, 1});
  b.set(convolution, convolution_strides, type_int64, std::vector<int64_t>{s.stride, s.stride});
  b.set(convolution, convolution_pre_paddings, type_int64, std::vector<int64_t>{padding, padding});
  b.set(convolution, convolution_post_paddings, type_int64, std::vector<int64_t>{padding, padding});
  b.set(convolution, convolution_spatial_dims, type_int64, std::vector<int64_t>{2});
  b.finalize(convolution, "the convolution");
  // The attributes of the three operations stand in the same order: alpha, beta, convolution, then what it has of x, filter and y.
  const struct { DescriptorType type; Attribute alpha, beta, convolution, x, filter, y; } names[] = {
      {convolution_forward, forward_alpha, forward_beta, forward_convolution, forward_x, forward_w, forward_y},
      {convolution_data, data_alpha, data_beta, data_convolution, data_dx, data_w, data_dy},
      {convolution_filter, filter_alpha, filter_beta, filter_convolution, filter_x, filter_dw, filter_dy}};
  const auto &n = names[int(pass)];
  const auto operation = b.make(n.type);
  b.set(operation, n.alpha, type_float, std::vector<float>{1});
  b.set(operation, n.beta, type_float, std::vector<float>{0});
  b.set(operation, n.convolution, convolution);
  b.set(operation, n.x, x);
  b.set(operation, n.filter, filter);
  b.set(operation, n.y, y);
  b.finalize(operation, "the operation");
  return operation;
}

// Engines of one heuristic, as configurations in its order.
std::vector<std::shared_ptr<void>> candidates(Builder &b, const std::shared_ptr<void> &graph, int mode) {
  const auto heuristics = b.make(cudnn::heuristics);
  b.set(heuristics, heuristics_graph, graph);
  b.set(heuristics, heuristics_mode, type_heuristic_mode, std::vector<int>{mode});
  int64_t count = 0;
  std::vector<std::shared_ptr<void>> list;
  if (!b.finalize(heuristics, "the heuristics") || !b.right(b.api.cudnnBackendGetAttribute(heuristics.get(), heuristics_results, type_descriptor, 0, &count, nullptr), "the heuristics")) return list;
  std::vector<Raw> raw;
  for (int64_t i = 0; i < std::min<int64_t>(count, 32); i++) {
    list.push_back(b.make(engine_config));
    raw.push_back(list.back().get());
  }
  if (b.status == 0) b.right(b.api.cudnnBackendGetAttribute(heuristics.get(), heuristics_results, type_descriptor, int64_t(raw.size()), &count, raw.data()), "the heuristics");
  list.resize(b.status == 0 ? size_t(std::min<int64_t>(count, int64_t(list.size()))) : 0);
  return list;
}

} // namespace

std::shared_ptr<Cudnn> Cudnn::from_environment(int sm, cudaStream_t stream, std::string *wrong) {
  const char *text = getenv("ANX_CUDNN"), *path = getenv("ANX_CUDNN_LIBRARY");
  if (!text || !*text) return nullptr;
  const std::string choice = std::string(",") + text + ",";
  for (size_t at = 1; at < choice.size();) {
    const size_t end = choice.find(',', at);
    const std::string word = choice.substr(at, end - at);
    if (word != "stem" && word != "1x1" && word != "wide" && word != "all") {
      *wrong = "ANX_CUDNN has \"" + word + "\"; give stem, 1x1, wide (several with commas) or all";
      return nullptr;
    }
    at = end + 1;
  }
  auto c = std::make_shared<Cudnn>();
  c->choice = choice;
  c->library = std::make_shared<Library>();
  c->missing = c->library->open(path ? path : "libcudnn.so.9", sm, stream);
  return c;
}

Cudnn::~Cudnn() = default;

std::string Cudnn::title() const {
  if (!missing.empty()) return "";
  const size_t version = library->api.cudnnGetVersion();
  return "cuDNN " + std::to_string(version / 10000) + "." + std::to_string(version / 100 % 100) + "." + std::to_string(version % 100) + " for " +
         choice.substr(1, choice.size() - 2);
}

bool Cudnn::wants(const anx::ConvShape &s) const {
  const char *kind = s.c == 3 ? "stem" : s.r == 1 && s.g == s.c ? "1x1" : s.g > 32 ? "wide" : nullptr;
  return kind && (choice.find(",all,") != std::string::npos || choice.find("," + std::string(kind) + ",") != std::string::npos);
}

const Cudnn::Plan &Cudnn::plan(Pass pass, const anx::ConvShape &s, int32_t dtype) {
  char key[160];
  snprintf(key, sizeof key, "%d %d %d %d %d %d %d %d %d %d %d", int(pass), dtype, s.n, s.h, s.w, s.c, s.k, s.r, s.stride, s.g, s.go);
  const auto [at, added] = plans.try_emplace(key);
  Plan &p = at->second;
  if (!added) return p;
  if (!missing.empty()) p.refusal = missing;
  else if (dtype != ANX_F16 && dtype != ANX_BF16) p.refusal = "it takes 16-bit types here";
  else if (s.g != s.c && (s.g % 8 || s.go % 8)) p.refusal = "it takes groups of multiples of 8 channels here";
  if (!p.refusal.empty()) return p;
  Builder b{library->api};
  const auto operation = build_operation(b, pass, s, dtype == ANX_F16 ? data_half : data_bfloat16), graph = b.make(cudnn::graph);
  b.set(graph, graph_handle, type_handle, std::vector<Handle>{library->handle});
  b.set(graph, graph_ops, operation);
  b.finalize(graph, "the graph");
  p.refusal = "it has no deterministic engine for this shape";
  for (int mode : {int(heuristic_a), int(heuristic_fallback)}) {
    if (b.status != 0) break;
    Builder tried{library->api}; // a heuristic that knows nothing is not the end
    for (const auto &config : candidates(tried, graph, mode)) {
      Builder one{library->api};
      const auto engine = one.make(cudnn::engine), plan = one.make(cudnn::plan);
      int64_t count = 0, index = 0, workspace = 0;
      int notes[32];
      Raw raw = engine.get();
      one.right(one.api.cudnnBackendGetAttribute(config.get(), config_engine, type_descriptor, 1, &count, &raw), "the engine");
      if (one.status == 0) one.right(one.api.cudnnBackendGetAttribute(engine.get(), engine_index, type_int64, 1, &count, &index), "the engine");
      if (one.status == 0) one.right(one.api.cudnnBackendGetAttribute(engine.get(), engine_notes, type_numerical_note, 32, &count, notes), "the engine");
      if (one.status != 0 || std::find(notes, notes + count, int(note_nondeterministic)) != notes + count) continue;
      one.set(plan, plan_handle, type_handle, std::vector<Handle>{library->handle});
      one.set(plan, plan_config, config);
      if (!one.finalize(plan, "the plan") || !one.right(one.api.cudnnBackendGetAttribute(plan.get(), plan_workspace, type_int64, 1, &count, &workspace), "the plan")) {
        p.refusal = one.text();
        continue;
      }
      if (workspace < 0 || uint64_t(workspace) > workspace_most) continue;
      static const char *const names[] = {"forward", "input_gradient", "filter_gradient"};
      p.refusal.clear();
      p.name = std::string("cudnn_") + names[int(pass)] + "_" + std::to_string(index);
      p.workspace = uint64_t(workspace);
      p.plan = plan;
      p.kept = std::move(b.all);
      p.kept.insert(p.kept.end(), {config, engine});
      return p;
    }
    if (tried.status != 0 && mode == heuristic_fallback) b.right(tried.status, tried.where);
  }
  if (b.status != 0) p.refusal = b.text();
  return p;
}

std::shared_ptr<void> Cudnn::bind(const Plan &p, void *x, void *filter, void *y, void *workspace) {
  Builder b{library->api};
  auto pack = b.make(variant_pack);
  b.set(pack, pack_ids, type_int64, std::vector<int64_t>{id_x, id_filter, id_y});
  b.set(pack, pack_pointers, type_pointer, std::vector<void *>{x, filter, y});
  b.set(pack, pack_workspace, type_pointer, std::vector<void *>{p.workspace ? workspace : nullptr});
  b.finalize(pack, "the pointers");
  if (b.status != 0) pack.reset();
  return pack;
}

cudaError_t Cudnn::run(const Plan &p, void *bound) const {
  const Status status = bound ? library->api.cudnnBackendExecute(library->handle, p.plan.get(), bound) : 1;
  return status == 0 ? cudaSuccess : cudaErrorInvalidValue; // a device that is lost says so at the next call
}

} // namespace anx_cuda
