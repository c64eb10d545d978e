# Every image is a stage of this file. `docker-bake.hcl` names the targets, `./inv build`
# builds them; a backend differs in its `base-<backend>` stage and in its locks.

# BuildKit resolves these before any stage, so they stand here and nowhere else.
ARG OS_IMAGE=debian:bookworm-20250520-slim
# The image moved: Paddle's newer instructions name it
# ccr-2vdh3abv-pub.cnc.bj.baidubce.com/paddlepaddle/paddle-dcu with the same tag.
ARG DTK_IMAGE=registry.baidubce.com/device/paddle-dcu:dtk24.04.1-kylinv10-gcc82
ARG BACKEND=cpu
# Debian's packages: of every image, and of the stages that are in none. Its stable
# release moves by security fixes only, so they are not pinned.
ARG BASE_PACKAGES="ca-certificates libgomp1 python3 tini"
ARG INSTALLER_PACKAGES=python3-venv
# What compiles operators on a CPU's platform; a DTK has its own compilers.
ARG COMPILER_PACKAGES=g++

# Of stages that begin with the same one, those that are in no image stand first: BuildKit
# writes the later one's history over the earlier one's (0.13, which Docker 26 has).

# What a named build context of the same name replaces (docs/building.md): Debian's and
# Python's packages for a build with no network, wheels that no index has to be asked for,
# PaddleNLP's source, headers for compiling its operators.
FROM scratch AS packages
FROM scratch AS wheels
FROM scratch AS paddlenlp

# ---------------------------------------------------------------------------- base
# BuildKit mounts two files of its own in /etc, and where an image has none to mount them on
# each step makes and removes them, so that /etc would be in every layer; or in none, on an
# engine that has the layer below of another build. For the same reason steps mount what they
# read below a file system of their own, in /srv, and write nothing in /run.
# hadolint ignore=DL3006
FROM ${OS_IMAGE} AS mount-points
RUN --mount=type=tmpfs,target=/srv \
    --mount=type=bind,source=images/base/dated,target=/srv/dated \
    mkdir -p /made/etc && touch /made/etc/hosts /made/etc/resolv.conf && /srv/dated

# hadolint ignore=DL3006
FROM ${OS_IMAGE} AS base-cpu
COPY --from=mount-points /made /
ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    BASE_PYTHON=/usr/bin/python3
SHELL ["/bin/sh", "-eu", "-c"]
ARG BASE_PACKAGES
# hadolint ignore=DL3008,SC2086
RUN --mount=type=tmpfs,target=/srv --mount=type=tmpfs,target=/run \
    --mount=type=bind,from=packages,target=/srv/packages \
    --mount=type=bind,source=images/base/with-network,target=/srv/with-network \
    --mount=type=bind,source=images/base/clean,target=/srv/clean \
    --mount=type=bind,source=images/base/dated,target=/srv/dated \
    --mount=type=secret,id=ca_bundle --mount=type=secret,id=network \
    /srv/with-network apt-get update -q && \
    /srv/with-network apt-get install -yq --no-install-recommends $BASE_PACKAGES && \
    /srv/clean && /srv/dated

# What installs packages, and is in no image.
FROM base-cpu AS installer
SHELL ["/bin/sh", "-eu", "-c"]
ARG INSTALLER_PACKAGES
# hadolint ignore=DL3008,SC2086
RUN --mount=type=bind,from=packages,target=/srv/packages \
    --mount=type=bind,source=images/base/with-network,target=/srv/with-network \
    --mount=type=bind,source=images/base/uv.lock,target=/srv/uv.lock \
    --mount=type=secret,id=ca_bundle --mount=type=secret,id=network \
    /srv/with-network apt-get update -q && \
    /srv/with-network apt-get install -yq --no-install-recommends $INSTALLER_PACKAGES && \
    python3 -m venv /opt/uv && \
    /srv/with-network /opt/uv/bin/pip install --quiet --require-hashes -r /srv/uv.lock

# The DTK's image: Kylin, its compilers, Python 3.10, and an environment that only root's
# login shell has.
# hadolint ignore=DL3006
FROM ${DTK_IMAGE} AS dtk-dcu
COPY --from=mount-points /made /
ENV BASE_PYTHON=/opt/py310/bin/python

