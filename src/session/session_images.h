#pragma once

#include "session/session_objects.h"
#include "session/state_file.h"

namespace isr {

/// An image of a session with the overlay that has its changes.
struct SessionPart {
  std::uint16_t number = 0;  ///< in the journal
  std::string name;
  ImageRole role = ImageRole::kUser;
  std::shared_ptr<JournalOverlay> overlay;
  std::shared_ptr<Image> image;
};

/// The images of a session, and the journal that has their changes.
///
/// Threads: const functions and part() may run at once while no begin_anew(), discard() or open() runs; the others one
///          at a time. Images that image() and disks() returned may be read and written meanwhile.
class SessionImages {
 public:
  /// All of these must outlive this.
  SessionImages(const HostState& host, const ParcelEntry& parcel, StateFile& state, SessionObjects& objects);

  /// Replays the journal, without the records that the state says are void. Call once, before any other function.
  void open();

  /// The images to mount. For memory this is the suspended memory; a running VM has MemoryImage::image().
  std::shared_ptr<Image> image(std::string_view name) const { return part(name).image; }
  std::vector<std::shared_ptr<Image>> disks() const;
  /// Error{kBug} when there is none of this name.
  SessionPart& part(std::string_view name);
  const SessionPart& part(std::string_view name) const;
  /// The part of a role that is not a disk. Error{kBug} when there is none.
  SessionPart& part(ImageRole role) { return part(to_name(role)); }
  const SessionPart& part(ImageRole role) const { return part(to_name(role)); }
  const std::vector<SessionPart>& parts() const { return parts_; }
  Journal& journal() { return *journal_; }

  bool is_dirty() const;
  std::uint64_t journal_bytes() const { return journal_->size_bytes(); }
  /// A counter for comparisons: it has changed when a disk was written meanwhile.
  std::uint64_t disk_writes() const;
  /// The sealed objects that records of the journal name.
  std::set<Cid> needed_objects() const;

  /// Applies an event to `next` by the table in session_machine.h: sets the phase, and makes memory and device state
  /// void where the table does. Once the state is `next`, begin_anew() drops them. Error{kVm} when the table refuses
  /// the event.
  void take(SessionEvent event, SessionState& next);
  /// Makes all records of the image so far void in `next`, and `base` its content. Once the state is `next`,
  /// begin_anew() drops the records.
  void void_image(SessionState& next, const SessionPart& part, const PatchedTree& base);
  /// Drops the records of an image that the state says are void, and opens the image over its content in the state.
  void begin_anew(SessionPart& part);
  /// Drops all changes since the base version; the parcel stays checked out. After a failure nothing has changed.
  void discard();

 private:
  void void_memory(SessionState& next);

  const HostState& host_;
  const ParcelEntry& parcel_;
  StateFile& state_;
  SessionObjects& objects_;
  std::shared_ptr<Journal> journal_;
  std::vector<SessionPart> parts_;  ///< only open() adds parts, so references to them stay valid
};

}  // namespace isr
