# What the documented pip lines give: the image that bench/build.py compares sizes with.
ARG OS_IMAGE
# hadolint ignore=DL3006
FROM ${OS_IMAGE}
# hadolint ignore=DL3008,DL3009
RUN --mount=type=bind,source=images/steps,target=/mnt \
    --mount=type=secret,id=ca_bundle --mount=type=secret,id=network \
    /mnt/with-build-network apt-get update -q && \
    /mnt/with-build-network apt-get install -yq --no-install-recommends \
        libgomp1 python3 python3-pip
# hadolint ignore=DL3042
RUN --mount=type=bind,source=images/steps,target=/mnt \
    --mount=type=secret,id=ca_bundle --mount=type=secret,id=network \
    /mnt/with-build-network pip install --quiet --break-system-packages \
        paddlepaddle==3.0.0b2 paddlenlp==3.0.0b3
