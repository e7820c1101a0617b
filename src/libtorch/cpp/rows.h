// Rows of channels through a quantizer, on the CPU in float32: what the quantizer alone and the codec in one pass share.
#pragma once

#include <ATen/ATen.h>

#include <cmath>
#include <cstdint>
#include <vector>

namespace dimbit {

// What an activation function does if it only clamps: ReLU from 0 to infinity, ReLU6 from 0 to 6. Infinite on both sides
// for none.
struct Bounds {
  float low, high;

  Bounds(double low, double high) : low(static_cast<float>(low)), high(static_cast<float>(high)) {}

  bool any() const { return low > -INFINITY || high < INFINITY; }
};

inline float clamped(float value, Bounds bounds) {
  return value < bounds.low ? bounds.low : (value > bounds.high ? bounds.high : value);
}

inline float level_of(float scaled, float low, float high) {
  const float level = std::nearbyint(scaled);
  return level < low ? low : (level > high ? high : level);
}

// Which whole numbers codes are, and where their zero lies. `mid_rise`: the zero lies between two levels, half a step from
// either, so that all codes of a width are used; its offset is that of the value between them.
enum class Codes : int { unsigned_codes, mid_tread, mid_rise };

// Half a step where zero lies between two levels, in steps.
inline float half_of(Codes codes) { return codes == Codes::mid_rise ? 0.5f : 0.0f; }

// The least level without that half, as a multiple of the largest, and what lies below the range adds to its gradient.
inline float sign_of(Codes codes) { return codes == Codes::unsigned_codes ? 0.0f : -1.0f; }

// The constants of each channel, one array a constant, repeated until they serve whole rows of together at least
// `kWidth` values: few channels would leave most of a vector register empty, and an odd number its last lanes.
// The quantizer sees its values clamped to `bounds`.
class Lanes {
 public:
  Lanes(const at::Tensor& step, const at::Tensor& range, const at::Tensor& offset, Codes codes, Bounds bounds)
      : channels(step.numel()), width(channels * ((kWidth + channels - 1) / channels)), bounds(bounds), stride_((width + 15) / 16 * 16) {
    data_ = at::empty({kArrays, stride_}, step.options());
    const auto steps = step.contiguous(), ranges = range.contiguous(), offsets = offset.contiguous();
    const float* s = steps.const_data_ptr<float>();
    const float* r = ranges.const_data_ptr<float>();
    const float* o = offsets.const_data_ptr<float>();
    float* data = data_.mutable_data_ptr<float>();
    const float half = half_of(codes), sign = sign_of(codes);
    for (int64_t c = 0; c < channels; ++c) {
      const float levels = r[c] / s[c], inverse = 1.0f / s[c], center = o[c] + half * s[c];
      const float high = levels - half, low = sign * levels - half;
      const auto error_at = [&](float bound) {
        const float scaled = (bound - center) * inverse;
        return std::isfinite(bound) ? level_of(scaled, low, high) - scaled : 0.0f;
      };
      const float values[kArrays] = {
          s[c], inverse, center, r[c] - half * s[c], sign * r[c] - half * s[c], high, low, error_at(bounds.low), error_at(bounds.high), std::ceil(high), std::ceil(-low)};
      for (int64_t array = 0; array < kArrays; ++array) data[array * stride_ + c] = values[array];
    }
    for (int64_t array = 0; array < kArrays; ++array)
      for (int64_t i = channels; i < width; ++i) data[array * stride_ + i] = data[array * stride_ + i - channels];
  }

  const float* step() const { return array(0); }
  const float* inverse() const { return array(1); }
  const float* offset() const { return array(2); }
  // Bounds of z − offset.
  const float* range() const { return array(3); }
  const float* floor() const { return array(4); }
  // Bounds of the level.
  const float* high() const { return array(5); }
  const float* low() const { return array(6); }
  // How far the level of a value at a bound lies from what it was rounded from.
  const float* error_at_low() const { return array(7); }
  const float* error_at_high() const { return array(8); }
  // Codes are whole numbers from 0 to top + shift: the level plus shift. A range that is no whole number of steps ends in
  // a level between two, whose code is the next whole number.
  const float* top() const { return array(9); }
  const float* shift() const { return array(10); }

