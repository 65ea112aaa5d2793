#include "nanomd/observables.h"

#include <algorithm>
#include <functional>

#include "nanomd/check.h"
#include "nanomd/observables_step.h"
#include "parallel.h"

namespace nanomd {

namespace {

constexpr std::size_t kMaxCells = std::size_t{1} << 28;     // of one table: 2 GiB
constexpr std::size_t kWorkerCells = std::size_t{1} << 25;  // of the tables of all workers but the first
constexpr std::int64_t kHuge = std::int64_t{1} << 62;       // no count gets there
constexpr std::int64_t kMaxLag = std::int64_t{1} << 24;

ObservablesSpec checked(const ObservablesSpec& spec) {
  check(spec.n_states >= 1 && spec.n_states <= 65536, "n_states must be in [1, 65536], got ", spec.n_states);
  for (const std::int64_t lag : spec.lags)
    check(lag >= 1 && lag <= kMaxLag, "lagtimes must be in [1, ", kMaxLag, "] steps, got ", lag);
  check(spec.n_sets >= 0 && spec.n_sets <= spec.n_states, "there must be at most as many sets as states");
  check(spec.set_of.size() == static_cast<std::size_t>(spec.n_states), "set_of must have n_states entries");
  for (const std::int32_t set : spec.set_of)
    check(set >= -1 && set < spec.n_sets, "set_of must be in [-1, ", spec.n_sets - 1, "], got ", set);
  check(!spec.edges.empty() && spec.edges.front() == 0, "the bin edges must begin at 0");
  check(std::adjacent_find(spec.edges.begin(), spec.edges.end(), std::greater_equal<>()) == spec.edges.end(),
        "the bin edges must be strictly increasing");
  return spec;
}

SetTables set_tables(const ObservablesLayout& layout, const ObservablesSpec& spec) {
  return {layout, static_cast<std::size_t>(spec.n_sets), spec.edges.size(), spec.edges.data()};
}

}  // namespace

ObservablesLayout::ObservablesLayout(const ObservablesSpec& spec) {
  (void)checked(spec);
  const std::size_t V = static_cast<std::size_t>(spec.n_states), n = static_cast<std::size_t>(spec.n_sets);
  const std::size_t B = spec.edges.size(), n_lags = spec.lags.size();
  // All factors are below 2^32, so that none of these products overflows before it is looked at.
  check(n_lags <= kMaxCells / (V * V), "transition counts of ", V, " states at ", n_lags,
        " lags do not fit into memory; count fewer lags, or coarser states from stored tokens");
  check(B <= kMaxCells && (n == 0 || (n <= 4096 && B <= kMaxCells / (2 * n * n + 2 * n))), "histograms of ", n,
        " sets with ", B, " bins do not fit into memory; use fewer sets or bins");
  size = 0;
  const auto place = [&](std::size_t cells) {
    size += cells;
    return size - cells;
  };
  visits = place(V);
  transitions = place(n_lags * V * V);
  stay_exposure = place(n);
  stay_exits = place(n);
  stay_steps = place(n);
  stay_completed = place(n * B);
  stay_cut = place(n * B);
  passage_exposure = place(n * n);
  passages = place(n * n);
  passage_steps = place(n * n);
  passage_completed = place(n * n * B);
  passage_cut = place(n * n * B);
}

ObservablesWriter::ObservablesWriter(const ObservablesSpec& spec, std::size_t n_trajs)
    : spec_(spec), layout_(spec), n_trajs_(n_trajs), max_lag_(0), tables_(1) {
  for (const std::int64_t lag : spec_.lags) max_lag_ = std::max(max_lag_, static_cast<std::size_t>(lag));
  const std::size_t width = counters_per_trajectory();
  check(n_trajs >= 1, "observables need at least one trajectory");
  check(n_trajs <= (std::size_t{1} << 32) / std::max(width, max_lag_ + 1), n_trajs,
        " trajectories at once with lags up to ", max_lag_,
        " do not fit into memory; use fewer at a time or shorter lags");
  counters_.assign(n_trajs * width, -1);
  for (std::size_t i = 0; i < n_trajs; ++i) {
    std::int64_t* row = counters_.data() + i * width;
    row[kSteps] = row[kStayBegin] = row[kStayEntered] = 0;
    std::fill_n(row + kFirstVisited, spec_.n_sets, 0);
  }
  recent_.assign(n_trajs * max_lag_, 0);
  tables_[0].assign(layout_.size, 0);
}

std::size_t ObservablesWriter::counters_per_trajectory() const {
  return kFirstVisited + static_cast<std::size_t>(spec_.n_sets * (spec_.n_sets + 1));
}

std::size_t ObservablesWriter::recent_per_trajectory() const { return max_lag_; }

void ObservablesWriter::add(const TokenBlock& block, std::size_t n_steps, int n_threads) {
  check(block.item_size == 1 || block.item_size == 2, "tokens must have 1 or 2 bytes, got ", block.item_size);
  check(n_threads >= 1, "n_threads must be at least 1, got ", n_threads);
  const std::size_t most = 1 + kWorkerCells / layout_.size;
  const std::size_t workers = std::min({most, n_trajs_, static_cast<std::size_t>(n_threads)});
  while (tables_.size() < workers) tables_.emplace_back(layout_.size, 0);
  const auto work = [&](int worker, std::size_t i) {
    const std::size_t offset = i * block.row_stride;
    if (block.item_size == 1)
      add_row(i, static_cast<const std::uint8_t*>(block.tokens) + offset, n_steps, tables_[worker].data());
    else
      add_row(i, static_cast<const std::uint16_t*>(block.tokens) + offset, n_steps, tables_[worker].data());
  };
  if (workers == 1) {
    for (std::size_t i = 0; i < n_trajs_; ++i) work(0, i);
    return;
  }
  WorkState state;
  parallel_for(n_trajs_, static_cast<int>(workers), state, nullptr, work);
}

template <class Token>
void ObservablesWriter::add_row(std::size_t trajectory, const Token* row, std::size_t n_steps, std::int64_t* table) {
  const std::size_t V = static_cast<std::size_t>(spec_.n_states);
  std::int64_t* counters = counters_.data() + trajectory * counters_per_trajectory();
  std::uint16_t* recent = recent_.data() + trajectory * max_lag_;
  const std::size_t seen = static_cast<std::size_t>(counters[kSteps]);
  for (std::size_t t = 0; t < n_steps; ++t)
    check(row[t] < V, "states must lie below n_states = ", V, ", got ", static_cast<int>(row[t]));

  std::int64_t* visits = table + layout_.visits;
  for (std::size_t t = 0; t < n_steps; ++t) ++visits[row[t]];

  for (std::size_t l = 0; l < spec_.lags.size(); ++l) {
    const std::size_t lag = static_cast<std::size_t>(spec_.lags[l]);
    std::int64_t* counts = table + layout_.transitions + l * V * V;
    // The beginnings of the first `lag` pairs lie in earlier blocks, if anywhere.
    for (std::size_t t = lag > seen ? lag - seen : 0; t < std::min(lag, n_steps); ++t)
      ++counts[recent[(seen + t - lag) % max_lag_] * V + row[t]];
    for (std::size_t t = lag; t < n_steps; ++t) ++counts[row[t - lag] * V + row[t]];
  }
  for (std::size_t t = n_steps > max_lag_ ? n_steps - max_lag_ : 0; t < n_steps && max_lag_ > 0; ++t)
    recent[(seen + t) % max_lag_] = row[t];

  if (spec_.n_sets > 0) {
    const SetTables sets = set_tables(layout_, spec_);
    const auto count = [table](std::size_t cell, std::int64_t amount) { table[cell] += amount; };
    for (std::size_t t = 0; t < n_steps; ++t) {
      const std::int32_t set = spec_.set_of[row[t]];
      if (set != counters[kInside]) enter_set(sets, counters, static_cast<std::int64_t>(seen + t), set, count);
    }
  }
  counters[kSteps] = static_cast<std::int64_t>(seen + n_steps);
}

void ObservablesWriter::finish() {
  const std::size_t n = static_cast<std::size_t>(spec_.n_sets), B = spec_.edges.size();
  const std::size_t width = counters_per_trajectory();
  const SetTables sets = set_tables(layout_, spec_);
  std::int64_t* table = tables_[0].data();
  for (std::size_t i = 0; i < n_trajs_; ++i) {
    std::int64_t* counters = counters_.data() + i * width;
    const std::int64_t last = counters[kSteps] - 1;
    if (counters[kInside] >= 0) {
      const std::size_t set = static_cast<std::size_t>(counters[kInside]);
      const std::int64_t length = last - counters[kStayBegin];
      table[layout_.stay_exposure + set] += length;
      if (counters[kStayEntered]) ++table[layout_.stay_cut + set * B + duration_bin(sets, length)];
    }
    const std::int64_t* begin = counters + kFirstVisited + n;
    for (std::size_t pair = 0; pair < n * n; ++pair) {
      if (begin[pair] < 0) continue;
      table[layout_.passage_exposure + pair] += last - begin[pair];
      ++table[layout_.passage_cut + pair * B + duration_bin(sets, last - begin[pair])];
    }
    // As new, so that nothing is counted twice.
    std::fill_n(counters, width, -1);
    counters[kSteps] = counters[kStayBegin] = counters[kStayEntered] = 0;
    std::fill_n(counters + kFirstVisited, n, 0);
  }
}

std::vector<std::int64_t> ObservablesWriter::totals() const {
  std::vector<std::int64_t> sum = tables_[0];
  for (std::size_t worker = 1; worker < tables_.size(); ++worker)
    for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += tables_[worker][i];
  return sum;
}

void ObservablesWriter::restore(const std::vector<std::int64_t>& totals, const std::vector<std::int64_t>& counters,
                                const std::vector<std::uint16_t>& recent) {
  check(totals.size() == layout_.size && counters.size() == counters_.size() && recent.size() == recent_.size(),
        "the state of the observables does not fit their description");
  check(std::all_of(totals.begin(), totals.end(), [](std::int64_t x) { return x >= 0 && x < kHuge; }),
        "the totals of the observables hold a count that cannot be");
  const std::int64_t n = spec_.n_sets;
  const std::size_t width = counters_per_trajectory();
  for (std::size_t i = 0; i < n_trajs_; ++i) {
    const std::int64_t* row = counters.data() + i * width;
    const std::int64_t steps = row[kSteps];
    bool good = steps >= 0 && steps < kHuge && row[kInside] >= -1 && row[kInside] < n && row[kPresent] >= -1 &&
                row[kPresent] < n;
    good = good && row[kStayBegin] >= 0 && row[kStayBegin] <= steps;
    for (std::int64_t j = 0; j < n * n; ++j)
      good = good && row[kFirstVisited + n + j] >= -1 && row[kFirstVisited + n + j] <= steps;
    check(good, "the state of the observables makes no sense for trajectory ", i);
  }
  for (const std::uint16_t token : recent) check(token < spec_.n_states, "the recent tokens have an unknown state");
  tables_.assign(1, totals);
  counters_ = counters;
  recent_ = recent;
}

}  // namespace nanomd
