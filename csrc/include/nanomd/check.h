// Errors of the core: what is wrong, the value, and the remedy, in one sentence.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

namespace nanomd {

// Bad input. The bindings turn it into nanomd.base.errors.InputError.
class InputError : public std::invalid_argument {
 public:
  using std::invalid_argument::invalid_argument;
};

// A limit of this engine, not of the input: the message names the limit and the backend that can.
class UnsupportedError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

template <class... Parts>
std::string join(const Parts&... parts) {
  std::ostringstream text;
  (text << ... << parts);
  return text.str();
}

// Parts: whatever a stream takes. check(n > 0, "n_steps must be at least 1, got ", n);
template <class... Parts>
void check(bool condition, const Parts&... message) {
  if (!condition) throw InputError(join(message...));
}

}  // namespace nanomd
