#include "bindings.h"
#include "nanomd/check.h"
#include "nanomd/langevin.h"

namespace nanomd::bindings {
namespace py = pybind11;

void register_langevin(py::module_& module) {
  // walkers: float64 (n_trajs, 4), read and written; returns frames: float64 (n_trajs, n_frames, 2).
  module.def(
      "simulate_four_state",
      [](double beta, double friction, double time_step, std::int64_t spacing, std::uint64_t seed,
         std::int64_t first_frame, std::int64_t first_trajectory, std::int64_t n_frames, Array<double> walkers,
         int n_threads) {
        check(walkers.ndim() == 2 && walkers.shape(1) == 4, "walkers must have the shape (n_trajs, 4)");
        check(n_frames >= 1, "n_frames must be at least 1, got ", n_frames);
        const std::int64_t n_trajs = walkers.shape(0);
        Array<double> frames({n_trajs, n_frames, std::int64_t{2}});
        static_assert(sizeof(Walker) == 4 * sizeof(double));
        Walker* state = reinterpret_cast<Walker*>(walkers.mutable_data());
        double* out = frames.mutable_data();
        {
          py::gil_scoped_release released;
          simulate_four_state({beta, friction, time_step, spacing, seed}, first_frame, first_trajectory, n_trajs,
                              n_frames, state, out, n_threads);
        }
        return frames;
      },
      py::arg("beta"), py::arg("friction"), py::arg("time_step"), py::arg("spacing"), py::arg("seed"),
      py::arg("first_frame"), py::arg("first_trajectory"), py::arg("n_frames"), py::arg("walkers").noconvert(),
      py::arg("n_threads"));
  module.def("four_state_potential", py::vectorize(&four_state_potential), py::arg("x"), py::arg("y"));
  module.def("set_langevin_instruction_set",
             [](const std::string& name) { set_langevin_instruction_set(name.c_str()); });
  module.def("langevin_instruction_set", [] { return std::string(langevin_instruction_set()); });
}

}  // namespace nanomd::bindings
