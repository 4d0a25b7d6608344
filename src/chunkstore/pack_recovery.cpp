#include "chunkstore/pack_recovery.h"

#include <map>

#include "base/error.h"
#include "base/log.h"

namespace isr {
namespace {

constexpr std::size_t kBatch = 1024;

/// Puts every record from `begin` on into the index. Returns the end of the last good record.
std::uint64_t index_tail(PackIndex& index, const PackFile& pack, std::uint64_t begin, PackUse use) {
  const std::int64_t now = index.last_access() + 1;
  std::vector<PackIndex::Added> batch;
  const auto commit = [&] {
    index.commit({.added = batch});
    batch.clear();
  };
  const auto check = use == PackUse::kSettled ? PackFile::Check::kHashes : PackFile::Check::kHeaders;
  const std::uint64_t end = pack.scan(begin, check, [&](const Cid& cid, const PackPlace& place) {
    batch.push_back({{cid, place}, now});
    if (batch.size() >= kBatch) commit();
  });
  commit();
  return end;
}

void recover_pack(PackIndex& index, std::shared_ptr<PackFile> found, const PackIndex::PackRow* row, PackUse use) {
  const bool ours = found->try_lock();
  // The pack's writer indexes its own records, unless the index was newly made meanwhile.
  if (!ours && (row != nullptr || !index.is_new())) return;
  const std::uint64_t known = row == nullptr ? 0 : row->end;
  const std::uint64_t size = found->size();
  if (size > known && use == PackUse::kSettled) {
    if (ours) {
      found = found->copy_durably();
    } else {
      found->sync();  // its writer is in this process and knows which syncs failed, so the file must not be replaced
    }
  }
  PackFile& pack = *found;
  if (size > known) {
    const std::uint64_t good_end = index_tail(index, pack, known, use);
    log::debug("{}: indexed from {} to {} of {} bytes", pack.path().string(), known, good_end, size);
    if (ours && use == PackUse::kCache && good_end < size) pack.truncate(good_end);
    // A settled pack's damaged tail is kept but not read again.
    index.set_pack_end(pack.id(), use == PackUse::kCache ? good_end : size);
  }
  const bool maybe_empty = row == nullptr || row->live == 0;
  if (!ours || !maybe_empty) return;
  index.set_pack_end(pack.id(), 0);
  if (index.forget_if_empty(pack.id())) pack.unlink();
}

}  // namespace

void recover_packs(PackIndex& index, const fs::path& packs_directory, PackUse use) {
  std::map<std::int64_t, PackIndex::PackRow> rows;
  for (const auto& row : index.packs()) rows.emplace(row.id, row);
  for (const std::int64_t id : PackFile::list(packs_directory)) {
    const auto row = rows.find(id);
    try {
      if (auto pack = PackFile::open(packs_directory, id)) {
        recover_pack(index, std::move(pack), row == rows.end() ? nullptr : &row->second, use);
      }
    } catch (const Error& error) {
      // In a cache, one unreadable pack does not affect the other packs.
      if (use == PackUse::kSettled || error.kind() != ErrorKind::kIo) throw;
      log::warn("{}", error.what());
    }
    if (row != rows.end()) rows.erase(row);
  }
  for (const auto& [id, row] : rows) {
    // Another process may have created and indexed the pack after the listing.
    if (!PackFile::open(packs_directory, id)) index.forget(id);
  }
}

}  // namespace isr
