#include "layout.h"

#include <torch/csrc/jit/api/function_impl.h>
#include <torch/csrc/jit/ir/ir.h>
#include <torch/csrc/jit/passes/inliner.h>

#include <set>

namespace dimbit {
namespace {

using torch::jit::Block;
using torch::jit::GraphFunction;
using torch::jit::Node;
namespace prim = c10::prim;

GraphFunction* callee_of(Node* node) {
  if (node->kind() == prim::CallMethod) {
    const auto type = node->input(0)->type()->cast<c10::ClassType>();
    auto* method = type ? type->findMethod(node->s(torch::jit::attr::name)) : nullptr;
    return method ? torch::jit::tryToGraphFunction(*method) : nullptr;
  }
  return node->kind() == prim::CallFunction ? torch::jit::tryToGraphFunction(node) : nullptr;
}

void let_views_copy(GraphFunction* function, std::set<GraphFunction*>& seen);

void let_views_copy(Block* block, std::set<GraphFunction*>& seen) {
  for (auto it = block->nodes().begin(); it != block->nodes().end();) {
    Node* node = *it++;
    for (Block* inner : node->blocks()) let_views_copy(inner, seen);
    let_views_copy(callee_of(node), seen);
    // The other overload reads the values as another type.
    if (node->kind() != c10::aten::view || !node->input(1)->type()->isSubtypeOf(*c10::ListType::ofInts())) continue;
    node->replaceWithNewSymbol(c10::aten::reshape);
    node->destroy();
  }
}

void let_views_copy(GraphFunction* function, std::set<GraphFunction*>& seen) {
  if (function && seen.insert(function).second) let_views_copy(function->graph()->block(), seen);
}

} // namespace

at::Tensor channels_last(const at::Tensor& tensor) {
  if (tensor.dim() != 4) return tensor;
  const auto format = at::MemoryFormat::ChannelsLast;
  // `to` also settles the strides of dimensions of size 1, by which kernels tell the layout; `contiguous` closes gaps.
  return tensor.to(tensor.options(), /*non_blocking=*/false, /*copy=*/false, format).contiguous(format);
}

void lay_out_channels_last(torch::jit::Module& module) {
  at::NoGradGuard guard;
  for (at::Tensor parameter : module.parameters())
    if (parameter.dim() == 4 && parameter.is_floating_point()) parameter.set_data(channels_last(parameter));
}

void lay_out_contiguous(torch::jit::Module& module) {
  at::NoGradGuard guard;
  // Unlike `contiguous`, a clone also has the standard strides where a dimension is of size 1.
  for (at::Tensor parameter : module.parameters()) parameter.set_data(parameter.clone(at::MemoryFormat::Contiguous));
}

void let_views_copy(torch::jit::Module& module) {
  std::set<GraphFunction*> seen;
  let_views_copy(torch::jit::tryToGraphFunction(module.get_method("forward").function()), seen);
}

} // namespace dimbit
