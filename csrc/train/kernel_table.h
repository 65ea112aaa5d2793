// The table of kernels of one instruction set. Included by the file that is compiled for it, which may instantiate only
// templates over the set's own Vec (see cpu/kernel_table.h).
#pragma once

#include "train/kernels.h"
#include "train/sweep.h"
#include "train/window.h"

namespace nanomd::train {

template <class Vec>
void add_floats(const float* x, float* sum, std::size_t n) {
  for (std::size_t i = 0; i < n; i += 16) (Vec::load(sum + i) + Vec::load(x + i)).store(sum + i);
}

template <class Vec>
double square_floats(const float* x, std::size_t n) {
  double total = 0.0;
  for (std::size_t i = 0; i < n; i += 1024) {
    Vec sum = Vec::set(0.0f);
    for (std::size_t k = i; k < n && k < i + 1024; k += 16) sum = fma(Vec::load(x + k), Vec::load(x + k), sum);
    total += static_cast<double>(sum_elements(sum));
  }
  return total;
}

// Decoupled weight decay, then Adam: Loshchilov and Hutter 2019.
template <class Vec>
void update_sixteen(const AdamW& rule, const float* gradient, float* value, float* first, float* second) {
  const Vec g = Vec::load_any(gradient) * Vec::set(rule.scale), one = Vec::set(1.0f);
  const Vec b1 = Vec::set(rule.beta1), b2 = Vec::set(rule.beta2);
  const Vec m = fma(g - Vec::load_any(first), one - b1, Vec::load_any(first));
  const Vec v = fma(g * g, one - b2, Vec::load_any(second) * b2);
  const Vec w = Vec::load_any(value) * Vec::set(1.0f - rule.learning_rate * rule.decay);
  const Vec root = sqrt(v) / Vec::set(rule.root_correction2) + Vec::set(rule.epsilon);
  const Vec step = Vec::set(rule.learning_rate / rule.correction1) * m / root;
  m.store_any(first);
  v.store_any(second);
  (w - step).store_any(value);
}

template <class Vec>
void update_floats(const AdamW& rule, const float* gradient, float* value, float* first, float* second, std::size_t n) {
  const std::size_t whole = n / 16 * 16;
  for (std::size_t i = 0; i < whole; i += 16) update_sixteen<Vec>(rule, gradient + i, value + i, first + i, second + i);
  if (whole == n) return;
  float rest[4][16] = {};
  for (std::size_t i = whole; i < n; ++i) {
    rest[0][i - whole] = gradient[i];
    rest[1][i - whole] = value[i];
    rest[2][i - whole] = first[i];
    rest[3][i - whole] = second[i];
  }
  update_sixteen<Vec>(rule, rest[0], rest[1], rest[2], rest[3]);
  for (std::size_t i = whole; i < n; ++i) {
    value[i] = rest[1][i - whole];
    first[i] = rest[2][i - whole];
    second[i] = rest[3][i - whole];
  }
}

template <class Vec>
constexpr Kernels kernels_of(const char* name, bool (*supported)()) {
  return {name,
          supported,
          Window<Vec>::run,
          Window<Vec>::features,
          Sweep<Vec>::run,
          Dropping<Vec>::draw,
          add_floats<Vec>,
          square_floats<Vec>,
          update_floats<Vec>};
}

}  // namespace nanomd::train
