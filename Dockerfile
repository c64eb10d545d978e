# Every image is a stage of this file. `docker-bake.hcl` names the targets, `./inv build`
# builds them; a backend differs in its `base-<backend>` stage and in its locks.

# BuildKit resolves these two before any stage, so they stand here and nowhere else.
ARG OS_IMAGE=debian:bookworm-20250520-slim
ARG BACKEND=cpu

# ---------------------------------------------------------------------------- base
# hadolint ignore=DL3006
FROM ${OS_IMAGE} AS base-cpu
SHELL ["/bin/sh", "-eu", "-c"]
# Debian's stable release moves by security fixes only, so its packages are not pinned.
# hadolint ignore=DL3008
RUN --mount=type=bind,source=images/base/with-network,target=/srv/with-network \
    --mount=type=secret,id=ca_bundle --mount=type=secret,id=network \
    /srv/with-network apt-get update -q && \
    /srv/with-network apt-get install -yq --no-install-recommends \
        ca-certificates libgomp1 python3 tini && \
    rm -rf /usr/share/doc/* /usr/share/man/* /var/lib/apt/lists/* /var/cache/apt/* /var/cache/ldconfig/* /var/cache/debconf/*-old \
        /var/log/apt /var/log/*.log

# hadolint ignore=DL3006
FROM base-${BACKEND} AS base
COPY --chmod=0755 images/base/entry /usr/local/bin/entry
RUN install -d -m 1777 /workspace && chown 1000:1000 /workspace
# Everything a process needs is here, not in a shell's start-up file: `docker exec`,
# `sh -c` and a Kubernetes command see the same environment. HOME and the caches are in
# /tmp because the root file system is read-only and the user may have no entry in passwd.
ENV PATH=/opt/venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    VIRTUAL_ENV=/opt/venv \
    LANG=C.UTF-8 \
    HOME=/tmp USER=paddle LOGNAME=paddle \
    XDG_CACHE_HOME=/tmp/.cache PPNLP_HOME=/tmp/.paddlenlp HF_HOME=/tmp/.huggingface \
    MPLCONFIGDIR=/tmp/.matplotlib \
    PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
# A login shell begins by setting Debian's PATH, which would hide the environment.
RUN echo "export PATH=$PATH" > /etc/profile.d/paddle-stacks.sh
WORKDIR /workspace
# No USER: a plain `docker run` runs the job as the owner of /workspace (images/base/entry).
ENTRYPOINT ["/usr/bin/tini", "--", "/usr/local/bin/entry"]
CMD ["help"]

# What installs packages, and is in no image.
FROM base AS installer
# hadolint ignore=DL3008
RUN --mount=type=bind,source=images/base/with-network,target=/srv/with-network \
    --mount=type=bind,source=images/base/uv.lock,target=/srv/uv.lock \
    --mount=type=secret,id=ca_bundle --mount=type=secret,id=network \
    /srv/with-network apt-get update -q && \
    /srv/with-network apt-get install -yq --no-install-recommends python3-venv && \
    python3 -m venv /opt/uv && \
    /srv/with-network /opt/uv/bin/pip install --quiet --require-hashes -r /srv/uv.lock

# ----------------------------------------------------------------------- framework
FROM base AS framework
ARG BACKEND
RUN --mount=type=bind,from=installer,source=/opt/uv/bin,target=/mnt \
    --mount=type=bind,source=images/base/with-network,target=/srv/with-network \
    --mount=type=bind,source=images/framework/install,target=/srv/install \
    --mount=type=bind,source=images/framework/build-constraints.txt,target=/srv/build-constraints.txt \
    --mount=type=bind,source=images/framework/requirements.${BACKEND}.lock,target=/srv/lock \
    --mount=type=cache,target=/var/cache/uv \
    --mount=type=secret,id=ca_bundle --mount=type=secret,id=network \
    --mount=type=tmpfs,target=/tmp \
    /mnt/uv venv --quiet --python /usr/bin/python3 "$VIRTUAL_ENV" && \
    /srv/with-network /srv/install /srv/lock
COPY images/framework/paddle_stacks_startup.py /opt/startup/
RUN printf '%s\n' /opt/startup 'import paddle_stacks_startup' \
        > "$(echo "$VIRTUAL_ENV"/lib/python3.*/site-packages)/paddle-stacks.pth" && \
    python -m compileall -q --invalidation-mode unchecked-hash /opt/startup

# The project's own part of every image: small, and the last layer.
FROM framework AS code
WORKDIR /opt/paddle-stacks
COPY entrypoints /opt/paddle-stacks/entrypoints
COPY paddle_stacks/__init__.py paddle_stacks/errors.py /opt/paddle-stacks/paddle_stacks/
COPY paddle_stacks/jobs /opt/paddle-stacks/paddle_stacks/jobs
COPY configs/models /opt/paddle-stacks/configs/models
RUN python -m compileall -q --invalidation-mode unchecked-hash .

# --------------------------------------------------------------------------- train
FROM framework AS train
ARG BACKEND
RUN --mount=type=bind,from=installer,source=/opt/uv/bin,target=/mnt \
    --mount=type=bind,source=images/base/with-network,target=/srv/with-network \
    --mount=type=bind,source=images/framework/install,target=/srv/install \
    --mount=type=bind,source=images/framework/build-constraints.txt,target=/srv/build-constraints.txt \
    --mount=type=bind,source=images/train/requirements.${BACKEND}.lock,target=/srv/lock \
    --mount=type=cache,target=/var/cache/uv \
    --mount=type=secret,id=ca_bundle --mount=type=secret,id=network \
    --mount=type=tmpfs,target=/tmp \
    /srv/with-network /srv/install /srv/lock
COPY --from=code /opt/paddle-stacks /opt/paddle-stacks

# --------------------------------------------------------------------------- infer
FROM framework AS infer
COPY --from=code /opt/paddle-stacks /opt/paddle-stacks
