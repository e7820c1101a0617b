#include "folds.h"

#include <torch/csrc/jit/ir/constants.h>

#include <algorithm>
#include <optional>
#include <string>

#include "nodes.h"

namespace dimbit {
namespace {

using torch::jit::Node;
using torch::jit::toIValue;
using torch::jit::Value;
namespace prim = c10::prim;

// An argument as it is in evaluation; null where there is none.
const Value* settled(const Node* node, const char* name) {
  const Value* value = argument(node, name);
  return value ? in_evaluation(value) : nullptr;
}

// Parameters, constants and None: what a fold can rewrite ahead of time.
bool is_static(const Value* value) {
  if (!value) return false;
  const Node* node = value->node();
  if (is_aten(node) && plain_kind(node) == "t") return is_static(node->input(0));
  return node->kind() == prim::GetAttr || node->kind() == prim::Constant;
}

bool is_int(const Value* value, int64_t expected) {
  const auto constant = value ? toIValue(value) : std::nullopt;
  return constant && constant->isInt() && constant->toInt() == expected;
}

bool is_off(const Value* value) {
  return value && truth(value) == false;
}

bool is_static_tensor(const Value* value) {
  return is_static(value) && value->type()->isSubtypeOf(*c10::TensorType::get());
}

bool is_dense_convolution(const Node* node) {
  return mixes_all_channels(node) && is_static(settled(node, "weight")) && is_static(settled(node, "bias"));
}

// Which input of a linear layer its features come in by; nothing for any other node.
std::optional<size_t> linear_input(const Node* node) {
  if (!is_aten(node)) return std::nullopt;
  const std::string kind = plain_kind(node);
  if (kind == "linear" && is_static(settled(node, "weight")) && is_static(settled(node, "bias"))) return 0;
  if (kind == "addmm" && is_static(settled(node, "self")) && is_static(settled(node, "mat2")) &&
      is_static(settled(node, "beta")) && is_static(settled(node, "alpha")))
    return 1;
  return std::nullopt;
}

bool is_idle_dropout(const Node* node) {
  return is_dropout(node) && is_off(settled(node, "train"));
}

// A scale and shift per channel that are known ahead of time.
bool is_settled_norm(const Node* node) {
  if (!is_aten(node) || plain_kind(node) != "batch_norm" || !is_off(settled(node, "training"))) return false;
  // Without running statistics (None is no tensor), those of the batch are used.
  return is_static(settled(node, "weight")) && is_static(settled(node, "bias")) &&
      is_static_tensor(settled(node, "running_mean")) && is_static_tensor(settled(node, "running_var"));
}

bool is_sum(const Node* node) {
  return is_aten(node) && plain_kind(node) == "add" && node->inputs().size() == 3 &&
      node->input(1)->type()->isSubtypeOf(*c10::TensorType::get()) && is_static(settled(node, "alpha"));
}

// A convolution mixes the second dimension, a linear layer the last; the codec's is the last if `channels_last`.
Fold fold_of_convolution(bool channels_last) {
  return channels_last ? Fold::never : Fold::always;
}

Fold fold_of_linear(bool channels_last) {
  return channels_last ? Fold::always : Fold::flat;
}

Fold producers(const Value* value, bool channels_last) {
  if (std::count_if(value->uses().begin(), value->uses().end(), reads_values) != 1) return Fold::never;
  const Node* node = value->node();
  if (is_dense_convolution(node)) return fold_of_convolution(channels_last);
  if (linear_input(node)) return fold_of_linear(channels_last);
  if (is_idle_dropout(node) || is_settled_norm(node)) return producers(node->input(0), channels_last);
  if (is_sum(node)) return std::min(producers(node->input(0), channels_last), producers(node->input(1), channels_last));
  return Fold::never;
}

Fold readers(const Value* value, bool channels_last) {
  Fold fold = Fold::always;
  bool read = false;
  for (const auto& use : value->uses()) {
    if (!reads_values(use)) continue;
    read = true;
    const Node* node = use.user;
    if (is_idle_dropout(node)) {
      fold = std::min(fold, readers(node->output(), channels_last));
    } else if (linear_input(node) == use.offset) {
      fold = std::min(fold, fold_of_linear(channels_last));
    } else if (is_dense_convolution(node) && use.offset == 0 && is_unpadded(node)) {
      fold = std::min(fold, fold_of_convolution(channels_last));
    } else {
      return Fold::never;
    }
  }
  return read ? fold : Fold::never;
}

} // namespace

const Value* in_evaluation(const Value* value) {
  const Node* node = value->node();
  if (node->kind() != prim::If) return value;
  const auto condition = truth(node->input());
  return condition ? in_evaluation(node->blocks()[*condition ? 0 : 1]->outputs()[value->offset()]) : value;
}

std::optional<bool> truth(const Value* condition) {
  const Value* value = in_evaluation(condition);
  const Node* node = value->node();
  if (node->kind() == prim::GetAttr && node->s(torch::jit::attr::name) == "training") return false;
  if (node->kind() == c10::aten::__not__) {
    const auto inner = truth(node->input());
    return inner ? std::optional<bool>(!*inner) : std::nullopt;
  }
  const auto constant = toIValue(value);
  return constant && constant->isBool() ? std::optional<bool>(constant->toBool()) : std::nullopt;
}

bool mixes_all_channels(const Node* node) {
  if (!is_convolution(node)) return false;
  const Value* transposed = settled(node, "transposed");
  return is_int(settled(node, "groups"), 1) && (!transposed || is_off(transposed));
}

bool is_unpadded(const Node* convolution) {
  const Value* padding = settled(convolution, "padding");
  if (!padding) return false;
  const Node* node = padding->node();
  if (node->kind() == prim::ListConstruct)
    return std::all_of(node->inputs().begin(), node->inputs().end(), [](const Value* item) { return is_int(item, 0); });
  const auto constant = toIValue(padding);
  if (!constant) return false;
  if (constant->isString()) return constant->toStringRef() == "valid";
  if (!constant->isIntList()) return is_int(padding, 0);
  const auto items = constant->toIntVector();
  return std::all_of(items.begin(), items.end(), [](int64_t item) { return item == 0; });
}

Fold folds_forward(const Node* activation, bool channels_last) {
  return producers(activation->input(0), channels_last);
}

Fold folds_inverse(const Node* activation, bool channels_last) {
  return readers(activation->output(), channels_last);
}

} // namespace dimbit
