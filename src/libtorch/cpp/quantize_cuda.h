// The quantizer on CUDA: one elementwise kernel forward and one backward, compiled by libtorch when they are first used.
#pragma once

#include <ATen/ATen.h>

#include <tuple>

#include "rows.h"

namespace dimbit {

// Whether the kernels serve this tensor: float32 on CUDA with something in it, in a libtorch that was built for CUDA.
bool has_cuda_kernel(const at::Tensor& z);

// `z`: `[..., channels]`, clamped to `bounds` first; the vectors: `[channels]`.
at::Tensor forward_cuda(
    const at::Tensor& z, const at::Tensor& step, const at::Tensor& range, const at::Tensor& offset, Codes codes, Bounds bounds);

// Gradients of `z`, step and range.
std::tuple<at::Tensor, at::Tensor, at::Tensor> backward_cuda(
    const at::Tensor& z, const at::Tensor& grad, const at::Tensor& step, const at::Tensor& range, const at::Tensor& offset, Codes codes, Bounds bounds);

} // namespace dimbit
