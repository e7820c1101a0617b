// A codec with a fixed transform in one pass: transform, quantize, transform back and clamp a few rows at a time, so that
// what lies between stays in the cache. For backward it keeps three bytes a coefficient and its own result, nothing else.
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "network.h"
#include "packed.h"
#include "products.h"
#include "rows.h"

namespace dimbit {
namespace {

// Rows that are in work at once: some 64 kB of the wider side.
int64_t rows_of_tile(int64_t width) {
  return std::clamp<int64_t>(16384 / std::max<int64_t>(width, 1), 32, 256);
}

// What a pass needs beside its rows: `analysis` `[channels, kept]`, `bias` `[kept]`, `synthesis` `[kept, channels]`, `mean`
// `[channels]`, `step`, `range`, `offset` `[kept]`.
struct Parts {
  at::Tensor analysis, bias, synthesis, mean, step, range, offset;
  Codes codes;
  Bounds bounds;
  // `analysis` is square and orthonormal, `synthesis` its transpose.
  bool orthonormal;

  // The quantizer's, which sees coefficients: `bounds` come behind the way back.
  Lanes lanes() const { return Lanes(step, range, offset, codes, Bounds(-INFINITY, INFINITY)); }
};

// The way back of `n` rows of quantized coefficients, with the activation function behind it.
void restore(const float* quantized, const Panels& synthesis, const Parts& parts, float* out, int64_t n) {
  synthesis.affine(quantized, parts.mean.const_data_ptr<float>(), out, n);
  clamp_values(out, n * parts.mean.numel(), parts.bounds);
}

// A codec's output, packed: the codes of its coefficients.
class PackedReconstruction : public Packed {
 public:
  PackedReconstruction(const at::Tensor& x, const Parts& parts)
      : parts_(parts), lanes_(parts.lanes()), rows_(x.size(0)), channels_(x.size(1)), codes_(rows_, lanes_) {}

  // `z`: `n` rows of coefficients; `codes`: room for as many codes.
  void write(const float* z, int64_t first, int64_t n, uint16_t* codes) {
    codes_of_rows(z, codes, n * lanes_.channels, lanes_);
    codes_.write(first, n, codes);
  }

 protected:
  // In the tiles of the forward pass, and so with the same sums.
  at::Tensor rebuilt() const override {
    at::Tensor out = at::empty({rows_, channels_}, at::kFloat);
    const int64_t kept = lanes_.channels, tile = rows_of_tile(channels_), tiles = (rows_ + tile - 1) / tile;
    float* target = out.mutable_data_ptr<float>();
    const Panels synthesis(parts_.synthesis);
    at::parallel_for(0, tiles, 1, [&](int64_t begin, int64_t end) {
      std::vector<uint16_t> codes(tile * kept);
      std::vector<float> quantized(tile * kept);
      for (int64_t i = begin; i < end; ++i) {
        const int64_t first = i * tile, n = std::min(tile, rows_ - first);
        codes_.read(first, n, codes.data());
        rows_of_codes(codes.data(), quantized.data(), n * kept, lanes_);
        restore(quantized.data(), synthesis, parts_, target + first * channels_, n);
      }
      end_products();
    });
    return out;
  }

