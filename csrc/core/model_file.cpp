#include "nanomd/model_file.h"

#include <bit>
#include <cmath>
#include <cstring>
#include <fstream>
#include <numbers>

#include "json.h"
#include "nanomd/check.h"

namespace nanomd {

namespace {

static_assert(std::endian::native == std::endian::little, "safetensors files are little-endian");
// Bytes. A thousand layers take one megabyte of header, 65536 state symbols one of configuration; once read, a value of
// two bytes takes a hundred times that.
constexpr std::uint64_t kMaxHeader = 4u << 20, kMaxJson = 16u << 20;
constexpr std::int64_t kMaxSize = std::int64_t{1} << 40;

std::ifstream open_file(const std::string& path, std::uint64_t& size) {
  std::ifstream stream(path, std::ios::binary);
  check(stream.is_open(), path, " cannot be read");
  stream.seekg(0, std::ios::end);
  const std::streamoff end = stream.tellg();
  check(stream.good() && end >= 0, path, " cannot be read");
  stream.seekg(0);
  size = static_cast<std::uint64_t>(end);
  return stream;
}

void read_exactly(std::ifstream& stream, const std::string& path, void* out, std::uint64_t n) {
  stream.read(static_cast<char*>(out), static_cast<std::streamsize>(n));
  check(static_cast<std::uint64_t>(stream.gcount()) == n, path, " is truncated");
}

// Runs work() and names the file in its errors.
template <class Work>
auto naming(const std::string& path, Work work) {
  try {
    return work();
  } catch (const InputError& error) {
    throw InputError(path + " is damaged: " + error.what());
  }
}

Json read_json(const std::string& path) {
  std::uint64_t size = 0;
  std::ifstream stream = open_file(path, size);
  check(size <= kMaxJson, path, " has ", size, " bytes, more than any configuration takes");
  std::string text(size, '\0');
  read_exactly(stream, path, text.data(), size);
  return naming(path, [&] { return parse_json(text); });
}

int dimension(const Json& config, const char* name, int high = 1 << 20) {
  return static_cast<int>(config.at(name).as_integer(name, 1, high));
}

bool choice(const Json& config, const char* name, const char* yes, const char* no) {
  const std::string& text = config.at(name).as_text(name);
  check(text == yes || text == no, name, " must be ", yes, " or ", no, ", got ", text);
  return text == yes;
}

ModelShape parse_shape(const Json& config) {
  ModelShape shape;
  shape.n_states = dimension(config, "n_states", 65536);
  shape.d_model = dimension(config, "d_model", 8192);
  shape.n_layer = dimension(config, "n_layer", 1024);
  shape.n_head = dimension(config, "n_head", 8192);
  const Json& groups = config.at("n_kv_head");
  shape.n_kv_head = groups.kind == Json::Kind::kNull ? shape.n_head : dimension(config, "n_kv_head", 8192);
  shape.context_length = dimension(config, "context_length", 65536);
  shape.d_mlp = dimension(config, "mlp_ratio", 8) * shape.d_model;
  shape.pre_norm = choice(config, "norm", "pre", "post");
  shape.gelu = choice(config, "activation", "gelu", "relu");
  shape.learned_position = choice(config, "position", "learned", "rope");
  shape.markov_head = config.at("markov_head").as_bool("markov_head");
  const auto sizes = config.members.find("group_sizes");  // older files have none
  if (sizes != config.members.end()) {
    check(sizes->second.kind == Json::Kind::kArray && sizes->second.items.size() <= 65536,
          "group_sizes must be a list of at most 65536 numbers");
    for (const Json& size : sizes->second.items)
      shape.group_sizes.push_back(static_cast<int>(size.as_integer("group_sizes", 1, 65536)));
  }
  shape.check_groups();
  check(shape.d_model % shape.n_head == 0, "d_model must be a multiple of n_head");
  return shape;
}

}  // namespace

TensorFile::TensorFile(const std::string& path) {
  std::uint64_t size = 0, header_size = 0;
  std::ifstream stream = open_file(path, size);
  check(size >= 8, path, " is truncated or no safetensors file: ", size, " bytes");
  read_exactly(stream, path, &header_size, 8);
  check(header_size <= size - 8 && header_size <= kMaxHeader, path, " is truncated or no safetensors file: ", size,
        " bytes, its header said to take ", header_size);
  std::string header(header_size, '\0');
  read_exactly(stream, path, header.data(), header_size);
  const std::uint64_t data_size = size - 8 - header_size;
  check(data_size % sizeof(float) == 0, path, " is truncated: its data are not a whole number of floats");
  data_.resize(data_size / sizeof(float));
  read_exactly(stream, path, data_.data(), data_size);

  naming(path, [&] {
    const Json entries = parse_json(header);
    check(entries.kind == Json::Kind::kObject, "the header must be an object");
    for (const auto& [name, entry] : entries.members) {
      if (name == "__metadata__") continue;
      const std::string& type = entry.at("dtype").as_text("dtype");
      check(type == "F32", "tensor ", name, " must be F32, got ", type);
      TensorView view;
      std::uint64_t count = 1;
      check(entry.at("shape").kind == Json::Kind::kArray, "the shape of tensor ", name, " must be a list");
      for (const Json& length : entry.at("shape").items) {
        const std::uint64_t n =
            static_cast<std::uint64_t>(length.as_integer("a length of tensor " + name, 0, kMaxSize));
        check(n == 0 || count <= static_cast<std::uint64_t>(kMaxSize) / n, "tensor ", name, " is too large");
        count *= n;
        view.shape.push_back(n);
      }
      const Json& offsets = entry.at("data_offsets");
      check(offsets.kind == Json::Kind::kArray && offsets.items.size() == 2, "tensor ", name, " must have two offsets");
      const std::int64_t end = static_cast<std::int64_t>(data_size);
      const std::int64_t first = offsets.items[0].as_integer("an offset of tensor " + name, 0, end);
      const std::int64_t last = offsets.items[1].as_integer("an offset of tensor " + name, first, end);
      check(static_cast<std::uint64_t>(last - first) == count * sizeof(float), "tensor ", name, " has ", last - first,
            " bytes, but its shape needs ", count * sizeof(float));
      check(first % static_cast<std::int64_t>(sizeof(float)) == 0, "tensor ", name, " is not aligned");
      view.data = data_.data() + first / static_cast<std::int64_t>(sizeof(float));
      views_.emplace(name, std::move(view));
    }
    return 0;
  });
}

std::vector<std::uint32_t> rope_multipliers(int d_head, double base) {
  check(d_head >= 2 && base > 0 && std::isfinite(base), "rotary positions need d_head >= 2 and a positive rope_base");
  std::vector<std::uint32_t> multipliers;
  const int half = d_head / 2;
  for (int i = 0; i < half; ++i) {
    // Ties to even, as Python rounds.
    const double turns = std::nearbyint(4294967296.0 / (2.0 * std::numbers::pi) *
                                        std::pow(base, -static_cast<double>(i) / static_cast<double>(half)));
    check(turns >= 0 && turns < 4294967296.0, "rope_base must be larger than 1 / (2 pi), got ", base);
    multipliers.push_back(static_cast<std::uint32_t>(turns));
  }
  return multipliers;
}

LoadedModel load_model_folder(const std::string& path) {
  const std::string config_file = path + "/config.json";
  const Json description = read_json(config_file);
  LoadedModel loaded;
  ModelShape shape;
  std::vector<std::uint32_t> multipliers;
  naming(config_file, [&] {
    check(description.at("format").as_text("format") == "nanomd-model", "format must be nanomd-model");
    (void)description.at("format_version").as_integer("format_version", 1, 1);
    const Json& config = description.at("config");
    shape = parse_shape(config);
    if (!shape.learned_position) {
      const double base = config.at("rope_base").as_number("rope_base");
      multipliers = rope_multipliers(shape.d_head(), base);
    }
    const Json& symbols = description.at("state_map").at("symbols");
    check(symbols.kind == Json::Kind::kArray && symbols.items.size() == static_cast<std::size_t>(shape.n_states),
          "state_map.symbols must list ", shape.n_states, " labels");
    for (const Json& symbol : symbols.items)
      loaded.state_symbols.push_back(symbol.as_integer("state_map.symbols", 0, std::int64_t{1} << 62));
    const Json& interval = description.at("frame_interval");
    loaded.frame_interval = interval.at("value").as_number("frame_interval.value");
    loaded.frame_unit = interval.at("unit").as_text("frame_interval.unit");
    check(loaded.frame_interval > 0, "frame_interval must be positive");
    return 0;
  });
  const std::string tensor_file = path + "/model.safetensors";
  const TensorFile file(tensor_file);
  loaded.model = naming(tensor_file, [&] { return std::make_shared<const Model>(shape, file.tensors(), multipliers); });
  return loaded;
}

}  // namespace nanomd
