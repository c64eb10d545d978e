# All images are stages of this file. `docker-bake.hcl` names the targets, and `./inv build`
# builds them. Backends differ in their `base-<backend>` stages and in their locks.
#
#   inputs      what a build takes from outside: OS and DTK images, named build contexts
#   base        Debian or the DTK, tini, the environment of every process; uv for later steps
#   operators   compiles the CPU's and a DCU's operators; in no image
#   framework   Paddle and PaddleNLP
#   ops         framework with the operators
#   code        the project's own files; copied last into train and infer
#   train       ops, the trainer's packages, code
#   infer       ops, the server's packages, code
#   bundle      everything that a build downloads, for air-gapped machines; no image
#
# Steps whose layer is in an image
#   - mount images/steps at /srv/steps and end with `finish`, so that the same files are the
#     same layer whenever and wherever they are built;
#   - mount everything below a tmpfs in /srv, because mount points would be part of the layer;
#   - download through `with-build-network`, which reads proxies, mirrors and the CA bundle
#     from secrets.

# ------------------------------------------------------------------------- inputs
# BuildKit resolves arguments of FROM before the first stage, so they are declared here only.
ARG OS_IMAGE=debian:bookworm-20250520-slim
# Paddle's newer instructions name another registry:
# ccr-2vdh3abv-pub.cnc.bj.baidubce.com/paddlepaddle/paddle-dcu with the same tag.
ARG DTK_IMAGE=registry.baidubce.com/device/paddle-dcu:dtk24.04.1-kylinv10-gcc82
ARG BACKEND=cpu
# Debian's packages of all images, and of the stages that are in no image. They are not pinned,
# because Debian's stable release only changes by security fixes.
ARG BASE_PACKAGES="ca-certificates libgomp1 python3 tini"
ARG INSTALLER_PACKAGES=python3-venv
# Compiles the operators of the backend cpu; the DTK has its own compilers.
ARG COMPILER_PACKAGES=g++

# Empty stages that a named build context of the same name replaces (docs/building.md): Debian's
# and Python's packages for a build without a network, wheels that are not taken from an index,
# PaddleNLP's source. `headers`, below, is one too.
FROM scratch AS packages
FROM scratch AS wheels
FROM scratch AS paddlenlp

# --------------------------------------------------------------------------- base
# BuildKit mounts two of its files in /etc. In an image without these files each step creates and
# removes them, so that /etc would be part of every layer, or of none on an engine that has the
# layer below from another build.
# hadolint ignore=DL3006
FROM ${OS_IMAGE} AS mount-points
RUN --mount=type=tmpfs,target=/srv \
    --mount=type=bind,source=images/steps,target=/srv/steps \
    mkdir -p /mount-points/etc && \
    touch /mount-points/etc/hosts /mount-points/etc/resolv.conf && /srv/steps/finish

# hadolint ignore=DL3006
FROM ${OS_IMAGE} AS base-cpu
COPY --from=mount-points /mount-points /
ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    BASE_PYTHON=/usr/bin/python3
SHELL ["/bin/sh", "-eu", "-c"]
ARG BASE_PACKAGES
# hadolint ignore=DL3008,SC2086
RUN --mount=type=tmpfs,target=/srv --mount=type=tmpfs,target=/run \
    --mount=type=bind,source=images/steps,target=/srv/steps \
    --mount=type=bind,from=packages,target=/srv/packages \
    --mount=type=secret,id=ca_bundle --mount=type=secret,id=network \
    /srv/steps/with-build-network apt-get update -q && \
    /srv/steps/with-build-network apt-get install -yq --no-install-recommends $BASE_PACKAGES && \
    /srv/steps/finish apt

# Installs uv. Of two stages with the same parent, the one that is in no image must come first:
# BuildKit 0.13, which Docker 26 has, overwrites the earlier one's history with the later one's.
FROM base-cpu AS installer
SHELL ["/bin/sh", "-eu", "-c"]
ARG INSTALLER_PACKAGES
# hadolint ignore=DL3008,SC2086
RUN --mount=type=bind,source=images/steps,target=/srv/steps \
    --mount=type=bind,from=packages,target=/srv/packages \
    --mount=type=bind,source=images/base/uv.lock,target=/srv/uv.lock \
    --mount=type=secret,id=ca_bundle --mount=type=secret,id=network \
    /srv/steps/with-build-network apt-get update -q && \
    /srv/steps/with-build-network apt-get install -yq --no-install-recommends $INSTALLER_PACKAGES && \
    python3 -m venv /opt/uv && \
    /srv/steps/with-build-network /opt/uv/bin/pip install --quiet --require-hashes -r /srv/uv.lock

