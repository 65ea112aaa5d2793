#include <optional>

#include "bindings.h"
#include "nanomd/cuda_engine.h"
#include "nanomd/cuda_info.h"

namespace nanomd::bindings {
namespace py = pybind11;

CudaOptions parse_cuda_options(const py::dict& values) {
  CudaOptions options;
  options.precision = precision_named(values["precision"].cast<std::string>());
  options.regime = values["regime"].cast<std::string>();
  options.weights = values["weights"].cast<std::string>();
  options.tile = values["tile"].cast<int>();
  options.ranks = values["ranks"].cast<int>();
  options.device = values["device"].cast<int>();
  return options;
}

void register_cuda(py::module_& module) {
  module.def("cuda_info", [] {
    const CudaInfo info = cuda_info();
    py::list devices;
    for (const CudaDevice& device : info.devices) {
      py::dict row;
      row["name"] = device.name;
      row["compute_capability"] = py::make_tuple(device.major, device.minor);
      row["multiprocessors"] = device.multiprocessors;
      row["memory_bytes"] = device.memory;
      devices.append(row);
    }
    py::dict result;
    result["built"] = info.built;
    result["driver"] = info.driver;
    result["devices"] = devices;
    result["reason"] = info.reason;
    return result;
  });
  py::class_<CudaEngine, RolloutEngine, std::unique_ptr<CudaEngine>>(module, "CudaEngine")
      .def(py::init([](const py::dict& shape, const py::dict& tensors, const std::vector<std::uint32_t>& multipliers,
                       const py::dict& options) {
             return make_cuda_engine(parse_shape(shape), parse_tensors(tensors), multipliers,
                                     parse_cuda_options(options));
           }),
           py::arg("shape"), py::arg("tensors"), py::arg("rope_multipliers"), py::arg("options"))
      .def("describe", &CudaEngine::describe)
      .def("memory_plan",
           [](const CudaEngine& engine, const std::string& mode, int n_trajs, const std::optional<py::tuple>& spec) {
             const ObservablesSpec observed = spec ? parse_spec(*spec) : ObservablesSpec{};
             const CudaMemoryPlan plan = engine.memory_plan(parse_mode(mode), n_trajs, spec ? &observed : nullptr);
             py::dict result;
             result["weights"] = plan.weights;
             result["per_trajectory"] = plan.per_trajectory;
             result["fixed"] = plan.fixed;
             result["total"] = plan.total;
             result["free"] = plan.free;
             result["largest_n_trajs"] = plan.largest_n_trajs;
             return result;
           });
}

}  // namespace nanomd::bindings