# What stands in for it where there is none of it: Debian's compilers in the DTK's places.
FROM base-cpu AS dtk-dcu-sim
RUN --mount=type=tmpfs,target=/srv --mount=type=tmpfs,target=/run \
    --mount=type=bind,from=packages,target=/srv/packages \
    --mount=type=bind,source=images/base/with-network,target=/srv/with-network \
    --mount=type=bind,source=images/base/clean,target=/srv/clean \
    --mount=type=bind,source=images/base/dated,target=/srv/dated \
    --mount=type=bind,source=images/dcu-sim,target=/srv/dcu-sim \
    --mount=type=secret,id=ca_bundle --mount=type=secret,id=network \
    /srv/with-network /srv/dcu-sim/install /srv/dcu-sim && \
    /srv/clean && /srv/dated
# Where a CPU's Paddle learns to answer as a ROCm build, for compiling only.
ENV PYTHONPATH=/opt/dcu-sim

# hadolint ignore=DL3006
FROM dtk-${BACKEND} AS base-dtk
SHELL ["/bin/sh", "-eu", "-c"]
# What DTK's env.sh is for, and the paths of the driver's own user land, which the host's
# /opt/hyhal replaces when a container starts. The old LD_LIBRARY_PATH has the Python's
# own library.
ENV ROCM_PATH=/opt/dtk-24.04.1 DTKROOT=/opt/dtk-24.04.1 HIP_PATH=/opt/dtk-24.04.1/hip \
    HYHAL_PATH=/opt/hyhal
ENV PATH=$ROCM_PATH/bin:$ROCM_PATH/llvm/bin:$ROCM_PATH/hip/bin:$ROCM_PATH/hip/bin/hipify:$HYHAL_PATH/bin:$PATH \
    LD_LIBRARY_PATH=$ROCM_PATH/hip/lib:$ROCM_PATH/llvm/lib:$ROCM_PATH/lib:$ROCM_PATH/lib64:$HYHAL_PATH/lib:$HYHAL_PATH/lib64:$ROCM_PATH/cuda/extras/CUPTI/lib64${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH} \
    C_INCLUDE_PATH=$ROCM_PATH/include:$HYHAL_PATH/include:$ROCM_PATH/llvm/include \
    CPLUS_INCLUDE_PATH=$ROCM_PATH/include:$HYHAL_PATH/include:$ROCM_PATH/llvm/include
# Kylin has no tini.
RUN --mount=type=tmpfs,target=/srv \
    --mount=type=bind,from=base-cpu,source=/usr/bin/tini-static,target=/srv/tini \
    --mount=type=bind,source=images/base/dated,target=/srv/dated \
    install -m 0755 /srv/tini /usr/bin/tini && \
    test -x "$ROCM_PATH/bin/hipcc" && test -d "$HYHAL_PATH" && \
    "$BASE_PYTHON" -c 'import ctypes, ssl, venv' && \
    /srv/dated

FROM base-dtk AS base-dcu
FROM base-dtk AS base-dcu-sim

# hadolint ignore=DL3006
FROM base-${BACKEND} AS base
# Everything a process needs is here, not in a shell's start-up file: `docker exec`,
# `sh -c` and a Kubernetes command see the same environment. HOME and the caches are in
# /tmp because the root file system is read-only and the user may have no entry in passwd.
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
# A login shell begins by setting the distribution's PATH, which would hide the environment.
RUN --mount=type=tmpfs,target=/srv \
    --mount=type=bind,source=images/base/entry,target=/srv/entry \
    --mount=type=bind,source=images/base/licences.py,target=/srv/licences.py \
    --mount=type=bind,source=images/base/dated,target=/srv/dated \
    install -m 0755 /srv/entry /usr/local/bin/entry && \
    install -d -m 1777 /workspace && chown 1000:1000 /workspace && \
    echo "export PATH=$PATH" > /etc/profile.d/paddle-stacks.sh && \
    "$BASE_PYTHON" /srv/licences.py && \
    /srv/dated
WORKDIR /workspace
# No USER: a plain `docker run` runs the job as the owner of /workspace (images/base/entry).
ENTRYPOINT ["/usr/bin/tini", "--", "/usr/local/bin/entry"]
CMD ["help"]

