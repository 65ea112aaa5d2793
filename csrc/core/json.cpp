#include "json.h"

#include <charconv>
#include <cmath>

#include "nanomd/check.h"

namespace nanomd {

namespace {

constexpr int kMaxDepth = 64;

class Parser {
 public:
  explicit Parser(std::string_view text) : text_(text) {}

  Json document() {
    Json value = parse(0);
    skip_space();
    require(at_ == text_.size(), "text after the end of the value");
    return value;
  }

 private:
  void require(bool condition, const char* what) const { check(condition, "not valid JSON: ", what, " at byte ", at_); }
  void skip_space() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\t' || text_[at_] == '\n' || text_[at_] == '\r'))
      ++at_;
  }
  char peek() const { return at_ < text_.size() ? text_[at_] : '\0'; }
  bool take(char expected) {
    skip_space();
    if (peek() != expected || at_ >= text_.size()) return false;
    ++at_;
    return true;
  }
  bool take_word(std::string_view word) {
    if (text_.substr(at_, word.size()) != word) return false;
    at_ += word.size();
    return true;
  }

  Json parse(int depth) {
    require(depth < kMaxDepth, "nested too deeply");
    skip_space();
    Json value;
    switch (peek()) {
      case '{':
        ++at_;
        value.kind = Json::Kind::kObject;
        if (take('}')) return value;
        do {
          skip_space();
          std::string name = string();
          require(take(':'), "a colon is missing");
          require(value.members.emplace(std::move(name), parse(depth + 1)).second, "a name comes twice");
        } while (take(','));
        require(take('}'), "a brace is missing");
        return value;
      case '[':
        ++at_;
        value.kind = Json::Kind::kArray;
        if (take(']')) return value;
        do {
          value.items.push_back(parse(depth + 1));
        } while (take(','));
        require(take(']'), "a bracket is missing");
        return value;
      case '"':
        value.kind = Json::Kind::kString;
        value.text = string();
        return value;
      case 't':
      case 'f':
        value.kind = Json::Kind::kBool;
        value.boolean = peek() == 't';
        require(take_word(value.boolean ? "true" : "false"), "an unknown word");
        return value;
      case 'n':
        require(take_word("null"), "an unknown word");
        return value;
      default:
        return number();
    }
  }

  void digits(const char* missing) {
    require(peek() >= '0' && peek() <= '9', missing);
    while (peek() >= '0' && peek() <= '9') ++at_;
  }

  Json number() {
    Json value;
    value.kind = Json::Kind::kNumber;
    // from_chars takes more than JSON allows (01, 1., 1.e5): what it is given is looked at first.
    const std::size_t begin = at_;
    if (peek() == '-') ++at_;
    if (peek() == '0')
      ++at_;
    else
      digits("a value is missing");
    if (peek() == '.') {
      ++at_;
      digits("a digit is missing");
    }
    if (peek() == 'e' || peek() == 'E') {
      ++at_;
      if (peek() == '+' || peek() == '-') ++at_;
      digits("a digit is missing");
    }
    const char *first = text_.data() + begin, *last = text_.data() + at_;
    const auto real = std::from_chars(first, last, value.number);
    require(real.ec == std::errc() && real.ptr == last && std::isfinite(value.number), "a number cannot be read");
    const auto integer = std::from_chars(first, last, value.integer);
    value.whole = integer.ec == std::errc() && integer.ptr == last;
    return value;
  }

  std::string string() {
    require(peek() == '"', "a quoted name is missing");
    ++at_;
    std::string out;
    for (;;) {
      require(at_ < text_.size(), "a text does not end");
      const char c = text_[at_++];
      if (c == '"') return out;
      require(static_cast<unsigned char>(c) >= 0x20, "a control character");
      if (c != '\\') {
        out += c;
        continue;
      }
      require(at_ < text_.size(), "a text does not end");
      const char escape = text_[at_++];
      const std::size_t known = std::string_view("\"\\/bfnrt").find(escape);
      if (escape == 'u') {
        append_utf8(out, code_point());
      } else {
        require(known != std::string_view::npos, "an unknown escape");
        out += "\"\\/\b\f\n\r\t"[known];
      }
    }
  }

  std::uint32_t four_digits() {
    std::uint32_t value = 0;
    require(at_ + 4 <= text_.size(), "a text does not end");
    const auto result = std::from_chars(text_.data() + at_, text_.data() + at_ + 4, value, 16);
    require(result.ec == std::errc() && result.ptr == text_.data() + at_ + 4, "an unknown escape");
    at_ += 4;
    return value;
  }
  std::uint32_t code_point() {
    const std::uint32_t high = four_digits();
    if (high < 0xD800 || high > 0xDFFF) return high;
    require(high < 0xDC00 && take_word("\\u"), "half a character");
    const std::uint32_t low = four_digits();
    require(low >= 0xDC00 && low <= 0xDFFF, "half a character");
    return 0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00);
  }
  static void append_utf8(std::string& out, std::uint32_t code) {
    const auto add = [&](std::uint32_t byte) { out += static_cast<char>(static_cast<unsigned char>(byte)); };
    if (code < 0x80) {
      add(code);
    } else if (code < 0x800) {
      add(0xC0 | code >> 6);
      add(0x80 | (code & 0x3F));
    } else if (code < 0x10000) {
      add(0xE0 | code >> 12);
      add(0x80 | (code >> 6 & 0x3F));
      add(0x80 | (code & 0x3F));
    } else {
      add(0xF0 | code >> 18);
      add(0x80 | (code >> 12 & 0x3F));
      add(0x80 | (code >> 6 & 0x3F));
      add(0x80 | (code & 0x3F));
    }
  }

  std::string_view text_;
  std::size_t at_ = 0;
};

}  // namespace

const Json& Json::at(const std::string& name) const {
  check(kind == Kind::kObject, name, " must be in an object");
  const auto member = members.find(name);
  check(member != members.end(), name, " is missing");
  return member->second;
}

std::int64_t Json::as_integer(const std::string& name, std::int64_t low, std::int64_t high) const {
  check(kind == Kind::kNumber && whole && integer >= low && integer <= high, name, " must be a whole number in [", low,
        ", ", high, "]");
  return integer;
}

double Json::as_number(const std::string& name) const {
  check(kind == Kind::kNumber, name, " must be a number");
  return number;
}

bool Json::as_bool(const std::string& name) const {
  check(kind == Kind::kBool, name, " must be true or false");
  return boolean;
}

const std::string& Json::as_text(const std::string& name) const {
  check(kind == Kind::kString, name, " must be text");
  return text;
}

Json parse_json(std::string_view text) { return Parser(text).document(); }

}  // namespace nanomd