# Mounted at /mnt by the steps that install Python's packages: uv, and the pins that it builds with.
FROM scratch AS install-tools
COPY --from=installer /opt/uv/bin/uv /
COPY images/framework/build-constraints.txt images/framework/requirements.in /

# The DTK image: Kylin, its compilers, Python 3.10, and environment variables that are set for
# root's login shell only.
# hadolint ignore=DL3006
FROM ${DTK_IMAGE} AS dtk-dcu
COPY --from=mount-points /mount-points /
ENV BASE_PYTHON=/opt/py310/bin/python

# Stands in for the DTK image on machines without it: Debian's compilers at the DTK's paths.
FROM base-cpu AS dtk-dcu-sim
RUN --mount=type=tmpfs,target=/srv --mount=type=tmpfs,target=/run \
    --mount=type=bind,source=images/steps,target=/srv/steps \
    --mount=type=bind,from=packages,target=/srv/packages \
    --mount=type=bind,source=images/dcu-sim,target=/srv/dcu-sim \
    --mount=type=secret,id=ca_bundle --mount=type=secret,id=network \
    /srv/steps/with-build-network /srv/dcu-sim/install /srv/dcu-sim && \
    /srv/steps/finish apt
# Makes a CPU's Paddle report itself as a ROCm build; for compiling only.
ENV PYTHONPATH=/opt/dcu-sim

# hadolint ignore=DL3006
FROM dtk-${BACKEND} AS base-dtk
SHELL ["/bin/sh", "-eu", "-c"]
# The variables that DTK's env.sh sets, and the paths of the driver's user space, which the
# host's /opt/hyhal replaces when a container starts. The previous LD_LIBRARY_PATH has the
# library of the image's Python.
ENV ROCM_PATH=/opt/dtk-24.04.1 DTKROOT=/opt/dtk-24.04.1 HIP_PATH=/opt/dtk-24.04.1/hip \
    HYHAL_PATH=/opt/hyhal
ENV PATH=$ROCM_PATH/bin:$ROCM_PATH/llvm/bin:$ROCM_PATH/hip/bin:$ROCM_PATH/hip/bin/hipify:$HYHAL_PATH/bin:$PATH \
    LD_LIBRARY_PATH=$ROCM_PATH/hip/lib:$ROCM_PATH/llvm/lib:$ROCM_PATH/lib:$ROCM_PATH/lib64:$HYHAL_PATH/lib:$HYHAL_PATH/lib64:$ROCM_PATH/cuda/extras/CUPTI/lib64${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH} \
    C_INCLUDE_PATH=$ROCM_PATH/include:$HYHAL_PATH/include:$ROCM_PATH/llvm/include \
    CPLUS_INCLUDE_PATH=$ROCM_PATH/include:$HYHAL_PATH/include:$ROCM_PATH/llvm/include
# Kylin has no tini.
RUN --mount=type=tmpfs,target=/srv \
    --mount=type=bind,source=images/steps,target=/srv/steps \
    --mount=type=bind,from=base-cpu,source=/usr/bin/tini-static,target=/srv/tini \
    install -m 0755 /srv/tini /usr/bin/tini && \
    test -x "$ROCM_PATH/bin/hipcc" && test -d "$HYHAL_PATH" && \
    "$BASE_PYTHON" -c 'import ctypes, ssl, venv' && \
    /srv/steps/finish

FROM base-dtk AS base-dcu
FROM base-dtk AS base-dcu-sim

# hadolint ignore=DL3006
FROM base-${BACKEND} AS base
# Set here and not in a shell's start-up file, so that `docker exec`, `sh -c` and a Kubernetes
# command have the same environment. HOME and the caches are in /tmp because the root file
# system is read-only and the user may have no entry in passwd.
ARG BACKEND
ENV PATH=/opt/venv/bin:$PATH \
    PADDLE_STACKS_BACKEND=$BACKEND \
    VIRTUAL_ENV=/opt/venv \
    LANG=C.UTF-8 \
    HOME=/tmp USER=paddle LOGNAME=paddle \
    XDG_CACHE_HOME=/tmp/.cache PPNLP_HOME=/tmp/.paddlenlp HF_HOME=/tmp/.huggingface \
    MPLCONFIGDIR=/tmp/.matplotlib \
    PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
