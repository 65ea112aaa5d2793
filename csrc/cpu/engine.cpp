// The CPU engine: trajectories in groups, groups over threads, each group many steps at a time so that its caches stay
// warm.
#include "nanomd/engine.h"

#include <algorithm>
#include <mutex>
#include <optional>

#include "core/parallel.h"
#include "group.h"
#include "lookahead.h"
#include "nanomd/check.h"
#include "nanomd/engine_checks.h"
#include "walkers.h"

namespace nanomd {

namespace {

constexpr std::uint64_t kStepsBetweenChecks = 64;  // of cancellation and progress

// Made once per thread, not in the step loop.
std::vector<std::unique_ptr<Scratch>> make_scratch(const ModelShape& shape, std::size_t n_pieces, int n_threads) {
  std::vector<std::unique_ptr<Scratch>> all;
  const std::size_t n = std::min<std::size_t>(n_pieces, static_cast<std::size_t>(std::max(n_threads, 1)));
  for (std::size_t i = 0; i < n; ++i) all.push_back(std::make_unique<Scratch>(shape));
  return all;
}

// Ranges of trajectories that advance together: sixteen in lanes, or fewer as columns.
struct Piece {
  int first, n_trajs;
  bool columns;
};

// Whole rounds of sixteen for every thread, then what is left in equal parts, so that no thread waits for another. A
// crop has many positions of one trajectory to compute at once: there, each trajectory is a piece.
std::vector<Piece> make_pieces(int n, int column_limit, int n_threads, bool one_by_one) {
  std::vector<Piece> pieces;
  int first = 0;
  if (!one_by_one)
    for (const int round = kLanes * n_threads; n - first >= round;)
      for (int i = 0; i < n_threads; ++i, first += kLanes) pieces.push_back({first, kLanes, kLanes <= column_limit});
  const int parts = one_by_one ? n : std::min(n_threads, n - first);
  for (int part = 0; part < parts; ++part) {
    const int size = (n - first + parts - part - 1) / (parts - part);
    pieces.push_back({first, size, one_by_one || size <= column_limit});
    first += size;
  }
  return pieces;
}

// One token per lane; lanes without a trajectory repeat the last one, whose results nobody reads.
void gather(const std::uint16_t* rows, std::size_t length, std::size_t column, const Piece& piece,
            std::int32_t* token) {
  for (int lane = 0; lane < kLanes; ++lane)
    token[lane] = rows[static_cast<std::size_t>(piece.first + std::min(lane, piece.n_trajs - 1)) * length + column];
}

class CpuSession final : public Session {
 public:
  CpuSession(std::shared_ptr<const Model> model, const Kernels& kernels, int column_limit, std::uint64_t history_length,
             std::uint64_t replay, const SessionOptions& options)
      : model_(std::move(model)),
        seed_(options.seed),
        step_(options.first_step),
        inverse_temperature_(static_cast<float>(1.0 / options.temperature)),
        n_trajs_(options.n_trajs),
        n_threads_(options.n_threads),
        trajectory_(options.trajectory, options.trajectory + options.n_trajs),
        history_(history_length) {
    // Lookahead where a thread has one trajectory only, or where it is asked for.
    const bool ahead = options.mode != Mode::kCrop && options.lookahead != 0 &&
                       (options.lookahead > 0 || n_trajs_ <= n_threads_) && column_limit >= 1;
    const std::vector<Piece> pieces =
        make_pieces(n_trajs_, column_limit, n_threads_, ahead || (options.mode == Mode::kCrop && column_limit >= 1));
    scratch_ = make_scratch(model_->shape, pieces.size(), n_threads_);
    for (const Piece& piece : pieces) {
      members_.push_back(
          {piece, Group(*model_, kernels, options.mode, options.hop_keep, piece.n_trajs, piece.columns), {}, {}, {}});
      if (ahead) members_.back().lookahead.emplace(*model_, options.lookahead);
    }
    recorded_ = std::min<std::uint64_t>(options.n_history, history_);
    end_ = options.n_before + options.n_history;
    // Fill the caches with all but the last token, which the first step feeds.
    WorkState state;
    parallel_for(members_.size(), n_threads_, state, nullptr, [&](int worker, std::size_t index) {
      Member& member = members_[index];
      const std::size_t skipped = options.n_history - static_cast<std::size_t>(replay);
      member.group.start(options.n_before + skipped);
      for (std::size_t t = skipped; t + 1 < options.n_history; ++t) {
        gather(options.history, options.n_history, t, member.piece, member.token);
        member.group.feed(member.token, false, *scratch_[worker]);
      }
      gather(options.history, options.n_history, options.n_history - 1, member.piece, member.token);
      member.recent.assign(history_ * member.piece.n_trajs, 0);
      for (std::size_t t = options.n_history - recorded_; t < options.n_history; ++t)
        for (int lane = 0; lane < member.piece.n_trajs; ++lane)
          member.recent[(options.n_before + t) % history_ * member.piece.n_trajs + lane] =
              options.history[static_cast<std::size_t>(member.piece.first + lane) * options.n_history + t];
    });
  }

