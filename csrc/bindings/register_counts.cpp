#include "bindings.h"
#include "nanomd/check.h"
#include "nanomd/counts.h"

namespace nanomd::bindings {
namespace py = pybind11;
namespace {

// int64 (n_trajs, 2): first block and number of blocks of each trajectory; the results have n_blocks rows.
using Blocks = Array<std::int64_t>;

template <class Token>
Trajectories<Token> view(const std::vector<Array<Token>>& arrays, const Blocks& blocks, std::int64_t n_blocks) {
  check(n_blocks >= 1, "at least one block is needed");
  check(blocks.ndim() == 2 && blocks.shape(0) == static_cast<py::ssize_t>(arrays.size()) && blocks.shape(1) == 2,
        "blocks must have the shape (n_trajs, 2)");
  Trajectories<Token> trajectories;
  for (std::size_t i = 0; i < arrays.size(); ++i) {
    check(arrays[i].ndim() == 1, "trajectory ", i, " must have one dimension");
    const std::int64_t first = blocks.at(i, 0), count = blocks.at(i, 1);
    check(first >= 0 && count >= 1 && count <= n_blocks - first, "trajectory ", i, " has blocks out of range");
    trajectories.push_back({arrays[i].data(), arrays[i].shape(0), first, count});
  }
  return trajectories;
}

template <class Number>
Array<Number> zeros(std::vector<std::int64_t> shape) {
  Array<Number> array(shape);
  std::fill_n(array.mutable_data(), array.size(), Number{});
  return array;
}

template <class Token>
void register_token(py::module_& module) {
  using Arrays = std::vector<Array<Token>>;
  module.def("count_visits",
             [](const Arrays& arrays, const Blocks& blocks, std::int64_t n_blocks, std::int64_t n_states) {
               const auto trajectories = view(arrays, blocks, n_blocks);
               check(n_states >= 1, "n_states must be at least 1, got ", n_states);
               auto visits = zeros<std::int64_t>({n_blocks, n_states});
               std::int64_t* out = visits.mutable_data();
               {
                 py::gil_scoped_release released;
                 count_visits(trajectories, n_states, out);
               }
               return visits;
             });
  module.def("count_transitions", [](const Arrays& arrays, const Blocks& blocks, std::int64_t n_blocks,
                                     std::int64_t n_states, std::int64_t lag, std::int64_t step) {
    const auto trajectories = view(arrays, blocks, n_blocks);
    check(n_states >= 1, "n_states must be at least 1, got ", n_states);
    auto counts = zeros<std::int64_t>({n_blocks, n_states, n_states});
    std::int64_t* out = counts.mutable_data();
    {
      py::gil_scoped_release released;
      count_transitions(trajectories, n_states, lag, step, out);
    }
    return counts;
  });
  module.def("project_transitions", [](const Arrays& arrays, const Blocks& blocks, std::int64_t n_blocks,
                                       std::int64_t n_states, std::int64_t lag, const Array<double>& matrix) {
    const auto trajectories = view(arrays, blocks, n_blocks);
    check(n_states >= 1, "n_states must be at least 1, got ", n_states);
    check(matrix.ndim() == 2 && matrix.shape(0) == n_states, "the matrix must have n_states = ", n_states, " rows");
    auto product = zeros<double>({n_blocks, n_states, matrix.shape(1)});
    auto rows = zeros<std::int64_t>({n_blocks, n_states});
    double* out = product.mutable_data();
    std::int64_t* row = rows.mutable_data();
    const double* in = matrix.data();
    const std::int64_t n_columns = matrix.shape(1);
    {
      py::gil_scoped_release released;
      project_transitions(trajectories, n_states, lag, in, n_columns, out, row);
    }
    return py::make_tuple(product, rows);
  });
  module.def("count_passages", [](const Arrays& arrays, const Blocks& blocks, std::int64_t n_blocks,
                                  std::int64_t n_states, std::int64_t stride) {
    const auto trajectories = view(arrays, blocks, n_blocks);
    check(n_states >= 1, "n_states must be at least 1, got ", n_states);
    auto exposure = zeros<std::int64_t>({n_blocks, n_states, n_states});
    auto passages = zeros<std::int64_t>({n_blocks, n_states, n_states});
    std::int64_t* out = exposure.mutable_data();
    std::int64_t* events = passages.mutable_data();
    {
      py::gil_scoped_release released;
      count_passages(trajectories, n_states, stride, out, events);
    }
    return py::make_tuple(exposure, passages);
  });
  module.def("count_stays", [](const Arrays& arrays, const Blocks& blocks, std::int64_t n_blocks, std::int64_t n_states,
                               std::int64_t stride, std::int64_t n_bins) {
    const auto trajectories = view(arrays, blocks, n_blocks);
    check(n_states >= 1, "n_states must be at least 1, got ", n_states);
    check(n_bins >= 2, "n_bins must be at least 2, got ", n_bins);
    auto exposure = zeros<std::int64_t>({n_blocks, n_states});
    auto exits = zeros<std::int64_t>({n_blocks, n_states});
    auto completed = zeros<std::int64_t>({n_states, n_bins});
    auto cut = zeros<std::int64_t>({n_states, n_bins});
    std::int64_t *out = exposure.mutable_data(), *events = exits.mutable_data();
    std::int64_t *whole = completed.mutable_data(), *part = cut.mutable_data();
    {
      py::gil_scoped_release released;
      count_stays(trajectories, n_states, stride, n_bins, out, events, whole, part);
    }
    return py::make_tuple(exposure, exits, completed, cut);
  });
}

}  // namespace

void register_counts(py::module_& module) {
  // One overload per type of token; nanomd._native gives all trajectories of a call one type.
  register_token<std::uint8_t>(module);
  register_token<std::uint16_t>(module);
  register_token<std::int32_t>(module);
  register_token<std::int64_t>(module);
}

}  // namespace nanomd::bindings
