#pragma once

#include <map>
#include <vector>

#include "image/journal_overlay.h"

namespace isr {

/// Keeps the records that a replay finds until the overlays exist, which need the opened journal first. Void records
/// are left out.
///
/// Threads: one at a time.
class ReplayedRecords {
 public:
  /// Gives for each image the moment below which its records are void.
  explicit ReplayedRecords(std::map<std::uint16_t, std::uint64_t> void_below) : void_below_(std::move(void_below)) {}

  /// Error{kCorrupt} when the image is not known.
  void add(const ReplayedRecord& record);
  /// Gives an image's records to its overlay, in the order of their moments.
  void give(std::uint16_t image, JournalOverlay& overlay);

 private:
  struct Kept {
    ReplayedRecord record;
    Bytes payload;  ///< empty for bytes, for which the place is enough
  };
  std::map<std::uint16_t, std::uint64_t> void_below_;
  std::map<std::uint16_t, std::vector<Kept>> kept_;
};

}  // namespace isr
