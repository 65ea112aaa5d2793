// nanomd._core.emulated_cuda_engine, in builds with NANOMD_EMULATE_CUDA alone.
#include "bindings/bindings.h"
#include "emulated_engine.h"

namespace nanomd::bindings {
namespace py = pybind11;

void register_emulation(py::module_& module) {
  module.def("emulated_cuda_engine", [](const py::dict& shape, const py::dict& tensors,
                                        const std::vector<std::uint32_t>& multipliers, const py::dict& options) {
    return make_emulated_cuda_engine(parse_shape(shape), parse_tensors(tensors), multipliers,
                                     parse_cuda_options(options), {});
  });
}

}  // namespace nanomd::bindings
