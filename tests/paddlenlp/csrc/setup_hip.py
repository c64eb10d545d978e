"""Upstream's script of this name, for two kernels of our own."""

from paddle.utils.cpp_extension import CUDAExtension, setup

setup(
    name="paddlenlp_ops",
    ext_modules=CUDAExtension(
        sources=["./gpu/get_padding_offset.cu", "./gpu/save_with_output.cc"],
        extra_compile_args={
            "cxx": ["-O1"],
            "hipcc": ["-O1", "--gpu-max-threads-per-block=1024", "-U__HIP_NO_HALF_OPERATORS__"],
        },
    ),
)
