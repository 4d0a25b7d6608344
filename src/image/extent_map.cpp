#include "image/extent_map.h"

#include <algorithm>

namespace isr {
namespace {

Piece tail_of(const Piece& piece, std::uint64_t cut) {
  Piece tail = piece;
  tail.skip += static_cast<std::uint32_t>(cut);
  tail.length -= static_cast<std::uint32_t>(cut);
  return tail;
}

}  // namespace

void ExtentMap::erase(std::uint64_t offset, std::uint64_t length) {
  const std::uint64_t end = offset + length;
  auto it = pieces_.lower_bound(offset);
  if (it != pieces_.begin()) {
    const auto before = std::prev(it);
    const std::uint64_t before_end = before->first + before->second.length;
    if (before_end > end) pieces_.emplace_hint(it, end, tail_of(before->second, end - before->first));
    if (before_end > offset) before->second.length = static_cast<std::uint32_t>(offset - before->first);
  }
  it = pieces_.lower_bound(offset);
  while (it != pieces_.end() && it->first < end) {
    const std::uint64_t piece_end = it->first + it->second.length;
    if (piece_end > end) pieces_.emplace(end, tail_of(it->second, end - it->first));
    it = pieces_.erase(it);
  }
}

void ExtentMap::erase_below(std::uint64_t moment) {
  std::erase_if(pieces_, [&](const auto& at) { return at.second.moment < moment; });
}

void ExtentMap::insert(std::uint64_t offset, const Piece& piece) {
  erase(offset, piece.length);
  pieces_.emplace(offset, piece);
}

std::vector<PieceAt> ExtentMap::find(std::uint64_t offset, std::uint64_t length) const {
  std::vector<PieceAt> found;
  const std::uint64_t end = offset + length;
  auto it = pieces_.upper_bound(offset);
  if (it != pieces_.begin()) --it;
  for (; it != pieces_.end() && it->first < end; ++it) {
    const std::uint64_t from = std::max(it->first, offset);
    const std::uint64_t until = std::min(it->first + it->second.length, end);
    if (from >= until) continue;
    Piece piece = tail_of(it->second, from - it->first);
    piece.length = static_cast<std::uint32_t>(until - from);
    found.push_back({from, piece});
  }
  return found;
}

}  // namespace isr
