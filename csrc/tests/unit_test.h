// A unit test in twenty lines: TEST(name) { EXPECT(condition); } and one main per file.
#pragma once

#include <cmath>
#include <cstdio>
#include <exception>
#include <functional>
#include <string>
#include <vector>

namespace unit_test {

struct Case {
  const char* name;
  std::function<void()> body;
};
inline std::vector<Case>& cases() {
  static std::vector<Case> all;
  return all;
}
inline int& failures() {
  static int count = 0;
  return count;
}
struct Registrar {
  Registrar(const char* name, std::function<void()> body) { cases().push_back({name, std::move(body)}); }
};
inline int run_all() {
  if (cases().empty()) {
    std::fprintf(stderr, "no test cases\n");
    return 1;
  }
  for (const Case& test : cases()) {
    const int before = failures();
    try {
      test.body();
    } catch (const std::exception& error) {
      std::fprintf(stderr, "  uncaught: %s\n", error.what());
      ++failures();
    }
    std::printf("%s %s\n", failures() == before ? "ok  " : "FAIL", test.name);
  }
  return failures() == 0 ? 0 : 1;
}

}  // namespace unit_test

#define TEST(name)                                                 \
  static void name();                                              \
  static const unit_test::Registrar name##_registrar(#name, name); \
  static void name()

#define EXPECT(condition)                                                          \
  do {                                                                             \
    if (!(condition)) {                                                            \
      std::fprintf(stderr, "%s:%d: failed: %s\n", __FILE__, __LINE__, #condition); \
      ++unit_test::failures();                                                     \
    }                                                                              \
  } while (false)

#define EXPECT_NEAR(a, b, tolerance)                                                                        \
  do {                                                                                                      \
    const double a_ = (a), b_ = (b);                                                                        \
    if (!(std::fabs(a_ - b_) <= (tolerance))) {                                                             \
      std::fprintf(stderr, "%s:%d: |%s - %s| = |%.9g - %.9g| > %.3g\n", __FILE__, __LINE__, #a, #b, a_, b_, \
                   static_cast<double>(tolerance));                                                         \
      ++unit_test::failures();                                                                              \
    }                                                                                                       \
  } while (false)

#define EXPECT_THROWS(expression, type)                                                             \
  do {                                                                                              \
    bool thrown_ = false;                                                                           \
    try {                                                                                           \
      (void)(expression);                                                                           \
    } catch (const type&) {                                                                         \
      thrown_ = true;                                                                               \
    }                                                                                               \
    if (!thrown_) {                                                                                 \
      std::fprintf(stderr, "%s:%d: %s did not throw %s\n", __FILE__, __LINE__, #expression, #type); \
      ++unit_test::failures();                                                                      \
    }                                                                                               \
  } while (false)

#define TEST_MAIN() \
  int main() { return unit_test::run_all(); }
