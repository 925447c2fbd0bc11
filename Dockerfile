# Mergery's command line for machines without a GPU: 1.4 GB, of which torch's build for processors alone is 0.75 and the compiler of the kernels
# 0.2. With torch's CUDA build, which PyPI serves, it would be 6 GB.
#
#   docker build -t mergery .
#   docker run --rm --user $(id -u):$(id -g) -v "$PWD":/work mergery merge recipe.yaml merged
FROM python:3.13-slim

WORKDIR /build
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY src src
RUN pip install --no-cache-dir --extra-index-url https://download.pytorch.org/whl/cpu -c constraints.txt . && rm -rf /build

# Any user may keep the kernels that are compiled at the first merge; mount a folder here to have them in the next container.
ENV XDG_CACHE_HOME=/cache
RUN mkdir -m 1777 /cache

WORKDIR /work
ENTRYPOINT ["mergery"]
