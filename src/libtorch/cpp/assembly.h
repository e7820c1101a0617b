// From a graph whose tensors are inputs to a module that can be written.
#pragma once

#include <torch/csrc/jit/api/module.h>

#include <string>
#include <utility>
#include <vector>

#include "absorb.h"

namespace dimbit {

// Turns the graph's tensors back into attributes, and defines `forward(images)`, which returns logits, and
// `forward_and_codes(images)`, which returns them with each site's codes by its name.
torch::jit::Module assemble(Plain& plain, const std::vector<std::pair<std::string, torch::jit::Value*>>& codes);

} // namespace dimbit
