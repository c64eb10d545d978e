"""Lines of failed jobs' logs, and lines that only resemble them, for each known failure."""

from __future__ import annotations

__all__ = ["NEAR_MISSES", "SAMPLES"]

# Adapted from the source of each failure in configs/dcu/failures.toml.
SAMPLES: dict[str, list[str]] = {
    "dtk-environment": [
        "ImportError: libgalaxyhip.so.5: cannot open shared object file: No such file or directory",
        "\tlibgalaxyhip.so.5 => not found",
    ],
    "dtk-26-compiler": [
        "sh: 1: /opt/dtk/.hyhal/llvm/bin/clang++: not found",
        "RuntimeError: ROCm compiler /opt/dtk/.hyhal/llvm/bin/clang not found.",
    ],
    "library-not-configured": [
        "RuntimeError: (PreconditionNotMet) The third-party dynamic library (librccl.so) "
        "that Paddle depends on is not configured correctly. (error code is librccl.so: c"
        "annot open shared object file: No such file or directory)",
        "The third-party dynamic library (libMIOpen.so) that Paddle depends on is not con"
        "figured correctly.",
    ],
    "cuda-wheel": [
        "OSError: libcudart.so.12: cannot open shared object file: No such file or directory",
        "W0508 21:40:15.979074 1551 dynamic_loader.cc:412] (error code is libcuda.so: can"
        "not open shared object file: No such file or directory)",
    ],
    "rccl-version": [
        "ImportError: /usr/local/lib/python3.10/dist-packages/torch/lib/libtorch_hip.so: "
        "undefined symbol: ncclCommRegister",
    ],
    "libstdcxx": [
        "ImportError: /usr/local/gcc-5.2.0/lib64/libstdc++.so.6: version `GLIBCXX_3.4.22'"
        " not found (required by /opt/py310/lib/python3.10/site-packages/paddle/base/libp"
        "addle.so)",
        "/lib64/libc.so.6: version `GLIBC_2.34' not found",
    ],
    "driver-too-new": [
        "get hyhal driver version error, open file(/sys/module/hydcu/version and /sys/mod"
        "ule/amdgpu/version) error, skip init hydmi",
    ],
    "hyhal-mismatch": [
        "[ROCT-Thunk-Interface/src/hymgr.c:344, WARNING]: Version mismatch",
        "hymgr.c:435 Version mismatch",
    ],
    "device-missing": [
        "docker: Error response from daemon: error gathering device information while add"
        'ing custom device "/dev/mkfd": no such file or directory.',
        "ls: cannot open /dev/kfd: No such file or directory",
    ],
    "device-access": [
        "cannot access /dev/dri/card1",
        "Unable to open /dev/kfd read-write: Permission denied",
        "open(/dev/dri/renderD128): Permission denied",
    ],
    "no-such-device": [
        "gpustack.worker.collector - ERROR - Failed to detect GPU devices: [Errno 19] No "
        "such device: '/dev/dri/card1'",
    ],
    "no-device": [
        "OSError: (External) Hip error(100), no ROCm-capable device is detected. (at /pad"
        "dle/phi/backends/gpu/rocm/rocm_info.cc:70)",
    ],
    "no-gpu-in-runtime": [
        "W1121 10:00:00.0 1 init.cc:181] Compiled with WITH_GPU, but no GPU found in runtime.",
        "You are using GPU version PaddlePaddle, but there is no GPU detected on your machine.",
        "/opt/py310/lib/python3.10/site-packages/paddle/base/framework.py:805: UserWarnin"
        "g: You are using GPU version Paddle, but your CUDA device is not set properly. C"
        "PU device will be used by default.",
    ],
    "wrong-platform": [
        "OSError: (External) Hip error(1), invalid argument. [fill_constant]",
    ],
    "wrong-architecture": [
        "OSError: (External) Hip error(98), invalid device function.",
        "hipErrorNoBinaryForGpu: Unable to find code object for all current devices!",
    ],
    "no-matrix-library": [
        "rocBLAS error: Cannot read /opt/rocm-5.4.0/lib/rocblas/library/TensileLibrary.da"
        "t: Illegal seek",
        "rocBLAS error: Cannot read /opt/rocm/lib/rocblas/library/TensileLibrary.dat: Ill"
        "egal seek for GPU arch : gfx1201",
    ],
    "invalid-isa": [
        ":0:rocdevice.cpp :2180: 19701820608 us: Device::callbackQueue aborting with stat"
        "us: 0x100f",
        "HSA_STATUS_ERROR_INVALID_ISA: The instruction set architecture is invalid. code: 0x100f",
    ],
    "kernel-fault": [
        "hsaQueueDispatchCallBack: resultStatus=41, lastHipError=719, internalErrorID=131336",
        "OSError: (External) Hip error(719), unspecified launch failure.",
        ":0:rocdevice.cpp :3020: 5875275709338d us: Callback: Queue 0x7f4580c00000 aborti"
        "ng with error : HSA_STATUS_ERROR_EXCEPTION: An HSAIL operation resulted in a har"
        "dware exception. code: 0x1016",
    ],
    "memory-access-fault": [
        "Memory access fault by GPU node-2 (Agent handle: 0x55fea5592860) on address 0x7f"
        "c133800000. Reason: Page not present or supervisor privilege.",
    ],
    "runtime-resources": [
        "hsa api call failure: Call returned HSA_STATUS_ERROR_OUT_OF_RESOURCES: The runti"
        "me failed to allocate the necessary resources.",
    ],
    "eigen-assertion": [
        "python: /paddle/third_party/eigen3/unsupported/Eigen/CXX11/src/Tensor/TensorExec"
        "utor.h:612: static void Eigen::internal::TensorExecutor<const Eigen::TensorAssig"
        "nOp<Eigen::TensorMap<Eigen::Tensor<float, 1, 1>, 0>>, Eigen::GpuDevice, false>::"
        "run(const Expression &, const Eigen::GpuDevice &): Assertion `hipGetLastError() "
        "== hipSuccess' failed.",
    ],
    "fused-convolution": [
        "RuntimeError: (NotFound) The kernel `fused_conv2d_add_act` is not registered. [H"
        "int: Expected iter != kernels_.end(), but received iter == kernels_.end().]",
    ],
    "profiler-library": [
        "libcupti.so: cannot open shared object file",
    ],
    "wheel-and-dtk": [
        "terminate called after throwing an instance of 'std::bad_alloc'",
    ],
    "image-moved": [
        "ERROR: registry.baidubce.com/device/paddle-dcu:dtk24.04.1-kylinv10-gcc82: not found",
        "manifest for registry.baidubce.com/device/paddle-dcu:x not found: manifest unknown",
    ],
    "rocm-smi-library": [
        "error while loading shared libraries: librocm_smi64.so.2: cannot open",
    ],
    "device-name": [
        "ValueError: The device must be a string which is like 'cpu', 'gpu', 'xpu'",
    ],
    "cuda-version": [
        "ValueError: could not convert string to float: 'False'",
    ],
    "onednn-on-a-dcu-wheel": [
        "FLAGS(name='FLAGS_use_mkldnn', current_value=True, default_value=False)",
        "+ export FLAGS_use_mkldnn=1",
    ],
    "miopen-database": [
        "MIOpen Error: /src/extlibs/MLOpen/src/sqlite_db.cpp:229: Internal error while ac"
        "cessing SQLite database: unable to open database file",
        'boost::filesystem::permissions: No such file or directory: "/home/ssml/singh/.co'
        'nfig/miopen//gfx906_60.HIP.2_11_0_993628deb.ufdb.txt"',
    ],
    "core-dump": [
        "Aborted (core dumped)",
        "run.sh: line 3: 4242 Segmentation fault      (core dumped) python3 run_finetune.py",
    ],
    "out-of-memory": [
        "Out of memory error on GPU 0. Cannot allocate 1.000000GB memory on GPU 0",
    ],
    "shared-memory": [
        "Please increase shared memory",
        "NCCL error: unhandled system error, Resource temporarily unavailable",
        "OSError: [Errno 28] No space left on device: '/dev/shm/paddle_1'",
        "ERROR: DataLoader worker is killed by signal: Bus error.",
    ],
    "one-card-only": [
        "PaddlePaddle is installed successfully ONLY for single GPU!",
    ],
    "rccl-system-error": [
        "RuntimeError: NCCL error: unhandled system error (run with NCCL_DEBUG=INFO for d"
        "etails), NCCL version 2.18.3",
        "ncclSystemError: unhandled system error",
    ],
    "rccl-fine-grain": [
        'NCCL WARN Missing "HSA_FORCE_FINE_GRAIN_PCIE=1" from environment',
    ],
    "rccl-iommu": [
        'NCCL WARN Missing "iommu=pt" from kernel command line which can lead to hang',
        'NCCL WARN Missing "amd_iommu=on" from kernel command line which can lead to syst'
        "em instablity or hang!",
    ],
    "rccl-numa": [
        "NCCL WARN NUMA auto balancing enabled which can lead to variability",
    ],
    "rccl-interface": [
        "NCCL WARN Bootstrap : no socket interface found",
    ],
    "rccl-connect": [
        "worker:101542:101934 [0] NCCL INFO Call to connect returned Connection timed out"
        ", retrying",
        "ps-8:795:822 [0] include/socket.h:409 NCCL WARN Net : Connect to 192.168.1.9<542"
        "63> failed : No route to host",
    ],
    "rccl-over-tcp": [
        "worker:101542:101934 [0] NCCL INFO Channel 00 : 0[18000] -> 1[18000] [receive] v"
        "ia NET/Socket/1",
    ],
    "rccl-peer-memory": [
        "p2p.cc:256 NCCL WARN hipIpcGetMemHandle(&devIpc, ptr) failed: invalid argument",
    ],
    "memlock": [
        "error setting rlimits for ready process: error setting rlimit type 8: operation "
        "not permitted",
    ],
    "pinned-memory": [
        "misc/ibvwrap.cc:278 NCCL WARN Call to ibv_reg_mr_iova2 failed with error Cannot "
        "allocate memory",
        "msm-2:4016:4653 [7] misc/ibvwrap.cc:190 NCCL WARN Call to ibv_create_cq failed w"
        "ith error Cannot allocate memory",
    ],
    "master-not-ready": [
        "LAUNCH INFO 2024-11-01 master not ready, wait all nodes",
    ],
    "store-not-listening": [
        "I0224 13:50:30.278173 1512912 tcp_utils.cc:107] Retry to connect to 127.0.1.1:63"
        "917 while the server is not yet listening.",
    ],
    "store-broken": [
        "ValueError: (InvalidArgument) TCP send error. Details: Broken pipe.",
        "ValueError: (InvalidArgument) TCP receive error. Details: Connection reset by peer.",
    ],
    "gloo-timeout": [
        "terminate called after throwing an instance of '::gloo::TimeoutException'",
        "what(): [gloo/transport/tcp/unbound_buffer.cc:133] Timed out waiting 1800000ms f"
        "or recv operation to complete",
    ],
    "environment-wins": [
        "LAUNCH WARNING args nnodes will be overridden by env: PADDLE_NNODES 2",
    ],
    "etcd": [
        "ModuleNotFoundError: No module named 'etcd3'",
    ],
    "glog-header": [
        "paddle/phi/backends/dynload/miopen.h:15:10: fatal error: 'glog/logging.h' file not found",
        "fatal error: glog/logging.h: No such file or directory",
    ],
    "json-header": [
        "./helper.h:31:10: fatal error: 'nlohmann/json.hpp' file not found",
    ],
    "submodules": [
        "subprocess.CalledProcessError: Command '['git', 'submodule', 'update', '--init']"
        "' returned non-zero exit status 128.",
    ],
    "build-asks-for-a-device": [
        "    prop = paddle.device.cuda.get_device_properties()",
    ],
    "rocm-not-found": [
        "AssertionError: Not found ROCM runtime, please use `export ROCM_PATH= X`",
    ],
    "compile-failed": [
        "gpu/step.cu compile failed, command '/usr/bin/ccache' failed with code 1",
    ],
    "setuptools": [
        "ImportError: dynamic module does not define module export function (PyInit_paddlenlp_ops)",
    ],
    "other-paddle": [
        "ImportError: paddlenlp_ops_pd_.so: undefined symbol: _ZN6paddle9OpMetaInfoE",
    ],
    "fused-ln": [
        "ModuleNotFoundError: No module named 'fused_ln'",
    ],
    "fast-ln": [
        "ModuleNotFoundError: No module named 'fast_ln'",
    ],
    "paddlenlp-ops": [
        "ModuleNotFoundError: No module named 'paddlenlp_ops'",
        "ValueError: you should install the paddlenlp ops to run inference predictor",
    ],
    "fused-without-block-attention": [
        "$ python3 ./predict/predictor.py --model_name_or_path meta-llama/Llama-2-13b-cha"
        "t --inference_model --dtype float16",
        "upstream --unpatched predict/export_model.py --output_path ./inference --inference_model",
    ],
    "fused-names": [
        "NameError: name 'qkv_transpose_split' is not defined",
        "NameError: name 'write_cache_kv' is not defined. Did you mean: 'write_cache'?",
    ],
    "memory-efficient-attention": [
        "NotFoundError: The kernel `variable_length_memory_efficient_attention` is not registered.",
    ],
    "weight-only-kernel": [
        "(NotFound) The kernel `weight_only_linear` is not registered.",
        "(NotFound) The kernel `weight_quantize` is not registered.",
    ],
    "block-attention-dtype": [
        "(NotFound) The kernel with key (GPU, Undefined(AnyLayout), float32) of kernel `b"
        "lock_multihead_attention` is not registered.",
    ],
    "temperature-zero": [
        "$ python3 predict/predictor.py --inference_model --block_attn --temperature 0",
        "upstream --unpatched predict/predictor.py --temperature=0.00 --inference_model -"
        "-block_attn --top_p 0.5",
    ],
    "positions": [
        "ValueError: The sum of src_length<1024> and max_length<1024> should be smaller t"
        "han or equal to the maximum position embedding size<512>",
    ],
    "queue-empty": [
        "_queue.Empty",
    ],
    "message-queue": [
        "0x010be2a1 3          root       666        16384        12",
    ],
    "flash-mask": [
        "RuntimeError: (NotFound) The kernel `flashmask_attention` is not registered.",
        "NotImplementedError: flashmask is not supported on DCU",
        "(NotFound) The kernel `flash_attn_with_sparse_mask` is not registered.",
    ],
    "loss-scale": [
        "[2023-11-28 14:31:29,583] [ WARNING] - optimizer not run, scale_before: 0.25, sc"
        "ale_after: 0.125",
        "optimizer not run, scale_before: 1.0, scale_after: 0.5",
    ],
    "async-save": [
        "[    INFO] - Wait for the previous save process to finish saving optimizer_weight",
    ],
    "no-such-wheel": [
        "ERROR: No matching distribution found for paddlepaddle-dcu==3.0.0b2",
    ],
    "index-replaced": [
        "ERROR: No matching distribution found for opt-einsum==3.3.0",
    ],
    "numpy-2": [
        "A module that was compiled using NumPy 1.x cannot be run in\nNumPy 2.1.0",
        "ImportError: numpy.core.multiarray failed to import",
    ],
    "unknown-argument": [
        "ValueError: Some specified arguments are not used by the PdArgumentParser: ['---"
        "cachekv_int8']",
    ],
    "cachekv-flag": [
        "predictor.py: error: argument --cachekv_int8_type: expected one argument",
    ],
    "inference-mode-flag": [
        "argument --inference_model: Truthy value expected: got dynamic",
    ],
    "eval-accuracy": [
        "KeyError: 'eval_accuracy'",
    ],
    "generation-in-pipeline": [
        "ValueError: Please set eval_with_do_generation to false in pipeline parallel mode.",
    ],
}

