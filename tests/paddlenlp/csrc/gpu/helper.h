// As upstream's: what every kernel includes. <nlohmann/json.hpp> is in no wheel and no DTK.
#pragma once

#ifdef PADDLE_WITH_HIP
#include <hip/hip_fp16.h>
#include <hip/hip_runtime.h>
#include <hipcub/hipcub.hpp>
#include <hiprand.h>
#endif

#include "nlohmann/json.hpp"
#include "paddle/extension.h"
