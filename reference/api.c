/* The table of the reference back end: the only symbol that leaves it. */
#include "reference.h"

const anx_api *anx_get_api(uint32_t abi_version) {
  static const anx_api api = {
      .abi_version = ANX_ABI_VERSION,
      .struct_bytes = sizeof(anx_api),
      .name = "reference",
      .device_count = ref_device_count,
      .device_info = ref_device_info,
      .context_create = ref_context_create,
      .context_destroy = ref_context_destroy,
      .context_error = ref_context_error,
      .context_info = ref_context_info,
      .tensor_bytes = ref_tensor_bytes,
      .buffer_create = ref_buffer_create,
      .buffer_destroy = ref_buffer_destroy,
      .buffer_write = ref_buffer_write,
      .buffer_read = ref_buffer_read,
      .pack = ref_pack,
      .unpack = ref_unpack,
      .program_workspace = ref_program_workspace,
      .program_create = ref_program_create,
      .program_destroy = ref_program_destroy,
      .program_run = ref_program_run,
      .synchronize = ref_synchronize,
      .program_profile = ref_program_profile,
  };
  return abi_version == ANX_ABI_VERSION ? &api : NULL;
}
