#include "bindings.h"

namespace nanomd::bindings {
namespace py = pybind11;

void register_counts(py::module_& module) { (void)module; }

}  // namespace nanomd::bindings
