#include "nanomd/langevin.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <string>
#include <thread>
#include <vector>

#include "langevin_kernel.h"
#include "nanomd/check.h"

namespace nanomd {
namespace {

struct Centre {
  double x, y, sign;
};
constexpr Centre kCentres[5] = {{0, 0, 1}, {2, -1, -1}, {0.5, 2, -1}, {-0.5, -2, -1}, {-2, 1, -1}};
constexpr double kVariance = 0.8 * 0.8;

struct Implementation {
  const char* name;
  LangevinKernel kernel;
  bool (*runs_here)();
};

// Best first.
const Implementation kImplementations[] = {
#if defined(__x86_64__)
    {"avx512", langevin_avx512,
     [] {
       return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
              __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
     }},
    {"avx2", langevin_avx2, [] { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }},
#endif
    {"sse2", langevin_sse2, [] { return true; }},
};

const Implementation* choose() {
  for (const Implementation& candidate : kImplementations)
    if (candidate.runs_here()) return &candidate;
  return nullptr;  // not reached: the last one runs everywhere
}

std::atomic<const Implementation*>& chosen() {
  static std::atomic<const Implementation*> implementation{choose()};
  return implementation;
}

}  // namespace

double four_state_potential(double x, double y) {
  double sum = 1e-4 * (std::pow(x, 6) + std::pow(y, 6));
  for (const Centre& c : kCentres)
    sum += c.sign * std::exp(-((x - c.x) * (x - c.x) + (y - c.y) * (y - c.y)) / (2 * kVariance));
  return sum;
}

void four_state_force(double x, double y, double force[2]) {
  force[0] = -6e-4 * std::pow(x, 5);
  force[1] = -6e-4 * std::pow(y, 5);
  for (const Centre& c : kCentres) {
    const double g = c.sign * std::exp(-((x - c.x) * (x - c.x) + (y - c.y) * (y - c.y)) / (2 * kVariance));
    force[0] += g * (x - c.x) / kVariance;
    force[1] += g * (y - c.y) / kVariance;
  }
}

void set_langevin_instruction_set(const char* name) {
  const std::string wanted = name;
  if (wanted.empty()) {
    chosen() = choose();
    return;
  }
  for (const Implementation& candidate : kImplementations) {
    if (wanted != candidate.name) continue;
    check(candidate.runs_here(), "the Langevin kernel '", wanted, "' cannot run on this processor");
    chosen() = &candidate;
    return;
  }
  throw InputError(join("no Langevin kernel named '", wanted, "'; there are avx512, avx2 and sse2"));
}

const char* langevin_instruction_set() { return chosen().load()->name; }

void simulate_four_state(const LangevinSettings& settings, std::int64_t first_frame, std::int64_t first_trajectory,
                         std::int64_t n_trajs, std::int64_t n_frames, Walker* walkers, double* frames, int n_threads) {
  check(settings.beta > 0 && std::isfinite(settings.beta), "beta must be positive, got ", settings.beta);
  check(settings.friction >= 0 && std::isfinite(settings.friction), "friction must not be negative, got ",
        settings.friction);
  check(settings.time_step > 0 && settings.time_step <= 0.5, "time_step must be in (0, 0.5], got ", settings.time_step);
  check(settings.spacing >= 1, "spacing must be at least 1, got ", settings.spacing);
  check(n_trajs >= 1, "n_trajs must be at least 1, got ", n_trajs);
  check(n_frames >= 1, "n_frames must be at least 1, got ", n_frames);
  check(first_frame >= 0 && first_trajectory >= 0, "first_frame and first_trajectory must not be negative");
  check(n_threads >= 1, "n_threads must be at least 1, got ", n_threads);
  for (std::int64_t i = 0; i < n_trajs; ++i)
    check(std::fabs(walkers[i].x) <= 20 && std::fabs(walkers[i].y) <= 20, "start positions must lie within +-20, got (",
          walkers[i].x, ", ", walkers[i].y, ") for trajectory ", i);

  const LangevinKernel kernel = chosen().load()->kernel;
  const std::int64_t n_groups = (n_trajs + kLangevinLanes - 1) / kLangevinLanes;
  std::atomic<std::int64_t> next{0};
  const auto work = [&] {
    for (std::int64_t group; (group = next.fetch_add(1)) < n_groups;) {
      const std::int64_t first = group * kLangevinLanes;
      kernel(settings, first_frame, first_trajectory + first, std::min(kLangevinLanes, n_trajs - first), n_frames,
             walkers + first, frames + first * n_frames * 2);
    }
  };
  std::vector<std::thread> threads;
  for (std::int64_t i = 1; i < std::min<std::int64_t>(n_threads, n_groups); ++i) threads.emplace_back(work);
  work();
  for (std::thread& thread : threads) thread.join();

  for (std::int64_t i = 0; i < n_trajs; ++i)
    check(std::fabs(walkers[i].x) < 20 && std::fabs(walkers[i].y) < 20, "trajectory ", first_trajectory + i,
          " escaped from the potential: use a shorter time_step than ", settings.time_step, " or a larger beta than ",
          settings.beta);
}

}  // namespace nanomd
