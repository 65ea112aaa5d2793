#include "bindings.h"
#include "nanomd/philox.h"

namespace nanomd::bindings {
namespace py = pybind11;

void register_random(py::module_& module) {
  module.def("philox", [](std::uint64_t seed, std::uint64_t step, std::uint64_t trajectory) {
    const PhiloxBlock block = philox(seed, step, trajectory);
    return py::make_tuple(block.word[0], block.word[1], block.word[2], block.word[3]);
  });
  module.def("rollout_uniform", &rollout_uniform, py::arg("seed"), py::arg("step"), py::arg("trajectory"));
}

}  // namespace nanomd::bindings
