// A small reader of JSON for headers and configurations. It refuses what is not strictly JSON, nesting deeper than 64,
// and names that come twice.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace nanomd {

struct Json {
  enum class Kind { kNull, kBool, kNumber, kString, kArray, kObject };
  Kind kind = Kind::kNull;
  bool boolean = false;
  double number = 0;
  bool whole = false;        // written without fraction or exponent, and within int64:
  std::int64_t integer = 0;  // its exact value
  std::string text;
  std::vector<Json> items;
  std::map<std::string, Json> members;

  // Members and values of the right kind, or InputError with the name.
  const Json& at(const std::string& name) const;
  std::int64_t as_integer(const std::string& name, std::int64_t low, std::int64_t high) const;
  double as_number(const std::string& name) const;
  bool as_bool(const std::string& name) const;
  const std::string& as_text(const std::string& name) const;
};

// Throws InputError with the offset of what cannot be read.
Json parse_json(std::string_view text);

}  // namespace nanomd
