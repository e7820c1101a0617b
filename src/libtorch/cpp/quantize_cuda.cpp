#include "quantize_cuda.h"

#include <numeric>
#include <string>
#include <vector>

#ifdef DIMBIT_CUDA
#include <ATen/cuda/jiterator.h>
#endif

namespace dimbit {

#ifdef DIMBIT_CUDA
namespace {

// As forward_reference. The rounding intrinsics keep product and sum apart, as they are on the CPU.
const std::string kForward = R"(
template <typename T> T dimbit_quantize(T x, T step, T range, T offset, T low, T high, T sign) {
  const T z = x < low ? low : (x > high ? high : x);
  const T top = range / step;
  const T bottom = sign * top;
  T level = rintf(__fmul_rn(z - offset, T(1) / step));
  level = level > top ? top : (level < bottom ? bottom : level);
  return __fadd_rn(offset, __fmul_rn(step, level));
})";

// As backward_reference: a value's own gradient, and what it adds to those of its step and its range.
const std::string kBackward = R"(
template <typename T> void dimbit_quantize_backward(
    T x, T grad, T step, T range, T offset, T low, T high, T sign, T& grad_x, T& grad_step, T& grad_range) {
  const T z = x < low ? low : (x > high ? high : x);
  const T t = z - offset;
  const T scaled = __fmul_rn(t, T(1) / step);
  const T top = range / step;
  const T bottom = sign * top;
  const bool above = t > range, below = t < sign * range;
  const bool inside = !above && !below;
  T level = rintf(scaled);
  level = level > top ? top : (level < bottom ? bottom : level);
  grad_x = inside && !(x <= low || x >= high) ? grad : T(0);
  grad_step = inside ? grad * (level - scaled) : T(0);
  grad_range = above ? grad : (below ? sign * grad : T(0));
})";

// −1 for codes with a sign, 0 for those without: the least level as a multiple of the largest.
c10::SmallVector<at::Scalar> constants(bool is_signed, Bounds bounds) {
  return {at::Scalar(bounds.low), at::Scalar(bounds.high), at::Scalar(is_signed ? -1.0f : 0.0f)};
}

} // namespace

bool has_cuda_kernel(const at::Tensor& z) {
  return z.is_cuda() && z.scalar_type() == at::kFloat && z.numel() > 0;
}

at::Tensor forward_cuda(
    const at::Tensor& z, const at::Tensor& step, const at::Tensor& range, const at::Tensor& offset, bool is_signed, Bounds bounds) {
  return at::cuda::CompileAndLaunchKernel(kForward, "dimbit_quantize", 1, {z, step, range, offset}, constants(is_signed, bounds), false)[0];
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> backward_cuda(
    const at::Tensor& z, const at::Tensor& grad, const at::Tensor& step, const at::Tensor& range, const at::Tensor& offset, bool is_signed, Bounds bounds) {
  const auto terms = at::cuda::CompileAndLaunchKernel(
      kBackward, "dimbit_quantize_backward", 3, {z, grad, step, range, offset}, constants(is_signed, bounds), true);
  std::vector<int64_t> rows(z.dim() - 1);
  std::iota(rows.begin(), rows.end(), 0);
  return {terms[0], terms[1].sum(rows), terms[2].sum(rows)};
}

#else

bool has_cuda_kernel(const at::Tensor&) {
  return false;
}

at::Tensor forward_cuda(const at::Tensor&, const at::Tensor&, const at::Tensor&, const at::Tensor&, bool, Bounds) {
  TORCH_CHECK(false, "quantize: built against a libtorch without CUDA");
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> backward_cuda(
    const at::Tensor&, const at::Tensor&, const at::Tensor&, const at::Tensor&, const at::Tensor&, bool, Bounds) {
  TORCH_CHECK(false, "quantize: built against a libtorch without CUDA");
}

#endif

} // namespace dimbit
