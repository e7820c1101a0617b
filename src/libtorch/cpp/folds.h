// Which halves of a codec's channel transform are absorbed by the layers around an activation function.
#pragma once

#include <torch/csrc/jit/ir/ir.h>

#include <optional>

namespace dimbit {

// Ordered: of two conditions, the smaller is the stricter.
enum class Fold {
  never,
  // Where the site is [batch, channels]: a linear layer mixes the last dimension, the codec the second.
  flat,
  always,
};

// Looks through branches that evaluation decides, such as the one in which a scripted batch normalisation chooses its
// statistics.
const torch::jit::Value* in_evaluation(const torch::jit::Value* value);

// What a condition is in evaluation, where every `training` is false; nothing where it can't be told.
std::optional<bool> truth(const torch::jit::Value* condition);

// A convolution, not transposed, in which every output channel sums over every input channel.
bool mixes_all_channels(const torch::jit::Node* node);

// Whether a convolution is known to pad nothing.
bool is_unpadded(const torch::jit::Node* convolution);

// Whether Uᵀ(x − μ) of the pre-activation folds into its producers: each is a dense convolution or a linear layer, followed
// by nothing but normalisation with running statistics, dropout in evaluation and additions of two such chains, and no
// value in between is read by anything else.
Fold folds_forward(const torch::jit::Node* activation, bool channels_last);

// Whether U·ẑ + μ behind the activation function folds into its readers: each is, perhaps behind a dropout, a linear layer
// or a dense convolution without padding (padding puts zeros where the folded bias expects μ).
Fold folds_inverse(const torch::jit::Node* activation, bool channels_last);

} // namespace dimbit
