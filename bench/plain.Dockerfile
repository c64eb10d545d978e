# The training image's packages in a virtual environment, by pip from the same lock: what
# bench/build.py compares the time of a cold build with.
ARG OS_IMAGE
# hadolint ignore=DL3006
FROM ${OS_IMAGE}
# hadolint ignore=DL3008,DL3009
RUN --mount=type=bind,source=images/steps,target=/mnt \
    --mount=type=secret,id=ca_bundle --mount=type=secret,id=network \
    /mnt/with-build-network apt-get update -q && \
    /mnt/with-build-network apt-get install -yq --no-install-recommends \
        libgomp1 python3 python3-venv
# The lock is of what the jobs need, not of all that the packages ask for: hence --no-deps.
# Nothing is kept in pip's cache, which would only cost it time.
RUN --mount=type=bind,source=images,target=/mnt \
    --mount=type=secret,id=ca_bundle --mount=type=secret,id=network \
    python3 -m venv /opt/venv && \
    /mnt/steps/with-build-network /opt/venv/bin/pip install --quiet --no-cache-dir --no-deps \
        --require-hashes --requirement /mnt/train/requirements.cpu.lock
