#include "sites.h"

#include <torch/csrc/jit/passes/constant_propagation.h>
#include <torch/csrc/jit/passes/inliner.h>
#include <torch/script.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <unordered_map>

#include "nodes.h"

namespace dimbit {
namespace {

using torch::jit::Block;
using torch::jit::Function;
using torch::jit::toIValue;
namespace prim = c10::prim;

const std::set<std::string> kActivations = {
    "relu", "relu6", "hardtanh", "hardswish", "silu", "gelu", "leaky_relu", "elu", "celu", "selu", "mish",
    "softplus", "prelu", "rrelu", "threshold", "tanh", "clamp", "clamp_min", "sigmoid", "hardsigmoid"};

std::string join(const std::string& prefix, const std::string& name) {
  if (prefix.empty()) return name;
  return name.empty() ? prefix : prefix + "." + name;
}

// The dotted path of the module that `value` holds, relative to the graph's own `self`; "?" where it can't be told.
std::string path_of(const Value* value, const Graph& graph) {
  if (!graph.inputs().empty() && value == graph.inputs()[0]) return "";
  const Node* node = value->node();
  if (node->kind() != prim::GetAttr) return "?";
  return join(path_of(node->input(), graph), node->s(torch::jit::attr::name));
}

void set_scopes(Block* block, const torch::jit::ScopePtr& scope) {
  for (Node* node : block->nodes()) {
    if (!node->scope() || node->scope()->isBlank()) node->setScope(scope);
    for (Block* inner : node->blocks()) set_scopes(inner, scope);
  }
}

torch::jit::ScopePtr scope_named(const std::string& path, bool leaf) {
  // The mark tells an activation module (its path is the name) from a functional call inside a larger module.
  auto root = c10::make_intrusive<torch::jit::Scope>();
  return root->push(c10::Symbol::scope((leaf ? "leaf:" : "body:") + path));
}

void inline_calls(Block* block, Graph& graph, const std::string& path, bool leaf, int depth) {
  TORCH_CHECK(depth < 64, "calls nest deeper than 64: recursive methods can't be inlined");
  for (auto it = block->nodes().begin(); it != block->nodes().end();) {
    Node* node = *it++;
    if (node->kind() == prim::CallMethod) {
      auto type = node->input(0)->type()->cast<c10::ClassType>();
      TORCH_CHECK(type, "a method is called on a module interface, which can't be inlined");
      auto* callee = torch::jit::tryToGraphFunction(type->getMethod(node->s(torch::jit::attr::name)));
      if (!callee) continue;
      const std::string inner = join(path, path_of(node->input(0), graph));
      const std::string type_name = type->name() ? type->name()->qualifiedName() : "";
      const bool inner_leaf = type_name.find("torch.nn.modules.activation") != std::string::npos;
      auto body = callee->graph()->copy();
      inline_calls(body->block(), *body, inner, inner_leaf, depth + 1);
      set_scopes(body->block(), scope_named(inner, inner_leaf));
      torch::jit::inlineCallTo(node, callee, body.get());
    } else if (node->kind() == prim::CallFunction) {
      auto* callee = torch::jit::tryToGraphFunction(node);
      if (!callee) continue;
      auto body = callee->graph()->copy();
      inline_calls(body->block(), *body, path, leaf, depth + 1);
      set_scopes(body->block(), scope_named(path, leaf));
      node->removeInput(0);
      torch::jit::inlineCallTo(node, callee, body.get());
    } else {
      for (Block* inner : node->blocks()) inline_calls(inner, graph, path, leaf, depth);
    }
  }
}

void collect_set_attributes(Block* block, std::set<std::string>& names) {
  for (Node* node : block->nodes()) {
    if (node->kind() == prim::SetAttr) names.insert(node->s(torch::jit::attr::name));
    for (Block* inner : node->blocks()) collect_set_attributes(inner, names);
  }
}

// The value behind a chain of GetAttr nodes that starts at `self`, if it is one.
std::optional<c10::IValue> attribute_value(const Value* value, const Graph& graph, const torch::jit::Module& module) {
  if (value == graph.inputs()[0]) return module._ivalue();
  const Node* node = value->node();
  if (node->kind() != prim::GetAttr) return std::nullopt;
  const auto owner = attribute_value(node->input(), graph, module);
  if (!owner || !owner->isObject()) return std::nullopt;
  return owner->toObjectRef().getAttr(node->s(torch::jit::attr::name));
}

// Settings such as MobileNetV2's `use_res_connect` are attributes that nothing writes: as constants, they decide their
// branches here, and an activation function stands in the graph once. `training` changes between runs and stays.
void settle_attributes(Block* block, Graph& graph, const torch::jit::Module& module, const std::set<std::string>& written) {
  for (auto it = block->nodes().begin(); it != block->nodes().end();) {
    Node* node = *it++;
    for (Block* inner : node->blocks()) settle_attributes(inner, graph, module, written);
    if (node->kind() != prim::GetAttr) continue;
    const std::string& name = node->s(torch::jit::attr::name);
    if (name == "training" || written.count(name)) continue;
    const auto value = attribute_value(node->output(), graph, module);
    if (!value || !(value->isBool() || value->isInt() || value->isDouble() || value->isString())) continue;
    torch::jit::WithInsertPoint guard(node);
    node->output()->replaceAllUsesWith(graph.insertConstant(*value));
    node->destroy();
  }
}

// After an in-place function, its argument's old name means the result as well: whoever reads it reads the result.
void settle_names(Block* block) {
  for (Node* node : block->nodes()) {
    const std::string kind = node->kind().toUnqualString();
    const bool in_place = is_aten(node) && kind.size() > 1 && kind.back() == '_' && kind[0] != '_';
    if (in_place && node->outputs().size() == 1 && !node->inputs().empty() && node->input(0)->type()->isSubtypeOf(*c10::TensorType::get()))
      node->input(0)->replaceAllUsesDominatedByNodeWith(node, node->output());
    for (Block* inner : node->blocks()) settle_names(inner);
  }
}

std::string node_name(const Node* node) {
  const std::string scope = node->scopeName();
  const std::string path = scope.size() > 5 ? scope.substr(5) : "";
  if (scope.rfind("leaf:", 0) == 0 && !path.empty()) return path;
  // A convolution or normalisation module is known by its path alone; a functional call by path and kind.
  static const std::set<std::string> module_kinds = {"batch_norm", "linear", "addmm"};
  const std::string kind = plain_kind(node);
  if ((is_convolution(node) || module_kinds.count(kind)) && !path.empty()) return path;
  return join(path, kind);
}

double constant_or_nan(const Value* value) {
  auto constant = toIValue(value);
  if (constant && constant->isDouble()) return constant->toDouble();
  if (constant && constant->isInt()) return static_cast<double>(constant->toInt());
  return std::nan("");
}

bool is_gate(const Node* node) {
  for (const auto& use : node->output()->uses()) {
    if (!reads_values(use)) continue;
    if (!is_aten(use.user) || plain_kind(use.user) != "mul") return false;
  }
  return true;
}

bool is_activation(const Node* node, double& low, double& high) {
  low = high = std::nan("");
  if (!is_aten(node) || node->inputs().empty() || node->outputs().size() != 1) return false;
  if (!node->input(0)->type()->isSubtypeOf(*c10::TensorType::get())) return false;
  const std::string kind = plain_kind(node);
  if (!kActivations.count(kind)) return false;
  if (kind == "hardtanh" || kind == "clamp") {
    low = constant_or_nan(node->input(1));
    high = constant_or_nan(node->input(2));
  } else if (kind == "clamp_min") {
    low = constant_or_nan(node->input(1));
  } else if (kind == "threshold") {
    low = std::min(constant_or_nan(node->input(1)), constant_or_nan(node->input(2)));
  }
  // A clamp is an activation function only as a spelling of ReLU or ReLU6.
  if (kind == "clamp" || kind == "clamp_min") return low == 0.0;
  if (kind == "sigmoid" || kind == "hardsigmoid") return !is_gate(node);
  return true;
}

bool is_compute(const Node* node, Value*& input, Value*& weight) {
  if (!is_aten(node) || node->outputs().size() != 1) return false;
  const std::string kind = plain_kind(node);
  static const std::set<std::string> products = {"linear", "matmul", "mm"};
  if (kind == "addmm") {
    input = node->input(1);
    weight = node->input(2);
    return true;
  }
  if (is_convolution(node) || products.count(kind)) {
    input = node->input(0);
    weight = node->input(1);
    return true;
  }
  return false;
}

bool is_product(const Node* node) {
  const std::string kind = plain_kind(node);
  return is_aten(node) && (kind == "linear" || kind == "addmm" || kind == "matmul");
}

struct Surveyor {
  Survey result;
  std::unordered_map<const Value*, int64_t> site_of_output;
  std::unordered_map<const Value*, size_t> stored_of_value;
  std::unordered_map<const Node*, size_t> order;
  std::map<std::string, int> stored_names;
  int norms = 0, baked_norms = 0;

