#include "bindings.h"
#include "nanomd/check.h"
#include "nanomd/observables.h"

namespace nanomd::bindings {
namespace py = pybind11;

ObservablesSpec parse_spec(const py::tuple& values) {
  check(values.size() == 5, "a description of observables has five parts, got ", values.size());
  ObservablesSpec spec;
  spec.n_states = values[0].cast<std::int64_t>();
  spec.lags = values[1].cast<std::vector<std::int64_t>>();
  spec.n_sets = values[2].cast<std::int64_t>();
  spec.set_of = values[3].cast<std::vector<std::int32_t>>();
  spec.edges = values[4].cast<std::vector<std::int64_t>>();
  return spec;
}

namespace {

template <class T>
Array<T> copy_of(const std::vector<T>& values) {
  Array<T> array(static_cast<py::ssize_t>(values.size()));
  std::copy(values.begin(), values.end(), array.mutable_data());
  return array;
}

template <class T>
std::vector<T> vector_of(const Array<T>& array) {
  return std::vector<T>(array.data(), array.data() + array.size());
}

void add(PyObservables& self, const py::array& tokens, int n_threads) {
  TokenBlock block;
  block.item_size = static_cast<int>(tokens.itemsize());
  check(tokens.dtype().kind() == 'u' && (block.item_size == 1 || block.item_size == 2),
        "tokens must be uint8 or uint16");
  check(tokens.ndim() == 2 && tokens.shape(0) == self.n_trajs, "tokens must have ", self.n_trajs, " rows");
  check(tokens.shape(1) <= 1 || tokens.strides(1) == block.item_size, "the rows of tokens must be contiguous");
  check(tokens.strides(0) >= 0 && tokens.strides(0) % block.item_size == 0, "the rows of tokens must be aligned");
  block.tokens = tokens.data();
  block.row_stride = static_cast<std::size_t>(tokens.strides(0) / block.item_size);
  const std::size_t n_steps = static_cast<std::size_t>(tokens.shape(1));
  const py::gil_scoped_release release;
  self.writer.add(block, n_steps, n_threads);
}

}  // namespace

void register_observables(py::module_& module) {
  py::class_<PyObservables>(module, "ObservablesWriter")
      .def(py::init([](const py::tuple& spec, py::ssize_t n_trajs) {
        check(n_trajs >= 1, "observables need at least one trajectory");
        return PyObservables{ObservablesWriter(parse_spec(spec), static_cast<std::size_t>(n_trajs)), n_trajs};
      }))
      .def("add", &add)
      .def("finish", [](PyObservables& self) { self.writer.finish(); })
      .def("totals", [](const PyObservables& self) { return copy_of(self.writer.totals()); })
      .def("counters", [](const PyObservables& self) { return copy_of(self.writer.counters()); })
      .def("recent", [](const PyObservables& self) { return copy_of(self.writer.recent()); })
      .def("restore", [](PyObservables& self, const Array<std::int64_t>& totals, const Array<std::int64_t>& counters,
                         const Array<std::uint16_t>& recent) {
        self.writer.restore(vector_of(totals), vector_of(counters), vector_of(recent));
      });
  // Offsets of the tables in the totals, and their full length.
  module.def("observables_layout", [](const py::tuple& spec) {
    const ObservablesLayout at(parse_spec(spec));
    py::dict layout;
    layout["visits"] = at.visits;
    layout["transitions"] = at.transitions;
    layout["stay_exposure"] = at.stay_exposure;
    layout["stay_exits"] = at.stay_exits;
    layout["stay_steps"] = at.stay_steps;
    layout["stay_completed"] = at.stay_completed;
    layout["stay_cut"] = at.stay_cut;
    layout["passage_exposure"] = at.passage_exposure;
    layout["passages"] = at.passages;
    layout["passage_steps"] = at.passage_steps;
    layout["passage_completed"] = at.passage_completed;
    layout["passage_cut"] = at.passage_cut;
    layout["size"] = at.size;
    return layout;
  });
}

}  // namespace nanomd::bindings
