// nvToolsExt.h - as much of NVTX as cuda/profile.cpp uses, for the harness: trace.cpp writes down what is called.
#pragma once
#include <cstdint>

constexpr uint16_t NVTX_VERSION = 3;
constexpr int32_t NVTX_MESSAGE_TYPE_ASCII = 1;
struct nvtxDomainRegistration_st;
using nvtxDomainHandle_t = nvtxDomainRegistration_st *;
struct nvtxEventAttributes_t {
  uint16_t version, size;
  int32_t messageType;
  union { const char *ascii; } message;
};
constexpr uint16_t NVTX_EVENT_ATTRIB_STRUCT_SIZE = sizeof(nvtxEventAttributes_t);

nvtxDomainHandle_t nvtxDomainCreateA(const char *);
void nvtxDomainDestroy(nvtxDomainHandle_t);
int nvtxDomainRangePushEx(nvtxDomainHandle_t, const nvtxEventAttributes_t *);
int nvtxDomainRangePop(nvtxDomainHandle_t);
