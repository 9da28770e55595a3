#include "anx.h"

ANX_EXPORT const anx_api *anx_get_api(uint32_t abi_version) { (void)abi_version; return 0; }
