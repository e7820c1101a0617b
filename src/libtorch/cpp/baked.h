// A network with its codecs as plain operations, as `bake.cpp` makes it.
#pragma once

#include <torch/csrc/jit/api/module.h>

namespace dimbit {

struct Baked {
  torch::jit::Module module;
};

} // namespace dimbit
