// Uniform quantization with learnable step and range and straight-through gradients (Uhlich et al., eq. 3c).
#include "network.h"

#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>

#include <cmath>

// One clone per instruction set, chosen when the program starts: the file itself is built for the oldest CPU.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define DIMBIT_SIMD __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define DIMBIT_SIMD
#endif

namespace dimbit {
namespace {

struct Channel {
  float step, inverse, range, offset, low, high;
};

Channel channel_of(float step, float range, float offset, bool is_signed) {
  const float high = range / step;
  return {step, 1.0f / step, range, offset, is_signed ? -high : 0.0f, high};
}

DIMBIT_SIMD void forward_row(const float* __restrict z, float* __restrict out, int64_t size, Channel c) {
  for (int64_t i = 0; i < size; ++i) {
    float level = std::nearbyint((z[i] - c.offset) * c.inverse);
    level = level < c.low ? c.low : (level > c.high ? c.high : level);
    out[i] = c.offset + c.step * level;
  }
}

// Adds the row's ∂/∂step to `sums[0]` and ∂/∂range to `sums[1]`.
DIMBIT_SIMD void backward_row(
    const float* __restrict z, const float* __restrict grad, float* __restrict grad_z, int64_t size, Channel c, bool is_signed, double* sums) {
  float step_sum = 0.0f, range_sum = 0.0f;
  const float floor = is_signed ? -c.range : 0.0f;
  const float below_sign = is_signed ? -1.0f : 0.0f;
  for (int64_t i = 0; i < size; ++i) {
    const float t = z[i] - c.offset;
    const float g = grad[i];
    const bool above = t > c.range, below = t < floor;
    const bool inside = !(above || below);
    const float scaled = t * c.inverse;
    grad_z[i] = inside ? g : 0.0f;
    float level = std::nearbyint(scaled);
    level = level < c.low ? c.low : (level > c.high ? c.high : level);
    step_sum += inside ? g * (level - scaled) : 0.0f;
    range_sum += above ? g : (below ? below_sign * g : 0.0f);
  }
  sums[0] += step_sum;
  sums[1] += range_sum;
}

void check(const at::Tensor& z, const at::Tensor& step, const at::Tensor& range, const at::Tensor& offset) {
  TORCH_CHECK(z.dim() >= 2, "quantize: expected [batch, channels, ...], got shape ", z.sizes());
  for (const at::Tensor* vector : {&step, &range, &offset}) {
    TORCH_CHECK(vector->device() == z.device() && vector->scalar_type() == z.scalar_type(), "quantize: ", z.toString(), " on ", z.device(), ", but a parameter is ", vector->toString(), " on ", vector->device());
    TORCH_CHECK(vector->dim() == 1 && vector->size(0) == z.size(1), "quantize: ", z.size(1), " channels, but a parameter of shape ", vector->sizes());
  }
}

// The vectorised kernels serve float32 on the CPU; everything else takes the ATen reference, which says the same.
bool has_kernel(const at::Tensor& z) {
  return z.device().is_cpu() && z.scalar_type() == at::kFloat;
}

at::Tensor along_channels(const at::Tensor& vector, const at::Tensor& z) {
  std::vector<int64_t> shape(z.dim(), 1);
  shape[1] = z.size(1);
  return vector.reshape(shape);
}

std::vector<int64_t> all_but_channels(const at::Tensor& z) {
  std::vector<int64_t> dims;
  for (int64_t d = 0; d < z.dim(); ++d)
    if (d != 1) dims.push_back(d);
  return dims;
}

std::vector<Channel> channels_of(const at::Tensor& step, const at::Tensor& range, const at::Tensor& offset, bool is_signed) {
  const auto s = step.contiguous(), r = range.contiguous(), o = offset.contiguous();
  std::vector<Channel> channels(s.numel());
  for (size_t c = 0; c < channels.size(); ++c)
    channels[c] = channel_of(s.data_ptr<float>()[c], r.data_ptr<float>()[c], o.data_ptr<float>()[c], is_signed);
  return channels;
}

at::Tensor forward_kernel(const at::Tensor& z, const at::Tensor& step, const at::Tensor& range, const at::Tensor& offset, bool is_signed) {
  at::Tensor out = at::empty_like(z);
  const auto channels = channels_of(step, range, offset, is_signed);
  const int64_t count = z.size(1), rows = z.size(0) * count, size = rows ? z.numel() / rows : 0;
  const float* source = z.data_ptr<float>();
  float* target = out.data_ptr<float>();
  const int64_t grain = std::max<int64_t>(1, 16384 / std::max<int64_t>(1, size));
  at::parallel_for(0, rows, grain, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) forward_row(source + row * size, target + row * size, size, channels[row % count]);
  });
  return out;
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> backward_kernel(
    const at::Tensor& z, const at::Tensor& grad, const at::Tensor& step, const at::Tensor& range, const at::Tensor& offset, bool is_signed) {
  at::Tensor grad_z = at::empty_like(z), grad_step = at::empty_like(step), grad_range = at::empty_like(range);
  const auto channels = channels_of(step, range, offset, is_signed);
  const int64_t batch = z.size(0), count = z.size(1), size = z.numel() ? z.numel() / (batch * count) : 0;
  const float *source = z.data_ptr<float>(), *incoming = grad.data_ptr<float>();
  float* target = grad_z.data_ptr<float>();
  const int64_t grain = std::max<int64_t>(1, 16384 / std::max<int64_t>(1, size * batch));
  // A channel's sums are taken by one thread in a fixed order: the same result whatever the number of threads.
  at::parallel_for(0, count, grain, [&](int64_t begin, int64_t end) {
    for (int64_t c = begin; c < end; ++c) {
      double sums[2] = {0.0, 0.0};
      for (int64_t n = 0; n < batch; ++n) {
        const int64_t start = (n * count + c) * size;
        backward_row(source + start, incoming + start, target + start, size, channels[c], is_signed, sums);
      }
      grad_step.data_ptr<float>()[c] = static_cast<float>(sums[0]);
      grad_range.data_ptr<float>()[c] = static_cast<float>(sums[1]);
    }
  });
  return {grad_z, grad_step, grad_range};
}

at::Tensor forward_reference(const at::Tensor& z, const at::Tensor& step, const at::Tensor& range, const at::Tensor& offset, bool is_signed) {
  const auto d = along_channels(step, z), o = along_channels(offset, z);
  const auto high = along_channels(range / step, z);
  const auto low = is_signed ? -high : at::zeros_like(high);
  return o + d * at::minimum(at::maximum(((z - o) * d.reciprocal()).round(), low), high);
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> backward_reference(
    const at::Tensor& z, const at::Tensor& grad, const at::Tensor& step, const at::Tensor& range, const at::Tensor& offset, bool is_signed) {
  const auto t = z - along_channels(offset, z), limit = along_channels(range, z);
  const auto scaled = t * along_channels(step.reciprocal(), z);
  const auto above = t > limit, below = is_signed ? t < -limit : t < 0;
  const auto inside = (above | below).logical_not();
  const auto zero = at::zeros({}, grad.options());
  const auto dims = all_but_channels(z);
  const auto grad_z = at::where(inside, grad, zero);
  const auto high = along_channels(range / step, z);
  const auto level = at::minimum(at::maximum(scaled.round(), is_signed ? -high : at::zeros_like(high)), high);
  const auto grad_step = at::where(inside, grad * (level - scaled), zero).sum(dims);
  auto range_terms = at::where(above, grad, zero);
  if (is_signed) range_terms = range_terms - at::where(below, grad, zero);
  return {grad_z, grad_step, range_terms.sum(dims)};
}

struct Quantize : torch::autograd::Function<Quantize> {
  static at::Tensor forward(
      torch::autograd::AutogradContext* context, const at::Tensor& input, const at::Tensor& step, const at::Tensor& range, const at::Tensor& offset, bool is_signed) {
    check(input, step, range, offset);
    at::AutoDispatchBelowADInplaceOrView guard;
    const at::Tensor z = input.contiguous();
    context->save_for_backward({z, step, range, offset});
    context->saved_data["signed"] = is_signed;
    return has_kernel(z) ? forward_kernel(z, step, range, offset, is_signed) : forward_reference(z, step, range, offset, is_signed);
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context, torch::autograd::variable_list grads) {
    const auto saved = context->get_saved_variables();
    const bool is_signed = context->saved_data["signed"].toBool();
    const at::Tensor grad = grads[0].contiguous();
    const auto [grad_z, grad_step, grad_range] = has_kernel(saved[0])
        ? backward_kernel(saved[0], grad, saved[1], saved[2], saved[3], is_signed)
        : backward_reference(saved[0], grad, saved[1], saved[2], saved[3], is_signed);
    return {grad_z, grad_step, grad_range, at::Tensor(), at::Tensor()};
  }
};

} // namespace
} // namespace dimbit

extern "C" int dimbit_quantize(
    const at::Tensor* z, const at::Tensor* step, const at::Tensor* range, const at::Tensor* offset, int is_signed, at::Tensor** out, char** error) {
  return dimbit::guarded(error, [&] { *out = new at::Tensor(dimbit::Quantize::apply(*z, *step, *range, *offset, is_signed != 0)); });
}