# ----------------------------------------------------------------------- operators
# nlohmann/json, which PaddleNLP includes, and neither Paddle's wheel nor the DTK has.
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
RUN --mount=type=bind,from=packages,target=/srv/packages \
    --mount=type=bind,source=images/base/with-network,target=/srv/with-network \
    --mount=type=secret,id=ca_bundle --mount=type=secret,id=network \
    /srv/with-network apt-get update -q && \
    /srv/with-network apt-get install -yq --no-install-recommends $COMPILER_PACKAGES
FROM base AS compilers-dcu
FROM base AS compilers-dcu-sim

# What compiles the operators, and is in no image: the same Paddle, with its headers.
# hadolint ignore=DL3006
FROM compilers-${BACKEND} AS operators
ARG BACKEND
ARG LOCK=cpu
RUN --mount=type=bind,from=installer,source=/opt/uv/bin,target=/mnt \
    --mount=type=bind,from=wheels,target=/srv/wheels \
    --mount=type=bind,from=packages,target=/srv/packages \
    --mount=type=bind,source=images/base/with-network,target=/srv/with-network \
    --mount=type=bind,source=images/framework/install,target=/srv/install \
    --mount=type=bind,source=images/framework/paddle-dcu,target=/srv/paddle-dcu \
    --mount=type=bind,source=images/framework/build-constraints.txt,target=/srv/build-constraints.txt \
    --mount=type=bind,source=images/framework/requirements.in,target=/srv/requirements.in \
    --mount=type=bind,source=images/framework/requirements.${LOCK}.lock,target=/srv/lock \
    --mount=type=cache,target=/srv/cache \
    --mount=type=secret,id=ca_bundle --mount=type=secret,id=network \
    --mount=type=tmpfs,target=/tmp \
    /mnt/uv venv --quiet --python "$BASE_PYTHON" "$VIRTUAL_ENV" && \
    /srv/with-network /srv/install /srv/lock whole

# Operators for the CPU, for every backend.
FROM operators AS cpu-operators
RUN --mount=type=bind,source=images/ops,target=/srv/ops \
    --mount=type=tmpfs,target=/tmp \
    python /srv/ops/build_cpu_operators.py /srv/ops/cpu /opt/cpu-operators

# PaddleNLP's own, for a DCU.
FROM operators AS dcu-operators
ARG GFX_ARCHS=notset
RUN --mount=type=bind,from=paddlenlp,target=/srv/paddlenlp \
    --mount=type=bind,from=headers,target=/srv/headers \
    --mount=type=bind,source=images/ops/build_operators.py,target=/srv/build_operators.py \
    --mount=type=bind,source=images/ops/include,target=/srv/include \
    --mount=type=tmpfs,target=/tmp \
    python /srv/build_operators.py /srv/paddlenlp /opt/operators --archs "$GFX_ARCHS" \
        --include /srv/include --include /srv/headers

# ----------------------------------------------------------------------- framework
FROM base AS framework
ARG BACKEND
ARG LOCK=cpu
RUN --mount=type=tmpfs,target=/srv --mount=type=tmpfs,target=/run \
    --mount=type=bind,from=installer,source=/opt/uv/bin,target=/mnt \
    --mount=type=bind,from=wheels,target=/srv/wheels \
    --mount=type=bind,from=packages,target=/srv/packages \
    --mount=type=bind,source=images/base/with-network,target=/srv/with-network \
    --mount=type=bind,source=images/framework/install,target=/srv/install \
    --mount=type=bind,source=images/framework/paddle-dcu,target=/srv/paddle-dcu \
    --mount=type=bind,source=images/framework/build-constraints.txt,target=/srv/build-constraints.txt \
    --mount=type=bind,source=images/framework/requirements.in,target=/srv/requirements.in \
    --mount=type=bind,source=images/framework/requirements.${LOCK}.lock,target=/srv/lock \
    --mount=type=cache,target=/srv/cache \
    --mount=type=secret,id=ca_bundle --mount=type=secret,id=network \
    --mount=type=bind,source=images/base/dated,target=/srv/dated \
    --mount=type=tmpfs,target=/tmp \
    /mnt/uv venv --quiet --python "$BASE_PYTHON" "$VIRTUAL_ENV" && \
    /srv/with-network /srv/install /srv/lock && \
    /srv/dated
