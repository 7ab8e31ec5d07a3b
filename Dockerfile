# For those who want a container. It has not been built or run: take it as a starting point.
#
#   docker build -t subtuning .
#   docker run --gpus all --shm-size 8g -v "$PWD:/data" -v hub:/root/.cache/huggingface subtuning \
#       search --config /opt/subtuning/recipes/resnet-18_image-folder/search.yaml data.path=photos
#
# Several GPUs: --entrypoint accelerate ... launch -m subtuning_hf.cli search --config ...
FROM python:3.12-slim

WORKDIR /opt/subtuning
COPY setup.cfg pyproject.toml README.md LICENSE ./
COPY src ./src
# torch's wheels bring the CUDA libraries; the driver is the host's (nvidia-container-toolkit).
RUN pip install --no-cache-dir '.[plots,demo,timm]'
COPY recipes ./recipes
COPY accelerate_configs ./accelerate_configs

# Where the reader's data and results are mounted.
WORKDIR /data

ENTRYPOINT ["subtuning"]
CMD ["--help"]
