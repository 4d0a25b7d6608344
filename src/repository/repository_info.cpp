#include "repository/repository_info.h"

#include <fmt/format.h>

#include <atomic>
#include <barrier>
#include <bit>
#include <exception>
#include <filesystem>
#include <thread>

#include "base/crypto.h"
#include "base/file.h"
#include "base/strict_json.h"
#include "base/whole_file.h"

namespace isr {
namespace {

constexpr std::string_view kName = "isr-repository";
constexpr std::string_view kFormat = "isr1-repository";
constexpr std::size_t kMaxInfoSize = 4096;
constexpr std::uint32_t kChunkSize = 131072;
constexpr int kWriters = 8;
constexpr int kNames = 20;

[[noreturn]] void fail_probe(const BlobStore& store, std::string_view what) {
  throw Error(ErrorKind::kUnsupported, fmt::format("{} cannot be a repository: {}", store.describe(), what),
              {"the store would lose updates; use a directory or isr serve"});
}

Bytes probe_bytes(int writer) { return to_bytes(as_bytes(fmt::format("isr probe by writer {}\n", writer))); }

std::string random_id() {
  std::array<std::uint8_t, 16> bytes{};
  random_bytes(bytes);
  return to_hex(bytes);
}

/// Names below probe/RANDOM/. The destructor removes them if the store allows it.
class ProbeNames {
 public:
  explicit ProbeNames(BlobStore& store) : store_(store), prefix_(fmt::format("probe/{}/", random_id())) {}
  ~ProbeNames() {
    try {
      for (int i = 0; i < kNames; ++i) store_.remove((*this)[i]);
    } catch (...) {
      // Leftover probes hold no data and are never read.
    }
  }
  ProbeNames(const ProbeNames&) = delete;
  ProbeNames& operator=(const ProbeNames&) = delete;
  std::string operator[](int i) const { return fmt::format("{}{:02}", prefix_, i); }

