#include "chunkstore/pack_space.h"

#include <algorithm>
#include <tuple>

#include "base/error.h"
#include "base/log.h"

namespace isr {
namespace {

constexpr std::uint64_t kMaxHole = 1U << 30U;

using Entries = std::span<const PackIndex::Entry>;

/// Punches neighbours together, because a hole frees whole file system blocks only.
void punch(PackFile& pack, Entries entries) {
  for (std::size_t i = 0; i < entries.size();) {
    // A damaged row may lead anywhere, so only a record of that object is punched.
    if (!pack.holds(entries[i].cid, entries[i].place)) {
      ++i;
      continue;
    }
    const std::uint64_t begin = entries[i].place.offset;
    std::uint64_t end = begin;
    while (i < entries.size() && entries[i].place.offset == end && end - begin < kMaxHole &&
           pack.holds(entries[i].cid, entries[i].place)) {
      end += record_size(entries[i].place);
      ++i;
    }
    pack.punch(begin, end);
  }
}

void free_in_pack(const fs::path& directory, Entries entries,
                  const std::function<bool(std::int64_t)>& forget_if_empty) {
  // Opened again, so that its lock differs from that of the writer in this process.
  const auto pack = PackFile::open(directory, entries.front().place.pack);
  if (!pack) return;
  if (pack->try_lock()) {
    if (forget_if_empty(pack->id())) {
      pack->unlink();
      return;
    }
    pack->unlock();
  }
  punch(*pack, entries);
}

}  // namespace

std::uint64_t bytes_to_evict(std::uint64_t used_bytes, std::optional<std::uint64_t> free_bytes,
                             std::uint64_t limit_bytes, std::uint64_t min_free_bytes) {
  std::uint64_t excess = 0;
  // Frees a sixteenth more than needed, so that this does not happen at each put.
  if (limit_bytes != 0 && used_bytes > limit_bytes) excess = used_bytes - limit_bytes + limit_bytes / 16;
  if (free_bytes && *free_bytes < min_free_bytes) {
    excess = std::max(excess, min_free_bytes - *free_bytes + min_free_bytes / 16);
  }
  return std::min(excess, used_bytes);
}

void free_space(const fs::path& packs_directory, std::vector<PackIndex::Entry> removed,
                const std::function<bool(std::int64_t pack)>& forget_if_empty) {
  std::sort(removed.begin(), removed.end(), [](const auto& a, const auto& b) {
    return std::tie(a.place.pack, a.place.offset) < std::tie(b.place.pack, b.place.offset);
  });
  for (auto begin = removed.begin(); begin != removed.end();) {
    const std::int64_t pack = begin->place.pack;
    const auto end = std::find_if(begin, removed.end(), [&](const auto& entry) { return entry.place.pack != pack; });
    try {
      free_in_pack(packs_directory, {begin, end}, forget_if_empty);
    } catch (const Error& error) {
      log::warn("{}", error.what());  // the space is freed when the whole pack is deleted
    }
    begin = end;
  }
}

}  // namespace isr
