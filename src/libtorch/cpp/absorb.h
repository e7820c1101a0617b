// Rewriting layers so that they do a neighbour's work as well: a channel transform's, or batch normalisation's.
#pragma once

#include <torch/csrc/jit/ir/ir.h>

#include <memory>
#include <string>
#include <vector>

namespace dimbit {

// A tensor of the module that is made: while the graph is rewritten, it is an input of the graph.
struct Entry {
  // Dotted, as in Python's `state_dict`.
  std::string path;
  at::Tensor tensor;
  bool is_parameter;
};

// A network's `forward` in evaluation whose tensors are inputs: `self`, the images, then one for each of `entries`.
struct Plain {
  std::shared_ptr<torch::jit::Graph> graph;
  std::vector<Entry> entries;

  // A new tensor of the module.
  torch::jit::Value* add(std::string path, at::Tensor tensor, bool is_parameter = false);

  // The entry that a value is; null where it is none.
  const Entry* entry(const torch::jit::Value* value) const;
};

// Whether `transform_producers` can do its work: `value` is made by dense convolutions and linear layers, followed by nothing
// but batch normalisation in evaluation and additions of two such chains, and each value has one reader.
bool producers_absorb(const Plain& plain, const torch::jit::Value* value);

// Computes `aᵀ·value + b` over the channels by rewritten copies of the layers that make `value`. `a`: [channels, kept], `b`:
// [kept], both float64.
torch::jit::Value* transform_producers(Plain& plain, torch::jit::Value* value, const at::Tensor& a, const at::Tensor& b);

// Whether `transform_readers` can do its work: whoever reads `value` is a linear layer or a dense convolution without
// padding.
bool readers_absorb(const Plain& plain, const torch::jit::Value* value);

// Lets the readers of `value` read `input` instead, where `value = sᵀ·input + mean` over the channels. `s`: [kept, channels],
// `mean`: [channels], both float64.
void transform_readers(
    Plain& plain, torch::jit::Value* value, torch::jit::Value* input, const at::Tensor& s, const at::Tensor& mean);

// Folds every batch normalisation into the convolution or linear layer before it that nothing else reads. Returns the
// normalisations' paths.
std::vector<std::string> fold_norms(Plain& plain);

} // namespace dimbit
