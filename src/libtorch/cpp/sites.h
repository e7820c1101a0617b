// Which nodes of an inlined graph are sites, which compute, and which tensors a device would store.
#pragma once

#include <torch/csrc/jit/ir/ir.h>

#include <memory>
#include <string>
#include <vector>

#include "folds.h"

namespace dimbit {

using torch::jit::Graph;
using torch::jit::Node;
using torch::jit::Value;

struct Site {
  Node* node;
  std::string name;
  std::string kind;
  std::string producer;
  std::vector<std::string> consumers;
  // Constant bounds of hardtanh and clamp; NaN where the function has none.
  double low;
  double high;
  // The pre-activation comes from a linear layer, so that its channels are its last dimension.
  bool channels_last;
  // Which halves of a channel transform its neighbours absorb.
  Fold folds_forward;
  Fold folds_inverse;
};

struct Compute {
  Node* node;
  Value* input;
  Value* weight;
  std::string name;
};

// A tensor that is written to memory and read back when conv + BN + (add) + activation function are one kernel.
struct Stored {
  Value* value;
  std::string name;
  // Indices of the sites whose codes it is made of; empty: no site covers it.
  std::vector<int64_t> sites;
};

struct Survey {
  std::vector<Site> sites;
  std::vector<Compute> computes;
  std::vector<Stored> stored;
  // There are batch normalisations, and each one's `training` is the constant false, as tracing leaves it.
  bool norm_is_baked = false;
};

// A copy of `forward` with every call inlined, constants propagated, and each node's scope set to the dotted path of
// the module that it belongs to.
std::shared_ptr<Graph> inline_forward(const torch::jit::Module& module);

// Deterministic: the order of nodes in the graph.
Survey survey(Graph& graph);

} // namespace dimbit
