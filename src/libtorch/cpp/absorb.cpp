#include "absorb.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <optional>

#include "folds.h"
#include "nodes.h"

namespace dimbit {
namespace {

using torch::jit::Node;
using torch::jit::toIValue;
using torch::jit::Value;

bool is_off(const Node* node, const char* name) {
  const auto value = constant(node, name);
  return value && value->isBool() && !value->toBool();
}

// The tensor of a value that is known ahead of time, in float64.
std::optional<at::Tensor> known(const Plain& plain, const Value* value) {
  if (!value) return std::nullopt;
  if (const Entry* entry = plain.entry(value)) return entry->tensor.to(at::kDouble);
  const Node* node = value->node();
  if (is_aten(node) && plain_kind(node) == "t") {
    const auto inner = known(plain, node->input(0));
    return inner ? std::optional<at::Tensor>(inner->t()) : std::nullopt;
  }
  const auto fixed = toIValue(value);
  return fixed && fixed->isTensor() ? std::optional<at::Tensor>(fixed->toTensor().to(at::kDouble)) : std::nullopt;
}

bool is_none(const Value* value) {
  return value && value->type()->kind() == c10::TypeKind::NoneType;
}

size_t readers_of(const Value* value) {
  return std::count_if(value->uses().begin(), value->uses().end(), reads_values);
}

// A convolution or linear layer, as numbers: `weight` [outputs, inputs / groups, ...], `bias` [outputs], float64.
struct Layer {
  Value* input;
  at::Tensor weight;
  at::Tensor bias;
  bool is_convolution;
  bool is_dense;
};

std::optional<Layer> layer(const Plain& plain, const Node* node) {
  if (!is_aten(node)) return std::nullopt;
  const std::string kind = plain_kind(node);
  if (kind == "addmm") {
    const auto bias = known(plain, argument(node, "self")), weight = known(plain, argument(node, "mat2"));
    const auto beta = number(node, "beta"), alpha = number(node, "alpha");
    if (!bias || !weight || !beta || !alpha || bias->dim() != 1) return std::nullopt;
    return Layer{argument(node, "mat1"), (*weight * *alpha).t(), *bias * *beta, false, true};
  }
  if (kind != "linear" && !is_convolution(node)) return std::nullopt;
  if (argument(node, "transposed") && !is_off(node, "transposed")) return std::nullopt;
  const auto weight = known(plain, argument(node, "weight"));
  if (!weight) return std::nullopt;
  auto bias = known(plain, argument(node, "bias"));
  if (!bias && is_none(argument(node, "bias"))) bias = at::zeros({weight->size(0)}, at::kDouble);
  if (!bias) return std::nullopt;
  const bool dense = kind == "linear" || number(node, "groups") == 1.0;
  return Layer{const_cast<Value*>(node->input(0)), *weight, *bias, kind != "linear", dense};
}

// Batch normalisation in evaluation as `scale·x + shift`: [channels] each, float64.
struct Norm {
  at::Tensor scale;
  at::Tensor shift;
};

std::optional<Norm> norm(const Plain& plain, const Node* node) {
  if (!is_aten(node) || plain_kind(node) != "batch_norm" || !is_off(node, "training")) return std::nullopt;
  const auto mean = known(plain, argument(node, "running_mean")), variance = known(plain, argument(node, "running_var"));
  const auto epsilon = number(node, "eps");
  if (!mean || !variance || !epsilon) return std::nullopt;
  auto weight = known(plain, argument(node, "weight")), bias = known(plain, argument(node, "bias"));
  if (!weight && is_none(argument(node, "weight"))) weight = at::ones_like(*mean);
  if (!bias && is_none(argument(node, "bias"))) bias = at::zeros_like(*mean);
  if (!weight || !bias) return std::nullopt;
  const auto scale = *weight / (*variance + *epsilon).sqrt();
  return Norm{scale, *bias - *mean * scale};
}

std::optional<double> sum_weight(const Node* node) {
  const bool is_sum = is_aten(node) && plain_kind(node) == "add" && node->inputs().size() == 3 &&
      node->input(1)->type()->isSubtypeOf(*c10::TensorType::get());
  return is_sum ? number(node, "alpha") : std::nullopt;
}

// Where the tensors of a rewritten layer are named after.
std::string path_of(const Plain& plain, const Node* node, const char* leaf) {
  const Value* value = argument(node, node->kind() == c10::aten::addmm ? "mat2" : "weight");
  if (!plain.entry(value) && value && !value->node()->inputs().empty()) value = value->node()->input(0);
  const Entry* entry = value ? plain.entry(value) : nullptr;
  const std::string path = entry ? entry->path : "folded.weight";
  const size_t dot = path.rfind('.');
  return (dot == std::string::npos ? "" : path.substr(0, dot + 1)) + leaf;
}

// A copy of a layer with other numbers, in front of it. `input`: what it reads.
Value* rewritten(Plain& plain, Node* node, Value* input, const at::Tensor& weight, const at::Tensor& bias) {
  Value* weights = plain.add(path_of(plain, node, "weight"), weight.to(at::kFloat).contiguous(), true);
  Value* biases = plain.add(path_of(plain, node, "bias"), bias.to(at::kFloat).contiguous(), true);
  torch::jit::WithInsertPoint guard(node);
  if (plain_kind(node) == "addmm") return plain.graph->insert(c10::aten::linear, {input, weights, biases});
  Node* copy = plain.graph->createClone(node, [](Value* value) { return value; });
  copy->replaceInput(0, input);
  copy->replaceInput(*argument_index(node, "weight"), weights);
  copy->replaceInput(*argument_index(node, "bias"), biases);
  copy->output()->setType(c10::TensorType::get());
  return plain.graph->insertNode(copy)->output();
}

} // namespace

Value* Plain::add(std::string path, at::Tensor tensor, bool is_parameter) {
  Value* value = graph->addInput()->setType(c10::TensorType::get());
  entries.push_back({std::move(path), tensor.detach(), is_parameter});
  return value;
}

const Entry* Plain::entry(const Value* value) const {
  return value->node() == graph->param_node() && value->offset() >= 2 ? &entries[value->offset() - 2] : nullptr;
}

bool producers_absorb(const Plain& plain, const Value* value) {
  if (readers_of(value) != 1) return false;
  const Node* node = value->node();
  if (const auto found = layer(plain, node)) return found->is_dense;
  if (norm(plain, node)) return producers_absorb(plain, node->input(0));
  return sum_weight(node) && producers_absorb(plain, node->input(0)) && producers_absorb(plain, node->input(1));
}

Value* transform_producers(Plain& plain, Value* value, const at::Tensor& a, const at::Tensor& b) {
  Node* node = value->node();
  if (const auto found = layer(plain, node)) {
    auto shape = found->weight.sizes().vec();
    shape[0] = a.size(1);
    return rewritten(plain, node, found->input, at::matmul(a.t(), found->weight.flatten(1)).reshape(shape), b + at::mv(a.t(), found->bias));
  }
  if (const auto found = norm(plain, node))
    return transform_producers(plain, node->input(0), a * found->scale.unsqueeze(1), b + at::mv(a.t(), found->shift));
  const auto weight = sum_weight(node);
  TORCH_CHECK(weight, "no layer to fold a transform into makes ", value->debugName());
  Value* left = transform_producers(plain, node->input(0), a, b);
  Value* right = transform_producers(plain, node->input(1), a * *weight, at::zeros_like(b));
  torch::jit::WithInsertPoint guard(node);
  return plain.graph->insert(c10::aten::add, {left, right});
}

bool readers_absorb(const Plain& plain, const Value* value) {
  bool read = false;
  for (const auto& use : value->uses()) {
    if (!reads_values(use)) continue;
    read = true;
    const auto found = layer(plain, use.user);
    if (!found || !found->is_dense || found->input != value) return false;
    if (found->is_convolution && !is_unpadded(use.user)) return false;
  }
  return read;
}

void transform_readers(Plain& plain, Value* value, Value* input, const at::Tensor& s, const at::Tensor& mean) {
  std::vector<Node*> nodes;
  for (const auto& use : value->uses())
    if (reads_values(use)) nodes.push_back(use.user);
  for (Node* node : nodes) {
    const auto found = layer(plain, node);
    TORCH_CHECK(found, "no layer to fold a transform into reads ", value->debugName());
    // [outputs, channels, taps]: s takes the place of the channels, each tap sees the whole mean.
    auto shape = found->weight.sizes().vec();
    const auto taps = found->weight.flatten(1).reshape({shape[0], shape[1], -1});
    shape[1] = s.size(0);
    const auto weight = at::einsum("kc,oct->okt", {s, taps}).reshape(shape);
    const auto bias = found->bias + at::mv(taps.sum(2), mean);
    node->output()->replaceAllUsesWith(rewritten(plain, node, input, weight, bias));
  }
}

std::vector<std::string> fold_norms(Plain& plain) {
  std::vector<std::string> folded;
  // The list grows while it is walked: what is inserted stands before the node at hand.
  for (Node* node : plain.graph->block()->nodes()) {
    const auto found = norm(plain, node);
    if (!found || readers_of(node->input(0)) != 1) continue;
    Node* before = node->input(0)->node();
    const auto inner = layer(plain, before);
    if (!inner) continue;
    auto shape = inner->bias.sizes().vec();
    shape.resize(inner->weight.dim(), 1);
    const auto weight = inner->weight * found->scale.reshape(shape);
    const auto bias = inner->bias * found->scale + found->shift;
    const Entry* mean = plain.entry(argument(node, "running_mean"));
    if (mean) folded.push_back(mean->path.substr(0, mean->path.rfind('.')));
    node->output()->replaceAllUsesWith(rewritten(plain, before, inner->input, weight, bias));
  }
  return folded;
}

} // namespace dimbit
