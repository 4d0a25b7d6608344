#include "image/replayed_records.h"

#include <algorithm>
#include <tuple>

#include "base/error.h"

namespace isr {
namespace {

/// Orders bytes before a sealed chunk of the same moment, because the chunk includes them. Records of the same kind and
/// moment are copies.
auto age_of(const ReplayedRecord& record) { return std::tuple(record.moment, record.kind == RecordKind::kReplace); }

}  // namespace

void ReplayedRecords::add(const ReplayedRecord& record) {
  const auto below = void_below_.find(record.image);
  if (below == void_below_.end()) throw Error(ErrorKind::kCorrupt, "the journal names an image that does not exist");
  if (record.moment < below->second) return;
  Kept kept{record, {}};
  if (record.kind != RecordKind::kData) kept.payload = to_bytes(record.payload);
  kept_[record.image].push_back(std::move(kept));
}

void ReplayedRecords::give(std::uint16_t image, JournalOverlay& overlay) {
  std::vector<Kept> records = std::move(kept_[image]);
  std::stable_sort(records.begin(), records.end(),
                   [](const Kept& a, const Kept& b) { return age_of(a.record) < age_of(b.record); });
  for (Kept& kept : records) {
    kept.record.payload = kept.payload;
    overlay.replay(kept.record);
  }
}

}  // namespace isr
