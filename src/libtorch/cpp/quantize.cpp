// Uniform quantization with learnable step and range and straight-through gradients (Uhlich et al., eq. 3c).
#include "network.h"
#include "packed.h"
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
  return z.device().is_cpu() && z.scalar_type() == at::kFloat && z.numel() > 0;
}

// A strip of rows: a lane adds up at most 64 terms of it in float32.
int64_t values_of_strip(const Lanes& lanes) {
  return lanes.width * std::clamp<int64_t>(16384 / lanes.width, 16, 64);
}

// Calls `body(start, size)` for parts of `total` values, each a number of whole rows.
template <typename Body>
void for_strips(int64_t total, const Lanes& lanes, const Body& body) {
  const int64_t strip = values_of_strip(lanes), strips = (total + strip - 1) / strip;
  at::parallel_for(0, strips, 1, [&](int64_t begin, int64_t end) {
    for (int64_t s = begin; s < end; ++s) body(s * strip, std::min(strip, total - s * strip));
  });
}

// What the quantizer gave, packed: `z`'s codes.
class PackedQuantized : public Packed {
 public:
  PackedQuantized(const at::Tensor& z, const Lanes& lanes) : lanes_(lanes), shape_(z.sizes().vec()), codes_(z.numel() / lanes_.channels, lanes_) {}

  void write(const float* z, int64_t start, int64_t size) {
    std::vector<uint16_t> codes(size);
    codes_of_rows(z, codes.data(), size, lanes_);
    codes_.write(start / lanes_.channels, size / lanes_.channels, codes.data());
  }

 protected:
  at::Tensor rebuilt() const override {
    at::Tensor out = at::empty(shape_, at::kFloat);
    float* target = out.mutable_data_ptr<float>();
    for_strips(out.numel(), lanes_, [&](int64_t start, int64_t size) {
      std::vector<uint16_t> codes(size);
      codes_.read(start / lanes_.channels, size / lanes_.channels, codes.data());
      rows_of_codes(codes.data(), target + start, size, lanes_);
    });
    return out;
  }

 private:
  Lanes lanes_;
  std::vector<int64_t> shape_;
  PackedCodes codes_;
};

using PackedPointer = c10::intrusive_ptr<PackedQuantized>;

