// A codec in one pass: transform, quantize, transform back and clamp a few rows at a time, so that what lies between stays in
// the cache. For backward it keeps its own result and three bytes a coefficient, nothing else; where a transform learns, in
// place of those three bytes what came in, from which coefficients and codes are made anew. Either transform may be missing,
// where the layer before or behind the codec carries it out.
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <cmath>
#include <optional>
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
// `[channels]`, `step`, `range`, `offset` `[kept]`. Without `analysis` and `bias` the rows are coefficients, without
// `synthesis` and `mean` the result is.
struct Parts {
  at::Tensor analysis, bias, synthesis, mean, step, range, offset;
  Codes codes;
  Bounds bounds;
  // `analysis` is square and orthonormal, `synthesis` its transpose, and neither learns.
  bool orthonormal;

  // `bias` learns with `analysis`.
  bool analysis_learns() const { return analysis.defined() && analysis.requires_grad(); }
  bool synthesis_learns() const { return synthesis.defined() && synthesis.requires_grad(); }
  bool learns() const { return analysis_learns() || synthesis_learns(); }

  // The quantizer's, which sees coefficients: `bounds` come behind the way back.
  Lanes lanes() const { return Lanes(step, range, offset, codes, Bounds(-INFINITY, INFINITY)); }

  int64_t kept() const { return step.numel(); }
  // Columns of the rows that come in, and of those that go out.
  int64_t columns_in() const { return analysis.defined() ? analysis.size(0) : kept(); }
  int64_t columns_out() const { return synthesis.defined() ? synthesis.size(1) : kept(); }
  int64_t rows_of_tile() const { return dimbit::rows_of_tile(std::max(columns_in(), columns_out())); }
};

// A matrix for small products, unless it is missing.
std::optional<Panels> panels(const at::Tensor& matrix) {
  return matrix.defined() ? std::optional<Panels>(matrix) : std::nullopt;
}

// The way back of `n` rows of quantized coefficients, with the activation function behind it.
void restore(const float* quantized, const Panels& synthesis, const Parts& parts, float* out, int64_t n) {
  synthesis.affine(quantized, parts.mean.const_data_ptr<float>(), out, n);
  clamp_values(out, n * parts.mean.numel(), parts.bounds);
}

// A codec's output, packed: the codes of its coefficients.
class PackedReconstruction : public Packed {
 public:
  PackedReconstruction(const at::Tensor& x, const Parts& parts)
      : parts_(parts), lanes_(parts.lanes()), rows_(x.size(0)), channels_(parts.columns_out()), codes_(rows_, lanes_) {}

  // `z`: `n` rows of coefficients; `codes`: room for as many codes.
  void write(const float* z, int64_t first, int64_t n, uint16_t* codes) {
    codes_of_rows(z, codes, n * lanes_.channels, lanes_);
    codes_.write(first, n, codes);
  }

