// Walkers of rare-event sampling, and the resampling of a weighted ensemble.
#include <memory>
#include <utility>
#include <vector>

#include "bindings.h"
#include "nanomd/check.h"
#include "nanomd/resample.h"
#include "nanomd/walkers.h"

namespace nanomd::bindings {
namespace py = pybind11;

namespace {

using Whole = Array<std::uint64_t>;

void check_vector(const char* name, const py::array& array, std::size_t n) {
  check(array.ndim() == 1 && static_cast<std::size_t>(array.shape(0)) == n, name, " must be a vector of ", n);
}

std::unique_ptr<Walkers> make(const RolloutEngine& engine, const std::string& mode, int hop_keep, std::uint64_t seed,
                              double temperature, int n_threads) {
  return engine.walkers({parse_mode(mode), hop_keep, seed, temperature, n_threads});
}

std::uint64_t place(Walkers& self, const Whole& walker, const Array<std::uint16_t>& tokens, const Whole& length,
                    const Whole& n_before) {
  Placement placement;
  placement.n = static_cast<std::size_t>(walker.size());
  check_vector("walker", walker, placement.n);
  check_vector("length", length, placement.n);
  check_vector("n_before", n_before, placement.n);
  std::uint64_t left = static_cast<std::uint64_t>(tokens.size());
  for (std::size_t i = 0; i < placement.n; ++i) {
    check(length.data()[i] <= left, "tokens end before the lengths do");
    left -= length.data()[i];
  }
  check(left == 0, "tokens must be as many as the lengths say");
  placement.walker = walker.data();
  placement.tokens = tokens.data();
  placement.length = length.data();
  placement.n_before = n_before.data();
  const py::gil_scoped_release release;
  return self.place(placement);
}

void select(Walkers& self, const Whole& parent) {
  check(parent.ndim() == 1, "parent must be a vector");
  const std::uint64_t* data = parent.data();
  const std::size_t n = static_cast<std::size_t>(parent.size());
  const py::gil_scoped_release release;
  self.select(data, n);
}

// (tokens (n, most), taken (n,), whether it was not stopped)
py::tuple advance(Walkers& self, const Whole& stream, const Whole& step, const Whole& n_steps,
                  const Array<std::uint8_t>& stops, std::size_t n_states, const py::object& progress) {
  WalkerSteps steps;
  const std::size_t n = self.size();
  check_vector("stream", stream, n);
  check_vector("step", step, n);
  check_vector("n_steps", n_steps, n);
  check_vector("stops", stops, n_states);
  for (std::size_t i = 0; i < n; ++i) steps.row_stride = std::max<std::size_t>(steps.row_stride, n_steps.data()[i]);
  Array<std::uint16_t> tokens({n, steps.row_stride});
  Whole taken(static_cast<py::ssize_t>(n));
  steps.stream = stream.data();
  steps.step = step.data();
  steps.n_steps = n_steps.data();
  steps.stops = stops.data();
  steps.tokens = tokens.mutable_data();
  steps.taken = taken.mutable_data();
  const bool finished =
      run_released(progress, [&](const ProgressCallback& callback) { return self.advance(steps, callback); });
  return py::make_tuple(std::move(tokens), std::move(taken), finished);
}

py::tuple history(const Walkers& self, std::size_t walker) {
  Array<std::uint16_t> tokens(static_cast<py::ssize_t>(self.history_length(walker)));
  const std::uint64_t n_before = self.copy_history(walker, tokens.mutable_data());
  return py::make_tuple(std::move(tokens), n_before);
}

py::tuple resample_walkers(const Array<double>& weight, const Whole& bin, std::size_t per_bin, std::uint64_t seed,
                           std::uint64_t iteration, bool trace) {
  ResampleOptions options{
      static_cast<std::size_t>(weight.size()), weight.data(), bin.data(), per_bin, seed, iteration, trace};
  check_vector("weight", weight, options.n);
  check_vector("bin", bin, options.n);
  const Resampled result = resample(options);
  return py::make_tuple(Whole(static_cast<py::ssize_t>(result.parent.size()), result.parent.data()),
                        Array<double>(static_cast<py::ssize_t>(result.weight.size()), result.weight.data()),
                        Whole(static_cast<py::ssize_t>(result.merged.size()), result.merged.data()));
}

}  // namespace

void register_walkers(py::module_& module) {
  py::class_<Walkers>(module, "Walkers")
      .def(py::init(&make))
      .def("__len__", &Walkers::size)
      .def("resize", &Walkers::resize)
      .def("place", &place)
      .def("select", &select)
      .def("advance", &advance)
      .def("history", &history);
  module.def("resample", &resample_walkers);
}

}  // namespace nanomd::bindings
