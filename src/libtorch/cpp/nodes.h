// What every walk over a graph asks of a node.
#pragma once

#include <torch/csrc/jit/ir/ir.h>

#include <string>

namespace dimbit {

inline bool is_aten(const torch::jit::Node* node) {
  return node->kind().is_aten();
}

// Kind without namespace and without the underscore of an in-place spelling.
inline std::string plain_kind(const torch::jit::Node* node) {
  std::string kind = node->kind().toUnqualString();
  if (kind.size() > 1 && kind.back() == '_' && kind[0] != '_') kind.pop_back();
  return kind;
}

// `_convolution_mode` is what tracing makes of `padding="same"` and `padding="valid"`.
inline bool is_convolution(const torch::jit::Node* node) {
  if (!is_aten(node)) return false;
  const std::string kind = plain_kind(node);
  return kind == "conv1d" || kind == "conv2d" || kind == "conv3d" || kind == "_convolution" || kind == "convolution" ||
      kind == "_convolution_mode";
}

// A dropout of any kind, whether it is on or not.
inline bool is_dropout(const torch::jit::Node* node) {
  if (!is_aten(node)) return false;
  const std::string kind = plain_kind(node);
  return kind == "dropout" || kind == "feature_dropout" || kind == "alpha_dropout" || kind == "feature_alpha_dropout";
}

// A use that reads the tensor's values, not only its shape.
inline bool reads_values(const torch::jit::Use& use) {
  if (!is_aten(use.user)) return true;
  const std::string kind = plain_kind(use.user);
  return kind != "size" && kind != "dim" && kind != "numel" && kind != "len" && kind != "is_floating_point";
}

} // namespace dimbit