  bool advance(std::uint64_t n_steps, const TokenSink& sink, const ProgressCallback& progress) override {
    check(!spent_, "the session was cancelled and cannot go on; open a new one from the stored tokens");
    check(sink.tokens == nullptr || sink.stride >= 1, "stride must be at least 1, got ", sink.stride);
    WorkState state;
    spent_ = true;  // until all groups stand at the same step again
    parallel_for(members_.size(), n_threads_, state, progress, [&](int worker, std::size_t index) {
      for (std::uint64_t done = 0; done < n_steps && !state.cancelled;) {
        const std::uint64_t chunk = std::min(kStepsBetweenChecks, n_steps - done);
        run(members_[index], step_ + done, end_ + done, chunk, sink, *scratch_[worker]);
        done += chunk;
        state.done += chunk * members_[index].piece.n_trajs;
      }
    });
    if (state.cancelled) return false;
    spent_ = false;
    step_ += n_steps;
    end_ += n_steps;
    recorded_ = std::min(history_, recorded_ + n_steps);
    return true;
  }

  std::size_t history_length() const override { return recorded_; }

  void copy_history(std::uint16_t* history) const override {
    for (const Member& member : members_)
      for (int lane = 0; lane < member.piece.n_trajs; ++lane)
        for (std::uint64_t t = 0; t < recorded_; ++t)
          history[static_cast<std::size_t>(member.piece.first + lane) * recorded_ + t] =
              member.recent[(end_ - recorded_ + t) % history_ * member.piece.n_trajs + lane];
  }

 private:
  struct Member {
    Piece piece;
    Group group;
    std::optional<Lookahead> lookahead;      // for one trajectory
    alignas(64) std::int32_t token[kLanes];  // drawn, not yet fed
    std::vector<std::uint16_t> recent;       // [history][lanes], token of position p in row p mod history
  };

  // Draws the states of one step into member.token.
  void draw(Member& member, std::uint64_t step, Scratch& scratch) const {
    const std::uint64_t* trajectory = trajectory_.data() + member.piece.first;
    if (member.lookahead) {
      member.token[0] = member.lookahead->next(member.group, member.token[0], seed_, *trajectory, step,
                                               inverse_temperature_, scratch);
      return;
    }
    alignas(64) double u[kLanes] = {};
    member.group.feed(member.token, true, scratch);
    fill_uniforms(seed_, step, trajectory, member.piece.n_trajs, u);
    member.group.draw().states(scratch, member.piece.n_trajs, inverse_temperature_, u, member.token);
    for (int lane = member.piece.n_trajs; lane < kLanes; ++lane) member.token[lane] = member.token[lane - 1];
  }

  void run(Member& member, std::uint64_t step, std::uint64_t position, std::uint64_t n_steps, const TokenSink& sink,
           Scratch& scratch) const {
    const int lanes = member.piece.n_trajs;
    for (std::uint64_t s = step; s < step + n_steps; ++s, ++position) {
      draw(member, s, scratch);
      for (int lane = 0; lane < lanes; ++lane)
        check(member.token[lane] >= 0, "the model gave probabilities that are not finite for state ", s,
              " of trajectory ", trajectory_[static_cast<std::size_t>(member.piece.first + lane)],
              ": its weights are too large or damaged");
      std::uint16_t* recent = member.recent.data() + position % history_ * lanes;
      for (int lane = 0; lane < lanes; ++lane) recent[lane] = static_cast<std::uint16_t>(member.token[lane]);
      if (sink.tokens != nullptr && s % sink.stride == 0) {
        std::size_t at =
            static_cast<std::size_t>(member.piece.first) * sink.row_stride + s / sink.stride - sink.first_index;
        for (int lane = 0; lane < lanes; ++lane, at += sink.row_stride) {
          if (sink.item_size == 1)
            static_cast<std::uint8_t*>(sink.tokens)[at] = static_cast<std::uint8_t>(member.token[lane]);
          else
            static_cast<std::uint16_t*>(sink.tokens)[at] = static_cast<std::uint16_t>(member.token[lane]);
        }
      }
    }
  }

