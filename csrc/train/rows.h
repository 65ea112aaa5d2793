// What happens to rows of activations between two products: LayerNorm, GELU or ReLU, rotation, sums over rows.
#pragma once

#include <cstddef>

#include "simd/math.h"
#include "train/layout.h"

namespace nanomd::train {

// Mean and 1 / standard deviation of a row that a LayerNorm has read.
struct Moments {
  float mean, scale;
};

// Vec: sixteen floats of one instruction set (simd/). `row` is the distance between rows, widths are multiples of 16.
template <class Vec>
struct Rows {
  static void zero(float* y, std::size_t floats) {
    for (std::size_t i = 0; i < floats; i += 16) Vec::set(0.0f).store(y + i);
  }

  // y = a + b
  static void add(const float* a, const float* b, float* y, int rows, int width, int row) {
    for (int r = 0; r < rows; ++r)
      for (int f = 0; f < width; f += 16) {
        const std::ptrdiff_t i = static_cast<std::ptrdiff_t>(r) * row + f;
        (Vec::load(a + i) + Vec::load(b + i)).store(y + i);
      }
  }

  // sum[f] += sum over rows of y[r][f]; the gradient of a bias. Here and in norm_backward the rows of a block are added
  // up first, since one long chain of sums would lose digits.
  static void add_columns(const float* y, int rows, int width, int row, float* sum) {
    for (int f = 0; f < width; f += 16) {
      Vec s = Vec::set(0.0f);
      const float* from = y + f;
      for (int r = 0; r < rows; ++r, from += row) s = s + Vec::load(from);
      (Vec::load(sum + f) + s).store(sum + f);
    }
  }

  // y = (x - mean) scale weight + bias, mean and variance over the d features that are not padding.
  static void norm(const Norm& w, int d, const float* x, float* y, Moments* moments, int rows, int width, int row) {
    const Vec tail = kept(d, width);
    const float inverse = 1.0f / static_cast<float>(d);
    for (int r = 0; r < rows; ++r, x += row, y += row) {
      Vec sum = Vec::set(0.0f);
      for (int f = 0; f < width; f += 16) sum = sum + Vec::load(x + f);
      const float mean = sum_elements(sum) * inverse;
      Vec square = Vec::set(0.0f);
      int f = 0;
      for (; f < width - 16; f += 16) {
        const Vec t = Vec::load(x + f) - Vec::set(mean);
        square = fma(t, t, square);
      }
      const Vec t = (Vec::load(x + f) - Vec::set(mean)) * tail;
      square = fma(t, t, square);
      const float scale = 1.0f / __builtin_sqrtf(sum_elements(square) * inverse + 1e-5f);
      moments[r] = {mean, scale};
      apply_row(w, moments[r], x, y, width);
    }
  }

  // The same from moments that are known.
  static void apply(const Norm& w, const float* x, float* y, const Moments* moments, int rows, int width, int row) {
    for (int r = 0; r < rows; ++r, x += row, y += row) apply_row(w, moments[r], x, y, width);
  }

  // dx (+)= gradient through the norm of rows x, and the gradients of weight and bias are added to dw and db. With
  // h = (x - mean) scale and g = dy weight: dx = scale (g - <g> - h <g h>). `from` is what dx is added to, null: zero.
  static void norm_backward(const Norm& w, int d, const float* x, const Moments* moments, const float* dy,
                            const float* from, float* dx, float* dw, float* db, int rows, int width, int row) {
    for (int f = 0; f < width; f += 16) {
      Vec weight = Vec::set(0.0f), bias = Vec::set(0.0f);
      for (int r = 0; r < rows; ++r) {
        const std::ptrdiff_t at = static_cast<std::ptrdiff_t>(r) * row + f;
        const Vec h = (Vec::load(x + at) - Vec::set(moments[r].mean)) * Vec::set(moments[r].scale);
        weight = fma(Vec::load(dy + at), h, weight);
        bias = bias + Vec::load(dy + at);
      }
      (Vec::load(dw + f) + weight).store(dw + f);
      (Vec::load(db + f) + bias).store(db + f);
    }
    const float inverse = 1.0f / static_cast<float>(d);
    const Vec tail = kept(d, width);
    for (int r = 0; r < rows; ++r) {
      const std::ptrdiff_t at = static_cast<std::ptrdiff_t>(r) * row;
      const Vec mean = Vec::set(moments[r].mean), scale = Vec::set(moments[r].scale);
      Vec sum = Vec::set(0.0f), product = Vec::set(0.0f);
      for (int f = 0; f < width; f += 16) {
        const Vec h = (Vec::load(x + at + f) - mean) * scale;
        const Vec g = Vec::load(dy + at + f) * Vec::load(w.weight + f);
        sum = sum + g;
        product = fma(g, h, product);
      }
      const Vec a = Vec::set(sum_elements(sum) * inverse), b = Vec::set(sum_elements(product) * inverse);
      for (int f = 0; f < width; f += 16) {
        const Vec h = (Vec::load(x + at + f) - mean) * scale;
        const Vec g = Vec::load(dy + at + f) * Vec::load(w.weight + f);
        Vec y = (g - a - h * b) * scale;
        if (f + 16 == width) y = y * tail;
        if (from != nullptr) y = y + Vec::load(from + at + f);
        y.store(dx + at + f);
      }
    }
  }

