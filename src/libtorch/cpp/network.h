// The C face of the C++ part, mirrored by `src/libtorch/ffi.rs`.
// Every function returns 0 on success; otherwise `*error` holds a malloc'ed text that the caller frees.
#pragma once

#include <torch/script.h>

#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

namespace dimbit {

struct Network;

// The module that a network was loaded from, laid out channels last.
const torch::jit::Module& module_of(const Network& network);

// Parameters and buffers of its own, with the flags of the originals.
torch::jit::Module deep_copy(const torch::jit::Module& module);

// An activation node and the hooks around it.
struct HookedNode {
  torch::jit::Node *before, *activation, *after;
};

// Surrounds every activation node by `dimbit::before` and `dimbit::after` (tensor and number of the site in, tensor out),
// so that a codec may stand on either side of the activation function.
std::vector<HookedNode> instrument(torch::jit::Graph& graph);

inline char* copy_text(const std::string& text) {
  char* copy = static_cast<char*>(std::malloc(text.size() + 1));
  std::memcpy(copy, text.c_str(), text.size() + 1);
  return copy;
}

// Runs `body` and turns whatever it throws into a text: no exception may cross into Rust.
template <typename Body>
int guarded(char** error, Body body) {
  try {
    body();
    return 0;
  } catch (const c10::Error& e) {
    *error = copy_text(e.what_without_backtrace());
  } catch (const std::exception& e) {
    *error = copy_text(e.what());
  } catch (...) {
    *error = copy_text("unknown C++ exception");
  }
  return 1;
}

} // namespace dimbit