  std::shared_ptr<const Model> model_;
  std::uint64_t seed_, step_;
  float inverse_temperature_;
  int n_trajs_, n_threads_;
  std::vector<std::uint64_t> trajectory_;
  std::uint64_t history_;       // tokens remembered per trajectory
  std::uint64_t recorded_ = 0;  // of which this many are known
  std::uint64_t end_ = 0;       // tokens seen in total: the position of the next one
  bool spent_ = false;
  std::vector<Member> members_;
  std::vector<std::unique_ptr<Scratch>> scratch_;
};

class CpuEngine final : public RolloutEngine {
 public:
  CpuEngine(std::shared_ptr<const Model> model, const std::string& isa, int column_limit)
      : model_(std::move(model)),
        kernels_(choose_kernels(isa)),
        column_limit_(column_limit < 0 ? kernels_.column_limit : column_limit) {
    check(column_limit_ <= kLanes, "column_limit must be at most 16, got ", column_limit_);
  }

  std::string name() const override { return std::string("cpu/") + kernels_.name; }

  std::size_t bytes_per_trajectory() const override {
    const KeyValueLayout layout = lane_layout(model_->shape);
    const std::size_t item = model_->precision == Precision::kFp32 ? sizeof(float) : sizeof(Half);
    return (layout.keys + layout.values) * item / kLanes;
  }

  std::uint64_t replay_length(Mode mode, int hop_keep, std::uint64_t n_tokens) const override {
    return mode_replay(model_->shape, mode, hop_keep, n_tokens);
  }

  std::unique_ptr<Session> open(const SessionOptions& options) const override {
    const std::uint64_t replay = check_session(model_->shape, options);
    check(options.lookahead >= -1 && options.lookahead < kMaxColumns, "lookahead must be auto or in [0, ",
          kMaxColumns - 1, "], got ", options.lookahead);
    const std::uint64_t history = mode_history(model_->shape, options.mode);
    return std::make_unique<CpuSession>(model_, kernels_, column_limit_, history, replay, options);
  }

  std::unique_ptr<Walkers> walkers(const WalkerOptions& options) const override {
    return make_cpu_walkers(model_, kernels_, options);
  }

  bool log_probs(const LogProbOptions& options, float* out, const ProgressCallback& progress) const override {
    check_sequences(model_->shape, options);
    const std::vector<Piece> pieces = make_pieces(options.n_sequences, column_limit_, options.n_threads,
                                                  column_limit_ >= 1 && options.n_sequences <= options.n_threads);
    const std::vector<std::unique_ptr<Scratch>> scratch = make_scratch(model_->shape, pieces.size(), options.n_threads);
    WorkState state;
    parallel_for(pieces.size(), options.n_threads, state, progress, [&](int worker, std::size_t index) {
      const Piece& piece = pieces[index];
      Group group(*model_, kernels_, options.mode, options.hop_keep, piece.n_trajs, piece.columns);
      group.start(options.mode == Mode::kRing ? options.first_position : 0);
      const auto write = [&](int from, int trajectory, std::size_t t) {
        const std::size_t row = static_cast<std::size_t>(piece.first + trajectory) * options.n_tokens + t;
        group.draw().log_probs(*scratch[worker], from, out + row * model_->shape.n_states);
      };
      alignas(64) std::int32_t token[kMaxColumns];
      for (std::size_t t = 0; t < options.n_tokens && !state.cancelled;) {
        const int n =
            static_cast<int>(std::min<std::size_t>(options.n_tokens - t, static_cast<std::size_t>(group.room())));
        if (piece.n_trajs == 1 && n > 1) {  // as many positions as fit, at once
          for (int i = 0; i < n; ++i)
            token[i] = options.tokens[static_cast<std::size_t>(piece.first) * options.n_tokens + t + i];
          group.feed_run(token, n, *scratch[worker]);
          for (int i = 0; i < n; ++i) write(i, 0, t + static_cast<std::size_t>(i));
        } else {
          gather(options.tokens, options.n_tokens, t, piece, token);
          group.feed(token, true, *scratch[worker]);
          for (int i = 0; i < piece.n_trajs; ++i) write(i, i, t);
        }
        t += static_cast<std::size_t>(n);
        state.done += static_cast<std::uint64_t>(n * piece.n_trajs);
      }
    });
    return !state.cancelled;
  }

 private:
  std::shared_ptr<const Model> model_;
  const Kernels& kernels_;
  int column_limit_;
};

}  // namespace

std::unique_ptr<Walkers> RolloutEngine::walkers(const WalkerOptions&) const {
  throw UnsupportedError("walkers of rare events are not available on " + name() + "; use cpu");
}

std::unique_ptr<RolloutEngine> make_cpu_engine(std::shared_ptr<const Model> model, const std::string& isa,
                                               int column_limit) {
  return std::make_unique<CpuEngine>(std::move(model), isa, column_limit);
}

}  // namespace nanomd
