// What every walk over a graph asks of a node.
#pragma once

#include <torch/csrc/jit/ir/constants.h>
#include <torch/csrc/jit/ir/ir.h>

#include <optional>
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

// Where an argument stands that the operator's schema calls so; nothing if it has none of that name.
inline std::optional<size_t> argument_index(const torch::jit::Node* node, const char* name) {
  const auto* schema = node->maybeSchema();
  if (!schema) return std::nullopt;
  const auto index = schema->argumentIndexWithName(name);
  return index && static_cast<size_t>(*index) < node->inputs().size() ? std::optional<size_t>(*index) : std::nullopt;
}

// The argument itself; null where there is none.
inline torch::jit::Value* argument(const torch::jit::Node* node, const char* name) {
  const auto index = argument_index(node, name);
  return index ? const_cast<torch::jit::Value*>(node->input(*index)) : nullptr;
}

// Its value, if that is a constant.
inline std::optional<c10::IValue> constant(const torch::jit::Node* node, const char* name) {
  const torch::jit::Value* value = argument(node, name);
  return value ? torch::jit::toIValue(value) : std::nullopt;
}

inline std::optional<double> number(const torch::jit::Node* node, const char* name) {
  const auto value = constant(node, name);
  if (!value || !value->isScalar()) return std::nullopt;
  return value->toScalar().toDouble();
}

} // namespace dimbit
