// Activations kept for backward as the codes that they were made from, instead of the floating-point copies that the layers
// reading them would keep.
#pragma once

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/custom_class.h>

#include <algorithm>
#include <cstdint>
#include <mutex>
#include <unordered_set>
#include <vector>

#include "rows.h"

namespace dimbit {

// Rows of codes, each code as many bits wide as its lane has codes; a row begins at a whole byte.
class PackedCodes {
 public:
  PackedCodes(int64_t rows, const Lanes& lanes);

  // `codes`: `rows` whole rows, which become those from `first` on.
  void write(int64_t first, int64_t rows, const uint16_t* codes);
  void read(int64_t first, int64_t rows, uint16_t* codes) const;

 private:
  std::vector<uint8_t> widths_;
  int64_t row_bytes_;
  at::Tensor bytes_;
};

// The output of a codec, packed.
class Packed : public torch::CustomClassHolder {
 public:
  // The output, bit for bit. Made anew at the first call and held until `forget`: several layers may read it, and then the
  // codec's own backward.
  at::Tensor values();

  // To be called when the codec's backward is done.
  void forget();

 protected:
  virtual at::Tensor rebuilt() const = 0;

 private:
  std::mutex mutex_;
  at::Tensor values_;
};

// Whether autograd records what is made of these.
inline bool is_recorded(at::TensorList inputs) {
  return at::GradMode::is_enabled() && std::any_of(inputs.begin(), inputs.end(), [](const at::Tensor& input) { return input.requires_grad(); });
}

// Keeps a codec's packed output, if it is not null, for the codec's own backward.
inline void save_packed(torch::autograd::AutogradContext* context, const c10::intrusive_ptr<Packed>& packed) {
  if (packed) context->saved_data["packed"] = c10::IValue::make_capsule(packed);
}

// What save_packed has kept; null if that is nothing.
inline Packed* saved_packed(torch::autograd::AutogradContext* context) {
  const auto found = context->saved_data.find("packed");
  return found == context->saved_data.end() ? nullptr : static_cast<Packed*>(found->second.toCapsule().get());
}

// While it lives, forward passes of this thread hand the outputs of codecs over to it. It sees to it that convolutions and
// max-poolings that keep such an output for their backward keep its codes instead.
class Packing {
 public:
  Packing();
  ~Packing();
  Packing(const Packing&) = delete;
  Packing& operator=(const Packing&) = delete;

  // That of this thread, if there is one.
  static Packing* active();

  // `out`: a site's output as its codec returned it, recorded by autograd.
  void add(const at::Tensor& out, c10::intrusive_ptr<Packed> packed);

  // Packs what the layers between the outputs added so far and `value` have kept. To be called as the forward pass goes on:
  // what is found early is freed early.
  void release(const at::Tensor& value);

  // Outputs whose codes some layer keeps.
  int64_t count() const;

 private:
  struct Output {
    c10::weak_intrusive_ptr<c10::StorageImpl> storage;
    uint32_t version;
    c10::intrusive_ptr<Packed> packed;
    bool used = false;
  };

  void pack(torch::autograd::SavedVariable& saved);

  Packing* previous_;
  std::vector<Output> outputs_;
  std::unordered_set<torch::autograd::Node*> seen_;
};

} // namespace dimbit
