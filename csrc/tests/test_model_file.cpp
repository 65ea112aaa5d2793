#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>

#include "core/json.h"
#include "nanomd/check.h"
#include "nanomd/model_file.h"
#include "unit_test.h"

namespace {

using namespace nanomd;

// A file beside the test program, removed at the end.
struct File {
  std::string path = "test_model_file.safetensors";
  ~File() { std::remove(path.c_str()); }
  void write(const std::string& header, std::uint64_t size, const std::vector<float>& data) const {
    std::ofstream stream(path, std::ios::binary | std::ios::trunc);
    stream.write(reinterpret_cast<const char*>(&size), 8);
    stream << header;
    stream.write(reinterpret_cast<const char*>(data.data()), static_cast<std::streamsize>(data.size() * 4));
  }
  void write(const std::string& header, const std::vector<float>& data) const { write(header, header.size(), data); }
};

TEST(json_values) {
  const Json value =
      parse_json(R"( {"a": [1, -2.5e1, true, null, "x\n\u00e9\ud83d\ude00"], "b": {}, "big": 4611686018427387904} )");
  EXPECT(value.at("a").items.size() == 5);
  EXPECT(value.at("a").items[0].as_integer("", 0, 5) == 1 && value.at("a").items[1].as_number("") == -25.0);
  EXPECT(value.at("a").items[2].as_bool("") && value.at("a").items[3].kind == Json::Kind::kNull);
  EXPECT(value.at("a").items[4].as_text("") == "x\n\xc3\xa9\xf0\x9f\x98\x80");
  EXPECT(value.at("big").as_integer("big", 0, INT64_MAX) == (std::int64_t{1} << 62));
  EXPECT_THROWS(value.at("c"), InputError);
  EXPECT_THROWS(value.at("a").items[1].as_integer("", -100, 100), InputError);
  EXPECT_THROWS(value.at("a").items[0].as_integer("", 2, 5), InputError);
}

TEST(json_that_is_none) {
  for (const char* text : {"",
                           "{",
                           "[1,]",
                           "{\"a\"}",
                           "{\"a\":1,}",
                           "nul",
                           "01x",
                           "1 2",
                           "\"a",
                           "\"\\x\"",
                           "\"\\u12\"",
                           "\"\\ud800\"",
                           "{\"a\":1,\"a\":2}",
                           "1e999",
                           "-",
                           "+1",
                           "NaN",
                           "[1 2]",
                           "\"\x01\"",
                           "Infinity",
                           "-Infinity",
                           "[1e400]",
                           "01",
                           "-01",
                           "1.",
                           "1.e5",
                           ".5",
                           "1e",
                           "1e+",
                           "0x10",
                           "1_000",
                           "--1"})
    EXPECT_THROWS(parse_json(text), InputError);
  // No prefix of a document is one, and none is read beyond its end.
  const std::string document = R"({"a":[1,2,{"b":"\u00e9"}],"c":false})";
  for (std::size_t n = 0; n < document.size(); ++n)
    EXPECT_THROWS(parse_json(std::string_view(std::string(document, 0, n))), InputError);
}

TEST(json_nested_deeply) {
  const auto nested = [](const std::string& open, const std::string& close, int depth) {
    std::string text;
    for (int i = 0; i < depth; ++i) text += open;
    text += "1";
    for (int i = 0; i < depth; ++i) text += close;
    return text;
  };
  EXPECT(parse_json(nested("[", "]", 63)).items.size() == 1);
  for (const int depth : {64, 100000}) {
    EXPECT_THROWS(parse_json(nested("[", "]", depth)), InputError);
    EXPECT_THROWS(parse_json(nested("{\"a\":", "}", depth)), InputError);
    EXPECT_THROWS(parse_json(nested("[{\"a\":[", "]}]", depth)), InputError);
  }
  EXPECT_THROWS(parse_json(std::string(100000, '[')), InputError);
  const File file;
  file.write(nested("{\"x\":", "}", 100000), {});
  EXPECT_THROWS(TensorFile(file.path), InputError);
}

TEST(json_integers_at_their_limits) {
  const auto read = [](const char* text) { return parse_json(text).as_integer("x", INT64_MIN, INT64_MAX); };
  EXPECT(read("9223372036854775807") == INT64_MAX && read("-9223372036854775808") == INT64_MIN && read("-0") == 0);
  // Beyond 2^63, and what is no whole number, are numbers but no integers.
  for (const char* text : {"9223372036854775808", "-9223372036854775809", "18446744073709551617", "1e3", "1.0",
                           "100000000000000000000000000000000000000"}) {
    EXPECT_THROWS(read(text), InputError);
    EXPECT(parse_json(text).as_number("x") != 0.0);
  }
  const File file;
  for (const char* bound :
       {"9223372036854775808", "18446744073709551616", "1e30", "Infinity", "-9223372036854775809"}) {
    file.write(std::string("{\"x\":{\"dtype\":\"F32\",\"shape\":[") + bound + "],\"data_offsets\":[0,4]}}", {1});
    EXPECT_THROWS(TensorFile(file.path), InputError);
    file.write(std::string("{\"x\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,") + bound + "]}}", {1});
    EXPECT_THROWS(TensorFile(file.path), InputError);
  }
}

TEST(hostile_configurations) {
  // Every value of a good configuration in turn replaced by hostile ones.
  const std::string folder = "test_model_folder", file = folder + "/config.json";
  std::filesystem::create_directory(folder);
  const std::vector<std::pair<std::string, std::string>> good = {
      {"n_states", "2"},        {"d_model", "8"},           {"n_layer", "1"},         {"n_head", "1"},
      {"n_kv_head", "null"},    {"context_length", "4"},    {"mlp_ratio", "1"},       {"norm", "\"pre\""},
      {"position", "\"rope\""}, {"activation", "\"gelu\""}, {"markov_head", "false"}, {"rope_base", "1000"},
      {"group_sizes", "[1, 1]"}};
  const auto message = [&](std::size_t changed, const std::string& value, const std::string& symbols = "[0,1]",
                           const std::string& interval = "1") {
    std::ofstream stream(file, std::ios::trunc);
    stream << R"({"format":"nanomd-model","format_version":1,"state_map":{"symbols":)" << symbols
           << R"(},"frame_interval":{"value":)" << interval << R"(,"unit":"ns"},"config":{)";
    for (std::size_t i = 0; i < good.size(); ++i)
      stream << (i ? "," : "") << '"' << good[i].first << "\":" << (i == changed ? value : good[i].second);
    stream << "}}";
    stream.close();
    try {
      (void)load_model_folder(folder);
    } catch (const InputError& error) {
      return std::string(error.what());
    }
    return std::string("nothing refused");
  };
  const std::size_t none = good.size();
  EXPECT(message(none, "").find("model.safetensors") != std::string::npos);  // the configuration itself is good
  const auto blamed = [&](const std::string& text) { return text.find("config.json is damaged") != std::string::npos; };
  for (std::size_t i = 0; i < good.size(); ++i)
    for (const char* value : {"9223372036854775808", "-1", "1e400", "Infinity", "NaN", "[]", "{}", "\"\"", "1e-400"})
      if ((good[i].first != "rope_base" || std::string(value) != "9223372036854775808") &&  // a base like any other
          (good[i].first != "group_sizes" || std::string(value) != "[]"))                   // no groups
        EXPECT(blamed(message(i, value)));
  for (const char* sizes : {"[2]", "[1,2]", "[1,1,1]", "[0,2]", "[-1,3]", "[1,1.0]", "[1,\"1\"]", "[1,[1]]",
                            "[4294967297,1]", "[65536,65536]", "null", "2", "[1,9223372036854775808]"})
    EXPECT(blamed(message(good.size() - 1, sizes)));
  EXPECT(!blamed(message(good.size() - 1, "[]")));
  for (const char* symbols : {"[0]", "[0,9223372036854775808]", "[0,-1]", "[0,Infinity]", "[0,\"1\"]", "{}"})
    EXPECT(blamed(message(none, "", symbols)));
  for (const char* interval : {"0", "-1", "1e400", "-Infinity", "\"1\"", "null"})
    EXPECT(blamed(message(none, "", "[0,1]", interval)));
  EXPECT(blamed(message(none, "", std::string(100000, '['))));
  std::filesystem::remove_all(folder);
}

TEST(tensors) {
  const File file;
  file.write(R"({"__metadata__":{"k":"v"},"x":{"dtype":"F32","shape":[2,1],"data_offsets":[4,12]},)"
             R"("y":{"dtype":"F32","shape":[],"data_offsets":[0,4]}})",
             {7, 8, 9});
  const TensorFile read(file.path);
  EXPECT(read.tensors().size() == 2);
  EXPECT(read.tensors().at("x").shape == std::vector<std::size_t>({2, 1}) && read.tensors().at("x").data[1] == 9);
  EXPECT(read.tensors().at("y").data[0] == 7);
}

TEST(hostile_tensors) {
  const File file;
  const auto refused = [&](const std::string& entry) {
    file.write("{\"x\":{" + entry + "}}", {1, 2, 3});
    EXPECT_THROWS(TensorFile(file.path), InputError);
  };
  refused(R"("dtype":"F64","shape":[1],"data_offsets":[0,8])");
  refused(R"("dtype":"F32","shape":[4],"data_offsets":[0,16])");
  refused(R"("dtype":"F32","shape":[3],"data_offsets":[0,8])");
  refused(R"("dtype":"F32","shape":[1],"data_offsets":[8,4])");
  refused(R"("dtype":"F32","shape":[1],"data_offsets":[-4,0])");
  refused(R"("dtype":"F32","shape":[1],"data_offsets":[2,6])");
  refused(R"("dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0])");
  refused(R"("dtype":"F32","shape":[1.5],"data_offsets":[0,4])");
  refused(R"("dtype":"F32","shape":1,"data_offsets":[0,4])");
  refused(R"("dtype":"F32","shape":[1])");
  file.write("[]", {});
  EXPECT_THROWS(TensorFile(file.path), InputError);
  for (const std::uint64_t size : {std::uint64_t{3}, std::uint64_t{1} << 20, ~std::uint64_t{0}}) {
    file.write("{}", size, {});
    EXPECT_THROWS(TensorFile(file.path), InputError);
  }
  std::ofstream(file.path, std::ios::trunc) << "abc";
  EXPECT_THROWS(TensorFile(file.path), InputError);
  EXPECT_THROWS(TensorFile("no_such_file"), InputError);
  EXPECT_THROWS(load_model_folder("no_such_folder"), InputError);
}

TEST(rotary_multipliers) {
  const std::vector<std::uint32_t> m = rope_multipliers(8, 1000.0);
  EXPECT(m.size() == 4 && m[0] == 683565276u);
  EXPECT_THROWS(rope_multipliers(8, 0.0), InputError);
}

}  // namespace

TEST_MAIN()