  const int64_t channels, width;
  const Bounds bounds;

 private:
  static constexpr int64_t kArrays = 11, kWidth = 256;

  const float* array(int64_t index) const { return data_.const_data_ptr<float>() + index * stride_; }

  int64_t stride_;
  at::Tensor data_;
};

// `z`, `out`: `size` values from the start of a row on, as everywhere below.
void forward_rows(const float* z, float* out, int64_t size, const Lanes& lanes);

// What backward needs of a quantized value, in three bytes of two planes: how far the level lies from what it was rounded
// from, in units of 2⁻²⁴ steps (float32 resolves no more), or that the value lay at a bound, fell outside the range or is
// no number.
struct Roundings {
  uint16_t* high;
  uint8_t* low;

  Roundings from(int64_t index) const { return {high + index, low + index}; }
};

// The planes in memory, a value at each place of a tensor.
struct KeptRoundings {
  at::Tensor high, low;

  static KeptRoundings empty(at::IntArrayRef shape, const at::TensorOptions& options) {
    return {at::empty(shape, options.dtype(at::kShort)), at::empty(shape, options.dtype(at::kByte))};
  }

  bool defined() const { return high.defined(); }

  Roundings from(int64_t index) const {
    return {reinterpret_cast<uint16_t*>(high.data_ptr<int16_t>()) + index, low.data_ptr<uint8_t>() + index};
  }
};

// As forward_rows; writes `kept`, too.
void forward_rows_kept(const float* z, float* out, int64_t size, const Lanes& lanes, Roundings kept);

// From what forward kept: the gradient of z. Adds each lane's ∂/∂step to `step_sums` and ∂/∂range to `range_sums`; both hold
// `lanes.width` values.
void backward_rows(
    Roundings kept, const float* grad, float* grad_z, int64_t size, const Lanes& lanes, float below_sign, float* step_sums, float* range_sums);

// The codes of `z`, and from them bit for bit what forward_rows makes of `z` (numbers only: a code can't say that it is none).
void codes_of_rows(const float* z, uint16_t* codes, int64_t size, const Lanes& lanes);
void rows_of_codes(const uint16_t* codes, float* out, int64_t size, const Lanes& lanes);

void clamp_values(float* values, int64_t size, Bounds bounds);

// The gradient in front of a clamp whose result is `out`: nothing where it lies at a bound.
void pass_unclamped(const float* out, const float* grad, float* passed, int64_t size, Bounds bounds);

// Coefficients whose gradient the quantizer did not pass on.
int64_t count_lost(const float* of_quantized, const float* of_z, int64_t size);

// With an orthonormal basis `U` of all coefficients and `m` 1 for those whose gradient is passed on and 0 for others,
// `U(m ⊙ Uᵀg) = g − U((1 − m) ⊙ Uᵀg)`. `grad`: `n` rows of `g`, and on return of that; `basis`: `U`'s columns as rows.
void take_lost_away(const float* of_quantized, const float* of_z, const float* basis, float* grad, int64_t n, int64_t channels);

// `out[columns, rows] = inᵀ` for `in[rows, columns]`.
void transpose(const float* in, float* out, int64_t rows, int64_t columns);

// `out[columns] += Σ in[rows, columns]` over the rows.
void add_rows(const float* in, float* out, int64_t rows, int64_t columns);

// Adds the lanes' sums to their channels' and clears them.
void flush(std::vector<float>& sums, const Lanes& lanes, double* totals);

// Writes the sums over all blocks, in their order. `totals`: of each block those of all channels' steps, then of their ranges.
void add_blocks(const std::vector<double>& totals, int64_t blocks, at::Tensor& grad_step, at::Tensor& grad_range);

// The quantizer by itself, recorded by autograd, for any type and device: `z`: `[..., channels]`.
at::Tensor quantize(
    const at::Tensor& z, const at::Tensor& step, const at::Tensor& range, const at::Tensor& offset, Codes codes, double low, double high);

} // namespace dimbit
