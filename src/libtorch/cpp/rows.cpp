#include "rows.h"

#include <algorithm>
#include <cmath>
#include <cstring>

// One clone per instruction set, chosen when the program starts: the file itself is built for the oldest CPU.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define DIMBIT_SIMD __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define DIMBIT_SIMD
#endif

namespace dimbit {

DIMBIT_SIMD void forward_rows(const float* __restrict z, float* __restrict out, int64_t size, const Lanes& lanes) {
  const float* __restrict step = lanes.step();
  const float* __restrict inverse = lanes.inverse();
  const float* __restrict offset = lanes.offset();
  const float* __restrict low = lanes.low();
  const float* __restrict high = lanes.high();
  const Bounds bounds = lanes.bounds;
  for (int64_t start = 0; start < size; start += lanes.width, z += lanes.width, out += lanes.width) {
    const int64_t count = std::min(lanes.width, size - start);
    for (int64_t i = 0; i < count; ++i) {
      const float level = level_of((clamped(z[i], bounds) - offset[i]) * inverse[i], low[i], high[i]);
      out[i] = offset[i] + step[i] * level;
    }
  }
}

namespace {

// Rounding errors lie within half a step: [-½, ½] becomes [0, kLast]. What is above that means something else.
constexpr int32_t kLast = (1 << 24) - (1 << 10), kHalf = kLast / 2;
constexpr float kUnits = kLast;
constexpr int32_t kNoNumber = kLast + 1, kAtLow = 0xFFFD00, kAtHigh = 0xFFFD01, kBelow = 0xFFFE00, kAbove = 0xFFFF00;

// `yes` or `no`, by their bits: with `?:` the compiler makes loads and stores that depend on conditions, which cost some CPUs
// ten times as much.
inline float chosen(bool condition, float yes, float no) {
  const uint32_t mask = -static_cast<uint32_t>(condition);
  uint32_t a, b;
  std::memcpy(&a, &yes, 4);
  std::memcpy(&b, &no, 4);
  a = (a & mask) | (b & ~mask);
  std::memcpy(&yes, &a, 4);
  return yes;
}

} // namespace

DIMBIT_SIMD void forward_rows_kept(const float* __restrict z, float* __restrict out, int64_t size, const Lanes& lanes, Roundings kept) {
  const float* __restrict step = lanes.step();
  const float* __restrict inverse = lanes.inverse();
  const float* __restrict offset = lanes.offset();
  const float* __restrict range = lanes.range();
  const float* __restrict floor = lanes.floor();
  const float* __restrict low = lanes.low();
  const float* __restrict high = lanes.high();
  const Bounds bounds = lanes.bounds;
  uint16_t* __restrict upper = kept.high;
  uint8_t* __restrict lower = kept.low;
  for (int64_t start = 0; start < size; start += lanes.width, z += lanes.width, out += lanes.width, upper += lanes.width, lower += lanes.width) {
    const int64_t count = std::min(lanes.width, size - start);
    for (int64_t i = 0; i < count; ++i) {
      const float t = clamped(z[i], bounds) - offset[i];
      const float scaled = t * inverse[i];
      const float level = level_of(scaled, low[i], high[i]);
      out[i] = offset[i] + step[i] * level;
      // Within the range the level may be clamped half a step at most.
      const float error = level - scaled;
      const float within = error > -0.5f ? (error < 0.5f ? error : 0.5f) : -0.5f;
      int32_t units = static_cast<int32_t>(within * kUnits) + kHalf;
      units = error == error ? units : kNoNumber;
      units = z[i] <= bounds.low ? kAtLow : (z[i] >= bounds.high ? kAtHigh : units);
      units = t > range[i] ? kAbove : (t < floor[i] ? kBelow : units);
      upper[i] = static_cast<uint16_t>(units >> 8);
      lower[i] = static_cast<uint8_t>(units & 255);
    }
  }
}

DIMBIT_SIMD void backward_rows(
    Roundings kept, const float* __restrict grad, float* __restrict grad_z, int64_t size, const Lanes& lanes, float below_sign,
    float* __restrict step_sums, float* __restrict range_sums) {
  const float* __restrict error_at_low = lanes.error_at_low();
  const float* __restrict error_at_high = lanes.error_at_high();
  const uint16_t* __restrict upper = kept.high;
  const uint8_t* __restrict lower = kept.low;
  for (int64_t start = 0; start < size; start += lanes.width, upper += lanes.width, lower += lanes.width, grad += lanes.width, grad_z += lanes.width) {
    const int64_t count = std::min(lanes.width, size - start);
    for (int64_t i = 0; i < count; ++i) {
      const int32_t units = static_cast<int32_t>(upper[i]) << 8 | static_cast<int32_t>(lower[i]);
      const float g = grad[i];
      const bool above = units >= kAbove, inside = units < kBelow;
      float error = static_cast<float>(units - kHalf) * (1.0f / kUnits);
      error = chosen(units == kNoNumber, NAN, error);
      error = chosen(units == kAtLow, error_at_low[i], error);
      error = chosen(units == kAtHigh, error_at_high[i], error);
      grad_z[i] = chosen(units <= kNoNumber, g, 0.0f);
      step_sums[i] += chosen(inside, g, 0.0f) * error;
      range_sums[i] += chosen(above, g, chosen(inside, 0.0f, below_sign * g));
    }
  }
}

DIMBIT_SIMD void codes_of_rows(const float* __restrict z, uint16_t* __restrict codes, int64_t size, const Lanes& lanes) {
  const float* __restrict inverse = lanes.inverse();
  const float* __restrict offset = lanes.offset();
  const float* __restrict top = lanes.top();
  const float* __restrict shift = lanes.shift();
  const Bounds bounds = lanes.bounds;
  for (int64_t start = 0; start < size; start += lanes.width, z += lanes.width, codes += lanes.width) {
    const int64_t count = std::min(lanes.width, size - start);
    for (int64_t i = 0; i < count; ++i) {
      const float level = std::nearbyint((clamped(z[i], bounds) - offset[i]) * inverse[i]);
      const float code = level > -shift[i] ? (level < top[i] ? level : top[i]) : -shift[i];
      codes[i] = static_cast<uint16_t>(static_cast<int32_t>(code + shift[i]));
    }
  }
}

DIMBIT_SIMD void rows_of_codes(const uint16_t* __restrict codes, float* __restrict out, int64_t size, const Lanes& lanes) {
  const float* __restrict step = lanes.step();
  const float* __restrict offset = lanes.offset();
  const float* __restrict low = lanes.low();
  const float* __restrict high = lanes.high();
  const float* __restrict shift = lanes.shift();
  for (int64_t start = 0; start < size; start += lanes.width, codes += lanes.width, out += lanes.width) {
    const int64_t count = std::min(lanes.width, size - start);
    for (int64_t i = 0; i < count; ++i) {
      const float level = level_of(static_cast<float>(codes[i]) - shift[i], low[i], high[i]);
      out[i] = offset[i] + step[i] * level;
    }
  }
}

DIMBIT_SIMD void clamp_values(float* __restrict values, int64_t size, Bounds bounds) {
  for (int64_t i = 0; i < size; ++i) values[i] = clamped(values[i], bounds);
}

DIMBIT_SIMD void pass_unclamped(const float* __restrict out, const float* __restrict grad, float* __restrict passed, int64_t size, Bounds bounds) {
  for (int64_t i = 0; i < size; ++i) passed[i] = out[i] <= bounds.low || out[i] >= bounds.high ? 0.0f : grad[i];
}

DIMBIT_SIMD int64_t count_lost(const float* __restrict of_quantized, const float* __restrict of_z, int64_t size) {
  constexpr int64_t kPart = 4096;
  int64_t total = 0;
  for (int64_t start = 0; start < size; start += kPart) {
    const int64_t end = std::min(start + kPart, size);
    // As wide as the values, so that a register holds as many of them.
    int32_t lost = 0;
    for (int64_t i = start; i < end; ++i) lost += of_quantized[i] != of_z[i];
    total += lost;
  }
  return total;
}

DIMBIT_SIMD void take_lost_away(
    const float* __restrict of_quantized, const float* __restrict of_z, const float* __restrict basis, float* __restrict grad, int64_t n, int64_t channels) {
  for (int64_t row = 0; row < n; ++row, of_quantized += channels, of_z += channels, grad += channels) {
    if (!count_lost(of_quantized, of_z, channels)) continue;
    for (int64_t k = 0; k < channels; ++k) {
      if (of_quantized[k] == of_z[k]) continue;
      const float* __restrict column = basis + k * channels;
      const float lost = of_quantized[k];
      for (int64_t c = 0; c < channels; ++c) grad[c] -= lost * column[c];
    }
  }
}

DIMBIT_SIMD void transpose(const float* __restrict in, float* __restrict out, int64_t rows, int64_t columns) {
  // Square pieces, so that neither side is read or written across its rows.
  constexpr int64_t kSide = 16;
  for (int64_t column = 0; column < columns; column += kSide)
    for (int64_t row = 0; row < rows; row += kSide) {
      const int64_t width = std::min(kSide, columns - column), height = std::min(kSide, rows - row);
      for (int64_t c = column; c < column + width; ++c)
        for (int64_t r = row; r < row + height; ++r) out[c * rows + r] = in[r * columns + c];
    }
}

DIMBIT_SIMD void add_rows(const float* __restrict in, float* __restrict out, int64_t rows, int64_t columns) {
  for (int64_t row = 0; row < rows; ++row, in += columns)
    for (int64_t c = 0; c < columns; ++c) out[c] += in[c];
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
