#include "chunkstore/pack_writer.h"

#include <algorithm>

#include "base/error.h"
#include "base/log.h"

namespace isr {

PackWriter::PackWriter(fs::path directory, std::uint64_t pack_size, Names names)
    : directory_(std::move(directory)), pack_size_(pack_size) {
  if (names == Names::kCache) return;
  names_.emplace(directory_);
  names_->sync();
}

void PackWriter::begin_pack() {
  const auto pack = PackFile::create(directory_);
  try {
    if (names_) names_->sync();
  } catch (const Error&) {
    pack->unlink();
    throw;
  }
  if (names_) unsynced_.push_back({pack, 0});
  current_ = pack;
  end_ = 0;
}

PackPlace PackWriter::append(const Cid& cid, ByteView object) {
  if (current_ && end_ >= pack_size_) full_.push_back(std::move(current_));
  if (!current_) begin_pack();
  const PackPlace place = current_->append(cid, object, end_);
  end_ += record_size(place);
  return place;
}

void PackWriter::sync() {
  for (const Tail& tail : unsynced_) tail.pack->sync();
  unsynced_.clear();
  if (names_ && current_) unsynced_.push_back({current_, end_});
}

void PackWriter::give_up_unsynced() noexcept {
  for (const Tail& tail : unsynced_) {
    try {
      tail.pack->truncate(tail.from);
    } catch (const Error& error) {
      // The next opening finds the pack and writes it once more before it trusts it.
      log::warn("{}", error.what());
    }
    std::erase(full_, tail.pack);
  }
  unsynced_.clear();
  current_.reset();
}

void PackWriter::release(const std::vector<std::shared_ptr<PackFile>>& packs) {
  for (const auto& pack : packs) {
    if (std::erase(full_, pack) > 0) pack->unlock();
  }
}

void PackWriter::forget_all() noexcept {
  current_.reset();
  full_.clear();
  unsynced_.clear();
}

}  // namespace isr
