#include "bindings.h"
#include "nanomd/cuda_info.h"

namespace nanomd::bindings {
namespace py = pybind11;

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
    result["devices"] = devices;
    result["reason"] = info.reason;
    return result;
  });
}

}  // namespace nanomd::bindings
