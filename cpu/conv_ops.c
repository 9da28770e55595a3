/* conv_ops.c - conv_fwd and conv_bwd: cut into tasks, run by family, sums combined in slice order. */
#include "conv_kernels.h"

void FN(anx_conv_task)(void *argument, int index, int thread) {
  const anx_conv_job *job = argument;
  const anx_call *call = job->call;
  const anx_conv_plan *p = &call->conv;
  const anx_conv_parts *parts = &job->parts;
  const int backward = call->op->kind == ANX_CONV_BWD, need_dx = backward && call->out[BWD_DX];
  float *scratch = call->scratch + (size_t)thread * call->scratch_floats;
  anx_share s = {0};
  if (parts->fused) {
    s.group = index;
    s.c1 = need_dx ? p->gi : 0;
    s.k1 = p->go;
    for (s.slice = 0; s.slice < p->slices; s.slice++) job->share(call, &s, scratch);
    return;
  }
  const int weights = p->groups * parts->weight_parts;
  if (index < weights) {
    s.group = index / parts->weight_parts;
    anx_part_range(p->go, parts->weight_parts, index % parts->weight_parts, &s.k0, &s.k1);
    for (s.slice = 0; s.slice < p->slices; s.slice++) job->share(call, &s, scratch);
    return;
  }
  index -= weights;
  const int part = index % parts->parts;
  s.group = index / parts->parts / parts->slices;
  s.slice = index / parts->parts % parts->slices;
  if (backward) anx_part_range(p->gi, parts->parts, part, &s.c0, &s.c1);
  else anx_part_range(p->go, parts->parts, part, &s.k0, &s.k1);
  job->share(call, &s, scratch);
}

void FN(anx_conv_fwd)(const anx_call *call) {
  anx_conv_job job = {call, anx_conv_split(&call->conv, call->op, anx_pool_threads(call->pool), 0),
                      call->conv.pointwise ? FN(anx_pointwise_forward) : FN(anx_spatial_forward)};
  anx_pool_run(call->pool, FN(anx_conv_task), &job, job.parts.tasks);
  if (call->out[FWD_SUMS]) anx_combine_sums(call->out[FWD_SUMS], call->partial, call->conv.slices, call->op->k);
}

void FN(anx_conv_bwd)(const anx_call *call) {
  anx_conv_job job = {call, anx_conv_split(&call->conv, call->op, anx_pool_threads(call->pool), call->out[BWD_DX] != NULL),
                      call->conv.pointwise ? FN(anx_pointwise_backward) : FN(anx_spatial_backward)};
  anx_pool_run(call->pool, FN(anx_conv_task), &job, job.parts.tasks);
  if (call->out[BWD_SUMS]) anx_combine_sums(call->out[BWD_SUMS], call->partial, call->conv.slices, call->op->c);
}