# From jobs without the failure, in the words of the failure.
NEAR_MISSES: dict[str, list[str]] = {
    "dtk-environment": [
        "\tlibgalaxyhip.so.5 => /opt/dtk-24.04.1/lib/libgalaxyhip.so.5 (0x00007f)",
    ],
    "dtk-26-compiler": [
        "using /opt/dtk/.hyhal/llvm/bin/clang++ 17.0.0",
        "ls: /usr/bin/clang++: not found",
    ],
    "library-not-configured": [
        "The third-party dynamic library (libmklml.so) that Paddle depends on is not conf"
        "igured correctly.",
    ],
    "cuda-wheel": [
        "\tlibcudart.so.12 => /usr/local/cuda/lib64/libcudart.so.12",
    ],
    "rccl-version": [
        "ImportError: libucm_rocm.so.0: undefined symbol: hsa_amd_memory_pool_get_info",
    ],
    "libstdcxx": [
        "strings libstdc++.so.6: GLIBCXX_3.4.21 GLIBCXX_3.4.22",
    ],
    "driver-too-new": [
        "hyhal driver version 6.2.17a",
    ],
    "hyhal-mismatch": [
        "[ROCT-Thunk-Interface/src/hymgr.c:344, INFO]: Version 6.2.17a",
    ],
    "device-missing": [
        "custom device /dev/kfd added",
        "ls: cannot open runs/x: No such file or directory",
    ],
    "device-access": [
        "crw-rw---- 1 root render 226, 128 /dev/dri/renderD128",
    ],
    "no-such-device": [
        "device /dev/dri/card1: 65520 MiB",
        "OSError: [Errno 19] No such device: 'eth1'",
    ],
    "no-device": [
        "Hip error(0), no error",
        "8 ROCm-capable devices are detected",
    ],
    "no-gpu-in-runtime": [
        "PaddlePaddle works well on 8 GPUs.",
        "device is set to gpu:0 in this runtime",
    ],
    "wrong-platform": [
        "Hip error(0), no error",
    ],
    "wrong-architecture": [
        "device function loaded: rms_norm_gfx928",
    ],
    "no-matrix-library": [
        '"/opt/dtk/lib/rocblas/library/TensileLibrary_lazy_gfx928.dat"',
    ],
    "invalid-isa": [
        "Device::callbackQueue ended with status: 0x0",
    ],
    "kernel-fault": [
        "hsaQueueDispatchCallBack: registered",
        "lastHipError=0",
    ],
    "memory-access-fault": [
        "page fault by node-2 resolved; GPU memory access enabled",
    ],
    "runtime-resources": [
        "hsa api call returned HSA_STATUS_SUCCESS",
    ],
    "eigen-assertion": [
        "unsupported/Eigen/CXX11/src/Tensor/TensorExecutor.h:612:5: warning: unused variable",
    ],
    "fused-convolution": [
        "--- fused 12 subgraphs with conv2d_add_act_fuse_pass: fused_conv2d_add_act",
    ],
    "profiler-library": [
        "libcupti: shared object loaded from /opt/dtk-24.04.1/cuda/extras/CUPTI/lib64",
    ],
    "wheel-and-dtk": [
        "called after throwing an instance of 'std::runtime_error'",
    ],
    "image-moved": [
        "pulled registry.baidubce.com/device/paddle-dcu:dtk24.04.1-kylinv10-gcc82",
    ],
    "rocm-smi-library": [
        "loading shared libraries: librocm_smi.so.2",
    ],
    "device-name": [
        "paddle.device.set_device('gpu:0')",
    ],
    "cuda-version": [
        "could not convert string to float: 'abc'",
    ],
    "onednn-on-a-dcu-wheel": [
        "FLAGS(name='FLAGS_use_mkldnn', current_value=False, default_value=False)",
        "FLAGS_use_mkldnn=0",
    ],
    "miopen-database": [
        "MIOpen(HIP): Info [SQLiteBase] opened /tmp/miopen/gfx928_120.ukdb",
    ],
    "core-dump": [
        "Aborted",
        "core dumped sizes are limited to 0",
    ],
    "out-of-memory": [
        "current device: gpu:0, memory allocated 61.2 GB",
    ],
    "shared-memory": [
        "No space left on device: 'runs/lora/checkpoint-100'",
    ],
    "one-card-only": [
        "PaddlePaddle works well on 1 GPU.",
        "PaddlePaddle is installed successfully!",
    ],
    "rccl-system-error": [
        "NCCL error: invalid usage (run with NCCL_DEBUG=WARN for details)",
    ],
    "rccl-fine-grain": [
        "HSA_FORCE_FINE_GRAIN_PCIE=1 iommu=pt",
    ],
    "rccl-iommu": [
        "kernel command line: ro amd_iommu=on iommu=pt",
    ],
    "rccl-numa": [
        "NCCL INFO NUMA balancing disabled",
    ],
    "rccl-interface": [
        "NCCL INFO Bootstrap : Using ib0:192.0.2.10<0>",
    ],
    "rccl-connect": [
        "NCCL INFO Net : Connected to 192.0.2.9<54263>",
    ],
    "rccl-over-tcp": [
        "NCCL INFO Channel 00 : 0[18000] -> 1[18000] [receive] via NET/IB/0/GDRDMA",
        "NCCL INFO Channel 00 : 0[18000] -> 1[18000] via P2P/IPC/read",
        "NCCL INFO NET/Socket : Using [0]eth0:192.0.2.10<0>",
    ],
    "rccl-peer-memory": [
        "NCCL INFO hipIpcGetMemHandle: ok",
        "hipIpcCloseMemHandle failed",
    ],
    "memlock": [
        "resource limits: memlock unlimited, rlimit type 8",
    ],
    "pinned-memory": [
        "NCCL WARN Call to ibv_open_device failed",
        "OSError: [Errno 12] Cannot allocate memory",
    ],
    "master-not-ready": [
        "the master is ready",
    ],
    "store-not-listening": [
        "I0224 13:50:30.574579 1498980 tcp_utils.cc:181] The server starts to listen on I"
        "P_ANY:63917",
        "tcp_utils.cc:130] Successfully connected to 192.0.2.10:63917",
    ],
    "store-broken": [
        "TCP send buffer: 212992 bytes",
    ],
    "gloo-timeout": [
        "gloo connected 2 processes in 120ms",
    ],
    "environment-wins": [
        "LAUNCH INFO args nnodes 2",
    ],
    "etcd": [
        "ModuleNotFoundError: No module named 'etc'",
    ],
    "glog-header": [
        "#include <glog/logging.h>",
    ],
    "json-header": [
        "#include <nlohmann/json.hpp>",
    ],
    "submodules": [
        "git submodule update --init: done",
    ],
    "build-asks-for-a-device": [
        "get_device_properties is answered for the build",
    ],
    "rocm-not-found": [
        "ROCM runtime: /opt/dtk-24.04.1",
    ],
    "compile-failed": [
        "gpu/step.cu compiled, command '/usr/bin/ccache'",
    ],
    "setuptools": [
        "PyInit_paddlenlp_ops is exported by the dynamic module",
    ],
    "other-paddle": [
        "undefined symbol: _ZN4glog10LogMessageE",
    ],
    "fused-ln": [
        "import fused_ln, paddlenlp_ops: done",
    ],
    "fast-ln": [
        "The 'fast_ln' feature is temporarily not supported on the ROCm platform !!!",
    ],
    "paddlenlp-ops": [
        "paddlenlp_ops 0.0.0 is installed",
    ],
    "fused-without-block-attention": [
        "predict/predictor.py --block_attn --inference_model --dtype float16",
        "python3 predict/predictor.py --inference_model --block_attn --dtype float16",
        "upstream predict/predictor.py --inference_model --dtype float16",
    ],
    "fused-names": [
        "NameError: name 'get_output' is not defined",
    ],
    "memory-efficient-attention": [
        "The kernel `variable_length_memory_efficient_attention` is registered.",
    ],
    "weight-only-kernel": [
        "The kernel `weight_only_linear` is registered for (GPU, float16).",
    ],
    "block-attention-dtype": [
        "The kernel with key (GPU, Undefined(AnyLayout), float32) of kernel `rms_norm` is"
        " not registered.",
    ],
    "temperature-zero": [
        "python3 predict/predictor.py --inference_model --block_attn --temperature 0.95",
        "python3 predict/predictor.py --mode dynamic --temperature 0",
    ],
    "positions": [
        "src_length<128> and max_length<128>: 256 of the maximum position embedding size<512>",
    ],
    "queue-empty": [
        "queue.Empty is handled by result_queue",
    ],
    "message-queue": [
        "0x010be2a1 3          root       666        0            0",
        "0x6c040001 7          root       600        56           1",
    ],
    "flash-mask": [
        "flashmask_attention is on: zero_padding",
        "The kernel `flash_attn` is registered.",
    ],
    "loss-scale": [
        "[ WARNING] - optimizer not run, scale_before: 32768.0, scale_after: 16384.0",
        "[ WARNING] - optimizer not run, scale_before: 1024.0, scale_after: 512.0",
    ],
    "async-save": [
        "[    INFO] - Saving optimizer files to checkpoints/checkpoint-500",
        "[    INFO] - Start to async save checkpoints/llama_lora_ckpts/checkpoint-500/opt"
        "imizer-00001-of-00001.safetensors",
    ],
    "no-such-wheel": [
        "Successfully installed paddlepaddle-dcu-3.0.0b2 numpy-1.26.4",
    ],
    "index-replaced": [
        "ERROR: No matching distribution found for my-package",
    ],
    "numpy-2": [
        "Successfully installed numpy-1.26.4",
        "numpy.core.multiarray is imported",
    ],
    "unknown-argument": [
        "PdArgumentParser: all specified arguments are used",
    ],
    "cachekv-flag": [
        "--cachekv_int8_type static --inference_model --mode dynamic",
    ],
    "inference-mode-flag": [
        "--inference_model true --mode dynamic",
    ],
    "eval-accuracy": [
        "eval_accuracy = 0.61, eval_with_do_generation: False",
    ],
    "generation-in-pipeline": [
        "eval_with_do_generation: False, pipeline parallel: 8",
    ],
}
