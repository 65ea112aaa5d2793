#include "emulator.h"

#if defined(__SANITIZE_ADDRESS__)
#  include <sanitizer/common_interface_defs.h>
#endif

namespace nanomd::cuda {

namespace {
constexpr std::size_t kStack = 128 << 10;

// Stacks of fibres that have ended, for the next ones: new memory would cost more than what runs on it. Under the
// sanitizer each is new, since what ended fibres have marked on theirs is not to be trusted.
#if defined(__SANITIZE_ADDRESS__)
constexpr bool kKeepStacks = false;
#else
constexpr bool kKeepStacks = true;
#endif
thread_local std::vector<std::unique_ptr<char[]>> spare_stacks;

std::unique_ptr<char[]> make_stack() {
  if (spare_stacks.empty()) return std::make_unique_for_overwrite<char[]>(kStack);
  std::unique_ptr<char[]> stack = std::move(spare_stacks.back());
  spare_stacks.pop_back();
  return stack;
}

}  // namespace

Emulator::Emulator(int ranks, std::size_t shared_bytes, std::uint64_t order_seed, int teams, std::size_t team_bytes)
    : ranks_(ranks),
      teams_(teams),
      shared_bytes_(shared_bytes),
      team_bytes_(team_bytes),
      order_(order_seed),
      shuffle_(order_seed != 0) {
  for (int r = 0; r < ranks; ++r) {
    blocks_.push_back({std::make_unique<unsigned char[]>(shared_bytes)});
    std::memset(blocks_.back().shared.get(), 0xFF, shared_bytes);  // NaN as float and as half
  }
  fibres_ = std::vector<Fibre>(static_cast<std::size_t>(ranks) * static_cast<std::size_t>(teams) * kThreads);
  warps_.resize(fibres_.size() / 32);
}

std::uint32_t Emulator::random() {
  order_ = order_ * 6364136223846793005u + 1442695040888963407u;
  return static_cast<std::uint32_t>(order_ >> 33);
}

void Emulator::enter(unsigned high, unsigned low) {
  auto* self = reinterpret_cast<Emulator*>((static_cast<std::uintptr_t>(high) << 32) | low);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &self->scheduler_stack_, &self->scheduler_stack_size_);
#endif
  const int index = self->running_;
  Block& block = self->blocks_[static_cast<std::size_t>(index / kThreads / self->teams_)];
  block.begun = true;
  try {
    Thread thread(*self, index);
    (*self->body_)(thread);
  } catch (...) {
    if (!self->error_) self->error_ = std::current_exception();
  }
  block.ended = true;
  self->suspend(index, Wait::kDone);
}

// swapcontext saves the signal mask, a system call each time: without the sanitizer, which must see every switch, it
// starts a fibre and the jumps go on from there.
void Emulator::resume(int index) {
  Fibre& fibre = fibres_[static_cast<std::size_t>(index)];
  running_ = index;
#if defined(__SANITIZE_ADDRESS__)
  void* fake = nullptr;
  __sanitizer_start_switch_fiber(&fake, fibre.stack.get(), kStack);
  swapcontext(&scheduler_, &fibre.context);
  __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
#else
  if (_setjmp(scheduler_jump_) != 0) return;
  if (fibre.started) _longjmp(fibre.jump, 1);
  fibre.started = true;
  setcontext(&fibre.context);
#endif
}

void Emulator::suspend(int index, Wait wait) {
  Fibre& fibre = fibres_[static_cast<std::size_t>(index)];
  fibre.wait = wait;
#if defined(__SANITIZE_ADDRESS__)
  void* fake = nullptr;
  __sanitizer_start_switch_fiber(wait == Wait::kDone ? nullptr : &fake, scheduler_stack_, scheduler_stack_size_);
  swapcontext(&fibre.context, &scheduler_);
  __sanitizer_finish_switch_fiber(fake, &scheduler_stack_, &scheduler_stack_size_);
#else
  if (_setjmp(fibre.jump) == 0) _longjmp(scheduler_jump_, 1);
#endif
}

