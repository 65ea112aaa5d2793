#include <vector>

#include "nanomd/check.h"
#include "nanomd/langevin.h"
#include "unit_test.h"

namespace {

struct Run {
  std::vector<nanomd::Walker> walkers;
  std::vector<double> frames;
};

Run simulate(const nanomd::LangevinSettings& settings, std::int64_t first_trajectory, std::int64_t n_trajs,
             std::int64_t n_frames, int n_threads = 1) {
  Run run;
  for (std::int64_t i = 0; i < n_trajs; ++i) {
    const double x = 2.0 - 0.01 * static_cast<double>(first_trajectory + i);
    run.walkers.push_back({x, -1.0, 0.0, 0.0});
  }
  run.frames.resize(static_cast<std::size_t>(n_trajs * n_frames * 2));
  nanomd::simulate_four_state(settings, 0, first_trajectory, n_trajs, n_frames, run.walkers.data(), run.frames.data(),
                              n_threads);
  return run;
}

}  // namespace

TEST(force_is_the_gradient) {
  for (double x = -3; x <= 3; x += 0.37)
    for (double y = -3; y <= 3; y += 0.41) {
      const double h = 1e-5;
      double force[2];
      nanomd::four_state_force(x, y, force);
      EXPECT_NEAR(force[0],
                  -(nanomd::four_state_potential(x + h, y) - nanomd::four_state_potential(x - h, y)) / (2 * h), 1e-9);
      EXPECT_NEAR(force[1],
                  -(nanomd::four_state_potential(x, y + h) - nanomd::four_state_potential(x, y - h)) / (2 * h), 1e-9);
      EXPECT_NEAR(nanomd::four_state_potential(x, y), nanomd::four_state_potential(-x, -y), 1e-15);
    }
}

// Without friction there is no noise, and velocity Verlet conserves energy; the vector force is compared with the
// scalar one by a scalar integration of the same trajectory.
TEST(frictionless_motion_is_velocity_verlet) {
  nanomd::LangevinSettings settings;
  settings.friction = 0;
  settings.spacing = 1;
  settings.seed = 5;
  Run start = simulate(settings, 0, 1, 1);
  nanomd::Walker w = start.walkers[0];
  Run rest;
  rest.walkers = {w};
  const int n = 2000;
  rest.frames.resize(2 * n);
  nanomd::simulate_four_state(settings, 1, 0, 1, n, rest.walkers.data(), rest.frames.data(), 1);
  const double energy = nanomd::four_state_potential(w.x, w.y) + 0.5 * (w.vx * w.vx + w.vy * w.vy);
  double f[2];
  nanomd::four_state_force(w.x, w.y, f);
  for (int i = 0; i < n; ++i) {
    w.vx += 0.005 * f[0], w.vy += 0.005 * f[1];
    w.x += 0.01 * w.vx, w.y += 0.01 * w.vy;
    nanomd::four_state_force(w.x, w.y, f);
    w.vx += 0.005 * f[0], w.vy += 0.005 * f[1];
    EXPECT_NEAR(rest.frames[2 * i], w.x, 1e-8);
    EXPECT_NEAR(rest.frames[2 * i + 1], w.y, 1e-8);
  }
  EXPECT_NEAR(nanomd::four_state_potential(w.x, w.y) + 0.5 * (w.vx * w.vx + w.vy * w.vy), energy, 1e-4);
}

TEST(a_trajectory_depends_on_nothing_else) {
  nanomd::LangevinSettings settings;
  settings.seed = 11;
  settings.spacing = 7;
  const Run many = simulate(settings, 0, 21, 50);
  const Run threaded = simulate(settings, 0, 21, 50, 3);
  const Run alone = simulate(settings, 13, 1, 50);
  EXPECT(many.frames == threaded.frames);
  for (int i = 0; i < 100; ++i) EXPECT(many.frames[13 * 100 + i] == alone.frames[i]);
  for (const char* name : {"sse2", "avx2", "avx512"}) {
    try {
      nanomd::set_langevin_instruction_set(name);
    } catch (const nanomd::InputError&) {
      continue;
    }
    EXPECT(simulate(settings, 0, 21, 50).frames == many.frames);
  }
  nanomd::set_langevin_instruction_set("");
}

TEST(two_calls_are_one) {
  nanomd::LangevinSettings settings;
  settings.spacing = 3;
  const Run whole = simulate(settings, 0, 2, 10);
  Run first = simulate(settings, 0, 2, 4);
  std::vector<double> rest(2 * 6 * 2);
  nanomd::simulate_four_state(settings, 4, 0, 2, 6, first.walkers.data(), rest.data(), 1);
  for (int i = 0; i < 12; ++i) EXPECT(rest[i] == whole.frames[8 + i]);
}

TEST(bad_input_is_refused) {
  nanomd::LangevinSettings settings;
  settings.beta = -1;
  EXPECT_THROWS(simulate(settings, 0, 1, 1), nanomd::InputError);
  settings.beta = 9.5;
  settings.spacing = 0;
  EXPECT_THROWS(simulate(settings, 0, 1, 1), nanomd::InputError);
  settings.spacing = 100;
  settings.beta = 1e-6;
  EXPECT_THROWS(simulate(settings, 0, 1, 10), nanomd::InputError);  // escapes
  EXPECT_THROWS(nanomd::set_langevin_instruction_set("mmx"), nanomd::InputError);
}

TEST_MAIN()