RUN --mount=type=tmpfs,target=/srv \
    --mount=type=bind,source=images/framework/paddle_stacks_startup.py,target=/srv/startup.py \
    --mount=type=bind,source=images/base/licences.py,target=/srv/licences.py \
    --mount=type=bind,source=images/base/dated,target=/srv/dated \
    --mount=type=bind,source=images/framework/check_framework.py,target=/srv/check_framework.py \
    --mount=type=bind,source=images/framework/requirements.in,target=/srv/requirements.in \
    --mount=type=bind,source=images/framework/requirements.${LOCK}.lock,target=/srv/lock \
    --mount=type=tmpfs,target=/tmp \
    install -D -m 0644 /srv/startup.py /opt/startup/paddle_stacks_startup.py && \
    printf '%s\n' /opt/startup 'import paddle_stacks_startup' \
        > "$(echo "$VIRTUAL_ENV"/lib/python3.*/site-packages)/paddle-stacks.pth" && \
    python -m compileall -q --invalidation-mode unchecked-hash /opt/startup && \
    PADDLE_AS_ROCM=1 python /srv/check_framework.py "$BACKEND" /srv/lock /srv/requirements.in && \
    python /srv/licences.py && \
    /srv/dated

# ---------------------------------------------------------------------------- code
# The project's own part of every image: small, and the last layer.
FROM framework AS code
WORKDIR /opt/paddle-stacks
COPY entrypoints /opt/paddle-stacks/entrypoints
COPY paddle_stacks/__init__.py paddle_stacks/errors.py /opt/paddle-stacks/paddle_stacks/
COPY paddle_stacks/jobs /opt/paddle-stacks/paddle_stacks/jobs
COPY configs/datasets /opt/paddle-stacks/configs/datasets
COPY configs/models /opt/paddle-stacks/configs/models
RUN python -m compileall -q --invalidation-mode unchecked-hash .

# ----------------------------------------------------------------------------- ops
# Jobs that use them name the folders in CUSTOM_DEVICE_ROOT and PYTHONPATH.
FROM framework AS ops-cpu
RUN --mount=type=tmpfs,target=/srv \
    --mount=type=bind,from=cpu-operators,source=/opt/cpu-operators,target=/srv/operators \
    --mount=type=bind,source=images/ops/check_cpu_operators.py,target=/srv/check_cpu_operators.py \
    --mount=type=bind,source=images/base/dated,target=/srv/dated \
    --mount=type=tmpfs,target=/tmp \
    install -d /opt/cpu-operators && \
    cp -r --no-preserve=timestamps /srv/operators/kernels /srv/operators/site /opt/cpu-operators/ && \
    python -m compileall -q --invalidation-mode unchecked-hash /opt/cpu-operators/site && \
    python /srv/check_cpu_operators.py /opt/cpu-operators /srv/operators/cpu-operators.json && \
    /srv/dated

