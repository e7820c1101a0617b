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

// Calls `body(first, width)` for each panel of `columns` columns.
template <typename Body>
void for_panels(int64_t columns, const Body& body) {
  const int64_t usual = columns_of_panel();
  for (int64_t first = 0, width = 0; first < columns; first += width) {
    const int64_t left = columns - first;
    width = left <= usual + usual / 3 ? left : usual;
    body(first, width);
  }
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
  for_panels(to, [&](int64_t column, int64_t width) { brgemm(from, width, n, n, to, to, true, room, grad + column, out + column, false); });
}

Panels::Panels(const at::Tensor& matrix) : from_(matrix.size(0)), to_(matrix.size(1)), data_(at::empty({matrix.numel()}, matrix.options())) {
  for_panels(to_, [&](int64_t column, int64_t width) {
    data_.narrow(0, column * from_, from_ * width).view({from_, width}).copy_(matrix.narrow(1, column, width));
  });
}

void Panels::multiply(const float* in, float* out, int64_t n, bool add) const {
  const float* data = data_.const_data_ptr<float>();
  for_panels(to_, [&](int64_t column, int64_t width) {
    brgemm(n, width, from_, from_, width, to_, add, in, data + column * from_, out + column, false);
  });
}

void Panels::affine(const float* in, const float* row, float* out, int64_t n) const {
  for (int64_t i = 0; i < n; ++i) std::copy(row, row + to_, out + i * to_);
  multiply(in, out, n, true);
}

} // namespace dimbit
