// nanomd._core: NumPy arrays in, NumPy arrays out. Only nanomd/_native/ imports it.
#include "bindings.h"
#include "nanomd/check.h"

PYBIND11_MODULE(_core, module) {
  module.doc() = "The compiled core of nanomd. Use the functions of nanomd instead: they check what these assume.";
  pybind11::register_exception<nanomd::InputError>(module, "CoreInputError", PyExc_ValueError);
  pybind11::register_exception<nanomd::UnsupportedError>(module, "CoreUnsupportedError", PyExc_RuntimeError);
  nanomd::bindings::register_random(module);
  nanomd::bindings::register_langevin(module);
  nanomd::bindings::register_counts(module);
  nanomd::bindings::register_engine(module);
  nanomd::bindings::register_cuda(module);  // after the engine that it derives from
  nanomd::bindings::register_observables(module);
  nanomd::bindings::register_training(module);
  nanomd::bindings::register_sweep(module);
  nanomd::bindings::register_walkers(module);
  nanomd::bindings::register_clustering(module);
#if defined(NANOMD_EMULATE_CUDA)
  nanomd::bindings::register_emulation(module);
#endif
}
