#pragma once

#include "image/uploader.h"
#include "session/boot_pack_maker.h"
#include "session/head_publisher.h"
#include "session/memory_image.h"
#include "session/settler.h"

namespace isr {

/// The result of a publish.
struct PublishResult {
  std::uint64_t version = 0;  ///< the newest of ours: new, or unchanged
  bool unchanged = false;     ///< nothing differed: no new version
  std::string fork;           ///< "HOST-xxxx/N" when another host was first; the work is kept there
  bool is_lock_lost = false;  ///< it is a fork because another host has the lock; it has not published
  std::uint64_t uploaded_bytes = 0;
  std::uint64_t uploaded_objects = 0;
};

struct PublishOptions {
  bool memory = false;  ///< the version is suspended; phase suspended only
  std::string message;
  std::string copy_of;  ///< of a rollback: published even when nothing differs
  /// Error{kCancelled}: nothing is published then, unless the head was on its way, which the next publish finds.
  std::stop_token stop{};
  /// Gives the order in which a resume will read; asked once the rest is uploaded. Without pages: from what this
  /// session noted.
  std::function<BootOrder()> boot_order;
  /// For a running machine: pauses it, calls freeze() once its memory has reached the image,
  /// and lets it go on. The version is suspended, the session goes on running.
  std::function<MachineMoment(const std::function<void()>& freeze)> checkpoint;
};

/// All of them must outlive the publisher.
struct PublisherParts {
  Account& account;
  const ParcelEntry& parcel;
  StateFile& state;
  SessionObjects& objects;
  SessionImages& images;
  Settler& settler;
  BootPrefetch& prefetch;
  MemoryImage& memory;
  HeadPublisher& heads;
};

/// Publishes what a session has: freezes, seals, absorbs, uploads, puts the head, reads it back; then what is published
/// is no longer dirty. It may be interrupted anywhere and run again.
///
/// Errors:  as HeadPublisher, Uploader, MemoryImage::check_frozen(); {kVm} the phase refuses it; {kOffline};
///          {kUnsupported} the repository is read-only; {kIo} of journal, settled store and state file. Nothing has
///          been lost or forgotten after any of them.
/// Threads: one at a time.
class Publisher {
 public:
  explicit Publisher(const PublisherParts& parts);
  Publisher(const Publisher&) = delete;
  Publisher& operator=(const Publisher&) = delete;

  PublishResult publish(const PublishOptions& options, const ProgressFn& progress);
  /// Error{kVm} unless all that is here is in what was published last, also as a fork.
  void require_published() const;
  /// Since the session was opened.
  std::uint64_t uploaded_bytes() const { return counters_.bytes.load(); }

 private:
  struct Publication;
  void freeze(const PublishOptions& options, Publication& publication);
  void seal(Publication& publication);
  void thaw(const Publication& publication);
  Presence begin_upload();
  void upload(const std::map<Cid, std::uint32_t>& objects, Presence presence, std::string_view step,
              const ProgressFn& progress, const std::stop_token& stop);
  void add_boot_pack(const PublishOptions& options, Publication& publication, const ProgressFn& progress);
  void adopt(const Publication& publication, const StoredHead& head);
  void adopt_unchanged(const Publication& publication);
  static void set_bases(const Publication& publication, SessionState& state);
  void drop_published(const Publication& publication);
  void empty_settled(const std::map<Cid, std::uint32_t>& published);

  Account& account_;
  const ParcelEntry& parcel_;
  StateFile& state_;
  SessionObjects& objects_;
  SessionImages& images_;
  Settler& settler_;
  BootPrefetch& prefetch_;
  MemoryImage& memory_;
  HeadPublisher& heads_;
  BootPackMaker pack_maker_;
  UploadCounters counters_;
  /// The state that the last successful publish covers, also as a fork, or when nothing differed.
  struct Published {
    SessionPhase phase = SessionPhase::kCheckedOut;
    std::uint64_t disk_writes = 0;
  };
  std::optional<Published> published_;
};

}  // namespace isr
