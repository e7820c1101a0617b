#include "packed.h"

#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/generated/Functions.h>
#include <torch/csrc/autograd/saved_variable.h>
#include <torch/csrc/autograd/saved_variable_hooks.h>

#include <cstring>

namespace dimbit {
namespace {

thread_local Packing* active_packing = nullptr;

// Stands where a layer kept a codec's output.
struct Unpacking : torch::autograd::SavedVariableHooks {
  explicit Unpacking(c10::intrusive_ptr<Packed> packed) : packed(std::move(packed)) {}

  void call_pack_hook(const at::Tensor& kept) override {
    sizes = kept.sizes().vec();
    strides = kept.strides().vec();
    offset = kept.storage_offset();
  }

  at::Tensor call_unpack_hook() override { return packed->values().as_strided(sizes, strides, offset); }

  c10::intrusive_ptr<Packed> packed;
  std::vector<int64_t> sizes, strides;
  int64_t offset = 0;
};

// What a convolution or max-pooling keeps of its input; null for every other operation. A traced network calls its
// convolutions by another name, `_convolution`.
torch::autograd::SavedVariable* kept_input(torch::autograd::Node* node) {
  namespace nodes = torch::autograd::generated;
  if (auto* found = dynamic_cast<nodes::ConvolutionBackward0*>(node)) return &found->input_;
  if (auto* found = dynamic_cast<nodes::ConvolutionBackward1*>(node)) return &found->input_;
  if (auto* found = dynamic_cast<nodes::MaxPool2DWithIndicesBackward0*>(node)) return &found->self_;
  return nullptr;
}

uint32_t version_of(const at::Tensor& tensor) {
  return tensor.unsafeGetTensorImpl()->version_counter().current_version();
}

} // namespace

PackedCodes::PackedCodes(int64_t rows, const Lanes& lanes) : widths_(lanes.channels) {
  int64_t bits = 0;
  for (int64_t c = 0; c < lanes.channels; ++c) {
    const auto largest = static_cast<uint32_t>(lanes.top()[c] + lanes.shift()[c]);
    while (largest >> widths_[c]) ++widths_[c];
    TORCH_CHECK(widths_[c] <= 16, "codes of ", static_cast<int>(widths_[c]), " bits can't be packed");
    bits += widths_[c];
  }
  row_bytes_ = (bits + 7) / 8;
  // Reading goes four bytes at a time and may look beyond the end.
  bytes_ = at::empty({rows * row_bytes_ + 4}, at::kByte);
}

void PackedCodes::write(int64_t first, int64_t rows, const uint16_t* codes) {
  uint8_t* row = bytes_.mutable_data_ptr<uint8_t>() + first * row_bytes_;
  const auto channels = static_cast<int64_t>(widths_.size());
  for (int64_t i = 0; i < rows; ++i, codes += channels, row += row_bytes_) {
    uint8_t* to = row;
    uint64_t held = 0;
    unsigned count = 0;
    const auto store = [&] {
      if (count < 32) return;
      const auto word = static_cast<uint32_t>(held);
      std::memcpy(to, &word, 4);
      to += 4;
      held >>= 32;
      count -= 32;
    };
    int64_t c = 0;
    // Two at a time: 31 bits that wait and 32 more fit.
    for (; c + 1 < channels; c += 2) {
      const uint64_t pair = codes[c] | static_cast<uint64_t>(codes[c + 1]) << widths_[c];
      held |= pair << count;
      count += widths_[c] + widths_[c + 1];
      store();
    }
    if (c < channels) {
      held |= static_cast<uint64_t>(codes[c]) << count;
      count += widths_[c];
      store();
    }
    for (; to < row + row_bytes_; ++to, held >>= 8) *to = static_cast<uint8_t>(held);
  }
}

void PackedCodes::read(int64_t first, int64_t rows, uint16_t* codes) const {
  const uint8_t* row = bytes_.const_data_ptr<uint8_t>() + first * row_bytes_;
  const auto channels = static_cast<int64_t>(widths_.size());
  const auto mask = [](unsigned width) { return (uint64_t{1} << width) - 1; };
  for (int64_t i = 0; i < rows; ++i, codes += channels, row += row_bytes_) {
    const uint8_t* from = row;
    uint64_t held = 0;
    unsigned count = 0;
    const auto load = [&](unsigned bits) {
      if (count >= bits) return;
      uint32_t word;
      std::memcpy(&word, from, 4);
      from += 4;
      held |= static_cast<uint64_t>(word) << count;
      count += 32;
    };
    int64_t c = 0;
    for (; c + 1 < channels; c += 2) {
      const unsigned one = widths_[c], two = widths_[c + 1];
      load(one + two);
      codes[c] = static_cast<uint16_t>(held & mask(one));
      codes[c + 1] = static_cast<uint16_t>(held >> one & mask(two));
      held >>= one + two;
      count -= one + two;
    }
    if (c < channels) {
      load(widths_[c]);
      codes[c] = static_cast<uint16_t>(held & mask(widths_[c]));
    }
  }
}

at::Tensor Packed::values() {
  std::lock_guard<std::mutex> lock(mutex_);
  if (!values_.defined()) {
    at::NoGradGuard guard;
    values_ = rebuilt();
  }
  return values_;
}

void Packed::forget() {
  std::lock_guard<std::mutex> lock(mutex_);
  values_.reset();
}

Packing::Packing() : previous_(active_packing) {
  active_packing = this;
}

Packing::~Packing() {
  active_packing = previous_;
}

Packing* Packing::active() {
  return active_packing;
}

void Packing::add(const at::Tensor& out, c10::intrusive_ptr<Packed> packed) {
  outputs_.push_back({out.storage().getWeakStorageImpl(), version_of(out), std::move(packed)});
}

void Packing::release(const at::Tensor& value) {
  std::vector<torch::autograd::Node*> open{value.grad_fn().get()};
  while (!open.empty()) {
    torch::autograd::Node* node = open.back();
    open.pop_back();
    if (!node || !seen_.insert(node).second) continue;
    if (torch::autograd::SavedVariable* input = kept_input(node)) pack(*input);
    for (const auto& edge : node->next_edges()) open.push_back(edge.function.get());
  }
}

void Packing::pack(torch::autograd::SavedVariable& saved) {
  const auto kept = saved.get_raw_data();
  if (!kept || !kept->defined() || !kept->has_storage()) return;
  for (Output& output : outputs_) {
    // What was written over since is no longer what the codes say.
    const bool same = output.storage._unsafe_get_target() == kept->storage().unsafeGetStorageImpl();
    if (!same || output.version != version_of(*kept)) continue;
    saved.register_hooks(std::make_unique<Unpacking>(output.packed));
    output.used = true;
    return;
  }
}

int64_t Packing::count() const {
  return std::count_if(outputs_.begin(), outputs_.end(), [](const Output& output) { return output.used; });
}

} // namespace dimbit
