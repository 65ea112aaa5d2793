// Sixteen floats in four SSE2 registers. There is no fused multiply-add: products and sums round separately.
#pragma once

#include <emmintrin.h>

#include "nanomd/half.h"

namespace nanomd::sse2 {

struct Vec {
  static constexpr int kTile = 2;        // accumulators of sixteen floats that fit the register file
  static constexpr int kColumnTile = 2;  // columns by
  static constexpr int kBlockTile = 1;   // blocks of sixteen outputs that do
  __m128 a, b, c, d;

  static Vec load(const float* p) {
    return {_mm_load_ps(p), _mm_load_ps(p + 4), _mm_load_ps(p + 8), _mm_load_ps(p + 12)};
  }
  // There are no conversions: one number at a time, slowly.
  static Vec load(const Half* p) {
    alignas(16) float wide[16];
    for (int i = 0; i < 16; ++i) wide[i] = widen(p[i]);
    return load(wide);
  }
  template <class T>  // float or Half
  static Vec weights(const T* p) {
    return load(p);
  }
  static Vec load_any(const float* p) {  // at any address
    return {_mm_loadu_ps(p), _mm_loadu_ps(p + 4), _mm_loadu_ps(p + 8), _mm_loadu_ps(p + 12)};
  }
  static Vec set(float x) {
    const __m128 v = _mm_set1_ps(x);
    return {v, v, v, v};
  }
  void store(float* p) const {
    _mm_store_ps(p, a);
    _mm_store_ps(p + 4, b);
    _mm_store_ps(p + 8, c);
    _mm_store_ps(p + 12, d);
  }
  void store_any(float* p) const {
    _mm_storeu_ps(p, a);
    _mm_storeu_ps(p + 4, b);
    _mm_storeu_ps(p + 8, c);
    _mm_storeu_ps(p + 12, d);
  }
  void store(Half* p) const {
    alignas(16) float wide[16];
    store(wide);
    for (int i = 0; i < 16; ++i) p[i] = narrow(wide[i]);
  }
  friend Vec operator+(Vec x, Vec y) {
    return {_mm_add_ps(x.a, y.a), _mm_add_ps(x.b, y.b), _mm_add_ps(x.c, y.c), _mm_add_ps(x.d, y.d)};
  }
  friend Vec operator-(Vec x, Vec y) {
    return {_mm_sub_ps(x.a, y.a), _mm_sub_ps(x.b, y.b), _mm_sub_ps(x.c, y.c), _mm_sub_ps(x.d, y.d)};
  }
  friend Vec operator*(Vec x, Vec y) {
    return {_mm_mul_ps(x.a, y.a), _mm_mul_ps(x.b, y.b), _mm_mul_ps(x.c, y.c), _mm_mul_ps(x.d, y.d)};
  }
  friend Vec operator/(Vec x, Vec y) {
    return {_mm_div_ps(x.a, y.a), _mm_div_ps(x.b, y.b), _mm_div_ps(x.c, y.c), _mm_div_ps(x.d, y.d)};
  }
};

inline Vec fma(Vec x, Vec y, Vec z) { return x * y + z; }
inline Vec max(Vec x, Vec y) {
  return {_mm_max_ps(x.a, y.a), _mm_max_ps(x.b, y.b), _mm_max_ps(x.c, y.c), _mm_max_ps(x.d, y.d)};
}
inline Vec min(Vec x, Vec y) {
  return {_mm_min_ps(x.a, y.a), _mm_min_ps(x.b, y.b), _mm_min_ps(x.c, y.c), _mm_min_ps(x.d, y.d)};
}
inline Vec sqrt(Vec x) { return {_mm_sqrt_ps(x.a), _mm_sqrt_ps(x.b), _mm_sqrt_ps(x.c), _mm_sqrt_ps(x.d)}; }

// Nearest integer, as a float, and 2^n for that integer in [-126, 127].
inline __m128 round_part(__m128 x) { return _mm_cvtepi32_ps(_mm_cvtps_epi32(x)); }
inline Vec round(Vec x) { return {round_part(x.a), round_part(x.b), round_part(x.c), round_part(x.d)}; }
inline __m128 exp2_part(__m128 n) {
  return _mm_castsi128_ps(_mm_slli_epi32(_mm_add_epi32(_mm_cvtps_epi32(n), _mm_set1_epi32(127)), 23));
}
inline Vec exp2_integer(Vec n) { return {exp2_part(n.a), exp2_part(n.b), exp2_part(n.c), exp2_part(n.d)}; }

// The value in the lanes where x >= limit, zero elsewhere.
inline __m128 keep_part(__m128 x, __m128 limit, __m128 value) { return _mm_and_ps(_mm_cmpge_ps(x, limit), value); }
inline Vec zero_below(Vec x, Vec limit, Vec value) {
  return {keep_part(x.a, limit.a, value.a), keep_part(x.b, limit.b, value.b), keep_part(x.c, limit.c, value.c),
          keep_part(x.d, limit.d, value.d)};
}

// (first eight, last eight) -> (last eight, first eight)
inline Vec swap_halves(Vec x) { return {x.c, x.d, x.a, x.b}; }

// Sum and maximum of the sixteen, in the order of fold() in simd/math.h.
inline float sum_elements(Vec x) {
  const __m128 four = _mm_add_ps(_mm_add_ps(x.a, x.c), _mm_add_ps(x.b, x.d));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
}
inline float max_elements(Vec x) {
  const __m128 four = _mm_max_ps(_mm_max_ps(x.a, x.c), _mm_max_ps(x.b, x.d));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps(two, two, 1)));
}

}  // namespace nanomd::sse2
