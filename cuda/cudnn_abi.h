// cudnn_abi.h - as much of the backend API of cuDNN 9 as cudnn.cpp uses (cudnn_graph_v9.h has all of it). It is written down here because the
// library is optional and found when the program runs: a build needs no wheel of half a gigabyte for one header. Numbers are those of 9.10 and 9.27.
#pragma once
#include <cstddef>
#include <cstdint>

namespace cudnn {

using Status = int; // 0: success
using Handle = void *;
using Raw = void *; // a descriptor

enum DescriptorType { convolution = 1, engine = 2, engine_config = 3, heuristics = 4, plan = 5, convolution_forward = 10, convolution_filter = 11, convolution_data = 12,
                      graph = 15, variant_pack = 16, tensor = 17 };
enum Type { type_handle = 0, type_data_type = 1, type_int64 = 3, type_float = 4, type_pointer = 6, type_convolution_mode = 7, type_heuristic_mode = 8,
            type_numerical_note = 11, type_descriptor = 15 };
enum DataType { data_float = 0, data_half = 2, data_bfloat16 = 9 };
enum { cross_correlation = 1, heuristic_a = 3, heuristic_fallback = 2, note_nondeterministic = 4 };

enum Attribute {
  convolution_compute_type = 100, convolution_mode = 101, convolution_dilations = 102, convolution_strides = 103, convolution_post_paddings = 104,
  convolution_pre_paddings = 105, convolution_spatial_dims = 106,
  heuristics_mode = 200, heuristics_graph = 201, heuristics_results = 202,
  config_engine = 300,
  plan_handle = 400, plan_config = 401, plan_workspace = 402,
  forward_alpha = 700, forward_beta = 701, forward_convolution = 702, forward_w = 703, forward_x = 704, forward_y = 705,
  data_alpha = 706, data_beta = 707, data_convolution = 708, data_w = 709, data_dx = 710, data_dy = 711,
  filter_alpha = 712, filter_beta = 713, filter_convolution = 714, filter_dw = 715, filter_x = 716, filter_dy = 717,
  graph_handle = 800, graph_ops = 801,
  tensor_alignment = 900, tensor_data_type = 901, tensor_dimensions = 902, tensor_strides = 903, tensor_id = 906,
  pack_ids = 1000, pack_pointers = 1001, pack_workspace = 1003,
  engine_index = 1301, engine_notes = 1303
};

struct Api {
  size_t (*cudnnGetVersion)();
  const char *(*cudnnGetErrorString)(Status);
  Status (*cudnnCreate)(Handle *);
  Status (*cudnnDestroy)(Handle);
  Status (*cudnnSetStream)(Handle, void *stream);
  Status (*cudnnBackendCreateDescriptor)(int, Raw *);
  Status (*cudnnBackendDestroyDescriptor)(Raw);
  Status (*cudnnBackendFinalize)(Raw);
  Status (*cudnnBackendSetAttribute)(Raw, int name, int type, int64_t count, const void *);
  Status (*cudnnBackendGetAttribute)(Raw, int name, int type, int64_t room, int64_t *count, void *);
  Status (*cudnnBackendExecute)(Handle, Raw plan, Raw pack);
};

} // namespace cudnn
