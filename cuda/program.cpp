// Programs: ops become launches once, launches a graph once, and a run replays it.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <new>
#include "emit.h"
#include "input.cuh"
#include "sgd.cuh"

namespace anx_cuda {

static uint64_t slot_bytes(const anx_program_desc *d) { return (uint64_t(d->slots) * sizeof(double) + 255) / 256 * 256; }
constexpr uint64_t fault_bytes = 256;

// Goes over all ops; the workspace of the greediest is *most.
static anx_status walk(anx_context *c, const anx_program_desc *d, const anx_tensor *tensors, const anx_op *ops, anx_buffer *const *buffers,
                       std::vector<Launch> *launches, char *workspace, uint64_t *most) {
  Emitter e;
  e.context = c;
  e.tensors = tensors;
  e.ops = ops;
  e.count = d->ops;
  e.buffers = buffers;
  e.launches = launches;
  e.slots = reinterpret_cast<double *>(workspace);
  e.fault = workspace ? reinterpret_cast<int *>(workspace + slot_bytes(d)) : nullptr;
  e.base = workspace ? workspace + slot_bytes(d) + fault_bytes : nullptr;
  for (int32_t i = 0; i < d->ops; i++) {
    const anx_status status = e.emit(i);
    if (status != ANX_OK) return status;
  }
  e.finish();
  *most = slot_bytes(d) + fault_bytes + e.most;
  return ANX_OK;
}

anx_status program_workspace(anx_context *c, const anx_program_desc *d, uint64_t *bytes, const anx_tensor *tensors, const anx_op *ops) {
  if (!c) return ANX_INVALID_ARGUMENT;
  if (!bytes) return anx_cuda_fail(c, ANX_INVALID_ARGUMENT, "program_workspace: no place for the answer");
  const anx_status status = anx_cuda_check_program(c, d, tensors, ops, nullptr);
  return status == ANX_OK ? walk(c, d, tensors, ops, nullptr, nullptr, nullptr, bytes) : status;
}

static anx_status capture(anx_context *c, anx_program *p) {
  for (const Launch &l : p->launches) {
    const anx_status status = check(c, l.prepare(), l.kernel);
    if (status != ANX_OK) return status;
  }
  anx_status status = check(c, cudaStreamBeginCapture(c->stream, cudaStreamCaptureModeThreadLocal), "capture");
  if (status != ANX_OK) return status;
  for (const Launch &l : p->launches)
    if ((status = check(c, l.run(c->stream), l.kernel)) != ANX_OK) break;
  const cudaError_t ended = cudaStreamEndCapture(c->stream, &p->graph); // ends it in every case
  if (status == ANX_OK) status = check(c, ended, "capture");
  if (status == ANX_OK) status = check(c, cudaGraphInstantiateWithFlags(&p->executable, p->graph, 0), "instantiate the graph");
  return status;
}

anx_status program_create(anx_context *c, const anx_program_desc *d, anx_program **out, const anx_tensor *tensors, const anx_op *ops, anx_buffer *const *buffers) {
  anx_status status = enter(c);
  if (status != ANX_OK) return status;
  if (!out) return anx_cuda_fail(c, ANX_INVALID_ARGUMENT, "program_create: no place for the program");
  *out = nullptr;
  if (d && d->buffers > 0 && !buffers) return anx_cuda_fail(c, ANX_INVALID_ARGUMENT, "program_create: no buffers");
  if ((status = anx_cuda_check_program(c, d, tensors, ops, buffers)) != ANX_OK) return status;
  uint64_t bytes = 0;
  if ((status = walk(c, d, tensors, ops, nullptr, nullptr, nullptr, &bytes)) != ANX_OK) return status;
  try {
    anx_program *p = *out = new anx_program;
    p->desc = *d;
    p->tensors.assign(tensors, tensors + d->tensors);
    p->ops.assign(ops, ops + d->ops);
    p->slots.resize(size_t(d->slots));
    p->ns.resize(size_t(d->ops));
    p->runs.resize(size_t(d->ops));
    p->run = run_of(ops, d->ops);
    p->kernels.resize(size_t(d->ops));
    void *workspace = nullptr;
    const cudaError_t e = cudaMalloc(&workspace, bytes);
    if (e != cudaSuccess) status = e == cudaErrorMemoryAllocation ? fail_memory(c, "program_create", bytes) : check(c, e, "program_create");
    p->workspace = static_cast<char *>(workspace);
    if (status == ANX_OK) status = check(c, cudaMemsetAsync(workspace, 0, slot_bytes(d) + fault_bytes, c->stream), "program_create");
    if (status == ANX_OK) status = check(c, cudaStreamSynchronize(c->stream), "program_create");
    static anx_buffer *const none[1] = {nullptr}; // a program without buffers still has launches
    if (status == ANX_OK) status = walk(c, d, p->tensors.data(), p->ops.data(), buffers ? buffers : none, &p->launches, p->workspace, &bytes);
    for (const Launch &l : p->launches) {
      std::string &names = p->kernels[size_t(l.op)];
      if (names.find(l.kernel) == std::string::npos) names += (names.empty() ? "" : " + ") + std::string(l.kernel);
    }
    if (status == ANX_OK && !p->launches.empty()) status = capture(c, p);
    c->programs.push_back(p);
  } catch (const std::bad_alloc &) {
    status = anx_cuda_fail(c, ANX_OUT_OF_MEMORY, "program_create: no memory for %d ops", d->ops);
  }
  if (status != ANX_OK) {
    program_destroy(c, *out);
    *out = nullptr;
  }
  return status;
}

void program_destroy(anx_context *c, anx_program *p) {
  if (!p) return;
  if (c) c->programs.erase(std::remove(c->programs.begin(), c->programs.end(), p), c->programs.end());
  if (c && cudaSetDevice(c->device) == cudaSuccess) {
    cudaStreamSynchronize(c->stream);
    if (p->executable) cudaGraphExecDestroy(p->executable);
    if (p->graph) cudaGraphDestroy(p->graph);
    for (cudaEvent_t e : p->events) cudaEventDestroy(e);
    if (p->workspace) cudaFree(p->workspace);
  }
  delete p;
}

// What the slots say is known before anything is launched.
static anx_status check_slots(anx_context *c, const anx_program *p, const double *slots) {
  for (int32_t i = 0; i < p->desc.ops; i++) {
    const anx_op *o = &p->ops[size_t(i)];
    if (o->kind != ANX_INPUT && o->kind != ANX_XENT) continue;
    for (int32_t m = 0; m < o->models; m++) {
      const double wanted = slots[o->slot[0] + m];
      if (o->kind == ANX_INPUT) {
        const anx_tensor *table = &p->tensors[size_t(o->in[2])];
        const double rows = double(table->n) * table->h * table->w * table->c / double(ANX_SAMPLE_COLUMNS);
        if (!(wanted >= 0 && wanted + o->n <= rows) || wanted != floor(wanted))
          return anx_cuda_fail_op(c, ANX_INVALID_ARGUMENT, i, o, "%d rows from %g on of a sample table of %.0f", o->n, wanted, rows);
      } else if (!(wanted >= 0 && wanted <= o->n) || wanted != floor(wanted)) {
        return anx_cuda_fail_op(c, ANX_INVALID_ARGUMENT, i, o, "%g valid rows of a batch of %d", wanted, o->n);
      }
    }
  }
  return ANX_OK;
}

// Waits for the device and says what its kernels have found.
static anx_status check_fault(anx_context *c, anx_program *p) {
  int fault[4] = {};
  int *at = reinterpret_cast<int *>(p->workspace + slot_bytes(&p->desc));
  anx_status status = check(c, cudaMemcpyAsync(fault, at, sizeof fault, cudaMemcpyDeviceToHost, c->stream), "program_run");
  if (status == ANX_OK) status = check(c, cudaStreamSynchronize(c->stream), "program_run");
  if (status != ANX_OK || !fault[0]) return status;
  status = check(c, cudaMemsetAsync(at, 0, sizeof fault, c->stream), "program_run");
  if (status != ANX_OK) return status;
  const int number = fault[0] - 1;
  const anx_op *o = &p->ops[size_t(number)];
  switch (fault[1]) {
    case anx::fault_image:
      return anx_cuda_fail_op(c, ANX_INVALID_ARGUMENT, number, o, "sample %d names image %d of a set of %d", fault[2], fault[3], p->tensors[size_t(o->in[0])].n);
    case anx::fault_rectangle: return anx_cuda_fail_op(c, ANX_INVALID_ARGUMENT, number, o, "sample %d has a rectangle with a side of %d pixels", fault[2], fault[3]);
    case anx::fault_flip: return anx_cuda_fail_op(c, ANX_INVALID_ARGUMENT, number, o, "sample %d has flip %d, not 0 or 1", fault[2], fault[3]);
    default: return anx_cuda_fail_op(c, ANX_INVALID_ARGUMENT, number, o, "the label of row %d is %d, not one of %d classes", fault[2], fault[3], o->c);
  }
}

anx_status check_faults(anx_context *c) {
  for (anx_program *p : c->programs) {
    if (!p->unchecked) continue;
    p->unchecked = false;
    const anx_status status = check_fault(c, p);
    if (status != ANX_OK) return status;
  }
  return ANX_OK;
}

static anx_status set_slots(anx_context *c, anx_program *p, const double *slots) {
  for (int first = 0; first < p->desc.slots; first += anx::slots_per_launch) {
    anx::SetSlots a;
    a.count = p->desc.slots - first < anx::slots_per_launch ? p->desc.slots - first : anx::slots_per_launch;
    memcpy(a.value, slots + first, size_t(a.count) * sizeof(double));
    a.slots = reinterpret_cast<double *>(p->workspace) + first;
    const anx_status status = check(c, launch_set_slots(a, c->stream), "program_run");
    if (status != ANX_OK) return status;
  }
  return ANX_OK;
}

// One launch after the other: in ranges, and with an event between them where clocks are wanted.
static anx_status run_ungraphed(anx_context *c, anx_program *p, Ranges &ranges) {
  anx_status status = ANX_OK;
  for (size_t i = 0; i < p->launches.size() && status == ANX_OK; i++) {
    const Launch &l = p->launches[i];
    ranges.enter(phase_of(p->ops[size_t(l.op)]));
    if (p->profiling) status = check(c, cudaEventRecord(p->events[i], c->stream), "program_run");
    if (status == ANX_OK) status = check(c, l.run(c->stream), l.kernel);
  }
  if (status != ANX_OK || !p->profiling) return status;
  status = check(c, cudaEventRecord(p->events.back(), c->stream), "program_run");
  if (status == ANX_OK) status = check(c, cudaStreamSynchronize(c->stream), "program_run");
  if (status != ANX_OK) return status;
  for (size_t i = 0; i < p->launches.size(); i++) {
    float ms = 0;
    if ((status = check(c, cudaEventElapsedTime(&ms, p->events[i], p->events[i + 1]), "program_run")) != ANX_OK) return status;
    p->ns[size_t(p->launches[i].op)] += uint64_t(double(ms) * 1e6);
  }
  for (uint64_t &r : p->runs) r++;
  return ANX_OK;
}

anx_status program_run(anx_context *c, anx_program *p, const double *slots) {
  anx_status status = enter(c);
  if (status != ANX_OK) return status;
  if (!p) return anx_cuda_fail(c, ANX_INVALID_ARGUMENT, "program_run: no program");
  if (p->desc.slots && !slots) return anx_cuda_fail(c, ANX_INVALID_ARGUMENT, "program_run: no slots, but the program has %d", p->desc.slots);
  if ((status = check_slots(c, p, slots)) != ANX_OK || p->launches.empty()) return status;
  const bool traced = c->trace & ANX_TRACE_RANGES;
  Ranges ranges(traced, c->domain, p->run);
  if ((status = set_slots(c, p, slots)) != ANX_OK) return status;
  status = traced || p->profiling ? run_ungraphed(c, p, ranges) : check(c, cudaGraphLaunch(p->executable, c->stream), "program_run");
  p->unchecked = status == ANX_OK;
  if (status != ANX_OK || p->seen_writes == c->writes) return status;
  p->unchecked = false;
  status = check_fault(c, p);
  if (status == ANX_OK) p->seen_writes = c->writes;
  return status;
}

anx_status program_profile(anx_context *c, anx_program *p, uint64_t *ns, uint64_t *runs) {
  anx_status status = enter(c);
  if (status != ANX_OK) return status;
  if (!p) return anx_cuda_fail(c, ANX_INVALID_ARGUMENT, "program_profile: no program");
  if (p->desc.ops && (!ns || !runs)) return anx_cuda_fail(c, ANX_INVALID_ARGUMENT, "program_profile: no place for the answer");
  while (p->events.size() < p->launches.size() + 1) {
    cudaEvent_t e;
    if ((status = check(c, cudaEventCreate(&e), "program_profile")) != ANX_OK) return status;
    p->events.push_back(e);
  }
  for (size_t i = 0; i < p->ns.size(); i++) {
    ns[i] = p->ns[i];
    runs[i] = p->runs[i];
    p->ns[i] = p->runs[i] = 0;
  }
  p->profiling = true;
  return ANX_OK;
}

anx_status program_kernels(anx_context *c, anx_program *p, const char **names) {
  if (!c) return ANX_INVALID_ARGUMENT;
  if (!p || !names) return anx_cuda_fail(c, ANX_INVALID_ARGUMENT, "program_kernels: no program or no place for the answer");
  for (size_t i = 0; i < p->kernels.size(); i++) names[i] = p->kernels[i].c_str();
  return ANX_OK;
}

} // namespace anx_cuda
