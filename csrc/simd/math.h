// exp, GELU and fixed-order folds, written once over Vec: the sixteen floats of each instruction set.
#pragma once

namespace nanomd {

// e^x to about one unit in the last place for -87 <= x <= 88; 0 below, and the value at 88 above.
// x = n ln 2 + r with |r| <= ln(2)/2; ln 2 in two parts, the first with few enough bits that n times it is exact.
template <class Vec>
[[gnu::always_inline]] inline Vec exp_vec(Vec x) {
  const Vec limit = Vec::set(-87.0f);
  const Vec t = max(min(x, Vec::set(88.0f)), limit);
  const Vec n = round(t * Vec::set(1.44269504088896341f));
  Vec r = fma(n, Vec::set(-0.693359375f), t);
  r = fma(n, Vec::set(2.12194440e-4f), r);
  Vec p = Vec::set(1.9875691500e-4f);
  p = fma(p, r, Vec::set(1.3981999507e-3f));
  p = fma(p, r, Vec::set(8.3334519073e-3f));
  p = fma(p, r, Vec::set(4.1665795894e-2f));
  p = fma(p, r, Vec::set(1.6666665459e-1f));
  p = fma(p, r, Vec::set(5.0000001201e-1f));
  p = fma(p, r * r, r) + Vec::set(1.0f);
  return zero_below(x, limit, times_exp2(p, n));
}

// GELU in its tanh form: x (1 + tanh u) / 2 = x / (1 + e^(-2u)), u = sqrt(2/pi) (x + 0.044715 x^3).
template <class Vec>
inline Vec gelu_vec(Vec x) {
  const Vec cubic =
      fma(x * x, Vec::set(-2.0f * 0.7978845608028654f * 0.044715f), Vec::set(-2.0f * 0.7978845608028654f));
  return x / (Vec::set(1.0f) + exp_vec(x * cubic));
}

// Sixteen partial sums -> their sum, elementwise over lanes.
template <class Vec>
inline Vec fold(Vec (&p)[16]) {
#pragma GCC unroll 8
  for (int width = 8; width >= 1; width /= 2)
    for (int i = 0; i < width; ++i) p[i] = p[i] + p[i + width];
  return p[0];
}

// The same tree over the sixteen elements of one vector.
template <class Vec>
inline float fold_elements(Vec v) {
  alignas(64) float p[16];
  v.store(p);
  for (int width = 8; width >= 1; width /= 2)
    for (int i = 0; i < width; ++i) p[i] = p[i] + p[i + width];
  return p[0];
}

}  // namespace nanomd