  void number(Block* block) {
    for (Node* node : block->nodes()) {
      order[node] = order.size();
      for (Block* inner : node->blocks()) number(inner);
    }
  }

  void find(Block* block, std::map<std::string, int>& uses) {
    for (Node* node : block->nodes()) {
      double low, high;
      Value *input, *weight;
      if (is_activation(node, low, high)) {
        std::string name = node_name(node);
        const int count = ++uses[name];
        if (count > 1) name += "#" + std::to_string(count);
        const bool channels_last = is_product(node->input(0)->node());
        Site site{node, name, plain_kind(node), "", {}, low, high, channels_last};
        site.folds_forward = folds_forward(node, channels_last);
        site.folds_inverse = folds_inverse(node, channels_last);
        site.producer = producer_name(node->input(0));
        for (const auto& use : node->output()->uses()) {
          if (!reads_values(use)) continue;
          const std::string consumer = consumer_name(use.user);
          if (std::find(site.consumers.begin(), site.consumers.end(), consumer) == site.consumers.end())
            site.consumers.push_back(consumer);
        }
        site_of_output[node->output()] = static_cast<int64_t>(result.sites.size());
        result.sites.push_back(std::move(site));
      } else if (is_compute(node, input, weight)) {
        result.computes.push_back({node, input, weight, node_name(node)});
      } else if (is_aten(node) && plain_kind(node) == "batch_norm") {
        const auto training = toIValue(node->input(5));
        ++norms;
        baked_norms += training && training->isBool() && !training->toBool();
      }
      for (Block* inner : node->blocks()) find(inner, uses);
    }
  }

