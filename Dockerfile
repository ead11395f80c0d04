# syntax=docker/dockerfile:1
# The image of all nodes of a cluster. Its tag is Ray's version, which `clippy cluster render` adds by itself:
#
#   docker build -t REGISTRY/clippy-on-ray:2.60.0 .
#   docker build -t REGISTRY/clippy-on-ray:2.60.0 --build-arg PLATFORM=cpu .     # for clusters without GPUs
ARG RAY_VERSION=2.60.0
ARG PLATFORM=cu128
FROM rayproject/ray:${RAY_VERSION}-py311-${PLATFORM}

# Made by Ray's user, as whom the image goes on: a folder that WORKDIR makes may be root's.
RUN mkdir /home/ray/clippy-on-ray
WORKDIR /home/ray/clippy-on-ray

# What changes seldom first. The constraints keep Ray at the version of the image.
COPY --chown=1000:100 pyproject.toml constraints.txt ./
RUN python -c "import tomllib; print('\n'.join(tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies']))" \
        > requirements.txt \
    && pip install --no-cache-dir --constraint constraints.txt --requirement requirements.txt \
    && rm requirements.txt

COPY --chown=1000:100 README.md LICENSE ./
COPY --chown=1000:100 clippy clippy
COPY --chown=1000:100 pipelines pipelines
COPY --chown=1000:100 tuning tuning
COPY --chown=1000:100 cluster cluster
RUN pip install --no-cache-dir --no-deps . && clippy --help > /dev/null

# Ray's own user, by number, so that Kubernetes sees that it is not root.
USER 1000:100
WORKDIR /home/ray
