#include "session/session_images.h"

#include <fmt/format.h>

#include "image/replayed_records.h"

namespace isr {
namespace {

template <class Parts>
auto& find_part(Parts& parts, std::string_view name) {
  for (auto& part : parts) {
    if (part.name == name) return part;
  }
  throw Error(ErrorKind::kBug, fmt::format("the session has no image {}", name));
}

}  // namespace

SessionImages::SessionImages(const HostState& host, const ParcelEntry& parcel, StateFile& state,
                             SessionObjects& objects)
    : host_(host), parcel_(parcel), state_(state), objects_(objects) {}

void SessionImages::open() {
  std::uint64_t greatest_void = 0;
  std::map<std::uint16_t, std::uint64_t> void_below;
  for (const SessionImage& image : state_.now().images) {
    void_below[image.number] = image.void_below;
    greatest_void = std::max(greatest_void, image.void_below);
  }
  // If one of these publishes did happen, records with lower numbers become void, so new records need higher numbers.
  for (const PendingPublish& pending : state_.now().pending) {
    for (const auto& [number, below] : pending.void_below) greatest_void = std::max(greatest_void, below);
  }
  ReplayedRecords records(std::move(void_below));
  journal_ = std::make_shared<Journal>(state_.directory() / "journal", host_.device_key,
                                       [&](const ReplayedRecord& record) { records.add(record); });
  journal_->raise_sequence(greatest_void);
  for (const SessionImage& image : state_.now().images) {
    SessionPart& part = parts_.emplace_back();
    part.number = image.number;
    part.name = image.image.name;
    part.role = image.image.role;
    part.overlay = std::make_shared<JournalOverlay>(journal_, image.number);
    records.give(image.number, *part.overlay);
    part.image = objects_.make_image(part.name, std::make_shared<const BaseContent>(image.image.content), part.overlay);
  }
  journal_->collect();
}

SessionPart& SessionImages::part(std::string_view name) { return find_part(parts_, name); }
const SessionPart& SessionImages::part(std::string_view name) const { return find_part(parts_, name); }

std::vector<std::shared_ptr<Image>> SessionImages::disks() const {
  std::vector<std::shared_ptr<Image>> disks;
  for (const SessionImage& image : state_.now().images) {
    if (is_disk(image.image.role)) disks.push_back(part(image.image.name).image);
  }
  return disks;
}

bool SessionImages::is_dirty() const {
  return std::any_of(parts_.begin(), parts_.end(), [](const SessionPart& part) { return part.overlay->is_dirty(); });
}

std::uint64_t SessionImages::disk_writes() const {
  std::uint64_t sum = 0;
  for (const auto& disk : disks()) {
    const ImageCounters& counters = disk->counters();
    sum += counters.writes + counters.written_bytes + counters.discarded_bytes;
  }
  return sum;
}

std::set<Cid> SessionImages::needed_objects() const {
  std::set<Cid> needed;
  for (const SessionPart& part : parts_) part.overlay->add_objects(needed);
  return needed;
}

void SessionImages::take(SessionEvent event, SessionState& next) {
  const SessionTransition& transition = require_transition(next.phase, event, parcel_.name);
  if (transition.voids_memory) void_memory(next);
  next.phase = transition.next.value();
}

void SessionImages::void_image(SessionState& next, const SessionPart& part, const PatchedTree& base) {
  SessionImage& image = *next.find(part.name);
  image.void_below = journal_->next_sequence();
  journal_->raise_sequence(image.void_below);  // so that the next freeze gets a moment that is not void
  image.image.content = base;
  for (PendingPublish& pending : next.pending) pending.void_below.erase(image.number);
}

void SessionImages::void_memory(SessionState& next) {
  void_image(next, part(ImageRole::kMemory), TreeRoot{next.vm.memory_bytes, {}});
  void_image(next, part(ImageRole::kDevice), TreeRoot{kNoDeviceState, {}});
  next.stamp.reset();
}

void SessionImages::begin_anew(SessionPart& part) {
  const SessionImage& image = *state_.now().find(part.name);
  part.overlay->forget_below(image.void_below);
  auto base = std::make_shared<const BaseContent>(image.image.content, *part.image->base_content());
  part.image = objects_.make_image(part.name, std::move(base), part.overlay);
}

void SessionImages::discard() {
  const bool to_suspended = state_.now().base_version.suspended();
  state_.change([&](SessionState& next) {
    take(to_suspended ? SessionEvent::kDiscardToSuspended : SessionEvent::kDiscard, next);
    next.images = number_images(next.base_version);
    for (const SessionImage& image : number_images(next.base_version)) {
      void_image(next, part(image.image.name), image.image.content);
    }
    next.vm = next.base_version.vm;
    next.stamp = next.base_version.stamp;
  });
  for (SessionPart& part : parts_) begin_anew(part);
  journal_->collect();
}

}  // namespace isr