  // y = GELU or ReLU of u
  static void activate(bool gelu, const float* u, float* y, int rows, int width, int row) {
    const Vec zero = Vec::set(0.0f);
    for (int r = 0; r < rows; ++r, u += row, y += row) {
      if (gelu)
        for (int f = 0; f < width; f += 16) gelu_vec(Vec::load(u + f)).store(y + f);
      else
        for (int f = 0; f < width; f += 16) max(Vec::load(u + f), zero).store(y + f);
    }
  }

  // y = activation of u, and dy, the gradient of y, becomes that of u. With s = 1 / (1 + e^(-2 v)),
  // v = sqrt(2/pi) (u + 0.044715 u^3): y = u s, dy/du = s + u s (1 - s) 2 dv/du.
  static void activate_backward(bool gelu, const float* u, float* y, float* dy, int rows, int width, int row) {
    constexpr float c = 2.0f * 0.7978845608028654f;
    for (int r = 0; r < rows; ++r, u += row, y += row, dy += row) {
      if (gelu)
        for (int f = 0; f < width; f += 16) {
          const Vec x = Vec::load(u + f), square = x * x, one = Vec::set(1.0f);
          const Vec cubic = fma(square, Vec::set(-c * 0.044715f), Vec::set(-c));
          const Vec s = one / (one + exp_vec(x * cubic));
          const Vec value = x * s;
          const Vec slope = fma(square, Vec::set(3.0f * c * 0.044715f), Vec::set(c));
          value.store(y + f);
          (Vec::load(dy + f) * fma(value * (one - s), slope, s)).store(dy + f);
        }
      else
        for (int f = 0; f < width; f += 16) {
          const Vec x = Vec::load(u + f);
          max(x, Vec::set(0.0f)).store(y + f);
          zero_below(x, Vec::set(1.1754944e-38f), Vec::load(dy + f)).store(dy + f);
        }
    }
  }

  // Rotates pairs (i, i + half) of one head of a row, and scales it: (a c - b s, b c + a s). The tables are
  // [c | c] and [-s | s], a head wide; their negative is the way back.
  static void rotate(float* x, int d_head, const float* cosine, const float* sine, float sign, float scale) {
    const int half = d_head / 2;
    if (d_head == 16) {
      const Vec v = Vec::load(x), turned = swap_halves(v) * Vec::load(sine) * Vec::set(sign);
      (fma(v, Vec::load(cosine), turned) * Vec::set(scale)).store(x);
    } else if (half % 16 == 0) {
      for (int i = 0; i < half; i += 16) {
        const Vec a = Vec::load(x + i), b = Vec::load(x + half + i);
        const Vec c = Vec::load(cosine + i), s = Vec::load(sine + half + i) * Vec::set(sign);
        (fma(a, c, Vec::set(0.0f) - b * s) * Vec::set(scale)).store(x + i);
        (fma(b, c, a * s) * Vec::set(scale)).store(x + half + i);
      }
    } else {
      for (int i = 0; i < half; ++i) {
        const float a = x[i], b = x[half + i], c = cosine[i], s = sine[half + i] * sign;
        x[i] = (a * c - b * s) * scale;
        x[half + i] = (b * c + a * s) * scale;
      }
    }
  }

  static void multiply(float* x, int width, float scale) {
    for (int f = 0; f < width; f += 16) (Vec::load(x + f) * Vec::set(scale)).store(x + f);
  }

 private:
  // 1 for the features of the last sixteen that are not padding.
  static Vec kept(int d, int width) {
    alignas(64) float ones[16];
    for (int i = 0; i < 16; ++i) ones[i] = width - 16 + i < d ? 1.0f : 0.0f;
    return Vec::load(ones);
  }

  static void apply_row(const Norm& w, const Moments& moments, const float* x, float* y, int width) {
    const Vec mean = Vec::set(moments.mean), scale = Vec::set(moments.scale);
    for (int f = 0; f < width; f += 16) {
      const Vec h = (Vec::load(x + f) - mean) * scale;
      fma(h, Vec::load(w.weight + f), Vec::load(w.bias + f)).store(y + f);
    }
  }
};

}  // namespace nanomd::train