// Returns the quantized values. Fills `kept`, unless it is undefined, and `packed`, unless it is null.
at::Tensor forward_kernel(const at::Tensor& z, const Lanes& lanes, const KeptRoundings& kept, const PackedPointer& packed) {
  at::Tensor out = at::empty_like(z);
  const float* source = z.const_data_ptr<float>();
  float* target = out.mutable_data_ptr<float>();
  const bool keeps = kept.defined();
  for_strips(z.numel(), lanes, [&](int64_t start, int64_t size) {
    if (keeps) forward_rows_kept(source + start, target + start, size, lanes, kept.from(start));
    else forward_rows(source + start, target + start, size, lanes);
    if (packed) packed->write(source + start, start, size);
  });
  return out;
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> backward_kernel(
    const KeptRoundings& kept, const at::Tensor& grad, const at::Tensor& step, const at::Tensor& range, const at::Tensor& offset, Codes codes, Bounds bounds) {
  at::Tensor grad_z = at::empty_like(grad), grad_step = at::zeros_like(step), grad_range = at::zeros_like(range);
  if (!grad.numel()) return {grad_z, grad_step, grad_range};
  const Lanes lanes(step, range, offset, codes, bounds);
  const float* incoming = grad.const_data_ptr<float>();
  float* target = grad_z.mutable_data_ptr<float>();
  // A block's strips and then the blocks are added up in float64. Strips and blocks follow from the shape alone: the same
  // result whatever the number of threads.
  const int64_t strip = values_of_strip(lanes), strips = (grad.numel() + strip - 1) / strip;
  const int64_t per_block = (strips + 127) / 128, blocks = (strips + per_block - 1) / per_block;
  std::vector<double> totals(blocks * 2 * lanes.channels, 0.0);
  at::parallel_for(0, blocks, 1, [&](int64_t begin, int64_t end) {
    std::vector<float> step_sums(lanes.width, 0.0f), range_sums(lanes.width, 0.0f);
    for (int64_t block = begin; block < end; ++block) {
      double* total = totals.data() + block * 2 * lanes.channels;
      for (int64_t s = block * per_block; s < std::min((block + 1) * per_block, strips); ++s) {
        const int64_t start = s * strip, size = std::min(strip, grad.numel() - start);
        backward_rows(kept.from(start), incoming + start, target + start, size, lanes, sign_of(codes), step_sums.data(), range_sums.data());
        flush(step_sums, lanes, total);
        flush(range_sums, lanes, total + lanes.channels);
      }
    }
  });
  add_blocks(totals, blocks, grad_step, grad_range);
  return {grad_z, grad_step, grad_range};
}

// What the reference compares and rounds: `offset`, the value of level 0; `range` and `floor`, the bounds of `z − offset`; `high`
// and `low`, those of the level.
struct Constants {
  at::Tensor offset, range, floor, high, low;

  Constants(const at::Tensor& step, const at::Tensor& range, const at::Tensor& offset, Codes codes) {
    const auto half_step = step * half_of(codes), levels = range / step;
    this->offset = offset + half_step;
    this->range = range - half_step;
    floor = range * sign_of(codes) - half_step;
    high = levels - half_of(codes);
    low = levels * sign_of(codes) - half_of(codes);
  }
};

at::Tensor forward_reference(
    const at::Tensor& input, const at::Tensor& step, const at::Tensor& range, const at::Tensor& offset, Codes codes, Bounds bounds) {
  const Constants constants(step, range, offset, codes);
  const auto scaled = (input.clamp(bounds.low, bounds.high) - constants.offset) * step.reciprocal();
  return constants.offset + step * at::minimum(at::maximum(scaled.round(), constants.low), constants.high);
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> backward_reference(
    const at::Tensor& z, const at::Tensor& grad, const at::Tensor& step, const at::Tensor& range, const at::Tensor& offset, Codes codes, Bounds bounds) {
  const Constants constants(step, range, offset, codes);
  const auto t = z.clamp(bounds.low, bounds.high) - constants.offset;
  const auto clipped = (z <= bounds.low) | (z >= bounds.high);
  const auto scaled = t * step.reciprocal();
  const auto above = t > constants.range, below = t < constants.floor;
  const auto inside = (above | below).logical_not();
  const auto zero = at::zeros({}, grad.options());
  std::vector<int64_t> rows(z.dim() - 1);
  std::iota(rows.begin(), rows.end(), 0);
  const auto grad_z = at::where(inside & clipped.logical_not(), grad, zero);
  const auto level = at::minimum(at::maximum(scaled.round(), constants.low), constants.high);
  const auto grad_step = at::where(inside, grad * (level - scaled), zero).sum(rows);
  const auto range_terms = at::where(above, grad, at::where(below, grad * sign_of(codes), zero));
  return {grad_z, grad_step, range_terms.sum(rows)};
}

// Float32 on the CPU: what backward needs is kept in three bytes a value.
struct QuantizeRows : torch::autograd::Function<QuantizeRows> {
  static at::Tensor forward(
      torch::autograd::AutogradContext* context, const at::Tensor& z, const at::Tensor& step, const at::Tensor& range, const at::Tensor& offset,
      Codes codes, const Lanes& lanes, const PackedPointer& packed) {
    at::AutoDispatchBelowADInplaceOrView guard;
    const auto kept = KeptRoundings::empty(z.sizes(), z.options());
    context->save_for_backward({kept.high, kept.low, step, range, offset});
    context->saved_data["codes"] = static_cast<int64_t>(codes);
    context->saved_data["low"] = static_cast<double>(lanes.bounds.low);
    context->saved_data["high"] = static_cast<double>(lanes.bounds.high);
    save_packed(context, packed);
    return forward_kernel(z, lanes, kept, packed);
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context, torch::autograd::variable_list grads) {
    const auto saved = context->get_saved_variables();
    const Bounds bounds(context->saved_data["low"].toDouble(), context->saved_data["high"].toDouble());
    const auto [grad_z, grad_step, grad_range] =
        backward_kernel({saved[0], saved[1]}, grads[0].contiguous(), saved[2], saved[3], saved[4], static_cast<Codes>(context->saved_data["codes"].toInt()), bounds);
    if (Packed* packed = saved_packed(context)) packed->forget();
    const at::Tensor none;
    return {grad_z, grad_step, grad_range, none, none, none, none};
  }
};

struct Quantize : torch::autograd::Function<Quantize> {
  static at::Tensor forward(
      torch::autograd::AutogradContext* context, const at::Tensor& z, const at::Tensor& step, const at::Tensor& range, const at::Tensor& offset,
      Codes codes, Bounds bounds) {
    at::AutoDispatchBelowADInplaceOrView guard;
    context->save_for_backward({z, step, range, offset});
    context->saved_data["codes"] = static_cast<int64_t>(codes);
    context->saved_data["low"] = static_cast<double>(bounds.low);
    context->saved_data["high"] = static_cast<double>(bounds.high);
    return (has_cuda_kernel(z) ? forward_cuda : forward_reference)(z, step, range, offset, codes, bounds);
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context, torch::autograd::variable_list grads) {
    const auto saved = context->get_saved_variables();
    const auto codes = static_cast<Codes>(context->saved_data["codes"].toInt());
    const Bounds bounds(context->saved_data["low"].toDouble(), context->saved_data["high"].toDouble());
    const auto backward = has_cuda_kernel(saved[0]) ? backward_cuda : backward_reference;
    const auto [grad_z, grad_step, grad_range] = backward(saved[0], grads[0].contiguous(), saved[1], saved[2], saved[3], codes, bounds);
    return {grad_z, grad_step, grad_range, at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

} // namespace

at::Tensor quantize(
    const at::Tensor& input, const at::Tensor& step, const at::Tensor& range, const at::Tensor& offset, Codes codes, double low, double high) {
  check(input, step, range, offset);
  const at::Tensor z = input.contiguous();
  const Bounds bounds(low, high);
  if (!has_kernel(z)) return Quantize::apply(z, step, range, offset, codes, bounds);
  const Lanes lanes(step, range, offset, codes, bounds);
  if (!is_recorded({z, step, range})) return forward_kernel(z, lanes, {}, {});
  // Without an activation function in the pass, the result is no site's output.
  Packing* packing = bounds.any() ? Packing::active() : nullptr;
  const auto packed = packing ? c10::make_intrusive<PackedQuantized>(z, lanes) : PackedPointer();
  const at::Tensor out = QuantizeRows::apply(z, step, range, offset, codes, lanes, packed);
  if (packing) packing->add(out, packed);
  return out;
}

} // namespace dimbit

extern "C" int dimbit_quantize(
    const at::Tensor* z, const at::Tensor* step, const at::Tensor* range, const at::Tensor* offset, int codes, double low, double high,
    at::Tensor** out, char** error) {
  return dimbit::guarded(error, [&] { *out = new at::Tensor(dimbit::quantize(*z, *step, *range, *offset, static_cast<dimbit::Codes>(codes), low, high)); });
}
