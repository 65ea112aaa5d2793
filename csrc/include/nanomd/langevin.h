// Langevin dynamics on the four-state model potential (Tsai, Kuo, Tiwary, Nat. Commun. 11, 5115 (2020)):
//   U(x, y) = 1e-4 (x^6 + y^6) + g(0, 0) - g(2, -1) - g(0.5, 2) - g(-0.5, -2) - g(-2, 1),
//   g(a, b) = exp(-((x - a)^2 + (y - b)^2) / (2 * 0.8^2)),   unit mass.
//
// A step is Bussi and Parrinello's (2007): half an Ornstein-Uhlenbeck step of the velocity, velocity Verlet, and the
// other half. The half that ends a step and the half that begins the next act on the velocity alone, so they are drawn
// as one whole step, which has exactly the law of the two; the velocities seen between calls stand before that step.
//
// Noise is a pure function of (seed, step, trajectory): one Philox block gives the two normals of a step by Box and
// Muller (words 0, 1: radius, 52 bits; words 2, 3: angle in a quarter of the circle, 52 bits; two of the bits left turn
// it to one of the four quarters). All arithmetic is written out per trajectory without fused operations, so that a
// trajectory has the same bits for every thread count, instruction set and company.
#pragma once

#include <cstdint>

namespace nanomd {

struct LangevinSettings {
  double beta = 9.5;           // inverse temperature
  double friction = 1.0;       // 1 / time
  double time_step = 0.01;     // time
  std::int64_t spacing = 100;  // steps between frames
  std::uint64_t seed = 0;
};

struct Walker {  // phase-space point of one trajectory
  double x, y, vx, vy;
};

double four_state_potential(double x, double y);
void four_state_force(double x, double y, double force[2]);

// Advances n_trajs walkers, of global indices first_trajectory..., by n_frames frames.
//   walkers  [n_trajs], read and written back, so that the next call goes on where this one stopped
//   frames   [n_trajs][n_frames][2], positions after each `spacing` steps
//   first_frame: frames made by earlier calls; with 0, velocities are first drawn from Maxwell's distribution.
// Throws InputError when a walker escapes (time step too long, temperature too high).
void simulate_four_state(const LangevinSettings& settings, std::int64_t first_frame, std::int64_t first_trajectory,
                         std::int64_t n_trajs, std::int64_t n_frames, Walker* walkers, double* frames, int n_threads);

// For tests: forces the kernel of "sse2", "avx2" or "avx512" (throws InputError where it cannot run); "" chooses.
void set_langevin_instruction_set(const char* name);
const char* langevin_instruction_set();

}  // namespace nanomd
