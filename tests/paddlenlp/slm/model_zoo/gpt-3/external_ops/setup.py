"""Upstream's script of this name in what matters: it asks for a device before it knows whether
it needs one, in a process whose end nobody looks at, so it ends with 0 whatever happened.
"""

import multiprocessing
import os
from pathlib import Path


def setup_fused_ln():
    import paddle
    from paddle.utils.cpp_extension import CUDAExtension, setup

    device = paddle.device.cuda.get_device_properties()
    print(f"compute capability {device.major}.{device.minor}")
    os.chdir(Path(__file__).resolve().parent)
    setup(
        name="fused_ln",
        ext_modules=CUDAExtension(
            sources=["fused_ln/layer_norm_cuda.cu"],
            extra_compile_args={"cxx": ["-O1"], "hipcc": ["-O1", "-DPADDLE_WITH_HIP"]},
        ),
    )


process = multiprocessing.Process(target=setup_fused_ln)
process.start()
process.join()
