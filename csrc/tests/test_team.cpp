// Threads that share pieces of work: every piece once, workers that are never two at once, exceptions, many phases.
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <stdexcept>
#include <vector>

#include "train/team.h"
#include "unit_test.h"

using nanomd::train::Team;

TEST(every_piece_is_worked_on_once) {
  Team team;
  for (int phase = 0; phase < 2000; ++phase) {
    const std::size_t n_pieces = static_cast<std::size_t>(phase % 7);
    std::vector<int> count(n_pieces, 0);
    std::vector<std::atomic<int>> inside(3);
    team.run(n_pieces, 1 + phase % 3, [&](int worker, std::size_t piece) {
      EXPECT(worker >= 0 && worker <= phase % 3 && ++inside[static_cast<std::size_t>(worker)] == 1);
      ++count[piece];
      --inside[static_cast<std::size_t>(worker)];
    });
    for (const int n : count) EXPECT(n == 1);
  }
}

TEST(helpers_take_part) {
  Team team;
  std::atomic<int> waiting{0};
  // Two pieces that wait for each other: no worker could do both.
  team.run(2, 2, [&](int, std::size_t) {
    ++waiting;
    while (waiting < 2) {
    }
  });
  EXPECT(waiting == 2);
}

TEST(an_exception_ends_the_work_and_not_the_team) {
  Team team;
  for (int phase = 0; phase < 50; ++phase) {
    EXPECT_THROWS(team.run(8, 3,
                           [&](int, std::size_t piece) {
                             if (piece == 3) throw std::runtime_error("piece 3");
                           }),
                  std::runtime_error);
    std::atomic<int> done{0};
    team.run(8, 3, [&](int, std::size_t) { ++done; });
    EXPECT(done == 8);
  }
}

TEST(a_forked_process_does_all_itself_and_ends) {
  Team* const team = new Team;
  std::atomic<int> done{0};
  team->run(8, 3, [&](int, std::size_t) { ++done; });
  const pid_t child = fork();
  if (child == 0) {
    alarm(60);  // rather than to wait for ever
    int own = 0;
    team->run(8, 3, [&](int worker, std::size_t) { own += worker == 0; });
    delete team;
    _exit(own == 8 ? 0 : 1);
  }
  int status = -1;
  EXPECT(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
  team->run(8, 3, [&](int, std::size_t) { ++done; });
  EXPECT(done == 16);
  delete team;
}

TEST_MAIN()
