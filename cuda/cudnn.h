// cudnn.h - convolutions of cuDNN 9, where the library is found and somebody asked for them: a baseline to measure our own kernels against.
//
// ANX_CUDNN names what it is to take: "stem" (3 channels), "1x1", "wide" (groups of more than 32 channels), several with commas, or "all".
// ANX_CUDNN_LIBRARY: another file than libcudnn.so.9. What cuDNN cannot do, our kernels do, and their names say why.
#pragma once
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>
#include <cuda_runtime.h>
#include "anx.h"
#include "device.cuh"

namespace anx_cuda {

enum class Pass { forward, input_gradient, filter_gradient };

class Cudnn {
public:
  // What the environment asks for. NULL where it asks for nothing, or for what is no choice: then *wrong says so.
  static std::shared_ptr<Cudnn> from_environment(int sm, cudaStream_t, std::string *wrong);
  ~Cudnn();

  std::string title() const; // "cuDNN 9.10.2 for 1x1,stem"; "" where there is no library
  bool wants(const anx::ConvShape &) const;

  struct Plan {
    std::string refusal;  // why there is none; else empty
    std::string name;     // "cudnn_forward_12", with the number of the engine
    uint64_t workspace = 0;
    std::shared_ptr<void> plan;
    std::vector<std::shared_ptr<void>> kept; // what it was made of
  };
  // Of maps [n][h][w][c padded to 8] of dtype and filters [k padded][r][r][group padded] of it. The first deterministic engine of cuDNN's own
  // order that can be planned; kept, so that a shape is planned once.
  const Plan &plan(Pass, const anx::ConvShape &, int32_t dtype);
  // A call of it: x, filter and y are input or output as the pass has it.
  std::shared_ptr<void> bind(const Plan &, void *x, void *filter, void *y, void *workspace);
  cudaError_t run(const Plan &, void *bound) const;

private:
  struct Library;
  std::shared_ptr<Library> library;
  std::string choice, missing; // missing: why there is no library
  std::map<std::string, Plan> plans;
};

} // namespace anx_cuda