# /etc/profile.d, because a login shell first sets the distribution's PATH, without /opt/venv.
RUN --mount=type=tmpfs,target=/srv \
    --mount=type=bind,source=images/steps,target=/srv/steps \
    --mount=type=bind,source=images/base/entry,target=/srv/entry \
    install -m 0755 /srv/entry /usr/local/bin/entry && \
    install -d -m 1777 /workspace && chown 1000:1000 /workspace && \
    echo "export PATH=$PATH" > /etc/profile.d/paddle-stacks.sh && \
    /srv/steps/finish licences
WORKDIR /workspace
# No USER: a plain `docker run` runs the job as the owner of /workspace (images/base/entry).
ENTRYPOINT ["/usr/bin/tini", "--", "/usr/local/bin/entry"]
CMD ["help"]

# ---------------------------------------------------------------------- operators
# nlohmann/json: PaddleNLP includes it, and neither Paddle's wheel nor the DTK has it.
FROM scratch AS headers-dcu
ADD --checksum=sha256:9bea4c8066ef4a1c206b2be5a36302f8926f7fdc6087af5d20b417d0cf103ea6 \
    https://github.com/nlohmann/json/releases/download/v3.11.3/json.hpp /nlohmann/json.hpp
FROM scratch AS headers-dcu-sim
FROM scratch AS headers-cpu
# hadolint ignore=DL3006
FROM headers-${BACKEND} AS headers

FROM base AS compilers-cpu
SHELL ["/bin/sh", "-eu", "-c"]
ARG COMPILER_PACKAGES
# hadolint ignore=DL3008,SC2086
RUN --mount=type=bind,source=images/steps,target=/srv/steps \
    --mount=type=bind,from=packages,target=/srv/packages \
    --mount=type=secret,id=ca_bundle --mount=type=secret,id=network \
    /srv/steps/with-build-network apt-get update -q && \
    /srv/steps/with-build-network apt-get install -yq --no-install-recommends $COMPILER_PACKAGES
FROM base AS compilers-dcu
FROM base AS compilers-dcu-sim

# Compiles the operators and is in no image: the same Paddle, with its headers.
# hadolint ignore=DL3006
FROM compilers-${BACKEND} AS operators
ARG BACKEND
ARG LOCK=cpu
RUN --mount=type=tmpfs,target=/tmp \
    --mount=type=bind,source=images/steps,target=/srv/steps \
    --mount=type=bind,from=install-tools,target=/mnt \
    --mount=type=bind,from=wheels,target=/srv/wheels \
    --mount=type=bind,from=packages,target=/srv/packages \
    --mount=type=bind,source=images/framework/requirements.${LOCK}.lock,target=/srv/lock \
    --mount=type=cache,target=/srv/cache \
    --mount=type=secret,id=ca_bundle --mount=type=secret,id=network \
    /mnt/uv venv --quiet --python "$BASE_PYTHON" "$VIRTUAL_ENV" && \
    /srv/steps/with-build-network /srv/steps/install-lock /srv/lock paddle whole

# Operators for the CPU, in the images of all backends.
FROM operators AS cpu-operators
RUN --mount=type=tmpfs,target=/tmp \
    --mount=type=bind,source=images/ops,target=/srv/ops \
    python /srv/ops/build_cpu_operators.py /srv/ops/cpu /opt/cpu-operators

# The native CPU engine, for every backend; it has nothing of Paddle's.
# hadolint ignore=DL3006
FROM compilers-${BACKEND} AS native-engine
RUN --mount=type=tmpfs,target=/tmp \
    --mount=type=bind,source=images/native,target=/srv/native \
    "$BASE_PYTHON" /srv/native/build.py /srv/native /opt/native/libpaddle_stacks_native.so

# PaddleNLP's operators, for a DCU.
FROM operators AS dcu-operators
ARG GFX_ARCHS=notset
RUN --mount=type=tmpfs,target=/tmp \
    --mount=type=bind,from=paddlenlp,target=/srv/paddlenlp \
    --mount=type=bind,from=headers,target=/srv/headers \
    --mount=type=bind,source=images/ops/build_operators.py,target=/srv/build_operators.py \
    --mount=type=bind,source=images/ops/include,target=/srv/include \
    python /srv/build_operators.py /srv/paddlenlp /opt/operators --archs "$GFX_ARCHS" \
        --include /srv/include --include /srv/headers

