// One register_*.cpp per subject. Bindings check arrays, release the GIL, and do nothing else.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <exception>
#include <string>

#include "nanomd/cuda_engine.h"
#include "nanomd/engine.h"
#include "nanomd/kv_cache.h"
#include "nanomd/model.h"
#include "nanomd/observables.h"

namespace nanomd::bindings {

void register_cuda(pybind11::module_& module);
void register_random(pybind11::module_& module);
void register_langevin(pybind11::module_& module);
void register_counts(pybind11::module_& module);
void register_engine(pybind11::module_& module);
void register_observables(pybind11::module_& module);
void register_training(pybind11::module_& module);
void register_sweep(pybind11::module_& module);
void register_walkers(pybind11::module_& module);
void register_clustering(pybind11::module_& module);
void register_emulation(pybind11::module_& module);  // with NANOMD_EMULATE_CUDA: csrc/tests/emulation

// A C-contiguous array of exactly this type: no silent conversion, so that writes reach the caller's memory.
template <class T>
using Array = pybind11::array_t<T, pybind11::array::c_style>;

// The arguments of engines (register_engine.cpp). The views refer to the arrays.
ModelShape parse_shape(const pybind11::dict& values);
TensorMap parse_tensors(const pybind11::dict& tensors);
Mode parse_mode(const std::string& mode);
CudaOptions parse_cuda_options(const pybind11::dict& values);  // register_cuda.cpp

// (n_states, lags, n_sets, set_of, edges), see nanomd._native.ObservablesSpec.
ObservablesSpec parse_spec(const pybind11::tuple& values);

struct PyObservables {
  ObservablesWriter writer;
  pybind11::ssize_t n_trajs;
};

// Runs work(callback) without the GIL. The callback heeds Ctrl-C and tells `progress`; what Python raises there stops
// the work and is raised here once all threads have stopped. False if stopped without an exception.
template <class Work>
bool run_released(const pybind11::object& progress, Work work) {
  std::exception_ptr raised;
  bool finished = false;
  const ProgressCallback callback = [&](std::uint64_t done) {
    const pybind11::gil_scoped_acquire gil;
    try {
      if (raised) return true;
      if (PyErr_CheckSignals() != 0) throw pybind11::error_already_set();
      return !progress.is_none() && progress(done).cast<bool>();
    } catch (...) {
      raised = std::current_exception();
      return true;
    }
  };
  {
    const pybind11::gil_scoped_release release;
    finished = work(callback);
  }
  if (raised) std::rethrow_exception(raised);
  return finished;
}

}  // namespace nanomd::bindings