 private:
  Parts parts_;
  Lanes lanes_;
  int64_t rows_, channels_;
  PackedCodes codes_;
};

using PackedPointer = c10::intrusive_ptr<PackedReconstruction>;

// Fills `keep`, `[rows, kept]`, unless it is undefined, and `packed`, unless it is null.
at::Tensor forward_tiles(const at::Tensor& x, const Parts& parts, const KeptRoundings& keep, const PackedPointer& packed) {
  const int64_t rows = x.size(0), channels = x.size(1), kept = parts.analysis.size(1);
  at::Tensor out = at::empty_like(x);
  const Lanes lanes = parts.lanes();
  const Panels analysis(parts.analysis), synthesis(parts.synthesis);
  const float *source = x.const_data_ptr<float>(), *bias = parts.bias.const_data_ptr<float>();
  float* target = out.mutable_data_ptr<float>();
  const bool keeps = keep.defined();
  const int64_t tile = rows_of_tile(channels), tiles = (rows + tile - 1) / tile;
  at::parallel_for(0, tiles, 1, [&](int64_t begin, int64_t end) {
    std::vector<float> coefficients(tile * kept), quantized(tile * kept);
    std::vector<uint16_t> codes(packed ? tile * kept : 0);
    for (int64_t i = begin; i < end; ++i) {
      const int64_t first = i * tile, n = std::min(tile, rows - first);
      analysis.affine(source + first * channels, bias, coefficients.data(), n);
      if (keeps) forward_rows_kept(coefficients.data(), quantized.data(), n * kept, lanes, keep.from(first * kept));
      else forward_rows(coefficients.data(), quantized.data(), n * kept, lanes);
      if (packed) packed->write(coefficients.data(), first, n, codes.data());
      restore(quantized.data(), synthesis, parts, target + first * channels, n);
    }
    end_products();
  });
  return out;
}

// Whether taking away what few coefficients lost costs less than a product, a column of the basis for each: the product of
// a whole tile makes better use of the registers.
bool is_few(int64_t lost, int64_t values) {
  return lost * 8 <= values;
}

// Gradients of `x`, `step` and `range`. `out`: what forward returned, undefined if nothing was clamped.
std::tuple<at::Tensor, at::Tensor, at::Tensor> backward_tiles(const at::Tensor& grad, const at::Tensor& out, const KeptRoundings& keep, const Parts& parts) {
  const int64_t rows = grad.size(0), channels = grad.size(1), kept = parts.analysis.size(1);
  at::Tensor grad_x = at::empty_like(grad), grad_step = at::empty_like(parts.step), grad_range = at::empty_like(parts.range);
  const Lanes lanes = parts.lanes();
  const Panels to_z(parts.synthesis.t()), to_x(parts.analysis.t());
  const float* incoming = grad.const_data_ptr<float>();
  const float* result = out.defined() ? out.const_data_ptr<float>() : nullptr;
  const float* basis = parts.synthesis.const_data_ptr<float>();
  float* target = grad_x.mutable_data_ptr<float>();
  const float below_sign = sign_of(parts.codes);
  // Blocks of tiles follow from the shape alone: the same sums whatever the number of threads.
  const int64_t tile = rows_of_tile(channels), tiles = (rows + tile - 1) / tile;
  const int64_t per_block = (tiles + 127) / 128, blocks = (tiles + per_block - 1) / per_block;
  std::vector<double> totals(blocks * 2 * kept, 0.0);
  at::parallel_for(0, blocks, 1, [&](int64_t begin, int64_t end) {
    std::vector<float> of_quantized(tile * kept), of_z(tile * kept), step_sums(lanes.width, 0.0f), range_sums(lanes.width, 0.0f);
    for (int64_t block = begin; block < end; ++block) {
      double* total = totals.data() + block * 2 * kept;
      for (int64_t i = block * per_block; i < std::min((block + 1) * per_block, tiles); ++i) {
        const int64_t first = i * tile, n = std::min(tile, rows - first);
        const float* g = incoming + first * channels;
        float* of_x = target + first * channels;
        // Stays there but for what the quantizer loses, or a product is written over it.
        if (result) pass_unclamped(result + first * channels, g, of_x, n * channels, parts.bounds);
        else std::copy(g, g + n * channels, of_x);
        to_z.multiply(of_x, of_quantized.data(), n, false);
        backward_rows(keep.from(first * kept), of_quantized.data(), of_z.data(), n * kept, lanes, below_sign, step_sums.data(), range_sums.data());
        flush(step_sums, lanes, total);
        flush(range_sums, lanes, total + kept);
        if (parts.orthonormal && is_few(count_lost(of_quantized.data(), of_z.data(), n * kept), n * kept))
          take_lost_away(of_quantized.data(), of_z.data(), basis, of_x, n, channels);
        else
          to_x.multiply(of_z.data(), of_x, n, false);
      }
    }
    end_products();
  });
  add_blocks(totals, blocks, grad_step, grad_range);
  return {grad_x, grad_step, grad_range};
}

struct InOnePass : torch::autograd::Function<InOnePass> {
  static at::Tensor forward(
      torch::autograd::AutogradContext* context, const at::Tensor& x, const at::Tensor& step, const at::Tensor& range, const at::Tensor& offset,
      const at::Tensor& analysis, const at::Tensor& bias, const at::Tensor& synthesis, const at::Tensor& mean, Codes codes, double low, double high,
      bool orthonormal, const PackedPointer& packed) {
    at::AutoDispatchBelowADInplaceOrView guard;
    const Parts parts{analysis, bias, synthesis, mean, step, range, offset, codes, {low, high}, orthonormal};
    const auto keep = KeptRoundings::empty({x.size(0), analysis.size(1)}, x.options());
    const at::Tensor out = forward_tiles(x, parts, keep, packed);
    // Unclamped, the result is not needed, and whoever comes next may write over it.
    const bool needs_out = parts.bounds.any() && !packed;
    context->save_for_backward({keep.high, keep.low, needs_out ? out : at::Tensor(), step, range, offset, analysis, synthesis});
    context->saved_data["codes"] = static_cast<int64_t>(codes);
    context->saved_data["low"] = low;
    context->saved_data["high"] = high;
    context->saved_data["orthonormal"] = orthonormal;
    save_packed(context, packed);
    return out;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context, torch::autograd::variable_list grads) {
    const auto saved = context->get_saved_variables();
    const at::Tensor none;
    const Parts parts{saved[6], none, saved[7], none, saved[3], saved[4], saved[5], static_cast<Codes>(context->saved_data["codes"].toInt()),
                      {context->saved_data["low"].toDouble(), context->saved_data["high"].toDouble()}, context->saved_data["orthonormal"].toBool()};
    Packed* packed = saved_packed(context);
    const at::Tensor out = packed ? packed->values() : saved[2];
    const auto [grad_x, grad_step, grad_range] = backward_tiles(grads[0].contiguous(), out, {saved[0], saved[1]}, parts);
    if (packed) packed->forget();
    return {grad_x, grad_step, grad_range, none, none, none, none, none, none, none, none, none, none};
  }
};

void check(
    const at::Tensor& x, const at::Tensor& step, const at::Tensor& range, const at::Tensor& offset, const at::Tensor& analysis, const at::Tensor& bias,
    const at::Tensor& synthesis, const at::Tensor& mean) {
  TORCH_CHECK(x.dim() == 2, "codec: expected [rows, channels], got shape ", x.sizes());
  const int64_t channels = x.size(1), kept = step.numel();
  TORCH_CHECK(
      analysis.sizes() == at::IntArrayRef({channels, kept}) && synthesis.sizes() == at::IntArrayRef({kept, channels}), "codec: ", channels,
      " channels and ", kept, " steps, but matrices of shapes ", analysis.sizes(), " and ", synthesis.sizes());
  for (const at::Tensor* vector : {&range, &offset, &bias})
    TORCH_CHECK(vector->sizes() == step.sizes(), "codec: ", kept, " steps, but a parameter of shape ", vector->sizes());
  TORCH_CHECK(mean.sizes() == at::IntArrayRef({channels}), "codec: ", channels, " channels, but a mean of shape ", mean.sizes());
  for (const at::Tensor* part : {&step, &range, &offset, &analysis, &bias, &synthesis, &mean})
    TORCH_CHECK(
        part->device() == x.device() && part->scalar_type() == x.scalar_type(), "codec: ", x.toString(), " on ", x.device(), ", but a parameter is ",
        part->toString(), " on ", part->device());
}

// The same by ATen alone: the reference, and what every other type, device and CPU takes.
at::Tensor by_parts(
    const at::Tensor& x, const at::Tensor& step, const at::Tensor& range, const at::Tensor& offset, const at::Tensor& analysis, const at::Tensor& bias,
    const at::Tensor& synthesis, const at::Tensor& mean, Codes codes, double low, double high) {
  const at::Tensor quantized = quantize(at::addmm(bias, x, analysis), step, range, offset, codes, -INFINITY, INFINITY);
  const at::Tensor restored = at::addmm(mean, quantized, synthesis);
  return Bounds(low, high).any() ? at::hardtanh(restored, low, high) : restored;
}

at::Tensor in_one_pass(const at::Tensor& input, Parts parts) {
  for (at::Tensor* part : {&parts.analysis, &parts.bias, &parts.synthesis, &parts.mean, &parts.step, &parts.range, &parts.offset})
    *part = part->contiguous();
  const at::Tensor x = input.contiguous();
  if (!is_recorded({x, parts.step, parts.range})) return forward_tiles(x, parts, {}, {});
  // Without an activation function in the pass, the result is no site's output.
  Packing* packing = parts.bounds.any() ? Packing::active() : nullptr;
  const auto packed = packing ? c10::make_intrusive<PackedReconstruction>(x, parts) : PackedPointer();
  const at::Tensor out = InOnePass::apply(
      x, parts.step, parts.range, parts.offset, parts.analysis, parts.bias, parts.synthesis, parts.mean, parts.codes, parts.bounds.low,
      parts.bounds.high, parts.orthonormal, packed);
  if (packing) packing->add(out, packed);
  return out;
}

bool fits(const at::Tensor& x, const at::Tensor& analysis, const at::Tensor& synthesis) {
  const bool learned = at::GradMode::is_enabled() && (analysis.requires_grad() || synthesis.requires_grad());
  return x.device().is_cpu() && x.scalar_type() == at::kFloat && x.numel() > 0 && analysis.numel() > 0 && !learned && has_small_products();
}

} // namespace
} // namespace dimbit

// `orthonormal`: the analysis matrix is square and orthonormal, the synthesis its transpose. `fused`: in one pass where that
// can be; 0 asks for the reference.
extern "C" int dimbit_codec(
    const at::Tensor* x, const at::Tensor* step, const at::Tensor* range, const at::Tensor* offset, const at::Tensor* analysis, const at::Tensor* bias,
    const at::Tensor* synthesis, const at::Tensor* mean, int codes, double low, double high, int orthonormal, int fused,
    at::Tensor** out, char** error) {
  return dimbit::guarded(error, [&] {
    dimbit::check(*x, *step, *range, *offset, *analysis, *bias, *synthesis, *mean);
    if (!fused || !dimbit::fits(*x, *analysis, *synthesis)) {
      *out = new at::Tensor(dimbit::by_parts(*x, *step, *range, *offset, *analysis, *bias, *synthesis, *mean, static_cast<dimbit::Codes>(codes), low, high));
      return;
    }
    *out = new at::Tensor(dimbit::in_one_pass(*x, {*analysis, *bias, *synthesis, *mean, *step, *range, *offset, static_cast<dimbit::Codes>(codes), {low, high}, orthonormal != 0}));
  });
}
