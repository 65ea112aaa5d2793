// Sixteen floats in two AVX registers.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "nanomd/half.h"

namespace nanomd::avx2 {

// Numbers of 32 bits, each in the low half of a lane of 64; what a lane holds above is never read.
struct Words {
  static constexpr int kCount = 4;
  __m256i a;

  static Words load(const std::uint64_t* p) { return {_mm256_load_si256(reinterpret_cast<const __m256i*>(p))}; }
  static Words set(std::uint32_t x) { return {_mm256_set1_epi64x(x)}; }
  friend Words operator^(Words x, Words y) { return {_mm256_xor_si256(x.a, y.a)}; }
  friend Words operator*(Words x, Words y) { return {_mm256_mul_epu32(x.a, y.a)}; }  // all 64 bits
  Words high() const { return {_mm256_srli_epi64(a, 32)}; }
};
// Four words of a lane are eight halves, lowest first: a byte for each lane, whose bits say which are >= limit > 0.
inline void halves_from(Words w0, Words w1, Words w2, Words w3, std::uint16_t limit, std::uint8_t* bytes) {
  const auto join = [](Words x, Words y) { return _mm256_blend_epi32(x.a, _mm256_slli_epi64(y.a, 32), 0xaa); };
  const __m256i below = _mm256_set1_epi16(static_cast<short>(limit - 1));
  const __m256i first = join(w0, w1), second = join(w2, w3);
  const __m256i even = _mm256_subs_epu16(_mm256_unpacklo_epi64(first, second), below);
  const __m256i odd = _mm256_subs_epu16(_mm256_unpackhi_epi64(first, second), below);
  const __m256i all = _mm256_packs_epi16(even, odd);  // zero where it was below the limit
  const std::uint32_t bits =
      ~static_cast<std::uint32_t>(_mm256_movemask_epi8(_mm256_cmpeq_epi8(all, _mm256_setzero_si256())));
  std::memcpy(bytes, &bits, sizeof bits);
}

struct Vec {
  using Words = avx2::Words;
  static constexpr int kTile = 4;        // accumulators of sixteen floats that fit the register file
  static constexpr int kColumnTile = 6;  // columns by
  static constexpr int kBlockTile = 1;   // blocks of sixteen outputs that do
  __m256 a, b;

  static Vec load(const float* p) { return {_mm256_load_ps(p), _mm256_load_ps(p + 8)}; }
  static Vec load(const Half* p) {
    const auto half = [p](int i) { return _mm_load_si128(reinterpret_cast<const __m128i*>(p + i)); };
    return {_mm256_cvtph_ps(half(0)), _mm256_cvtph_ps(half(8))};
  }
  template <class T>  // float or Half
  static Vec weights(const T* p) {
    return load(p);
  }
  static Vec load_any(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }  // at any address
  static Vec set(float x) {
    const __m256 v = _mm256_set1_ps(x);
    return {v, v};
  }
  void store(float* p) const {
    _mm256_store_ps(p, a);
    _mm256_store_ps(p + 8, b);
  }
  void store_any(float* p) const {
    _mm256_storeu_ps(p, a);
    _mm256_storeu_ps(p + 8, b);
  }
  void store(Half* p) const {
    _mm_store_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT));
    _mm_store_si128(reinterpret_cast<__m128i*>(p + 8), _mm256_cvtps_ph(b, _MM_FROUND_TO_NEAREST_INT));
  }
  friend Vec operator+(Vec x, Vec y) { return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
  friend Vec operator-(Vec x, Vec y) { return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)}; }
  friend Vec operator*(Vec x, Vec y) { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
  friend Vec operator/(Vec x, Vec y) { return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)}; }
};

inline Vec fma(Vec x, Vec y, Vec z) { return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)}; }
inline Vec max(Vec x, Vec y) { return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)}; }
inline Vec min(Vec x, Vec y) { return {_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)}; }
inline Vec sqrt(Vec x) { return {_mm256_sqrt_ps(x.a), _mm256_sqrt_ps(x.b)}; }

// Nearest integer, as a float, and x 2^n for such an integer in [-126, 127].
inline __m256 round_part(__m256 x) { return _mm256_cvtepi32_ps(_mm256_cvtps_epi32(x)); }
inline Vec round(Vec x) { return {round_part(x.a), round_part(x.b)}; }
inline __m256 exp2_part(__m256 n) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23));
}
inline Vec times_exp2(Vec x, Vec n) { return x * Vec{exp2_part(n.a), exp2_part(n.b)}; }

// The value in the lanes where x >= limit, zero elsewhere.
inline __m256 keep_part(__m256 x, __m256 limit, __m256 value) {
  return _mm256_and_ps(_mm256_cmp_ps(x, limit, _CMP_GE_OQ), value);
}
inline Vec zero_below(Vec x, Vec limit, Vec value) {
  return {keep_part(x.a, limit.a, value.a), keep_part(x.b, limit.b, value.b)};
}

// The value in the lanes whose bit is set, zero elsewhere.
inline __m256 keep_part(__m256 x, unsigned bits) {
  const __m256i lane = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
  const __m256i own = _mm256_and_si256(_mm256_set1_epi32(static_cast<int>(bits)), lane);
  return _mm256_and_ps(x, _mm256_castsi256_ps(_mm256_cmpeq_epi32(own, lane)));
}
inline Vec keep_lanes(Vec x, unsigned bits) { return {keep_part(x.a, bits), keep_part(x.b, bits >> 8)}; }

// a in the lanes where x < limit, b elsewhere.
inline __m256 select_part(__m256 x, __m256 limit, __m256 a, __m256 b) {
  return _mm256_blendv_ps(b, a, _mm256_cmp_ps(x, limit, _CMP_LT_OQ));
}
inline Vec select_below(Vec x, Vec limit, Vec a, Vec b) {
  return {select_part(x.a, limit.a, a.a, b.a), select_part(x.b, limit.b, a.b, b.b)};
}

// (first eight, last eight) -> (last eight, first eight)
inline Vec swap_halves(Vec x) { return {x.b, x.a}; }

// Sum and maximum of the sixteen, in the order of fold() in simd/math.h.
inline float sum_elements(Vec x) {
  const __m256 eight = _mm256_add_ps(x.a, x.b);
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
}
inline float max_elements(Vec x) {
  const __m256 eight = _mm256_max_ps(x.a, x.b);
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps(two, two, 1)));
}

}  // namespace nanomd::avx2
