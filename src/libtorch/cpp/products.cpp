#include "products.h"

#include "rows.h"

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

// First column and width of each panel of `columns` columns.
std::vector<std::pair<int64_t, int64_t>> panels_of(int64_t columns) {
  const int64_t usual = columns_of_panel();
  std::vector<std::pair<int64_t, int64_t>> panels;
  for (int64_t column = 0; column < columns; column += panels.back().second) {
    const int64_t left = columns - column;
    panels.emplace_back(column, left <= usual + usual / 3 ? left : usual);
  }
  return panels;
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

void add_gradient(const float* in, const float* grad, float* out, int64_t n, int64_t from, int64_t to, float* room) {
  transpose(in, room, n, from);
  for (const auto& [column, width] : panels_of(to)) brgemm(from, width, n, n, to, to, true, room, grad + column, out + column, false);
}

Panels::Panels(const at::Tensor& matrix)
    : from_(matrix.size(0)), to_(matrix.size(1)), panels_(panels_of(to_)), data_(at::empty({matrix.numel()}, matrix.options())) {
  for (const auto& [column, width] : panels_)
    data_.narrow(0, column * from_, from_ * width).view({from_, width}).copy_(matrix.narrow(1, column, width));
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
