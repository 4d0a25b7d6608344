#pragma once

#include "image/journal_segment.h"

namespace isr {

struct ReplayedJournal {
  std::vector<std::shared_ptr<JournalSegment>> segments;  ///< ascending
  std::uint64_t next_index = 1;
  std::uint64_t next_sequence = 1;
};

/// Reads a journal's segments and visits every record in order. Then cuts off a torn end and makes the rest durable.
/// Errors: those of Journal's constructor, and std::filesystem::filesystem_error.
ReplayedJournal replay_journal(const fs::path& directory, const Key& device_key, OpenSegments& files,
                               const std::function<void(const ReplayedRecord&)>& visit);

}  // namespace isr
