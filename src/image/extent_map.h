#pragma once

#include <map>

#include "image/journal.h"
#include "image/overlay.h"

namespace isr {

/// The content of one run of bytes: `length` bytes of a journal record, from `skip` on, or zeros (is_zero; the place
/// then only keeps the segment).
struct Piece {
  std::uint32_t length = 0;
  std::uint32_t skip = 0;
  bool is_zero = false;
  RecordPlace place;
  std::uint64_t moment = 0;  ///< of the record; a copy of the record has the same moment
};
struct PieceAt {
  std::uint64_t offset = 0;
  Piece piece;
};

/// Runs of bytes that do not overlap, by offset; a new one cuts those that it covers. Exact to the byte, so that even a
/// write of 512 bytes fetches nothing.
class ExtentMap {
 public:
  void insert(std::uint64_t offset, const Piece& piece);
  void erase(std::uint64_t offset, std::uint64_t length);
  /// Erases every piece with a smaller moment.
  void erase_below(std::uint64_t moment);
  /// Pieces in the range, cut to it, in order.
  std::vector<PieceAt> find(std::uint64_t offset, std::uint64_t length) const;
  bool empty() const noexcept { return pieces_.empty(); }
  std::size_t size() const noexcept { return pieces_.size(); }
  /// Every piece, in order.
  const std::map<std::uint64_t, Piece>& all() const noexcept { return pieces_; }

 private:
  std::map<std::uint64_t, Piece> pieces_;
};

}  // namespace isr