# ---------------------------------------------------------------------- framework
FROM base AS framework
ARG BACKEND
ARG LOCK=cpu
RUN --mount=type=tmpfs,target=/srv --mount=type=tmpfs,target=/run --mount=type=tmpfs,target=/tmp \
    --mount=type=bind,source=images/steps,target=/srv/steps \
    --mount=type=bind,from=install-tools,target=/mnt \
    --mount=type=bind,from=wheels,target=/srv/wheels \
    --mount=type=bind,from=packages,target=/srv/packages \
    --mount=type=bind,source=images/framework/requirements.${LOCK}.lock,target=/srv/lock \
    --mount=type=cache,target=/srv/cache \
    --mount=type=secret,id=ca_bundle --mount=type=secret,id=network \
    /mnt/uv venv --quiet --python "$BASE_PYTHON" "$VIRTUAL_ENV" && \
    /srv/steps/with-build-network /srv/steps/install-lock /srv/lock paddle && \
    /srv/steps/finish
RUN --mount=type=tmpfs,target=/srv --mount=type=tmpfs,target=/tmp \
    --mount=type=bind,source=images/steps,target=/srv/steps \
    --mount=type=bind,source=images/framework/paddle_stacks_startup.py,target=/srv/startup.py \
    --mount=type=bind,source=images/framework/check_framework.py,target=/srv/check_framework.py \
    --mount=type=bind,source=images/framework/requirements.in,target=/srv/requirements.in \
    --mount=type=bind,source=images/framework/requirements.${LOCK}.lock,target=/srv/lock \
    install -D -m 0644 /srv/startup.py /opt/startup/paddle_stacks_startup.py && \
    printf '%s\n' /opt/startup 'import paddle_stacks_startup' \
        > "$(echo "$VIRTUAL_ENV"/lib/python3.*/site-packages)/paddle-stacks.pth" && \
    python -m compileall -q --invalidation-mode unchecked-hash /opt/startup && \
    PADDLE_AS_ROCM=1 python /srv/check_framework.py "$BACKEND" /srv/lock /srv/requirements.in && \
    /srv/steps/finish licences

# --------------------------------------------------------------------------- code
# The project's own files: small, and the last layer of train and infer.
FROM framework AS code
WORKDIR /opt/paddle-stacks
COPY entrypoints /opt/paddle-stacks/entrypoints
COPY paddle_stacks/__init__.py paddle_stacks/errors.py /opt/paddle-stacks/paddle_stacks/
COPY paddle_stacks/jobs /opt/paddle-stacks/paddle_stacks/jobs
COPY configs/datasets /opt/paddle-stacks/configs/datasets
COPY configs/models /opt/paddle-stacks/configs/models
RUN python -m compileall -q --invalidation-mode unchecked-hash .

# ---------------------------------------------------------------------------- ops
# Jobs that use the CPU's operators set CUSTOM_DEVICE_ROOT and PYTHONPATH to their folders.
FROM framework AS ops-cpu
RUN --mount=type=tmpfs,target=/srv --mount=type=tmpfs,target=/tmp \
    --mount=type=bind,source=images/steps,target=/srv/steps \
    --mount=type=bind,from=cpu-operators,source=/opt/cpu-operators,target=/srv/operators \
    --mount=type=bind,source=images/ops/check_cpu_operators.py,target=/srv/check_cpu_operators.py \
    install -d /opt/cpu-operators && \
    cp -r --no-preserve=timestamps /srv/operators/kernels /srv/operators/site /opt/cpu-operators/ && \
    python -m compileall -q --invalidation-mode unchecked-hash /opt/cpu-operators/site && \
    python /srv/check_cpu_operators.py /opt/cpu-operators /srv/operators/cpu-operators.json && \
    /srv/steps/finish
RUN --mount=type=tmpfs,target=/srv \
    --mount=type=bind,source=images/steps,target=/srv/steps \
    --mount=type=bind,from=native-engine,source=/opt/native,target=/srv/native \
    install -D -m 0755 -t /opt/native /srv/native/libpaddle_stacks_native.so && \
    python -c 'import ctypes; ctypes.CDLL("/opt/native/libpaddle_stacks_native.so").ps_abi' && \
    /srv/steps/finish

