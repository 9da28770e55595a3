// Ranges of NVTX, whose header finds the profiler when it runs; and the start and end of its recording.
#include "profile.h"
#include <cstring>
#include <nvtx3/nvToolsExt.h>
#include "backend.h"

// cuda_profiler_api.h, which not every toolkit brings.
extern "C" cudaError_t cudaProfilerStart();
extern "C" cudaError_t cudaProfilerStop();

namespace anx_cuda {

const char *phase_of(const anx_op &o) {
  switch (o.kind) {
    case ANX_INPUT: return "input";
    case ANX_XENT: return "loss";
    case ANX_CONV_BWD:
    case ANX_BN_BWD_COEF:
    case ANX_JOIN_BWD:
    case ANX_POOL_BWD: return "backward";
    case ANX_LOSS_SCALE:
    case ANX_SGD: return "update";
    default: return "forward";
  }
}

const char *run_of(const anx_op *ops, int32_t count) {
  const char *run = "statistics"; // a forward pass without a loss
  for (int32_t i = 0; i < count; i++) {
    if (ops[i].kind == ANX_SGD) return "train";
    if (ops[i].kind == ANX_XENT) run = "evaluate";
  }
  return run;
}

Ranges::Ranges(bool wanted, Domain d, const char *run) : domain(wanted ? d : nullptr) { push(run); }

Ranges::~Ranges() {
  if (phase) pop();
  pop();
}

void Ranges::enter(const char *next) {
  if (phase && !strcmp(phase, next)) return;
  if (phase) pop();
  push(phase = next);
}

void Ranges::push(const char *name) {
  if (!domain) return;
  nvtxEventAttributes_t event = {};
  event.version = NVTX_VERSION;
  event.size = NVTX_EVENT_ATTRIB_STRUCT_SIZE;
  event.messageType = NVTX_MESSAGE_TYPE_ASCII;
  event.message.ascii = name;
  nvtxDomainRangePushEx(domain, &event);
}

void Ranges::pop() {
  if (domain) nvtxDomainRangePop(domain);
}

anx_status trace(anx_context *c, uint32_t flags) {
  anx_status status = synchronize(c);
  if (status != ANX_OK) return status;
  if (flags & ~uint32_t(ANX_TRACE_RANGES | ANX_TRACE_RECORD)) return anx_cuda_fail(c, ANX_INVALID_ARGUMENT, "trace: unknown flags %u", flags);
  if ((flags & ANX_TRACE_RANGES) && !c->domain) c->domain = nvtxDomainCreateA("anynetx"); // stays NULL where no profiler listens
  const bool record = flags & ANX_TRACE_RECORD;
  if (record != bool(c->trace & ANX_TRACE_RECORD)) status = check(c, record ? cudaProfilerStart() : cudaProfilerStop(), "trace");
  if (status == ANX_OK) c->trace = flags;
  return status;
}

void forget_trace(anx_context *c) {
  if (c->trace & ANX_TRACE_RECORD) cudaProfilerStop();
  if (c->domain) nvtxDomainDestroy(c->domain);
}

} // namespace anx_cuda
