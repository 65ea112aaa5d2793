// The integrator for kLanes trajectories at once, compiled once per instruction set (langevin_{sse2,avx2,avx512}.cpp).
// Everything here has internal linkage: code built for one instruction set must not serve another.
#pragma once

#include <cstdint>
#if defined(__GNUC__) && !defined(__clang__)
// Vectors never cross a translation unit, and GCC 12 warns about its own intrinsics.
#  pragma GCC diagnostic ignored "-Wpsabi"
#  pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#  pragma GCC diagnostic ignored "-Wuninitialized"
#endif
#if defined(__x86_64__)
#  include <immintrin.h>
#endif

#include "nanomd/langevin.h"

namespace nanomd {

using LangevinKernel = void (*)(const LangevinSettings& settings, std::int64_t first_frame,
                                std::int64_t first_trajectory, std::int64_t n_trajs, std::int64_t n_frames,
                                Walker* walkers, double* frames);
constexpr std::int64_t kLangevinLanes = 8;

// n_trajs <= kLangevinLanes in each.
void langevin_sse2(const LangevinSettings&, std::int64_t, std::int64_t, std::int64_t, std::int64_t, Walker*, double*);
void langevin_avx2(const LangevinSettings&, std::int64_t, std::int64_t, std::int64_t, std::int64_t, Walker*, double*);
void langevin_avx512(const LangevinSettings&, std::int64_t, std::int64_t, std::int64_t, std::int64_t, Walker*, double*);

}  // namespace nanomd