  static std::string producer_name(const Value* value) {
    const Node* node = value->node();
    return node->kind() == prim::Param ? "input" : node_name(node);
  }

  static std::string consumer_name(const Node* node) {
    return node->kind() == prim::Return ? "output" : node_name(node);
  }

  size_t store(Value* value, std::vector<int64_t> sites) {
    auto found = stored_of_value.find(value);
    if (found != stored_of_value.end()) return found->second;
    const size_t index = result.stored.size();
    stored_of_value[value] = index;
    std::string name = sites.size() == 1 && site_of_output.count(value) ? result.sites[sites[0]].name : node_name(value->node());
    const int count = ++stored_names[name];
    if (count > 1 && !site_of_output.count(value)) name += "#" + std::to_string(count);
    result.stored.push_back({value, std::move(name), std::move(sites)});
    return index;
  }

  // The sites whose outputs `value` holds unchanged or max-pooled.
  std::vector<int64_t> covering(Value* value) {
    auto site = site_of_output.find(value);
    if (site != site_of_output.end()) return {site->second};
    Node* node = value->node();
    const std::string kind = plain_kind(node);
    if (is_aten(node) && (kind == "max_pool2d" || kind == "dropout" || kind == "feature_dropout")) return covering(node->input(0));
    return {};
  }

