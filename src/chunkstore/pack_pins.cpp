#include "chunkstore/pack_pins.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>

#include "base/error.h"
#include "base/log.h"
#include "base/whole_file.h"

namespace isr {
namespace {

constexpr std::size_t kMaxListSize = std::size_t{256} << 20U;  // 8 million objects, 1 TiB of chunks

/// The path in the first line, and the offset of the cids. nullopt when this is not a list.
std::optional<std::pair<fs::path, std::size_t>> read_owner(ByteView list) {
  const auto text = as_text(list);
  const auto end = text.find('\n');
  if (end == std::string_view::npos || end == 0 || text.front() != '/') return std::nullopt;
  return std::pair(fs::path(text.substr(0, end)), end + 1);
}

/// Returns false only when that is certain.
bool may_exist(const fs::path& path) {
  struct stat status {};
  return ::lstat(path.c_str(), &status) == 0 || (errno != ENOENT && errno != ENOTDIR);
}

}  // namespace

void CachePins::pin(const std::string& name, const fs::path& owner, std::span<const Cid> cids) {
  ByteWriter list;
  list.put(as_bytes(owner.string() + "\n"));
  for (const Cid& cid : cids) list.put(cid.view());
  make_private_directory(directory_);
  replace_file(directory_ / name, list.bytes());
}

const std::unordered_set<Cid, FixedBytesHash>& CachePins::all() {
  std::vector<fs::path> lists;
  std::string seen;
  std::error_code error;
  for (fs::directory_iterator it(directory_, error), end; !error && it != end; it.increment(error)) {
    struct stat status {};
    if (it->path().filename().string().starts_with(kTempFilePrefix) || ::lstat(it->path().c_str(), &status) != 0) {
      continue;
    }
    lists.push_back(it->path());
    seen += fmt::format("{} {} {} {}.{}\n", it->path().filename().string(), status.st_ino, status.st_size,
                        status.st_mtim.tv_sec, status.st_mtim.tv_nsec);
  }
  if (seen == seen_ && std::all_of(owners_.begin(), owners_.end(), may_exist)) return all_;
  all_.clear();
  owners_.clear();
  seen_ = seen;
  for (const fs::path& path : lists) {
    try {
      const auto list = read_file_if_exists(path, kMaxListSize);
      const auto owner = list ? read_owner(*list) : std::nullopt;
      if (!owner) continue;
      if (!may_exist(owner->first)) {
        remove_if_exists(path);
        continue;
      }
      owners_.push_back(owner->first);
      ByteReader in(ByteView(*list).subspan(owner->second), "pins");
      while (in.rest().size() >= Cid::kSize) all_.insert(in.fixed<Cid>());
    } catch (const Error& failure) {
      log::debug("{}", failure.what());
    }
  }
  return all_;
}

}  // namespace isr
