// Products of a few rows with a matrix: libtorch's small products (oneDNN's brgemm), which carry out a codec's transforms
// a tile of rows at a time.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>

namespace dimbit {

// Whether this CPU has them.
bool has_small_products();

// To be called by a thread at the end of its products.
void end_products();

// `out[from, to] += inᵀ·grad` for `in[n, from]` and `grad[n, to]`: the gradient of a matrix. `room`: for `n·from` values.
void add_gradient(const float* in, const float* grad, float* out, int64_t n, int64_t from, int64_t to, float* room);

// A matrix `[from, to]` for products with few rows, cut into panels of columns that lie one behind the other: a product
// reads a panel again and again, and columns of a wide matrix would come from as many pages of memory as there are rows.
class Panels {
 public:
  // A copy of `matrix`, which may be strided.
  explicit Panels(const at::Tensor& matrix);

  // `out[n, to] = in[n, from]·matrix`, added to what stands there with `add`. Each value is one sum in the order of `from`.
  void multiply(const float* in, float* out, int64_t n, bool add) const;

  // `out[n, to] = row + in[n, from]·matrix`.
  void affine(const float* in, const float* row, float* out, int64_t n) const;

 private:
  int64_t from_, to_;
  at::Tensor data_;
};

} // namespace dimbit