FROM ops-cpu AS ops-dcu
# Upstream's own programs are with the operators, for what only a DCU's kernels can run.
# Nobody may change them.
RUN --mount=type=tmpfs,target=/srv \
    --mount=type=bind,from=installer,source=/opt/uv/bin,target=/mnt \
    --mount=type=bind,from=dcu-operators,source=/opt/operators,target=/srv/operators \
    --mount=type=bind,source=images/ops,target=/srv/ops \
    --mount=type=bind,source=images/base/dated,target=/srv/dated \
    --mount=type=tmpfs,target=/tmp \
    /srv/ops/install /srv/operators && \
    python /srv/ops/check_operators.py /srv/operators/*.json && \
    /srv/dated
RUN --mount=type=tmpfs,target=/srv \
    --mount=type=bind,from=paddlenlp,target=/srv/paddlenlp \
    --mount=type=bind,source=images/base/licences.py,target=/srv/licences.py \
    --mount=type=bind,source=images/base/dated,target=/srv/dated \
    install -d /opt/PaddleNLP && \
    cp -r --no-preserve=mode,timestamps /srv/paddlenlp/llm /srv/paddlenlp/paddlenlp /opt/PaddleNLP/ && \
    chmod -R 0755 /opt/PaddleNLP && \
    { [ ! -f /srv/paddlenlp/LICENSE ] || install -m 0644 /srv/paddlenlp/LICENSE /opt/PaddleNLP/; } && \
    python -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/PaddleNLP && \
    python /srv/licences.py && \
    /srv/dated

FROM ops-dcu AS ops-dcu-sim

# hadolint ignore=DL3006
FROM ops-${BACKEND} AS ops

# --------------------------------------------------------------------------- train
FROM ops AS training
ARG LOCK=cpu
RUN --mount=type=tmpfs,target=/srv --mount=type=tmpfs,target=/run \
    --mount=type=bind,from=installer,source=/opt/uv/bin,target=/mnt \
    --mount=type=bind,from=wheels,target=/srv/wheels \
    --mount=type=bind,from=packages,target=/srv/packages \
    --mount=type=bind,source=images/base/with-network,target=/srv/with-network \
    --mount=type=bind,source=images/framework/install,target=/srv/install \
    --mount=type=bind,source=images/framework/build-constraints.txt,target=/srv/build-constraints.txt \
    --mount=type=bind,source=images/train/requirements.${LOCK}.lock,target=/srv/lock \
    --mount=type=bind,source=images/base/dated,target=/srv/dated \
    --mount=type=cache,target=/srv/cache \
    --mount=type=secret,id=ca_bundle --mount=type=secret,id=network \
    --mount=type=tmpfs,target=/tmp \
    /srv/with-network /srv/install /srv/lock && \
    /srv/dated

FROM training AS training-cpu

# What quantizing adds, for which a DCU has the kernels.
FROM training AS training-dcu
ARG LOCK=cpu
RUN --mount=type=tmpfs,target=/srv --mount=type=tmpfs,target=/run \
    --mount=type=bind,from=installer,source=/opt/uv/bin,target=/mnt \
    --mount=type=bind,from=wheels,target=/srv/wheels \
    --mount=type=bind,from=packages,target=/srv/packages \
    --mount=type=bind,source=images/base/with-network,target=/srv/with-network \
    --mount=type=bind,source=images/framework/install,target=/srv/install \
    --mount=type=bind,source=images/framework/build-constraints.txt,target=/srv/build-constraints.txt \
    --mount=type=bind,source=images/train/quantize.${LOCK}.lock,target=/srv/lock \
    --mount=type=bind,source=images/base/dated,target=/srv/dated \
    --mount=type=cache,target=/srv/cache \
    --mount=type=secret,id=ca_bundle --mount=type=secret,id=network \
    --mount=type=tmpfs,target=/tmp \
    /srv/with-network /srv/install /srv/lock && \
    /srv/dated
FROM training-dcu AS training-dcu-sim

# hadolint ignore=DL3006
FROM training-${BACKEND} AS train
RUN --mount=type=tmpfs,target=/srv \
    --mount=type=bind,source=images/base/licences.py,target=/srv/licences.py \
    --mount=type=bind,source=images/base/dated,target=/srv/dated \
    python /srv/licences.py && \
    /srv/dated
RUN --mount=type=tmpfs,target=/srv \
    --mount=type=bind,from=code,source=/opt/paddle-stacks,target=/srv/code \
    --mount=type=bind,source=images/base/dated,target=/srv/dated \
    cp -r --no-preserve=timestamps /srv/code/. /opt/paddle-stacks && \
    chmod -R u=rwX,go=rX /opt/paddle-stacks && \
    /srv/dated

# --------------------------------------------------------------------------- infer
# Upstream's predictor, which a DCU's fused kernels need, imports all that its trainer does.
FROM ops AS infer-cpu
FROM training-dcu AS infer-dcu
FROM training-dcu AS infer-dcu-sim
# hadolint ignore=DL3006
FROM infer-${BACKEND} AS serving
ARG LOCK=cpu
RUN --mount=type=tmpfs,target=/srv --mount=type=tmpfs,target=/run \
    --mount=type=bind,from=installer,source=/opt/uv/bin,target=/mnt \
    --mount=type=bind,from=wheels,target=/srv/wheels \
    --mount=type=bind,from=packages,target=/srv/packages \
    --mount=type=bind,source=images/base/with-network,target=/srv/with-network \
    --mount=type=bind,source=images/framework/install,target=/srv/install \
    --mount=type=bind,source=images/framework/build-constraints.txt,target=/srv/build-constraints.txt \
    --mount=type=bind,source=images/infer/requirements.${LOCK}.lock,target=/srv/lock \
    --mount=type=bind,source=images/base/dated,target=/srv/dated \
    --mount=type=cache,target=/srv/cache \
    --mount=type=secret,id=ca_bundle --mount=type=secret,id=network \
    --mount=type=tmpfs,target=/tmp \
    /srv/with-network /srv/install /srv/lock && \
    /srv/dated

FROM serving AS infer
RUN --mount=type=tmpfs,target=/srv \
    --mount=type=bind,source=images/base/licences.py,target=/srv/licences.py \
    --mount=type=bind,source=images/base/dated,target=/srv/dated \
    python /srv/licences.py && \
    /srv/dated
RUN --mount=type=tmpfs,target=/srv \
    --mount=type=bind,from=code,source=/opt/paddle-stacks,target=/srv/code \
    --mount=type=bind,source=images/base/dated,target=/srv/dated \
    cp -r --no-preserve=timestamps /srv/code/. /opt/paddle-stacks && \
    chmod -R u=rwX,go=rX /opt/paddle-stacks && \
    /srv/dated

# -------------------------------------------------------------------------- bundle
# What a build takes from a network, for one that has none: the context `packages`, and for
# a DCU's operators `paddlenlp` and `headers`. `./inv bundle.create` exports it; no image
# has it.
# hadolint ignore=DL3006
FROM ${OS_IMAGE} AS debian-packages
SHELL ["/bin/sh", "-eu", "-c"]
ARG BASE_PACKAGES
ARG INSTALLER_PACKAGES
ARG COMPILER_PACKAGES
ARG BACKEND
# hadolint ignore=SC2086
RUN --mount=type=bind,source=images/base/with-network,target=/srv/with-network \
    --mount=type=bind,source=images/base/carry-debian,target=/srv/carry-debian \
    --mount=type=secret,id=ca_bundle --mount=type=secret,id=network \
    if [ "$BACKEND" != cpu ]; then COMPILER_PACKAGES=; fi; \
    /srv/with-network /srv/carry-debian /carried \
        $BASE_PACKAGES $INSTALLER_PACKAGES $COMPILER_PACKAGES

# uv, by the Python that installs it; all else by the Python that it is for.
FROM installer AS installer-packages
RUN --mount=type=bind,source=images/base/with-network,target=/srv/with-network \
    --mount=type=bind,source=images/base/carry-python,target=/srv/carry-python \
    --mount=type=bind,source=images/base/uv.lock,target=/srv/uv.lock \
    --mount=type=secret,id=ca_bundle --mount=type=secret,id=network \
    --mount=type=tmpfs,target=/tmp \
    /srv/with-network /srv/carry-python /opt/uv/bin/python /carried /srv/uv.lock

FROM base AS python-packages
ARG BACKEND
ARG LOCK=cpu
RUN --mount=type=bind,from=installer,source=/opt/uv/bin,target=/mnt \
    --mount=type=bind,from=wheels,target=/srv/wheels \
    --mount=type=bind,source=images/base/with-network,target=/srv/with-network \
    --mount=type=bind,source=images/base/carry-python,target=/srv/carry-python \
    --mount=type=bind,source=images/framework/paddle-dcu,target=/srv/images/framework/paddle-dcu \
    --mount=type=bind,source=images/framework/build-constraints.txt,target=/srv/images/framework/build-constraints.txt \
    --mount=type=bind,source=images/framework/requirements.in,target=/srv/images/framework/requirements.in \
    --mount=type=bind,source=images/framework/requirements.${LOCK}.lock,target=/srv/images/framework/requirements.${LOCK}.lock \
    --mount=type=bind,source=images/train,target=/srv/images/train \
    --mount=type=bind,source=images/infer,target=/srv/images/infer \
    --mount=type=cache,target=/srv/cache \
    --mount=type=secret,id=ca_bundle --mount=type=secret,id=network \
    --mount=type=tmpfs,target=/tmp \
    UV_CACHE_DIR=/srv/cache UV_LINK_MODE=copy \
        /srv/with-network /mnt/uv venv --quiet --seed --python "$BASE_PYTHON" "$VIRTUAL_ENV" && \
    /srv/with-network /srv/carry-python "$VIRTUAL_ENV/bin/python" /carried \
        /srv/images/*/*."$LOCK".lock

FROM scratch AS bundle
COPY --from=debian-packages /carried /packages
COPY --from=installer-packages /carried /packages
COPY --from=python-packages /carried /packages
COPY --from=paddlenlp / /sources/paddlenlp
COPY --from=headers / /sources/headers
