// Sixteen floats in one AVX-512 register.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "nanomd/half.h"

namespace nanomd::avx512 {

// Numbers of 32 bits, each in the low half of a lane of 64; what a lane holds above is never read.
struct Words {
  static constexpr int kCount = 8;
  __m512i a;

  static Words load(const std::uint64_t* p) { return {_mm512_load_si512(p)}; }
  static Words set(std::uint32_t x) { return {_mm512_set1_epi64(x)}; }
  friend Words operator^(Words x, Words y) { return {_mm512_xor_si512(x.a, y.a)}; }
  friend Words operator*(Words x, Words y) { return {_mm512_maskz_mul_epu32(0xff, x.a, y.a)}; }  // all 64 bits
  Words high() const { return {_mm512_maskz_srli_epi64(0xff, a, 32)}; }
};
// Four words of a lane are eight halves, lowest first: a byte for each lane, whose bits say which are >= limit > 0.
inline void halves_from(Words w0, Words w1, Words w2, Words w3, std::uint16_t limit, std::uint8_t* bytes) {
  const auto join = [](Words x, Words y) {
    return _mm512_mask_blend_epi32(0xaaaa, x.a, _mm512_maskz_slli_epi64(0xff, y.a, 32));
  };
  const __m512i below = _mm512_set1_epi16(static_cast<short>(limit - 1));
  const __m512i first = join(w0, w1), second = join(w2, w3);
  const __m512i even = _mm512_subs_epu16(_mm512_maskz_unpacklo_epi64(0xff, first, second), below);
  const __m512i odd = _mm512_subs_epu16(_mm512_maskz_unpackhi_epi64(0xff, first, second), below);
  const __m512i all = _mm512_packs_epi16(even, odd);  // zero where it was below the limit
  const std::uint64_t bits = _mm512_test_epi8_mask(all, all);
  std::memcpy(bytes, &bits, sizeof bits);
}

struct Vec {
  using Words = avx512::Words;
  static constexpr int kTile = 16;       // accumulators of sixteen floats that fit the register file
  static constexpr int kColumnTile = 6;  // columns by
  static constexpr int kBlockTile = 4;   // blocks of sixteen outputs that do
  __m512 a;

  static Vec load(const float* p) { return {_mm512_load_ps(p)}; }
  static Vec load(const Half* p) {
    return {_mm512_maskz_cvtph_ps(0xffff, _mm256_load_si256(reinterpret_cast<const __m256i*>(p)))};
  }
  // Weights, which a single column waits for: on Zen 4 two conversions to 256 bits, put together, take less time than
  // one to 512; not so among the other loads of attention (docs/cpu-engine.md).
  static Vec weights(const float* p) { return load(p); }
  static Vec weights(const Half* p) {
    const auto eight = [p](int i) { return _mm256_cvtph_ps(_mm_load_si128(reinterpret_cast<const __m128i*>(p + i))); };
    return {_mm512_insertf32x8(_mm512_castps256_ps512(eight(0)), eight(8), 1)};
  }
  static Vec load_any(const float* p) { return {_mm512_loadu_ps(p)}; }  // at any address
  static Vec set(float x) { return {_mm512_set1_ps(x)}; }
  void store(float* p) const { _mm512_store_ps(p, a); }
  void store_any(float* p) const { _mm512_storeu_ps(p, a); }
  void store(Half* p) const {
    _mm256_store_si256(reinterpret_cast<__m256i*>(p), _mm512_maskz_cvtps_ph(0xffff, a, _MM_FROUND_TO_NEAREST_INT));
  }
  friend Vec operator+(Vec x, Vec y) { return {_mm512_add_ps(x.a, y.a)}; }
  friend Vec operator-(Vec x, Vec y) { return {_mm512_sub_ps(x.a, y.a)}; }
  friend Vec operator*(Vec x, Vec y) { return {_mm512_mul_ps(x.a, y.a)}; }
  friend Vec operator/(Vec x, Vec y) { return {_mm512_div_ps(x.a, y.a)}; }
};

inline Vec fma(Vec x, Vec y, Vec z) { return {_mm512_fmadd_ps(x.a, y.a, z.a)}; }
// The compiler's own max, min and sqrt intrinsics start from an undefined register, which its warnings object to.
inline Vec max(Vec x, Vec y) { return {_mm512_maskz_max_ps(0xffff, x.a, y.a)}; }
inline Vec min(Vec x, Vec y) { return {_mm512_maskz_min_ps(0xffff, x.a, y.a)}; }
inline Vec sqrt(Vec x) { return {_mm512_maskz_sqrt_ps(0xffff, x.a)}; }

// Nearest integer, as a float, and x 2^n for such an integer in [-126, 127].
inline Vec round(Vec x) { return {_mm512_maskz_roundscale_ps(0xffff, x.a, _MM_FROUND_TO_NEAREST_INT)}; }
inline Vec times_exp2(Vec x, Vec n) { return {_mm512_maskz_scalef_ps(0xffff, x.a, n.a)}; }

// The value in the lanes where x >= limit, zero elsewhere.
inline Vec zero_below(Vec x, Vec limit, Vec value) {
  return {_mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x.a, limit.a, _CMP_GE_OQ), value.a)};
}

// The value in the lanes whose bit is set, zero elsewhere.
inline Vec keep_lanes(Vec x, unsigned bits) { return {_mm512_maskz_mov_ps(static_cast<__mmask16>(bits), x.a)}; }

// a in the lanes where x < limit, b elsewhere.
inline Vec select_below(Vec x, Vec limit, Vec a, Vec b) {
  return {_mm512_mask_mov_ps(b.a, _mm512_cmp_ps_mask(x.a, limit.a, _CMP_LT_OQ), a.a)};
}

// (first eight, last eight) -> (last eight, first eight)
inline Vec swap_halves(Vec x) { return {_mm512_maskz_shuffle_f32x4(0xffff, x.a, x.a, _MM_SHUFFLE(1, 0, 3, 2))}; }

// Sum and maximum of the sixteen, in the order of fold() in simd/math.h.
inline __m256 low_part(Vec x) { return _mm512_maskz_extractf32x8_ps(0xff, x.a, 0); }
inline __m256 high_part(Vec x) { return _mm512_maskz_extractf32x8_ps(0xff, x.a, 1); }
inline float sum_elements(Vec x) {
  const __m256 eight = _mm256_add_ps(low_part(x), high_part(x));
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
}
inline float max_elements(Vec x) {
  const __m256 eight = _mm256_max_ps(low_part(x), high_part(x));
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps(two, two, 1)));
}

}  // namespace nanomd::avx512
