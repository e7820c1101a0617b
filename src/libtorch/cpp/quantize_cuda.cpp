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
template <typename T> T dimbit_quantize(T x, T step, T range, T offset, T low, T high, T sign, T half) {
  const T z = x < low ? low : (x > high ? high : x);
  const T center = __fadd_rn(offset, half * step);
  const T top = __fsub_rn(range / step, half), bottom = __fsub_rn(sign * (range / step), half);
  T level = rintf(__fmul_rn(z - center, T(1) / step));
  level = level > top ? top : (level < bottom ? bottom : level);
  return __fadd_rn(center, __fmul_rn(step, level));
})";

// As backward_reference: a value's own gradient, and what it adds to those of its step and its range.
const std::string kBackward = R"(
template <typename T> void dimbit_quantize_backward(
    T x, T grad, T step, T range, T offset, T low, T high, T sign, T half, T& grad_x, T& grad_step, T& grad_range) {
  const T z = x < low ? low : (x > high ? high : x);
  const T t = z - __fadd_rn(offset, half * step);
  const T scaled = __fmul_rn(t, T(1) / step);
  const T top = __fsub_rn(range / step, half), bottom = __fsub_rn(sign * (range / step), half);
  const bool above = t > __fsub_rn(range, half * step), below = t < __fsub_rn(sign * range, half * step);
  const bool inside = !above && !below;
  T level = rintf(scaled);
  level = level > top ? top : (level < bottom ? bottom : level);
  grad_x = inside && !(x <= low || x >= high) ? grad : T(0);
  grad_step = inside ? grad * (level - scaled) : T(0);
  grad_range = above ? grad : (below ? sign * grad : T(0));
})";

c10::SmallVector<at::Scalar> constants(Codes codes, Bounds bounds) {
  return {at::Scalar(bounds.low), at::Scalar(bounds.high), at::Scalar(sign_of(codes)), at::Scalar(half_of(codes))};
}

} // namespace

bool has_cuda_kernel(const at::Tensor& z) {
  return z.is_cuda() && z.scalar_type() == at::kFloat && z.numel() > 0;
}

at::Tensor forward_cuda(
    const at::Tensor& z, const at::Tensor& step, const at::Tensor& range, const at::Tensor& offset, Codes codes, Bounds bounds) {
  return at::cuda::CompileAndLaunchKernel(kForward, "dimbit_quantize", 1, {z, step, range, offset}, constants(codes, bounds), false)[0];
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> backward_cuda(
    const at::Tensor& z, const at::Tensor& grad, const at::Tensor& step, const at::Tensor& range, const at::Tensor& offset, Codes codes, Bounds bounds) {
  const auto terms = at::cuda::CompileAndLaunchKernel(
      kBackward, "dimbit_quantize_backward", 3, {z, grad, step, range, offset}, constants(codes, bounds), true);
  std::vector<int64_t> rows(z.dim() - 1);
  std::iota(rows.begin(), rows.end(), 0);
  return {terms[0], terms[1].sum(rows), terms[2].sum(rows)};
}

#else

bool has_cuda_kernel(const at::Tensor&) {
  return false;
}

at::Tensor forward_cuda(const at::Tensor&, const at::Tensor&, const at::Tensor&, const at::Tensor&, Codes, Bounds) {
  TORCH_CHECK(false, "quantize: built against a libtorch without CUDA");
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> backward_cuda(
    const at::Tensor&, const at::Tensor&, const at::Tensor&, const at::Tensor&, const at::Tensor&, Codes, Bounds) {
  TORCH_CHECK(false, "quantize: built against a libtorch without CUDA");
}

#endif

} // namespace dimbit
