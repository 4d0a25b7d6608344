#pragma once

#include <map>
#include <vector>

#include "image/journal_overlay.h"

namespace isr {

/// What the replay of a journal says, until there are overlays to take it: they need the journal that is being
/// opened. Keeps the records that are not void.
///
/// Threads: one at a time.
class ReplayedRecords {
 public:
  /// For each image the moment below which its records are void.
  explicit ReplayedRecords(std::map<std::uint16_t, std::uint64_t> void_below) : void_below_(std::move(void_below)) {}

  /// Error{kCorrupt} of an image that is not known.
  void add(const ReplayedRecord& record);
  /// Gives an image's records to its overlay, in the order of their moments.
  void give(std::uint16_t image, JournalOverlay& overlay);

 private:
  struct Kept {
    ReplayedRecord record;
    Bytes payload;  ///< not of bytes: their place is enough
  };
  std::map<std::uint16_t, std::uint64_t> void_below_;
  std::map<std::uint16_t, std::vector<Kept>> kept_;
};

}  // namespace isr