 private:
  BlobStore& store_;
  std::string prefix_;
};

/// All writers put each name at the same moment. wins[name] has a bit for each writer that was told kCreated.
std::vector<std::atomic<unsigned>> race_names(BlobStore& store, const ProbeNames& names) {
  std::vector<std::atomic<unsigned>> wins(kNames);
  std::array<std::exception_ptr, kWriters> failures;
  std::barrier start(kWriters);
  std::atomic<bool> called_off = false;
  const auto race = [&](int writer) {
    for (std::size_t name = 0; name < kNames; ++name) {
      start.arrive_and_wait();
      if (called_off) return;
      try {
        if (store.put_new(names[static_cast<int>(name)], probe_bytes(writer)) == PutResult::kCreated) {
          wins[name] |= 1U << static_cast<unsigned>(writer);
        }
      } catch (...) {
        failures[static_cast<std::size_t>(writer)] = std::current_exception();
      }
    }
  };
  std::vector<std::jthread> writers;
  try {
    while (writers.size() < kWriters) writers.emplace_back(race, static_cast<int>(writers.size()));
  } catch (const std::system_error& error) {
    called_off = true;  // set before the others pass the barrier, where they wait for the threads that did not start
    for (auto absent = writers.size(); absent < kWriters; ++absent) start.arrive_and_drop();
    writers.clear();
    throw Error(ErrorKind::kIo, fmt::format("cannot start {} threads: {}", kWriters, error.what()));
  }
  writers.clear();
  for (const auto& failure : failures) {
    if (failure) std::rethrow_exception(failure);
  }
  return wins;
}

void check_answers(BlobStore& store, const std::string& name, const Bytes& expected) {
  const auto blob = store.get(name);
  if (!blob) fail_probe(store, "read after write: a blob just written is absent");
  if (blob->bytes != expected) fail_probe(store, "racing writers: the winner's bytes were replaced");
  if (store.put_new(name, expected) != PutResult::kExists) {
    fail_probe(store, "writing an existing name: the store said that it was new");
  }
  const auto range = store.get(name, ByteRange{4, 5});
  if (!range || as_text(range->bytes) != "probe")
    fail_probe(store, "range read: the store returned other bytes than requested");
}

bool holds_data(BlobStore& store) {
  for (const char* prefix : {"objects/", "users/", "parcels/", "appliances/"}) {
    try {
      const auto names = store.list(prefix);
      if (names && !names->empty()) return true;
    } catch (const Error& error) {
      if (error.kind() == ErrorKind::kUnsupported) return true;  // the list is too long to be read
      throw;
    }
  }
  return false;
}

}  // namespace

Bytes encode_repository_info(const RepositoryInfo& info) {
  JsonWriter json;
  json.text("format", kFormat).text("id", info.id).number("chunk_size", info.chunk_size);
  return to_bytes(as_bytes(json.take() + "\n"));
}

RepositoryInfo parse_repository_info(ByteView bytes) {
  const std::string what(kName);
  if (bytes.size() > kMaxInfoSize) throw Error(ErrorKind::kCorrupt, fmt::format("{}: too large", what));
  const JsonValue value = parse_strict_json(as_text(bytes), what);
  JsonFields fields(value, what);
  if (fields.text("format", 64) != kFormat) {
    throw Error(ErrorKind::kUnsupported, "the repository has a format that this version of isr does not know",
                {"install a newer version of isr"});
  }
  RepositoryInfo info;
  info.id = fields.text("id", 32);
  info.chunk_size = static_cast<std::uint32_t>(fields.number("chunk_size", 1, UINT32_MAX));
  fields.expect_end();
  if (info.id.size() != 32 || !from_hex(info.id)) fields.fail("id", "is not 32 hex digits");
  if (as_text(encode_repository_info(info)) != as_text(bytes)) {
    throw Error(ErrorKind::kCorrupt, fmt::format("{}: not in canonical form", what));
  }
  if (info.chunk_size != kChunkSize) {
    throw Error(ErrorKind::kUnsupported,
                fmt::format("the repository has chunks of {} bytes, this version of isr only knows {}", info.chunk_size,
                            kChunkSize));
  }
  return info;
}

RepositoryInfo read_repository_info(BlobStore& store) {
  const auto blob = store.get(kName);
  if (!blob) {
    throw Error(ErrorKind::kNotFound, fmt::format("{} has no repository", store.describe()),
                {"to make a repository there    isr repo init URL"});
  }
  return parse_repository_info(blob->bytes);
}

void race_store(BlobStore& store) {
  if (!store.writable()) fail_probe(store, "it is read-only");
  const ProbeNames names(store);
  const auto wins = race_names(store, names);
  for (int name = 0; name < kNames; ++name) {
    const unsigned winners = wins[static_cast<std::size_t>(name)];
    if (winners == 0 || (winners & (winners - 1)) != 0) {
      fail_probe(store, fmt::format("racing writers: {} of {} were told that they had created the same name",
                                    std::popcount(winners), kWriters));
    }
    check_answers(store, names[name], probe_bytes(std::countr_zero(winners)));
  }
}

RepositoryInfo init_repository(BlobStore& store) {
  const auto refuse_existing = [&store] {
    throw Error(ErrorKind::kUsage, fmt::format("{}: a repository exists there already", store.describe()));
  };
  if (const auto there = store.get(kName)) {
    try {
      parse_repository_info(there->bytes);
    } catch (const Error&) {
      throw Error(ErrorKind::kUnsupported,
                  fmt::format("{} is not empty, and not a repository of isr", store.describe()));
    }
    refuse_existing();
  }
  if (!store.writable()) {
    throw Error(ErrorKind::kUnsupported,
                fmt::format("{} is read-only, so no repository can be made there", store.describe()));
  }
  if (holds_data(store)) {
    throw Error(ErrorKind::kUnsupported, fmt::format("{} is not empty, and not a repository of isr", store.describe()));
  }
  race_store(store);
  const RepositoryInfo info{random_id(), kChunkSize};
  if (store.put_new(kName, encode_repository_info(info)) == PutResult::kExists) refuse_existing();
  return info;
}

void prepare_store_location(const std::string& url) {
  const std::string canonical = canonical_store_url(url);
  if (!canonical.starts_with('/')) return;
  std::error_code error;
  const auto status = fs::status(canonical, error);
  if (status.type() == fs::file_type::not_found) {
    make_private_directory(canonical);
    return;
  }
  if (error) throw_errno(fmt::format("cannot use {}", canonical), error.value());
  if (status.type() != fs::file_type::directory) {
    throw Error(ErrorKind::kUnsupported, fmt::format("{} is not a directory", canonical));
  }
  if (fs::exists(fs::path(canonical) / kName, error)) return;
  fs::directory_iterator entries(canonical, error);
  for (; !error && entries != fs::directory_iterator(); entries.increment(error)) {
    const std::string name = entries->path().filename().string();
    // A new file system has lost+found. An interrupted init leaves probe/.
    if (name != "lost+found" && name != "probe" && !name.starts_with(kTempFilePrefix)) {
      throw Error(ErrorKind::kUnsupported, fmt::format("{} is not empty, and not a repository of isr", canonical));
    }
  }
  if (error) throw_errno(fmt::format("cannot list {}", canonical), error.value());
}

}  // namespace isr
