// profile.h - what a profiler outside the process sees: in domain "anynetx" a range around every run and one around each of its phases.
#pragma once
#include "anx.h"

struct nvtxDomainRegistration_st;

namespace anx_cuda {

using Domain = nvtxDomainRegistration_st *;

const char *phase_of(const anx_op &);                    // "input", "forward", "loss", "backward" or "update"
const char *run_of(const anx_op *ops, int32_t count);    // "train", "statistics" or "evaluate"

// The ranges of one run: all are closed when it ends, however it ends. Without a profiler, or not wanted, they cost nothing.
class Ranges {
public:
  Ranges(bool wanted, Domain, const char *run);
  ~Ranges();
  Ranges(const Ranges &) = delete;
  void enter(const char *phase); // leaves the one before

private:
  void push(const char *);
  void pop();
  Domain domain;
  const char *phase = nullptr;
};

anx_status trace(anx_context *, uint32_t flags);
void forget_trace(anx_context *); // behind the last run

} // namespace anx_cuda