#if defined(NANOMD_LANGEVIN_KERNEL)
namespace nanomd {
namespace {

// Vectors of eight, which the compiler splits into what the instruction set has.
typedef double Real __attribute__((vector_size(64)));
typedef std::uint64_t Bits __attribute__((vector_size(64)));

inline Real real(double value) { return Real{} + value; }
inline Bits as_bits(Real value) { return reinterpret_cast<Bits>(value); }
inline Real as_real(Bits value) { return reinterpret_cast<Real>(value); }

inline Real square_root(Real value) {
#  if defined(__AVX512F__)
  return reinterpret_cast<Real>(_mm512_sqrt_pd(reinterpret_cast<__m512d>(value)));
#  else
  Real result;
  for (int i = 0; i < 8; ++i) result[i] = __builtin_sqrt(value[i]);
  return result;
#  endif
}

// Products of the low 32 bits of every lane.
inline Bits multiply_low(Bits a, std::uint32_t b) {
#  if defined(__AVX512F__)
  return reinterpret_cast<Bits>(_mm512_mul_epu32(reinterpret_cast<__m512i>(a), _mm512_set1_epi64(b)));
#  elif defined(__AVX2__)
  union Halves {
    Bits all;
    __m256i half[2];
  } value{a}, result;
  for (int i = 0; i < 2; ++i) result.half[i] = _mm256_mul_epu32(value.half[i], _mm256_set1_epi64x(b));
  return result.all;
#  else
  return (a & 0xFFFFFFFFull) * static_cast<std::uint64_t>(b);
#  endif
}

// e^x to 2e-13, |x| < 690: x = k ln 2 + r, Taylor in r.
inline Real exponential(Real x) {
  const Real shift = real(0x1.8p52);
  const Real shifted = x * 0x1.71547652b82fep0 + shift;
  const Real k = shifted - shift;
  const Real r = (x - k * 0x1.62e42fee00000p-1) - k * 0x1.a39ef35793c76p-33;
  Real sum = real(1.0 / 3628800);
  sum = sum * r + 1.0 / 362880;
  sum = sum * r + 1.0 / 40320;
  sum = sum * r + 1.0 / 5040;
  sum = sum * r + 1.0 / 720;
  sum = sum * r + 1.0 / 120;
  sum = sum * r + 1.0 / 24;
  sum = sum * r + 1.0 / 6;
  sum = sum * r + 0.5;
  sum = sum * r + 1.0;
  sum = sum * r + 1.0;
  return as_real(as_bits(sum) + (as_bits(shifted) << 52));
}

// ln u for u in (0, 1] and normal: u = 2^e m with m in [sqrt(1/2), sqrt(2)), ln m = 2 artanh((m - 1) / (m + 1)).
inline Real logarithm(Real u) {
  const Bits bits = as_bits(u) - 0x3FE6A09E667F3BCDull;  // the bits of sqrt(1/2)
  const Bits mantissa = (bits & 0x000FFFFFFFFFFFFFull) + 0x3FE6A09E667F3BCDull;
  // The exponent, in [-52, 0], as a double: 64 + e is small and positive, so it may stand in the low bits of 2^52.
  const Bits biased = (bits + (64ull << 52)) >> 52;
  const Real e = as_real(biased | 0x4330000000000000ull) - (0x1p52 + 64.0);
  const Real m = as_real(mantissa);
  const Real s = (m - 1.0) / (m + 1.0);
  const Real z = s * s;
  Real sum = real(1.0 / 17);
  sum = sum * z + 1.0 / 15;
  sum = sum * z + 1.0 / 13;
  sum = sum * z + 1.0 / 11;
  sum = sum * z + 1.0 / 9;
  sum = sum * z + 1.0 / 7;
  sum = sum * z + 1.0 / 5;
  sum = sum * z + 1.0 / 3;
  sum = sum * z + 1.0;
  return e * 0x1.62e42fefa39efp-1 + 2.0 * s * sum;
}

// Two standard normals for every trajectory.
inline void normals(std::uint64_t seed, std::uint64_t step, Bits trajectory, Real& a, Real& b) {
  Bits c0 = Bits{} + (step & 0xFFFFFFFFull), c1 = Bits{} + (step >> 32);
  Bits c2 = trajectory & 0xFFFFFFFFull, c3 = trajectory >> 32;
  std::uint32_t k0 = static_cast<std::uint32_t>(seed), k1 = static_cast<std::uint32_t>(seed >> 32);
  for (int round = 0; round < 10; ++round) {  // nanomd/philox.h, eight at a time
    const Bits p0 = multiply_low(c0, 0xD2511F53u), p1 = multiply_low(c2, 0xCD9E8D57u);
    c0 = (p1 >> 32) ^ c1 ^ static_cast<std::uint64_t>(k0);
    c1 = p1 & 0xFFFFFFFFull;
    c2 = (p0 >> 32) ^ c3 ^ static_cast<std::uint64_t>(k1);
    c3 = p0 & 0xFFFFFFFFull;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  const Bits one = Bits{} + 0x3FF0000000000000ull;
  const Real u = 2.0 - as_real((((c0 << 32) | c1) >> 12) | one);  // (0, 1]
  const Bits angle_bits = (c2 << 32) | c3;
  const Real angle = (as_real((angle_bits >> 12) | one) - 1.5) * 0x1.921fb54442d18p0;  // [-pi/4, pi/4)
  const Real radius = square_root(-2.0 * logarithm(u));
  const Real z = angle * angle;
  Real cosine = real(1.0 / 479001600);
  cosine = cosine * z - 1.0 / 3628800;
  cosine = cosine * z + 1.0 / 40320;
  cosine = cosine * z - 1.0 / 720;
  cosine = cosine * z + 1.0 / 24;
  cosine = cosine * z - 0.5;
  cosine = cosine * z + 1.0;
  Real sine = real(-1.0 / 39916800);
  sine = sine * z + 1.0 / 362880;
  sine = sine * z - 1.0 / 5040;
  sine = sine * z + 1.0 / 120;
  sine = sine * z - 1.0 / 6;
  sine = (sine * z) * angle + angle;
  // The sine has either sign already; the cosine needs one, and then either may be x.
  cosine = as_real(as_bits(cosine) ^ (angle_bits << 63));
  const Bits swap = Bits{} - ((angle_bits >> 1) & 1ull);
  a = radius * as_real((as_bits(sine) & swap) | (as_bits(cosine) & ~swap));
  b = radius * as_real((as_bits(cosine) & swap) | (as_bits(sine) & ~swap));
}

// Force, from three exponentials: exp(-((x-a)^2 + (y-b)^2) / 2s) = exp(-(x^2 + y^2) / 2s) exp(x/2s)^2a exp(y/s)^b K.
inline void force(Real x, Real y, Real& fx, Real& fy) {
  constexpr double kVariance = 0.8 * 0.8;
  const Real x2 = x * x, y2 = y * y;
  const Real centre = exponential((x2 + y2) * (-0.5 / kVariance));
  const Real u = exponential(x * (0.5 / kVariance)), w = exponential(y * (1.0 / kVariance));
  const Real inverse = 1.0 / (u * w);
  const Real iu = inverse * w, iw = inverse * u;
  const Real u2 = u * u, iu2 = iu * iu;
  const Real wide = centre * 0x1.4993c15e964fbp-6;    // exp(-(2^2 + 1^2) / 2s)
  const Real narrow = centre * 0x1.28124b439e06ep-5;  // exp(-(0.5^2 + 2^2) / 2s)
  const Real right = wide * (u2 * u2) * iw, left = wide * (iu2 * iu2) * w;
  const Real top = narrow * u * (w * w), bottom = narrow * iu * (iw * iw);
  const Real radial = centre - ((right + left) + (top + bottom));
  const Real across = right - left, along = top - bottom;
  fx = (x * radial + (2.0 * across + 0.5 * along)) * (1.0 / kVariance) - 6e-4 * (x2 * x2 * x);
  fy = (y * radial + (2.0 * along - across)) * (1.0 / kVariance) - 6e-4 * (y2 * y2 * y);
}

inline void run_lanes(const LangevinSettings& settings, std::int64_t first_frame, std::int64_t first_trajectory,
                      std::int64_t n_trajs, std::int64_t n_frames, Walker* walkers, double* frames) {
  Real x = real(0), y = real(0), vx = real(0), vy = real(0), fx, fy, noise_x, noise_y;
  Bits trajectory = Bits{};
  for (int i = 0; i < n_trajs; ++i) {
    x[i] = walkers[i].x, y[i] = walkers[i].y, vx[i] = walkers[i].vx, vy[i] = walkers[i].vy;
    trajectory[i] = static_cast<std::uint64_t>(first_trajectory + i);
  }
  const double thermal = 1.0 / __builtin_sqrt(settings.beta);
  if (first_frame == 0) {
    normals(settings.seed, ~0ull, trajectory, noise_x, noise_y);  // a step that no simulation reaches
    vx = noise_x * thermal;
    vy = noise_y * thermal;
  }
  const double keep = __builtin_exp(-settings.friction * settings.time_step);
  const double kick = thermal * __builtin_sqrt((1 - keep) * (1 + keep));
  const double dt = settings.time_step, half = 0.5 * settings.time_step;
  force(x, y, fx, fy);
  std::uint64_t step = static_cast<std::uint64_t>(first_frame) * static_cast<std::uint64_t>(settings.spacing);
  for (std::int64_t frame = 0; frame < n_frames; ++frame) {
    for (std::int64_t s = 0; s < settings.spacing; ++s, ++step) {
      normals(settings.seed, step, trajectory, noise_x, noise_y);
      vx = vx * keep + noise_x * kick;
      vy = vy * keep + noise_y * kick;
      vx += fx * half;
      vy += fy * half;
      x += vx * dt;
      y += vy * dt;
      force(x, y, fx, fy);
      vx += fx * half;
      vy += fy * half;
    }
    for (int i = 0; i < n_trajs; ++i) {
      frames[(i * n_frames + frame) * 2] = x[i];
      frames[(i * n_frames + frame) * 2 + 1] = y[i];
    }
  }
  for (int i = 0; i < n_trajs; ++i) walkers[i] = {x[i], y[i], vx[i], vy[i]};
}

}  // namespace
}  // namespace nanomd
#endif
