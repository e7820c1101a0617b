// Uniform quantization with learnable step and range and straight-through gradients (Uhlich et al., eq. 3c).
#include "network.h"
#include "quantize_cuda.h"
#include "rows.h"

#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <numeric>
#include <vector>

namespace dimbit {
namespace {

void check(const at::Tensor& z, const at::Tensor& step, const at::Tensor& range, const at::Tensor& offset) {
  TORCH_CHECK(z.dim() >= 2, "quantize: expected [rows, channels] or more dimensions with the channels last, got shape ", z.sizes());
  for (const at::Tensor* vector : {&step, &range, &offset}) {
    TORCH_CHECK(vector->device() == z.device() && vector->scalar_type() == z.scalar_type(), "quantize: ", z.toString(), " on ", z.device(), ", but a parameter is ", vector->toString(), " on ", vector->device());
    TORCH_CHECK(vector->dim() == 1 && vector->size(0) == z.size(-1), "quantize: ", z.size(-1), " channels, but a parameter of shape ", vector->sizes());
  }
}

// The vectorised kernels serve float32 on the CPU, those of quantize_cuda.h float32 on CUDA; everything else takes the ATen
// reference, which says the same.
bool has_kernel(const at::Tensor& z) {
  return z.device().is_cpu() && z.scalar_type() == at::kFloat;
}

at::Tensor forward_kernel(
    const at::Tensor& z, const at::Tensor& step, const at::Tensor& range, const at::Tensor& offset, bool is_signed, Bounds bounds) {
  at::Tensor out = at::empty_like(z);
  if (!z.numel()) return out;
  const Lanes lanes(step, range, offset, is_signed);
  const float* source = z.const_data_ptr<float>();
  float* target = out.mutable_data_ptr<float>();
  const int64_t tiles = (z.numel() + lanes.width - 1) / lanes.width;
  at::parallel_for(0, tiles, std::max<int64_t>(1, 16384 / lanes.width), [&](int64_t begin, int64_t end) {
    const int64_t start = begin * lanes.width, stop = std::min(end * lanes.width, z.numel());
    forward_rows(source + start, target + start, stop - start, lanes, bounds);
  });
  return out;
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> backward_kernel(
    const at::Tensor& z, const at::Tensor& grad, const at::Tensor& step, const at::Tensor& range, const at::Tensor& offset, bool is_signed, Bounds bounds) {
  at::Tensor grad_z = at::empty_like(z), grad_step = at::zeros_like(step), grad_range = at::zeros_like(range);
  if (!z.numel()) return {grad_z, grad_step, grad_range};
  const Lanes lanes(step, range, offset, is_signed);
  const float *source = z.const_data_ptr<float>(), *incoming = grad.const_data_ptr<float>();
  float* target = grad_z.mutable_data_ptr<float>();
  const float below_sign = is_signed ? -1.0f : 0.0f;
  // A lane adds up at most 64 terms in float32, a strip; a block's strips and then the blocks are added up in float64.
  // Strips and blocks follow from the shape alone: the same result whatever the number of threads.
  const int64_t strip = lanes.width * std::clamp<int64_t>(16384 / lanes.width, 16, 64);
  const int64_t strips = (z.numel() + strip - 1) / strip;
  const int64_t per_block = (strips + 127) / 128, blocks = (strips + per_block - 1) / per_block;
  std::vector<double> totals(blocks * 2 * lanes.channels, 0.0);
  at::parallel_for(0, blocks, 1, [&](int64_t begin, int64_t end) {
    std::vector<float> step_sums(lanes.width, 0.0f), range_sums(lanes.width, 0.0f);
    for (int64_t block = begin; block < end; ++block) {
      double* total = totals.data() + block * 2 * lanes.channels;
      for (int64_t s = block * per_block; s < std::min((block + 1) * per_block, strips); ++s) {
        const int64_t start = s * strip, size = std::min(strip, z.numel() - start);
        backward_rows(source + start, incoming + start, target + start, size, lanes, bounds, below_sign, step_sums.data(), range_sums.data());
        flush(step_sums, lanes, total);
        flush(range_sums, lanes, total + lanes.channels);
      }
    }
  });
  add_blocks(totals, blocks, grad_step, grad_range);
  return {grad_z, grad_step, grad_range};
}

at::Tensor forward_reference(
    const at::Tensor& input, const at::Tensor& step, const at::Tensor& range, const at::Tensor& offset, bool is_signed, Bounds bounds) {
  const auto z = input.clamp(bounds.low, bounds.high);
  const auto high = range / step;
  const auto low = is_signed ? -high : at::zeros_like(high);
  return offset + step * at::minimum(at::maximum(((z - offset) * step.reciprocal()).round(), low), high);
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> backward_reference(
    const at::Tensor& z, const at::Tensor& grad, const at::Tensor& step, const at::Tensor& range, const at::Tensor& offset, bool is_signed, Bounds bounds) {
  const auto t = z.clamp(bounds.low, bounds.high) - offset;
  const auto clipped = (z <= bounds.low) | (z >= bounds.high);
  const auto scaled = t * step.reciprocal();
  const auto above = t > range, below = is_signed ? t < -range : t < 0;
  const auto inside = (above | below).logical_not();
  const auto zero = at::zeros({}, grad.options());
  std::vector<int64_t> rows(z.dim() - 1);
  std::iota(rows.begin(), rows.end(), 0);
  const auto grad_z = at::where(inside & clipped.logical_not(), grad, zero);
  const auto high = range / step;
  const auto level = at::minimum(at::maximum(scaled.round(), is_signed ? -high : at::zeros_like(high)), high);
  const auto grad_step = at::where(inside, grad * (level - scaled), zero).sum(rows);
  auto range_terms = at::where(above, grad, zero);
  if (is_signed) range_terms = range_terms - at::where(below, grad, zero);
  return {grad_z, grad_step, range_terms.sum(rows)};
}

struct Quantize : torch::autograd::Function<Quantize> {
  static at::Tensor forward(
      torch::autograd::AutogradContext* context, const at::Tensor& input, const at::Tensor& step, const at::Tensor& range, const at::Tensor& offset,
      bool is_signed, double low, double high) {
    check(input, step, range, offset);
    at::AutoDispatchBelowADInplaceOrView guard;
    const at::Tensor z = input.contiguous();
    context->save_for_backward({z, step, range, offset});
    context->saved_data["signed"] = is_signed;
    context->saved_data["low"] = low;
    context->saved_data["high"] = high;
    const Bounds bounds(low, high);
    const auto forward = has_kernel(z) ? forward_kernel : has_cuda_kernel(z) ? forward_cuda : forward_reference;
    return forward(z, step, range, offset, is_signed, bounds);
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context, torch::autograd::variable_list grads) {
    const auto saved = context->get_saved_variables();
    const bool is_signed = context->saved_data["signed"].toBool();
    const Bounds bounds(context->saved_data["low"].toDouble(), context->saved_data["high"].toDouble());
    const at::Tensor grad = grads[0].contiguous();
    const auto backward = has_kernel(saved[0]) ? backward_kernel : has_cuda_kernel(saved[0]) ? backward_cuda : backward_reference;
    const auto [grad_z, grad_step, grad_range] = backward(saved[0], grad, saved[1], saved[2], saved[3], is_signed, bounds);
    return {grad_z, grad_step, grad_range, at::Tensor(), at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

} // namespace

at::Tensor quantize(
    const at::Tensor& z, const at::Tensor& step, const at::Tensor& range, const at::Tensor& offset, bool is_signed, double low, double high) {
  return Quantize::apply(z, step, range, offset, is_signed, low, high);
}

} // namespace dimbit

extern "C" int dimbit_quantize(
    const at::Tensor* z, const at::Tensor* step, const at::Tensor* range, const at::Tensor* offset, int is_signed, double low, double high,
    at::Tensor** out, char** error) {
  return dimbit::guarded(error, [&] { *out = new at::Tensor(dimbit::quantize(*z, *step, *range, *offset, is_signed != 0, low, high)); });
}
