// backend.h - what the files of the CUDA back end share. The same sources make libanx_cuda.so with nvcc and libanx_cuda_host.so with a C++
// compiler and the harness of kernels/host, whose cuda_runtime.h stands for the runtime: same checks, same launches, same kernels.
//
// A context is a device and one stream. A program is a list of launches, captured once into a graph and replayed; program_run returns when
// the step is queued. Only faults that a kernel finds (a bad row of the sample table, a bad label) need the device's answer: a run that is
// the first behind a write to any buffer waits for it, so a bad table is reported by the run that reads it first; after that faults
// come with the next call that waits. A run behind a fault changes neither weights nor counters.
#pragma once
#include <cuda_runtime.h>
#include <cstdint>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <vector>
#include "check.h"
#include "profile.h"

namespace anx_cuda { class Cudnn; }

struct anx_context {
  int device = 0;
  cudaStream_t stream = nullptr;
  anx_device_info info = {};
  int sm = 0;               // 10 major + minor of the architecture that the kernels at hand are compiled for, the device's or an older one
  size_t shared_bytes = 0;  // a block's most
  uint64_t writes = 0;      // to buffers, counted
  bool lost = false;
  uint32_t trace = 0; // ANX_TRACE_*
  anx_cuda::Domain domain = nullptr;
  std::shared_ptr<anx_cuda::Cudnn> cudnn; // NULL: nobody asked for it
  std::set<std::string> names;            // of kernels, where they are made up
  std::vector<anx_program *> programs;
  char error[768] = {};
};

struct anx_buffer {
  uint64_t bytes = 0;
  char *data = nullptr; // on the device
};

namespace anx { struct SetSlots; }

namespace anx_cuda {

// One kernel of a program.
struct Launch {
  int op;
  const char *kernel;
  std::function<cudaError_t(cudaStream_t)> run;
  std::function<cudaError_t()> prepare; // loads it and allows its shared memory
};

} // namespace anx_cuda

struct anx_program {
  anx_program_desc desc = {};
  std::vector<anx_tensor> tensors;
  std::vector<anx_op> ops;
  std::vector<anx_cuda::Launch> launches;
  std::vector<double> slots;
  char *workspace = nullptr; // slots, fault, then what one op needs at a time
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t executable = nullptr;
  uint64_t seen_writes = ~uint64_t(0); // the context's count when a run was last waited for
  bool unchecked = false; // ran, and nobody has asked for its faults yet
  std::vector<std::string> kernels; // of each op
  const char *run = nullptr; // what a run is called
  bool profiling = false;    // clocks of our own
  std::vector<cudaEvent_t> events; // one before every launch and one behind all
  std::vector<uint64_t> ns, runs;
};

namespace anx_cuda {

// error.cpp: the status of a CUDA error, with its text in the context; cudaSuccess is ANX_OK.
anx_status check(anx_context *, cudaError_t, const char *what);
anx_status fail_memory(anx_context *, const char *what, uint64_t bytes);

// device.cpp
anx_status device_count(int32_t *);
anx_status device_info(anx_device_info *, int32_t);
anx_status context_create(anx_context **, const anx_context_desc *);
void context_destroy(anx_context *);
const char *context_error(const anx_context *);
anx_status context_info(anx_context *, anx_device_info *);
anx_status enter(anx_context *); // makes the device current; fails once it is lost
anx_status synchronize(anx_context *); // and reports what kernels have found
anx_status ceilings(anx_context *, anx_ceilings *, double seconds);

// buffer.cpp
anx_status tensor_bytes(anx_context *, const anx_tensor *, uint64_t *);
anx_status buffer_create(anx_context *, anx_buffer **, uint64_t);
void buffer_destroy(anx_context *, anx_buffer *);
anx_status buffer_write(anx_context *, anx_buffer *, const void *, uint64_t offset, uint64_t bytes);
anx_status buffer_read(anx_context *, const anx_buffer *, void *, uint64_t offset, uint64_t bytes);
anx_status pack(anx_context *, const anx_tensor *, anx_buffer *, const float *);
anx_status unpack(anx_context *, const anx_tensor *, const anx_buffer *, float *);

// program.cpp
anx_status program_workspace(anx_context *, const anx_program_desc *, uint64_t *, const anx_tensor *, const anx_op *);
anx_status program_create(anx_context *, const anx_program_desc *, anx_program **, const anx_tensor *, const anx_op *, anx_buffer *const *);
void program_destroy(anx_context *, anx_program *);
anx_status program_run(anx_context *, anx_program *, const double *);
anx_status program_profile(anx_context *, anx_program *, uint64_t *, uint64_t *);
anx_status program_kernels(anx_context *, anx_program *, const char **);
anx_status check_faults(anx_context *); // of all programs that ran; waits for the device
cudaError_t launch_set_slots(const anx::SetSlots &, cudaStream_t); // emit_map.cu
cudaError_t compiled_for(int *sm);                                  // emit_map.cu: the architecture of the kernels in use on the current device

} // namespace anx_cuda
