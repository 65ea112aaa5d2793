// Sixteen floats in four SSE2 registers. There is no fused multiply-add: products and sums round separately.
#pragma once

#include <emmintrin.h>

#include <cstdint>
#include <cstring>

#include "nanomd/half.h"

namespace nanomd::sse2 {

// Numbers of 32 bits, each in the low half of a lane of 64; what a lane holds above is never read.
struct Words {
  static constexpr int kCount = 2;
  __m128i a;

  static Words load(const std::uint64_t* p) { return {_mm_load_si128(reinterpret_cast<const __m128i*>(p))}; }
  static Words set(std::uint32_t x) { return {_mm_set1_epi64x(x)}; }
  friend Words operator^(Words x, Words y) { return {_mm_xor_si128(x.a, y.a)}; }
  friend Words operator*(Words x, Words y) { return {_mm_mul_epu32(x.a, y.a)}; }  // all 64 bits
  Words high() const { return {_mm_srli_epi64(a, 32)}; }
};
// Four words of a lane are eight halves, lowest first: a byte for each lane, whose bits say which are >= limit > 0.
inline void halves_from(Words w0, Words w1, Words w2, Words w3, std::uint16_t limit, std::uint8_t* bytes) {
  const __m128i low = _mm_set1_epi64x(0xffffffff);
  const auto join = [low](Words x, Words y) { return _mm_or_si128(_mm_and_si128(x.a, low), _mm_slli_epi64(y.a, 32)); };
  const __m128i below = _mm_set1_epi16(static_cast<short>(limit - 1));
  const __m128i first = join(w0, w1), second = join(w2, w3);
  const __m128i even = _mm_subs_epu16(_mm_unpacklo_epi64(first, second), below);
  const __m128i odd = _mm_subs_epu16(_mm_unpackhi_epi64(first, second), below);
  const __m128i all = _mm_packs_epi16(even, odd);  // zero where it was below the limit
  const std::uint16_t bits = static_cast<std::uint16_t>(~_mm_movemask_epi8(_mm_cmpeq_epi8(all, _mm_setzero_si128())));
  std::memcpy(bytes, &bits, sizeof bits);
}

struct Vec {
  using Words = sse2::Words;
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

// Nearest integer, as a float, and x 2^n for such an integer in [-126, 127].
inline __m128 round_part(__m128 x) { return _mm_cvtepi32_ps(_mm_cvtps_epi32(x)); }
inline Vec round(Vec x) { return {round_part(x.a), round_part(x.b), round_part(x.c), round_part(x.d)}; }
inline __m128 exp2_part(__m128 n) {
  return _mm_castsi128_ps(_mm_slli_epi32(_mm_add_epi32(_mm_cvtps_epi32(n), _mm_set1_epi32(127)), 23));
}
inline Vec times_exp2(Vec x, Vec n) { return x * Vec{exp2_part(n.a), exp2_part(n.b), exp2_part(n.c), exp2_part(n.d)}; }

// The value in the lanes where x >= limit, zero elsewhere.
inline __m128 keep_part(__m128 x, __m128 limit, __m128 value) { return _mm_and_ps(_mm_cmpge_ps(x, limit), value); }
inline Vec zero_below(Vec x, Vec limit, Vec value) {
  return {keep_part(x.a, limit.a, value.a), keep_part(x.b, limit.b, value.b), keep_part(x.c, limit.c, value.c),
          keep_part(x.d, limit.d, value.d)};
}

// The value in the lanes whose bit is set, zero elsewhere.
inline __m128 keep_part(__m128 x, unsigned bits) {
  const __m128i lane = _mm_setr_epi32(1, 2, 4, 8);
  const __m128i own = _mm_and_si128(_mm_set1_epi32(static_cast<int>(bits)), lane);
  return _mm_and_ps(x, _mm_castsi128_ps(_mm_cmpeq_epi32(own, lane)));
}
inline Vec keep_lanes(Vec x, unsigned bits) {
  return {keep_part(x.a, bits), keep_part(x.b, bits >> 4), keep_part(x.c, bits >> 8), keep_part(x.d, bits >> 12)};
}

// a in the lanes where x < limit, b elsewhere.
inline __m128 select_part(__m128 x, __m128 limit, __m128 a, __m128 b) {
  const __m128 below = _mm_cmplt_ps(x, limit);
  return _mm_or_ps(_mm_and_ps(below, a), _mm_andnot_ps(below, b));
}
inline Vec select_below(Vec x, Vec limit, Vec a, Vec b) {
  return {select_part(x.a, limit.a, a.a, b.a), select_part(x.b, limit.b, a.b, b.b), select_part(x.c, limit.c, a.c, b.c),
          select_part(x.d, limit.d, a.d, b.d)};
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