bool Emulator::release(int begin, int end, Wait wait) {
  for (int i = begin; i < end; ++i)
    if (fibres_[static_cast<std::size_t>(i)].wait != wait) return false;
  for (int i = begin; i < end; ++i) fibres_[static_cast<std::size_t>(i)].wait = Wait::kReady;
  return true;
}

// Until all stand at a barrier of the team, or of all. Returns whether any was ready.
bool Emulator::run_team(int team) {
  constexpr int kTeamWarps = kThreads / 32;
  const int first = shuffle_ ? static_cast<int>(random() % kTeamWarps) : 0;
  bool moved = false;
  for (int w = 0; w < kTeamWarps && !error_; ++w) {
    const int warp = team * kTeamWarps + (first + w) % kTeamWarps;
    // A warp runs until it stands at a barrier of its team: its own barriers need nobody else.
    do {
      const int turn = shuffle_ ? static_cast<int>(random() % 32) : 0, flip = shuffle_ ? random() % 2 * 31 : 0;
      for (int l = 0; l < 32 && !error_; ++l) {
        const int fibre = warp * 32 + ((l + turn) % 32 ^ flip);
        if (fibres_[static_cast<std::size_t>(fibre)].wait == Wait::kReady) {
          moved = true;
          resume(fibre);
        }
      }
    } while (!error_ && release(warp * 32, warp * 32 + 32, Wait::kWarp));
  }
  return moved;
}

void Emulator::run(const Body& body) {
  body_ = &body;
  const int n = static_cast<int>(fibres_.size());
  const std::uintptr_t self = reinterpret_cast<std::uintptr_t>(this);
  for (Fibre& fibre : fibres_) {
    fibre.stack = make_stack();
    getcontext(&fibre.context);
    fibre.context.uc_stack.ss_sp = fibre.stack.get();
    fibre.context.uc_stack.ss_size = kStack;
    fibre.context.uc_link = nullptr;
    makecontext(&fibre.context, reinterpret_cast<void (*)()>(&Emulator::enter), 2, static_cast<unsigned>(self >> 32),
                static_cast<unsigned>(self & 0xFFFFFFFFu));
    fibre.wait = Wait::kReady;
  }
  const int n_teams = n / kThreads;
  int team = shuffle_ ? static_cast<int>(random() % static_cast<unsigned>(n_teams)) : 0;
  while (!error_) {
    // Shuffled, one team at a time goes from barrier to barrier, mostly the same one: what it takes from the others
    // without waiting for them is not there yet, and what it gives them comes too early.
    if (shuffle_ && random() % 8 == 0) team = static_cast<int>(random() % static_cast<unsigned>(n_teams));
    bool moved = false;
    for (int i = 0; i < n_teams && !error_ && !(shuffle_ && moved); ++i) moved |= run_team((team + i) % n_teams);
    for (int begin = 0; begin < n; begin += kThreads) moved |= release(begin, begin + kThreads, Wait::kTeam);
    moved |= release(0, n, Wait::kAll);
    bool done = true;
    for (const Fibre& fibre : fibres_) done = done && fibre.wait == Wait::kDone;
    if (done) break;
    if (!moved && !error_) error_ = std::make_exception_ptr(std::runtime_error("a barrier that not all threads reach"));
  }
  for (Fibre& fibre : fibres_)
    if (kKeepStacks) spare_stacks.push_back(std::move(fibre.stack));
  if (error_) std::rethrow_exception(error_);
}

void Emulator::check_unwritten(std::size_t offset, std::size_t length) const {
  for (const Block& block : blocks_)
    for (std::size_t i = offset - length; i < offset; ++i)
      if (block.shared[i] != 0xFF) throw std::runtime_error("shared memory written between two regions");
}

}  // namespace nanomd::cuda
