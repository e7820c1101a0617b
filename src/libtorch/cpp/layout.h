// The layout of a network in memory: `[batch, channels, height, width]` with the channels innermost ("channels last"), so
// that convolutions run on their fast kernels and a tensor is a matrix [batch · height · width, channels] without a copy;
// contiguous in files, and where convolutions are to be exact.
#pragma once

#include <torch/csrc/jit/api/module.h>

namespace dimbit {

// `tensor` itself where it is not 4-D or already laid out so, else a copy that is.
at::Tensor channels_last(const at::Tensor& tensor);

// Lays out the 4-D floating-point parameters channels last; they stay the same leaves.
void lay_out_channels_last(torch::jit::Module& module);

// Lays out all parameters contiguously, as a reader of a file expects; they stay the same leaves.
void lay_out_contiguous(torch::jit::Module& module);

// Turns every `view` that `forward` reaches into `reshape`, which copies where the layout allows no view: a network that
// was written for contiguous tensors flattens its last feature map so.
void let_views_copy(torch::jit::Module& module);

} // namespace dimbit