FROM ops-cpu AS ops-dcu
RUN --mount=type=tmpfs,target=/srv --mount=type=tmpfs,target=/tmp \
    --mount=type=bind,source=images/steps,target=/srv/steps \
    --mount=type=bind,from=install-tools,target=/mnt \
    --mount=type=bind,from=dcu-operators,source=/opt/operators,target=/srv/operators \
    --mount=type=bind,source=images/ops,target=/srv/ops \
    /srv/ops/install /srv/operators && \
    python /srv/ops/check_operators.py /srv/operators/*.json && \
    /srv/steps/finish
# Upstream's programs, unchanged, for what only a DCU's kernels can run.
RUN --mount=type=tmpfs,target=/srv \
    --mount=type=bind,source=images/steps,target=/srv/steps \
    --mount=type=bind,from=paddlenlp,target=/srv/paddlenlp \
    install -d /opt/PaddleNLP && \
    cp -r --no-preserve=mode,timestamps /srv/paddlenlp/llm /srv/paddlenlp/paddlenlp /opt/PaddleNLP/ && \
    chmod -R 0755 /opt/PaddleNLP && \
    { [ ! -f /srv/paddlenlp/LICENSE ] || install -m 0644 /srv/paddlenlp/LICENSE /opt/PaddleNLP/; } && \
    python -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/PaddleNLP && \
    /srv/steps/finish licences

FROM ops-dcu AS ops-dcu-sim

# hadolint ignore=DL3006
FROM ops-${BACKEND} AS ops

# -------------------------------------------------------------------------- train
FROM ops AS training
ARG LOCK=cpu
RUN --mount=type=tmpfs,target=/srv --mount=type=tmpfs,target=/run --mount=type=tmpfs,target=/tmp \
    --mount=type=bind,source=images/steps,target=/srv/steps \
    --mount=type=bind,from=install-tools,target=/mnt \
    --mount=type=bind,from=wheels,target=/srv/wheels \
    --mount=type=bind,from=packages,target=/srv/packages \
    --mount=type=bind,source=images/train/requirements.${LOCK}.lock,target=/srv/lock \
    --mount=type=cache,target=/srv/cache \
    --mount=type=secret,id=ca_bundle --mount=type=secret,id=network \
    /srv/steps/with-build-network /srv/steps/install-lock /srv/lock && \
    /srv/steps/finish

FROM training AS training-cpu

# The packages of quantization, for which only a DCU has kernels.
FROM training AS training-dcu
ARG LOCK=cpu
RUN --mount=type=tmpfs,target=/srv --mount=type=tmpfs,target=/run --mount=type=tmpfs,target=/tmp \
    --mount=type=bind,source=images/steps,target=/srv/steps \
    --mount=type=bind,from=install-tools,target=/mnt \
    --mount=type=bind,from=wheels,target=/srv/wheels \
    --mount=type=bind,from=packages,target=/srv/packages \
    --mount=type=bind,source=images/train/quantize.${LOCK}.lock,target=/srv/lock \
    --mount=type=cache,target=/srv/cache \
    --mount=type=secret,id=ca_bundle --mount=type=secret,id=network \
    /srv/steps/with-build-network /srv/steps/install-lock /srv/lock && \
    /srv/steps/finish
FROM training-dcu AS training-dcu-sim

# hadolint ignore=DL3006
FROM training-${BACKEND} AS train
RUN --mount=type=tmpfs,target=/srv \
    --mount=type=bind,source=images/steps,target=/srv/steps \
    /srv/steps/finish licences
RUN --mount=type=tmpfs,target=/srv \
    --mount=type=bind,source=images/steps,target=/srv/steps \
    --mount=type=bind,from=code,source=/opt/paddle-stacks,target=/srv/code \
    cp -r --no-preserve=timestamps /srv/code/. /opt/paddle-stacks && \
    chmod -R u=rwX,go=rX /opt/paddle-stacks && \
    /srv/steps/finish

# -------------------------------------------------------------------------- infer
# For a DCU, infer has the trainer's packages: upstream's predictor, which the fused kernels
# need, imports everything that upstream's trainer imports.
FROM ops AS infer-cpu
FROM training-dcu AS infer-dcu
FROM training-dcu AS infer-dcu-sim
# hadolint ignore=DL3006
FROM infer-${BACKEND} AS serving
ARG LOCK=cpu
RUN --mount=type=tmpfs,target=/srv --mount=type=tmpfs,target=/run --mount=type=tmpfs,target=/tmp \
    --mount=type=bind,source=images/steps,target=/srv/steps \
    --mount=type=bind,from=install-tools,target=/mnt \
    --mount=type=bind,from=wheels,target=/srv/wheels \
    --mount=type=bind,from=packages,target=/srv/packages \
    --mount=type=bind,source=images/infer/requirements.${LOCK}.lock,target=/srv/lock \
    --mount=type=cache,target=/srv/cache \
    --mount=type=secret,id=ca_bundle --mount=type=secret,id=network \
    /srv/steps/with-build-network /srv/steps/install-lock /srv/lock && \
    /srv/steps/finish

FROM serving AS infer
RUN --mount=type=tmpfs,target=/srv \
    --mount=type=bind,source=images/steps,target=/srv/steps \
    /srv/steps/finish licences
RUN --mount=type=tmpfs,target=/srv \
    --mount=type=bind,source=images/steps,target=/srv/steps \
    --mount=type=bind,from=code,source=/opt/paddle-stacks,target=/srv/code \
    cp -r --no-preserve=timestamps /srv/code/. /opt/paddle-stacks && \
    chmod -R u=rwX,go=rX /opt/paddle-stacks && \
    /srv/steps/finish

# ------------------------------------------------------------------------- bundle
# Everything that a build downloads, exported by `./inv bundle.create`: the context `packages`,
# and for a DCU's operators `paddlenlp` and `headers`.
# hadolint ignore=DL3006
FROM ${OS_IMAGE} AS debian-packages
SHELL ["/bin/sh", "-eu", "-c"]
ARG BASE_PACKAGES
ARG INSTALLER_PACKAGES
ARG COMPILER_PACKAGES
ARG BACKEND
# hadolint ignore=SC2086
RUN --mount=type=bind,source=images/steps,target=/srv/steps \
    --mount=type=bind,source=images/bundle,target=/srv/bundle \
    --mount=type=secret,id=ca_bundle --mount=type=secret,id=network \
    if [ "$BACKEND" != cpu ]; then COMPILER_PACKAGES=; fi; \
    /srv/steps/with-build-network /srv/bundle/collect-debian /collected \
        $BASE_PACKAGES $INSTALLER_PACKAGES $COMPILER_PACKAGES

# uv, for the Python that installs it; python-packages are for the images' Python.
FROM installer AS installer-packages
RUN --mount=type=tmpfs,target=/tmp \
    --mount=type=bind,source=images/steps,target=/srv/steps \
    --mount=type=bind,source=images/bundle,target=/srv/bundle \
    --mount=type=bind,source=images/base/uv.lock,target=/srv/uv.lock \
    --mount=type=secret,id=ca_bundle --mount=type=secret,id=network \
    /srv/steps/with-build-network /srv/bundle/collect-python /opt/uv/bin/python /collected /srv/uv.lock

FROM base AS python-packages
ARG BACKEND
ARG LOCK=cpu
RUN --mount=type=tmpfs,target=/tmp \
    --mount=type=bind,source=images/steps,target=/srv/steps \
    --mount=type=bind,source=images/bundle,target=/srv/bundle \
    --mount=type=bind,from=install-tools,target=/mnt \
    --mount=type=bind,from=wheels,target=/srv/wheels \
    --mount=type=bind,source=images/framework,target=/srv/images/framework \
    --mount=type=bind,source=images/train,target=/srv/images/train \
    --mount=type=bind,source=images/infer,target=/srv/images/infer \
    --mount=type=cache,target=/srv/cache \
    --mount=type=secret,id=ca_bundle --mount=type=secret,id=network \
    UV_CACHE_DIR=/srv/cache UV_LINK_MODE=copy \
        /srv/steps/with-build-network /mnt/uv venv --quiet --seed --python "$BASE_PYTHON" "$VIRTUAL_ENV" && \
    /srv/steps/with-build-network /srv/bundle/collect-python "$VIRTUAL_ENV/bin/python" /collected \
        /srv/images/*/*."$LOCK".lock

FROM scratch AS bundle
COPY --from=debian-packages /collected /packages
COPY --from=installer-packages /collected /packages
COPY --from=python-packages /collected /packages
COPY --from=paddlenlp / /sources/paddlenlp
COPY --from=headers / /sources/headers