  // Marks the tensors that a kernel fetches from memory when it reads `value`.
  void read(Value* value, int depth = 0) {
    if (depth > 64 || !value->type()->isSubtypeOf(*c10::TensorType::get())) return;
    Node* node = value->node();
    if (node->kind() == prim::Param) return; // The network's input image is not an activation.
    if (site_of_output.count(value)) {
      store(value, covering(value));
      return;
    }
    if (node->kind() == prim::If) {
      const size_t index = value->offset();
      for (Block* inner : node->blocks()) read(inner->outputs()[index], depth + 1);
      return;
    }
    if (node->kind() == prim::ListUnpack || node->kind() == prim::TupleUnpack) {
      read_list(node->input(0), depth);
      return;
    }
    const std::string kind = plain_kind(node);
    static const std::set<std::string> views = {
        "dropout", "feature_dropout", "flatten", "view", "reshape", "contiguous", "transpose", "permute", "chunk",
        "split", "slice", "select", "unsqueeze", "squeeze", "to", "detach", "pad", "constant_pad_nd", "stochastic_depth"};
    static const std::set<std::string> averages = {"adaptive_avg_pool2d", "avg_pool2d", "mean"};
    if (is_aten(node) && kind == "max_pool2d") {
      store(value, covering(value));
    } else if (is_aten(node) && (views.count(kind) || averages.count(kind))) {
      // An average is taken on chip by its reader: what comes from memory is the tensor that is averaged.
      read(node->input(0), depth + 1);
    } else if (is_aten(node) && kind == "cat") {
      read_list(node->input(0), depth);
    } else if (is_aten(node) && kind == "mul") {
      read(node->input(0), depth + 1);
      read(node->input(1), depth + 1);
    } else if (node->kind() != prim::Constant && node->kind() != prim::GetAttr) {
      store(value, {});
    }
  }

  void read_list(Value* list, int depth) {
    Node* node = list->node();
    if (node->kind() == prim::ListConstruct || node->kind() == prim::TupleConstruct) {
      for (Value* item : node->inputs()) read(item, depth + 1);
    } else if (!node->inputs().empty() && node->input(0)->type()->isSubtypeOf(*c10::TensorType::get())) {
      read(node->input(0), depth + 1);
    }
  }

  // Whether the add's kernel may itself produce `value`: a convolution, perhaps normalised, that nobody else reads.
  static bool fusible(const Value* value) {
    if (std::count_if(value->uses().begin(), value->uses().end(), reads_values) != 1) return false;
    const Node* node = value->node();
    const std::string kind = plain_kind(node);
    if (kind == "batch_norm" || kind == "dropout") return fusible(node->input(0));
    return is_convolution(node);
  }

  void find_stored(Block* block) {
    for (Node* node : block->nodes()) {
      Value *input, *weight;
      const std::string kind = is_aten(node) ? plain_kind(node) : "";
      if (is_compute(node, input, weight)) {
        read(input);
      } else if (kind == "add" && node->inputs().size() == 3 && node->input(1)->type()->isSubtypeOf(*c10::TensorType::get()) &&
                 node->input(0)->node()->kind() != prim::GetAttr) {
        Value *a = node->input(0), *b = node->input(1);
        const bool fuse_a = fusible(a), fuse_b = fusible(b);
        // One operand stays on chip: the convolution that runs last.
        const bool keep_a = fuse_a && (!fuse_b || order[a->node()] > order[b->node()]);
        if (!keep_a) read(a);
        if (keep_a || !fuse_b) read(b);
      } else if (kind == "adaptive_avg_pool2d" || kind == "avg_pool2d" || kind == "mean") {
        read(node->input(0));
      }
      for (Block* inner : node->blocks()) find_stored(inner);
    }
  }
};

} // namespace

std::shared_ptr<Graph> inline_forward(const torch::jit::Module& module) {
  auto method = module.find_method("forward");
  TORCH_CHECK(method, "the module has no `forward` method");
  auto graph = method->graph()->copy();
  inline_calls(graph->block(), *graph, "", false, 0);
  set_scopes(graph->block(), scope_named("", false));
  std::set<std::string> written;
  collect_set_attributes(graph->block(), written);
  settle_attributes(graph->block(), *graph, module, written);
  // Resolves branches on constants (an activation's `inplace`), so that one activation is one node.
  torch::jit::ConstantPropagation(graph);
  settle_names(graph->block());
  return graph;
}

Survey survey(Graph& graph) {
  Surveyor surveyor;
  std::map<std::string, int> uses;
  surveyor.number(graph.block());
  surveyor.find(graph.block(), uses);
  surveyor.find_stored(graph.block());
  surveyor.result.norm_is_baked = surveyor.norms > 0 && surveyor.norms == surveyor.baked_norms;
  return std::move(surveyor.result);
}

} // namespace dimbit
