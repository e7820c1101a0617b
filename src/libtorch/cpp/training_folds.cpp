#include "training_folds.h"

#include <torch/csrc/jit/runtime/custom_operator.h>
#include <torch/script.h>

#include <algorithm>
#include <optional>

#include "folds.h"
#include "layout.h"
#include "nodes.h"

namespace dimbit {
namespace {

using torch::jit::Graph;
using torch::jit::Node;
using torch::jit::Stack;
using torch::jit::Value;
namespace prim = c10::prim;

// A layer in which every output channel sums over every input channel, and whose channels lie where the codec's do.
bool is_dense_layer(const Node* node, bool channels_last) {
  if (!is_aten(node)) return false;
  if (plain_kind(node) == "linear") return channels_last;
  return mixes_all_channels(node) && !channels_last;
}

// A value that follows from attributes and constants alone, made again where the graph inserts at present; null for another.
Value* made_again(Graph& graph, const Value* value) {
  value = in_evaluation(value);
  if (value == graph.inputs()[0]) return graph.inputs()[0];
  const Node* node = value->node();
  if (node->kind() == prim::Constant) return graph.insertNode(graph.createClone(const_cast<Node*>(node), [](Value* v) { return v; }))->output();
  if (node->kind() != prim::GetAttr) return nullptr;
  Value* owner = made_again(graph, node->input());
  return owner ? graph.insertGetAttr(owner, node->s(torch::jit::attr::name)) : nullptr;
}

// The flag that decides whether a normalisation uses the statistics of its batch: a constant, a module's `training`, or a branch
// on such a flag, which a scripted module takes where it may lack running statistics.
const Value* training_flag(const Value* value) {
  const Node* node = value->node();
  return node->kind() == prim::If ? training_flag(node->input()) : value;
}

// The layer that makes a pre-activation, and the normalisation behind it if there is one.
struct Producer {
  Node* layer;
  Node* norm;
};

std::optional<Producer> producer(const Node* activation, bool channels_last) {
  const auto read_once = [](const Value* value) {
    const auto& uses = value->uses();
    // Its shape may be asked for in a branch: the checks of a normalisation that trains, and then nothing is folded. How many
    // dimensions it has doesn't change.
    const auto matters = [&](const torch::jit::Use& use) {
      const bool asks_shape = is_aten(use.user) && plain_kind(use.user) != "dim" && use.user->owningBlock() == value->node()->owningBlock();
      return reads_values(use) || asks_shape;
    };
    return std::count_if(uses.begin(), uses.end(), matters) == 1;
  };
  const Value* value = activation->input(0);
  if (!read_once(value)) return std::nullopt;
  Node* node = const_cast<Node*>(value->node());
  if (is_dense_layer(node, channels_last)) return Producer{node, nullptr};
  if (!is_aten(node) || plain_kind(node) != "batch_norm" || channels_last || !read_once(node->input(0))) return std::nullopt;
  Node* layer = node->input(0)->node();
  const bool fits = is_dense_layer(layer, false) && layer->owningBlock() == node->owningBlock() && number(node, "eps") && truth(argument(node, "training")) == false;
  return fits ? std::optional<Producer>({layer, node}) : std::nullopt;
}

// `map`: [channels + 1, kept]. What the layer gives, `W·x + b`, and then its normalisation, `scale·y + shift`, become
// `Aᵀ(scale·(W·x + b) + shift) + constant` by weights and biases alone.
void fold_producer(Stack& stack) {
  const auto site = torch::jit::pop(stack).toInt();
  const auto epsilon = torch::jit::pop(stack).toDouble();
  const bool training = torch::jit::pop(stack).toBool();
  const auto optional = [&] { return torch::jit::pop(stack).toOptional<at::Tensor>(); };
  const auto variance = optional(), mean = optional(), shift = optional(), scale = optional(), bias = optional();
  const at::Tensor weight = torch::jit::pop(stack).toTensor();
  const at::Tensor map = training ? at::Tensor() : asked_map(site, /*of_readers=*/false, weight);
  if (!map.defined()) {
    torch::jit::push(stack, weight, bias, false);
    return;
  }
  const int64_t channels = weight.size(0);
  TORCH_CHECK(map.dim() == 2 && map.size(0) == channels + 1, "a fold into ", channels, " channels got a map of shape ", map.sizes());
  at::Tensor matrix = map.narrow(0, 0, channels), offset = bias ? *bias : at::zeros({channels}, weight.options()), factor;
  if (mean) {
    factor = (*variance + epsilon).rsqrt();
    if (scale) factor = *scale * factor;
    offset = (offset - *mean) * factor;
    if (shift) offset = offset + *shift;
  }
  const at::Tensor constant = map.select(0, channels) + at::matmul(offset, matrix);
  if (factor.defined()) matrix = matrix * factor.unsqueeze(1);
  auto shape = weight.sizes().vec();
  shape[0] = matrix.size(1);
  // The weights as a matrix in the order of their memory, so that nothing is copied.
  const at::Tensor rows = weight.dim() == 4 ? weight.permute({0, 2, 3, 1}).reshape({channels, -1}) : weight.reshape({channels, -1});
  at::Tensor folded = at::matmul(matrix.t(), rows);
  folded = weight.dim() == 4 ? folded.view({shape[0], shape[2], shape[3], shape[1]}).permute({0, 3, 1, 2}) : folded.view(shape);
  torch::jit::push(stack, channels_last(folded), constant, true);
}

// `map`: [kept + 1, channels]. The layer reads coefficients `ẑ` in place of `ẑ·S + μ`.
void fold_reader(Stack& stack) {
  const auto site = torch::jit::pop(stack).toInt();
  const auto bias = torch::jit::pop(stack).toOptional<at::Tensor>();
  const at::Tensor weight = torch::jit::pop(stack).toTensor();
  const at::Tensor map = asked_map(site, /*of_readers=*/true, weight);
  if (!map.defined()) {
    torch::jit::push(stack, weight, bias);
    return;
  }
  const int64_t kept = map.size(0) - 1;
  TORCH_CHECK(map.dim() == 2 && map.size(1) == weight.size(1), "a fold into ", weight.size(1), " channels got a map of shape ", map.sizes());
  const at::Tensor folded = at::tensordot(weight, map.narrow(0, 0, kept), {1}, {1}).movedim(-1, 1);
  const at::Tensor taps = weight.dim() > 2 ? weight.flatten(2).sum(2) : weight;
  const at::Tensor constant = at::matmul(taps, map.select(0, kept));
  torch::jit::push(stack, channels_last(folded), bias ? *bias + constant : constant);
}

// Conservative aliasing, as of every hook.
const torch::jit::RegisterOperators registered({
    torch::jit::Operator(
        "dimbit::fold_producer(Tensor weight, Tensor? bias, Tensor? scale, Tensor? shift, Tensor? mean, Tensor? variance, bool training, float "
        "epsilon, int site) -> (Tensor, Tensor?, bool)",
        fold_producer,
        c10::AliasAnalysisKind::CONSERVATIVE),
    torch::jit::Operator(
        "dimbit::fold_reader(Tensor weight, Tensor? bias, int site) -> (Tensor, Tensor?)",
        fold_reader,
        c10::AliasAnalysisKind::CONSERVATIVE),
});

// Lets `layer` take its weights from the fold.
Node* insert_fold(Graph& graph, const char* name, const std::vector<Value*>& inputs, size_t outputs, Node* layer) {
  Node* fold = graph.insertNode(graph.create(c10::Symbol::fromQualString(name), inputs, outputs));
  fold->output(1)->setType(c10::OptionalType::ofTensor());
  layer->replaceInput(*argument_index(layer, "weight"), fold->output(0));
  layer->replaceInput(*argument_index(layer, "bias"), fold->output(1));
  return fold;
}

void prepare_producer(Graph& graph, const Producer& producer, int64_t site) {
  torch::jit::WithInsertPoint guard(producer.layer);
  std::vector<Value*> inputs{argument(producer.layer, "weight"), argument(producer.layer, "bias")};
  if (producer.norm) {
    const Node* norm = producer.norm;
    for (const char* name : {"weight", "bias", "running_mean", "running_var"}) inputs.push_back(made_again(graph, argument(norm, name)));
    inputs.push_back(made_again(graph, training_flag(argument(norm, "training"))));
    // Statistics that come from elsewhere, or that there are none of, can't be folded.
    if (std::count(inputs.begin(), inputs.end(), static_cast<Value*>(nullptr)) > 0 || inputs[4]->mustBeNone()) return;
    inputs.push_back(graph.insertConstant(*number(norm, "eps")));
  } else {
    Value* none = graph.insertConstant(c10::IValue());
    inputs.insert(inputs.end(), {none, none, none, none, graph.insertConstant(false), graph.insertConstant(0.0)});
  }
  inputs.push_back(graph.insertConstant(site));
  Node* fold = insert_fold(graph, "dimbit::fold_producer", inputs, 3, producer.layer);
  fold->output(2)->setType(c10::BoolType::get());
  if (!producer.norm) return;
  // `folded ? y : batch_norm(y)`.
  Node* branch = graph.create(prim::If, {fold->output(2)}, 1);
  branch->insertBefore(producer.norm);
  branch->output()->setType(producer.norm->output()->type());
  producer.norm->output()->replaceAllUsesWith(branch->output());
  branch->addBlock()->registerOutput(producer.layer->output());
  torch::jit::Block* plain = branch->addBlock();
  producer.norm->moveBefore(plain->return_node());
  plain->registerOutput(producer.norm->output());
}

} // namespace

bool readers_train_folded(const Node* activation, bool channels_last) {
  const auto& uses = activation->output()->uses();
  return !uses.empty() && std::all_of(uses.begin(), uses.end(), [&](const torch::jit::Use& use) {
    return is_dense_layer(use.user, channels_last) && use.offset == 0 && (!is_convolution(use.user) || is_unpadded(use.user));
  });
}

void prepare_training_folds(Graph& graph, Node* activation, bool channels_last, int64_t site) {
  if (const auto found = producer(activation, channels_last)) prepare_producer(graph, *found, site);
  if (!readers_train_folded(activation, channels_last)) return;
  for (const auto& use : activation->output()->uses()) {
    torch::jit::WithInsertPoint guard(use.user);
    Value* number = graph.insertConstant(site);
    insert_fold(graph, "dimbit::fold_reader", {argument(use.user, "weight"), argument(use.user, "bias"), number}, 2, use.user);
  }
}

} // namespace dimbit
