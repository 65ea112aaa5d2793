#include "bindings.h"

namespace nanomd::bindings {
namespace py = pybind11;

void register_engine(py::module_& module) { (void)module; }

}  // namespace nanomd::bindings
