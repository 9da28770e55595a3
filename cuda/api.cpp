// The table of the CUDA back end: the only symbol that leaves it.
#include "backend.h"

extern "C" const anx_api *anx_get_api(uint32_t abi_version) {
  using namespace anx_cuda;
#if defined(ANX_ON_HARNESS)
  static const char name[] = "cuda_host";
  anx_status (*const measure)(anx_context *, anx_ceilings *, double) = nullptr; // the harness has none worth the name
#else
  static const char name[] = "cuda";
  anx_status (*const measure)(anx_context *, anx_ceilings *, double) = ceilings;
#endif
  static const anx_api api = {ANX_ABI_VERSION, sizeof(anx_api), name, device_count, device_info, context_create, context_destroy, context_error,
                              context_info, tensor_bytes, buffer_create, buffer_destroy, buffer_write, buffer_read, pack, unpack,
                              program_workspace, program_create, program_destroy, program_run, synchronize, program_profile, program_kernels, measure, trace};
  return abi_version == ANX_ABI_VERSION ? &api : nullptr;
}
