#pragma once

#include <unordered_map>

#include "base/sync.h"
#include "chunkstore/pack_file.h"

namespace isr {

/// Keeps a bounded number of packs of a directory open, those that were read last.
/// Threads: any.
class OpenPacks {
 public:
  explicit OpenPacks(fs::path directory) : directory_(std::move(directory)) {}

  /// nullptr when there is no such pack.
  std::shared_ptr<PackFile> get(std::int64_t id) {
    auto packs = packs_.lock();
    if (const auto it = packs->find(id); it != packs->end()) {
      it->second.used = ++tick_;
      return it->second.pack;
    }
    auto pack = PackFile::open(directory_, id);
    if (!pack) return nullptr;
    if (packs->size() >= kMaxOpen) {
      packs->erase(std::min_element(packs->begin(), packs->end(),
                                    [](const auto& a, const auto& b) { return a.second.used < b.second.used; }));
    }
    packs->emplace(id, Entry{pack, ++tick_});
    return pack;
  }
  void close(std::int64_t id) { packs_.lock()->erase(id); }
  void close_all() { packs_.lock()->clear(); }

 private:
  static constexpr std::size_t kMaxOpen = 64;
  struct Entry {
    std::shared_ptr<PackFile> pack;
    std::uint64_t used = 0;
  };
  fs::path directory_;
  Sync<std::unordered_map<std::int64_t, Entry>> packs_;  // guards tick_, too
  std::uint64_t tick_ = 0;
};

}  // namespace isr
