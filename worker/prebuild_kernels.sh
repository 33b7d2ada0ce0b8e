#!/bin/sh
# FlashInfer's kernels for consumer and data-centre cards, compiled into the virtual environment $1
# on a machine that needs no GPU. Used by the Dockerfile; takes g++, and nvcc out of Python packages.
set -eu
environment=$1
packages=$(echo "$environment"/lib/python3*/site-packages)
version=$("$environment/bin/python" -c \
  'from importlib.metadata import version; print(version("cuda-toolkit"))')
toolkit=$(mktemp -d)
trap 'rm -rf "$toolkit"' EXIT

"$environment/bin/python" -m pip install --quiet --no-cache-dir --target "$toolkit" \
  "cuda-toolkit[nvcc,cccl,curand]==$version"
CUDA_HOME=$(echo "$toolkit"/nvidia/cu*)
chmod +x "$CUDA_HOME"/bin/* "$CUDA_HOME"/nvvm/bin/*
# What torch brought along: headers and the runtime library, under the names that a linker looks for.
brought=$packages/nvidia/$(basename "$CUDA_HOME")
mkdir -p "$CUDA_HOME/include" "$CUDA_HOME/lib64/stubs"
cp -r "$brought"/include/. "$CUDA_HOME/include/"
ln -s "$brought"/lib/libcudart.so.* "$CUDA_HOME/lib64/libcudart.so"
echo 'void cuInit(void) {}' | g++ -shared -fPIC -x c++ - -o "$CUDA_HOME/lib64/stubs/libcuda.so"

export CUDA_HOME FLASHINFER_WORKSPACE_BASE="$toolkit" PATH="$environment/bin:$CUDA_HOME/bin:$PATH"
export FLASHINFER_CUDA_ARCH_LIST="${FLASHINFER_CUDA_ARCH_LIST:-8.6 8.9 9.0a 12.0f}"
python -m pipemax_worker.stage.model.cuda.prebuild