 protected:
  // In the tiles of the forward pass, and so with the same sums.
  at::Tensor rebuilt() const override {
    at::Tensor out = at::empty({rows_, channels_}, at::kFloat);
    const int64_t kept = lanes_.channels, tile = parts_.rows_of_tile(), tiles = (rows_ + tile - 1) / tile;
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

// What backward needs of the coefficients: `roundings`, `[rows, kept]`, or where a transform learns what came in, `x`, from which
// all else is made anew.
struct Kept {
  KeptRoundings roundings;
  at::Tensor x;

  static Kept of(const at::Tensor& x, const Parts& parts) {
    if (parts.learns()) return {{}, x};
    return {KeptRoundings::empty({x.size(0), parts.kept()}, x.options()), {}};
  }
};

// Fills `keep`, unless it is null, and `packed`, unless it is null.
at::Tensor forward_tiles(const at::Tensor& x, const Parts& parts, const Kept* keep, const PackedPointer& packed) {
  const int64_t rows = x.size(0), in = parts.columns_in(), out_columns = parts.columns_out(), kept = parts.kept();
  at::Tensor out = at::empty({rows, out_columns}, x.options());
  const Lanes lanes = parts.lanes();
  const auto analysis = panels(parts.analysis), synthesis = panels(parts.synthesis);
  const float *source = x.const_data_ptr<float>(), *bias = analysis ? parts.bias.const_data_ptr<float>() : nullptr;
  float* target = out.mutable_data_ptr<float>();
  const int64_t tile = parts.rows_of_tile(), tiles = (rows + tile - 1) / tile;
  at::parallel_for(0, tiles, 1, [&](int64_t begin, int64_t end) {
    std::vector<float> analysed(analysis ? tile * kept : 0), levels(synthesis ? tile * kept : 0);
    std::vector<uint16_t> codes(packed ? tile * kept : 0);
    for (int64_t i = begin; i < end; ++i) {
      const int64_t first = i * tile, n = std::min(tile, rows - first);
      const float* coefficients = analysis ? analysed.data() : source + first * in;
      float* quantized = synthesis ? levels.data() : target + first * out_columns;
      if (analysis) analysis->affine(source + first * in, bias, analysed.data(), n);
      if (keep && keep->roundings.defined()) forward_rows_kept(coefficients, quantized, n * kept, lanes, keep->roundings.from(first * kept));
      else forward_rows(coefficients, quantized, n * kept, lanes);
      if (packed) packed->write(coefficients, first, n, codes.data());
      if (synthesis) restore(quantized, *synthesis, parts, target + first * out_columns, n);
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

// Sums over rows that are in work side by side: few where they are those of large matrices, which have to be added up.
int64_t most_blocks(const Parts& parts) {
  const int64_t values = parts.kept() * std::max(parts.columns_in(), parts.columns_out());
  return parts.learns() ? std::clamp<int64_t>((int64_t{1} << 20) / values, 4, 128) : 128;
}

// Gradients of what a pass is given; of transforms that don't learn there are none.
struct Gradients {
  at::Tensor x, step, range, analysis, bias, synthesis;
};

// Coefficients of a tile, made anew from what came in.
class Again {
 public:
  Again(const Parts& parts, const Lanes& lanes, const std::optional<Panels>& analysis)
      : bias_(analysis ? parts.bias.const_data_ptr<float>() : nullptr), kept_(parts.kept()), lanes_(lanes), analysis_(analysis),
        z_(analysis ? room(parts) : 0), levels_(room(parts)), upper_(room(parts)), lower_(room(parts)) {}

  void make(const float* rows, int64_t n) {
    rows_ = rows;
    if (analysis_) analysis_->affine(rows_, bias_, z_.data(), n);
    forward_rows_kept(analysis_ ? z_.data() : rows_, levels_.data(), n * kept_, lanes_, roundings());
  }

  Roundings roundings() { return {upper_.data(), lower_.data()}; }
  const float* rows() const { return rows_; }
  const float* quantized() const { return levels_.data(); }

 private:
  static int64_t room(const Parts& parts) { return parts.rows_of_tile() * parts.kept(); }

  const float *bias_, *rows_ = nullptr;
  int64_t kept_;
  const Lanes& lanes_;
  const std::optional<Panels>& analysis_;
  std::vector<float> z_, levels_;
  std::vector<uint16_t> upper_;
  std::vector<uint8_t> lower_;
};

// `out`: what forward returned, undefined if nothing was clamped.
Gradients backward_tiles(const at::Tensor& grad, const at::Tensor& out, const Kept& keep, const Parts& parts) {
  const int64_t rows = grad.size(0), in = parts.columns_in(), out_columns = parts.columns_out(), kept = parts.kept();
  at::Tensor grad_x = at::empty({rows, in}, grad.options()), grad_step = at::empty_like(parts.step), grad_range = at::empty_like(parts.range);
  const Lanes lanes = parts.lanes();
  const bool analyses = parts.analysis.defined(), synthesizes = parts.synthesis.defined();
  const auto to_z = panels(synthesizes ? parts.synthesis.t() : at::Tensor()), to_x = panels(analyses ? parts.analysis.t() : at::Tensor());
  const float* incoming = grad.const_data_ptr<float>();
  const float* result = out.defined() ? out.const_data_ptr<float>() : nullptr;
  const float* source = parts.learns() ? keep.x.const_data_ptr<float>() : nullptr;
  const at::Tensor columns = parts.orthonormal ? parts.synthesis.contiguous() : at::Tensor();
  const float* basis = parts.orthonormal ? columns.const_data_ptr<float>() : nullptr;
  float* target = grad_x.mutable_data_ptr<float>();
  const float below_sign = sign_of(parts.codes);
  // Blocks of tiles follow from the shape alone: the same sums whatever the number of threads.
  const int64_t tile = parts.rows_of_tile(), tiles = (rows + tile - 1) / tile;
  const int64_t most = most_blocks(parts), per_block = (tiles + most - 1) / most, blocks = (tiles + per_block - 1) / per_block;
  std::vector<double> totals(blocks * 2 * kept, 0.0);
  // Where transforms learn, each block has sums of its own for them as well.
  const auto sums_of = [&](bool wanted, at::IntArrayRef shape) { return wanted ? at::zeros(shape, grad.options()) : at::Tensor(); };
  const at::Tensor of_analysis = sums_of(parts.analysis_learns(), {blocks, in, kept}), of_bias = sums_of(parts.analysis_learns(), {blocks, kept}),
                   of_synthesis = sums_of(parts.synthesis_learns(), {blocks, kept, out_columns});
  const auto block_of = [](const at::Tensor& sums, int64_t block) { return sums.mutable_data_ptr<float>() + block * sums.stride(0); };
  const auto analysis = panels(parts.learns() ? parts.analysis : at::Tensor());
  at::parallel_for(0, blocks, 1, [&](int64_t begin, int64_t end) {
    std::vector<float> products(synthesizes ? tile * kept : 0), of_z(tile * kept), passed(result && !analyses ? tile * out_columns : 0);
    std::optional<Again> again;
    if (parts.learns()) again.emplace(parts, lanes, analysis);
    std::vector<float> room(parts.learns() ? tile * std::max(in, kept) : 0);
    std::vector<float> step_sums(lanes.width, 0.0f), range_sums(lanes.width, 0.0f);
    for (int64_t block = begin; block < end; ++block) {
      double* total = totals.data() + block * 2 * kept;
      for (int64_t i = block * per_block; i < std::min((block + 1) * per_block, tiles); ++i) {
        const int64_t first = i * tile, n = std::min(tile, rows - first);
        const float* g = incoming + first * out_columns;
        float* of_x = target + first * in;
        if (result) {
          float* unclamped = analyses ? of_x : passed.data();
          pass_unclamped(result + first * out_columns, g, unclamped, n * out_columns, parts.bounds);
          g = unclamped;
        }
        if (again) again->make(source + first * in, n);
        if (parts.synthesis_learns()) add_gradient(again->quantized(), g, block_of(of_synthesis, block), n, kept, out_columns, room.data());
        const float* of_quantized = synthesizes ? products.data() : g;
        if (synthesizes) to_z->multiply(g, products.data(), n, false);
        float* of_coefficients = analyses ? of_z.data() : of_x;
        const Roundings roundings = again ? again->roundings() : keep.roundings.from(first * kept);
        backward_rows(roundings, of_quantized, of_coefficients, n * kept, lanes, below_sign, step_sums.data(), range_sums.data());
        flush(step_sums, lanes, total);
        flush(range_sums, lanes, total + kept);
        if (!analyses) continue;
        if (parts.analysis_learns()) {
          add_gradient(again->rows(), of_coefficients, block_of(of_analysis, block), n, in, kept, room.data());
          add_rows(of_coefficients, block_of(of_bias, block), n, kept);
        }
        if (parts.orthonormal && is_few(count_lost(of_quantized, of_z.data(), n * kept), n * kept)) {
          // The gradient stays but for what the quantizer loses.
          if (!result) std::copy(g, g + n * in, of_x);
          take_lost_away(of_quantized, of_z.data(), basis, of_x, n, in);
        } else {
          to_x->multiply(of_z.data(), of_x, n, false);
        }
      }
    }
    end_products();
  });
  add_blocks(totals, blocks, grad_step, grad_range);
  const auto added = [](const at::Tensor& sums) { return sums.defined() ? sums.sum(0) : at::Tensor(); };
  return {grad_x, grad_step, grad_range, added(of_analysis), added(of_bias), added(of_synthesis)};
}

struct InOnePass : torch::autograd::Function<InOnePass> {
  static at::Tensor forward(
      torch::autograd::AutogradContext* context, const at::Tensor& x, const at::Tensor& step, const at::Tensor& range, const at::Tensor& offset,
      const std::optional<at::Tensor>& analysis, const std::optional<at::Tensor>& bias, const std::optional<at::Tensor>& synthesis,
      const std::optional<at::Tensor>& mean, Codes codes, double low, double high, bool orthonormal, const PackedPointer& packed) {
    at::AutoDispatchBelowADInplaceOrView guard;
    const at::Tensor none;
    const Parts parts{analysis.value_or(none), bias.value_or(none), synthesis.value_or(none), mean.value_or(none), step, range, offset, codes, {low, high}, orthonormal};
    const Kept keep = Kept::of(x, parts);
    const at::Tensor out = forward_tiles(x, parts, &keep, packed);
    // Unclamped, the result is not needed, and whoever comes next may write over it.
    const bool needs_out = parts.bounds.any() && !packed;
    context->save_for_backward(
        {keep.x, keep.roundings.high, keep.roundings.low, needs_out ? out : none, step, range, offset, parts.analysis, parts.bias, parts.synthesis});
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
    auto& data = context->saved_data;
    const Parts parts{saved[7], saved[8], saved[9], none, saved[4], saved[5], saved[6], static_cast<Codes>(data["codes"].toInt()),
                      {data["low"].toDouble(), data["high"].toDouble()}, data["orthonormal"].toBool()};
    Packed* packed = saved_packed(context);
    const at::Tensor out = packed ? packed->values() : saved[3], grad = grads[0].contiguous();
    const Gradients found = backward_tiles(grad, out, {{saved[1], saved[2]}, saved[0]}, parts);
    if (packed) packed->forget();
    return {found.x, found.step, found.range, none, found.analysis, found.bias, found.synthesis, none, none, none, none, none, none};
  }
};

void check(const at::Tensor& x, const Parts& parts) {
  TORCH_CHECK(x.dim() == 2, "codec: expected [rows, channels], got shape ", x.sizes());
  const int64_t kept = parts.kept(), in = x.size(1);
  TORCH_CHECK(
      parts.analysis.defined() == parts.bias.defined() && parts.synthesis.defined() == parts.mean.defined() &&
          (parts.analysis.defined() || parts.synthesis.defined()),
      "codec: a matrix without its constants, or none at all");
  if (parts.analysis.defined()) {
    TORCH_CHECK(
        parts.analysis.sizes() == at::IntArrayRef({in, kept}) && parts.bias.sizes() == parts.step.sizes(), "codec: ", in, " channels and ", kept,
        " steps, but a transform of shapes ", parts.analysis.sizes(), " and ", parts.bias.sizes());
  } else {
    TORCH_CHECK(in == kept, "codec: ", in, " coefficients, but ", kept, " steps");
  }
  TORCH_CHECK(parts.synthesis.defined() || !parts.bounds.any(), "codec: coefficients have no activation function");
  if (parts.synthesis.defined()) {
    TORCH_CHECK(
        parts.synthesis.dim() == 2 && parts.synthesis.size(0) == kept && parts.mean.sizes() == at::IntArrayRef({parts.synthesis.size(1)}) &&
            (!parts.analysis.defined() || parts.synthesis.size(1) == in),
        "codec: ", kept, " steps, but a way back of shapes ", parts.synthesis.sizes(), " and ", parts.mean.sizes());
  }
  for (const at::Tensor* vector : {&parts.range, &parts.offset})
    TORCH_CHECK(vector->sizes() == parts.step.sizes(), "codec: ", kept, " steps, but a parameter of shape ", vector->sizes());
  for (const at::Tensor* part : {&parts.step, &parts.range, &parts.offset, &parts.analysis, &parts.bias, &parts.synthesis, &parts.mean})
    TORCH_CHECK(
        !part->defined() || (part->device() == x.device() && part->scalar_type() == x.scalar_type()), "codec: ", x.toString(), " on ", x.device(),
        ", but a parameter is ", part->toString(), " on ", part->device());
}

// The same by ATen alone: the reference, and what every other type, device and CPU takes.
at::Tensor by_parts(const at::Tensor& x, const Parts& parts) {
  const at::Tensor coefficients = parts.analysis.defined() ? at::addmm(parts.bias, x, parts.analysis) : x;
  const at::Tensor quantized = quantize(coefficients, parts.step, parts.range, parts.offset, parts.codes, -INFINITY, INFINITY);
  const at::Tensor restored = parts.synthesis.defined() ? at::addmm(parts.mean, quantized, parts.synthesis) : quantized;
  return parts.bounds.any() ? at::hardtanh(restored, parts.bounds.low, parts.bounds.high) : restored;
}

at::Tensor in_one_pass(const at::Tensor& input, Parts parts) {
  // Matrices may be strided: a copy would live until the backward pass.
  for (at::Tensor* part : {&parts.bias, &parts.mean, &parts.step, &parts.range, &parts.offset})
    if (part->defined()) *part = part->contiguous();
  const at::Tensor x = input.contiguous();
  if (!is_recorded({x, parts.step, parts.range, parts.analysis, parts.synthesis})) return forward_tiles(x, parts, nullptr, {});
  // Without an activation function in the pass, the result is no site's output.
  Packing* packing = parts.bounds.any() ? Packing::active() : nullptr;
  const auto packed = packing ? c10::make_intrusive<PackedReconstruction>(x, parts) : PackedPointer();
  // Autograd takes a tensor for one that is there.
  const auto optional = [](const at::Tensor& tensor) { return tensor.defined() ? std::optional<at::Tensor>(tensor) : std::nullopt; };
  const at::Tensor out = InOnePass::apply(
      x, parts.step, parts.range, parts.offset, optional(parts.analysis), optional(parts.bias), optional(parts.synthesis), optional(parts.mean),
      parts.codes, parts.bounds.low, parts.bounds.high, parts.orthonormal, packed);
  if (packing) packing->add(out, packed);
  return out;
}

bool fits(const at::Tensor& x, const Parts& parts) {
  return x.device().is_cpu() && x.scalar_type() == at::kFloat && x.numel() > 0 && parts.kept() > 0 && has_small_products();
}

at::Tensor or_none(const at::Tensor* tensor) {
  return tensor ? *tensor : at::Tensor();
}

} // namespace
} // namespace dimbit

// `analysis` and `bias`, or `synthesis` and `mean`, may be null. `orthonormal`: the analysis matrix is square and orthonormal,
// the synthesis its transpose. `fused`: in one pass where that can be; 0 asks for the reference.
extern "C" int dimbit_codec(
    const at::Tensor* x, const at::Tensor* step, const at::Tensor* range, const at::Tensor* offset, const at::Tensor* analysis, const at::Tensor* bias,
    const at::Tensor* synthesis, const at::Tensor* mean, int codes, double low, double high, int orthonormal, int fused,
    at::Tensor** out, char** error) {
  using dimbit::or_none;
  return dimbit::guarded(error, [&] {
    const dimbit::Parts parts{or_none(analysis), or_none(bias), or_none(synthesis), or_none(mean), *step, *range, *offset,
                              static_cast<dimbit::Codes>(codes), {low, high}, orthonormal != 0};
    dimbit::check(*x, parts);
    *out = new at::Tensor(fused && dimbit::fits(*x, parts) ? dimbit::in_one_pass(*x, parts) : dimbit::by_parts(*x, parts));
  });
}
