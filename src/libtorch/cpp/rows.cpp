#include "rows.h"

#include <algorithm>
#include <cmath>

// One clone per instruction set, chosen when the program starts: the file itself is built for the oldest CPU.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define DIMBIT_SIMD __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define DIMBIT_SIMD
#endif

namespace dimbit {
namespace {

inline float level_of(float scaled, float low, float high) {
  const float level = std::nearbyint(scaled);
  return level < low ? low : (level > high ? high : level);
}

} // namespace

DIMBIT_SIMD void forward_rows(const float* __restrict z, float* __restrict out, int64_t size, const Lanes& lanes, Bounds bounds) {
  const float* __restrict step = lanes.step();
  const float* __restrict inverse = lanes.inverse();
  const float* __restrict offset = lanes.offset();
  const float* __restrict low = lanes.low();
  const float* __restrict high = lanes.high();
  for (int64_t start = 0; start < size; start += lanes.width, z += lanes.width, out += lanes.width) {
    const int64_t count = std::min(lanes.width, size - start);
    for (int64_t i = 0; i < count; ++i) {
      const float level = level_of((clamped(z[i], bounds) - offset[i]) * inverse[i], low[i], high[i]);
      out[i] = offset[i] + step[i] * level;
    }
  }
}

DIMBIT_SIMD void backward_rows(
    const float* __restrict z, const float* __restrict grad, float* __restrict grad_z, int64_t size, const Lanes& lanes, Bounds bounds, float below_sign,
    float* __restrict step_sums, float* __restrict range_sums) {
  const float* __restrict inverse = lanes.inverse();
  const float* __restrict offset = lanes.offset();
  const float* __restrict range = lanes.range();
  const float* __restrict floor = lanes.floor();
  const float* __restrict low = lanes.low();
  const float* __restrict high = lanes.high();
  for (int64_t start = 0; start < size; start += lanes.width, z += lanes.width, grad += lanes.width, grad_z += lanes.width) {
    const int64_t count = std::min(lanes.width, size - start);
    for (int64_t i = 0; i < count; ++i) {
      const float t = clamped(z[i], bounds) - offset[i];
      const bool clipped = z[i] <= bounds.low || z[i] >= bounds.high;
      const float g = grad[i];
      const bool above = t > range[i], below = t < floor[i];
      const bool inside = !(above || below);
      const float scaled = t * inverse[i];
      grad_z[i] = inside && !clipped ? g : 0.0f;
      const float level = level_of(scaled, low[i], high[i]);
      step_sums[i] += inside ? g * (level - scaled) : 0.0f;
      range_sums[i] += above ? g : (below ? below_sign * g : 0.0f);
    }
  }
}

namespace {

// Rounding errors lie within half a step: [-½, ½] becomes [0, 2²⁴ − 2¹⁰], and what is above that means "outside".
constexpr float kUnits = 16776192.0f;
constexpr int32_t kHalf = 8388096, kAbove = 0xFFFF00, kBelow = 0xFFFE00;

} // namespace

DIMBIT_SIMD void forward_rows_kept(const float* __restrict z, float* __restrict out, int64_t size, const Lanes& lanes, Roundings kept) {
  const float* __restrict step = lanes.step();
  const float* __restrict inverse = lanes.inverse();
  const float* __restrict offset = lanes.offset();
  const float* __restrict range = lanes.range();
  const float* __restrict floor = lanes.floor();
  const float* __restrict low = lanes.low();
  const float* __restrict high = lanes.high();
  uint16_t* __restrict upper = kept.high;
  uint8_t* __restrict lower = kept.low;
  for (int64_t start = 0; start < size; start += lanes.width, z += lanes.width, out += lanes.width, upper += lanes.width, lower += lanes.width) {
    const int64_t count = std::min(lanes.width, size - start);
    for (int64_t i = 0; i < count; ++i) {
      const float t = z[i] - offset[i];
      const float scaled = t * inverse[i];
      const float level = level_of(scaled, low[i], high[i]);
      out[i] = offset[i] + step[i] * level;
      // Within the range the level may be clamped half a step at most; no number keeps to the middle.
      const float error = level - scaled;
      const float within = error > -0.5f ? (error < 0.5f ? error : 0.5f) : -0.5f;
      int32_t units = static_cast<int32_t>(within * kUnits) + kHalf;
      units = t > range[i] ? kAbove : (t < floor[i] ? kBelow : units);
      upper[i] = static_cast<uint16_t>(units >> 8);
      lower[i] = static_cast<uint8_t>(units & 255);
    }
  }
}

DIMBIT_SIMD void backward_rows_kept(
    Roundings kept, const float* __restrict grad, float* __restrict grad_z, int64_t size, const Lanes& lanes, float below_sign,
    float* __restrict step_sums, float* __restrict range_sums) {
  const uint16_t* __restrict upper = kept.high;
  const uint8_t* __restrict lower = kept.low;
  for (int64_t start = 0; start < size; start += lanes.width, upper += lanes.width, lower += lanes.width, grad += lanes.width, grad_z += lanes.width) {
    const int64_t count = std::min(lanes.width, size - start);
    for (int64_t i = 0; i < count; ++i) {
      const int32_t units = static_cast<int32_t>(upper[i]) << 8 | static_cast<int32_t>(lower[i]);
      const float g = grad[i];
      const bool above = units >= kAbove, inside = units < kBelow;
      grad_z[i] = inside ? g : 0.0f;
      step_sums[i] += inside ? g * (static_cast<float>(units - kHalf) * (1.0f / kUnits)) : 0.0f;
      range_sums[i] += above ? g : (inside ? 0.0f : below_sign * g);
    }
  }
}

DIMBIT_SIMD void clamp_values(float* __restrict values, int64_t size, Bounds bounds) {
  for (int64_t i = 0; i < size; ++i) values[i] = clamped(values[i], bounds);
}

DIMBIT_SIMD void pass_unclamped(const float* __restrict out, const float* __restrict grad, float* __restrict passed, int64_t size, Bounds bounds) {
  for (int64_t i = 0; i < size; ++i) passed[i] = out[i] <= bounds.low || out[i] >= bounds.high ? 0.0f : grad[i];
}

void flush(std::vector<float>& sums, const Lanes& lanes, double* totals) {
  for (int64_t start = 0; start < lanes.width; start += lanes.channels)
    for (int64_t c = 0; c < lanes.channels; ++c) totals[c] += sums[start + c];
  std::fill(sums.begin(), sums.end(), 0.0f);
}

void add_blocks(const std::vector<double>& totals, int64_t blocks, at::Tensor& grad_step, at::Tensor& grad_range) {
  const int64_t channels = grad_step.numel();
  for (int64_t c = 0; c < channels; ++c) {
    double step = 0.0, range = 0.0;
    for (int64_t block = 0; block < blocks; ++block) {
      step += totals[block * 2 * channels + c];
      range += totals[block * 2 * channels + channels + c];
    }
    grad_step.mutable_data_ptr<float>()[c] = static_cast<float>(step);
    grad_range.mutable_data_ptr<float>()[c] = static_cast<float>(range);
  }
}

} // namespace dimbit
