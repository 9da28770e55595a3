// cuda_runtime.h - as much of the CUDA runtime as cuda/ uses, on the harness. A stream runs what it was given at the last moment
// (a synchronisation or a copy that waits), or, by chance, while another stream of the process is waited for, so that a missing wait and
// memory that streams share show; a captured graph is a list of launches.
#pragma once
#include "harness.h"

enum cudaError_t {
  cudaSuccess = 0, cudaErrorInvalidValue = 1, cudaErrorMemoryAllocation = 2, cudaErrorNoDevice = 100, cudaErrorInvalidDevice = 101,
  cudaErrorECCUncorrectable = 214, cudaErrorIllegalAddress = 700, cudaErrorLaunchOutOfResources = 701, cudaErrorLaunchTimeout = 702,
  cudaErrorHardwareStackError = 714, cudaErrorIllegalInstruction = 715, cudaErrorMisalignedAddress = 716, cudaErrorInvalidAddressSpace = 717,
  cudaErrorInvalidPc = 718, cudaErrorLaunchFailure = 719, cudaErrorInsufficientDriver = 35, cudaErrorNoKernelImageForDevice = 209,
  cudaErrorUnsupportedPtxVersion = 222, cudaErrorUnknown = 999
};
enum cudaMemcpyKind { cudaMemcpyHostToDevice = 1, cudaMemcpyDeviceToHost = 2, cudaMemcpyDeviceToDevice = 3 };
enum cudaStreamCaptureMode { cudaStreamCaptureModeThreadLocal = 1 };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
constexpr unsigned cudaStreamNonBlocking = 1;

namespace host {
struct Stream;
struct Graph;
struct Event;
cudaError_t later(Stream *, std::function<cudaError_t()>); // what a library does in a stream
cudaError_t enqueue(Stream *, const void *kernel, dim3 grid, dim3 threads, size_t shared_bytes, std::function<void()> body);
cudaError_t allow_shared(const void *kernel, int bytes);
int compiled_for();
void note(const char *format, ...) __attribute__((format(printf, 1, 2))); // for who reads ANX_HOST_TRACE
} // namespace host
using cudaStream_t = host::Stream *;
using cudaGraph_t = host::Graph *;
using cudaGraphExec_t = host::Graph *;
using cudaEvent_t = host::Event *;

struct cudaDeviceProp {
  char name[256];
  size_t totalGlobalMem, sharedMemPerBlockOptin;
  int major, minor, multiProcessorCount;
};
struct cudaFuncAttributes { int maxThreadsPerBlock, ptxVersion; };

cudaError_t cudaGetDeviceCount(int *);
cudaError_t cudaDriverGetVersion(int *);
cudaError_t cudaRuntimeGetVersion(int *);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp *, int);
cudaError_t cudaSetDevice(int);
cudaError_t cudaMalloc(void **, size_t);
cudaError_t cudaFree(void *);
cudaError_t cudaMemGetInfo(size_t *free, size_t *total);
cudaError_t cudaMemcpyAsync(void *, const void *, size_t, cudaMemcpyKind, cudaStream_t = nullptr);
cudaError_t cudaMemsetAsync(void *, int, size_t, cudaStream_t = nullptr);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *, unsigned);
cudaError_t cudaStreamDestroy(cudaStream_t);
cudaError_t cudaStreamSynchronize(cudaStream_t);
cudaError_t cudaStreamBeginCapture(cudaStream_t, cudaStreamCaptureMode);
cudaError_t cudaStreamEndCapture(cudaStream_t, cudaGraph_t *);
cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t *, cudaGraph_t, unsigned long long);
cudaError_t cudaGraphLaunch(cudaGraphExec_t, cudaStream_t);
cudaError_t cudaGraphDestroy(cudaGraph_t);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t);
cudaError_t cudaEventCreate(cudaEvent_t *);
cudaError_t cudaEventRecord(cudaEvent_t, cudaStream_t);
cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t, cudaEvent_t);
cudaError_t cudaEventDestroy(cudaEvent_t);
cudaError_t cudaGetLastError();
const char *cudaGetErrorString(cudaError_t);
template <class F> cudaError_t cudaFuncSetAttribute(F *kernel, cudaFuncAttribute, int bytes) { return host::allow_shared(reinterpret_cast<const void *>(kernel), bytes); }
template <class F> cudaError_t cudaFuncGetAttributes(cudaFuncAttributes *a, F *) { *a = {1024, host::compiled_for()}; return cudaSuccess; }
