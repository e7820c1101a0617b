#include "products.h"

#include <ATen/Version.h>
#include <ATen/native/CPUBlas.h>

#include <algorithm>

namespace dimbit {
namespace {

using at::native::cpublas::brgemm;
using at::native::cpublas::brgemm_release;

// Columns of a panel: three vector registers, for which the products are fastest. The last panel takes a register more, since
// one of a few columns would leave most of it empty.
int64_t columns_of_panel() {
  static const int64_t columns = at::get_cpu_capability() == "AVX512" ? 48 : 24;
  return columns;
}

} // namespace

// libtorch tells only when asked for one.
bool has_small_products() {
  static const bool found = [] {
    try {
      const float one = 1.0f;
      float product = 0.0f;
      brgemm(1, 1, 1, 1, 1, 1, false, &one, &one, &product, false);
      brgemm_release(false);
      return product == 1.0f;
    } catch (const c10::Error&) {
      return false;
    }
  }();
  return found;
}

void end_products() {
  brgemm_release(false);
}

Panels::Panels(const at::Tensor& matrix) : from_(matrix.size(0)), to_(matrix.size(1)), data_(at::empty({matrix.numel()}, matrix.options())) {
  const int64_t columns = columns_of_panel();
  for (int64_t column = 0; column < to_;) {
    const int64_t left = to_ - column, width = left <= columns + columns / 3 ? left : columns;
    data_.narrow(0, column * from_, from_ * width).view({from_, width}).copy_(matrix.narrow(1, column, width));
    panels_.emplace_back(column, width);
    column += width;
  }
}

void Panels::multiply(const float* in, float* out, int64_t n, bool add) const {
  const float* data = data_.const_data_ptr<float>();
  for (const auto& [column, width] : panels_) brgemm(n, width, from_, from_, width, to_, add, in, data + column * from_, out + column, false);
}

void Panels::affine(const float* in, const float* row, float* out, int64_t n) const {
  for (int64_t i = 0; i < n; ++i) std::copy(row, row + to_, out + i * to_);
  multiply(in, out, n, true);
}

} // namespace dimbit
