#pragma once

#include "base/progress.h"
#include "image/chunk_fill.h"
#include "session/session_images.h"
#include "session/session_stats.h"

namespace isr {

/// The name of a version's boot pack among its images.
inline constexpr const char* kBootPackName = "bootpack";

/// How much is fetched ahead of a guest that continues.
enum class Prefetch {
  kNone,        ///< nothing
  kWorkingSet,  ///< the boot pack before it runs, then the chunks that were read first the last time
  kAll,         ///< and then the rest of its memory
};
/// "none", "ws", "all".
std::string_view to_name(Prefetch prefetch) noexcept;
/// Error{kUsage} for a text that is no such name.
Prefetch parse_prefetch(std::string_view text);

/// Fetches ahead of a guest that is resumed: before it runs the device state and the boot pack
/// (docs/formats/boot-pack.md), behind it the chunks that were read first, then the rest of memory. Notes what each
/// guest reads first.
///
///   prepare() → attach() → begin_fill() → wait_for_pack() → the guest runs → end_fill(), detach()
///
/// Threads: one at a time; end_fill(), request_stop(), is_fetching_working_set() any time.
class BootPrefetch {
 public:
  /// All of these must outlive this.
  BootPrefetch(const HostState& host, const ParcelEntry& parcel, const StateFile& state, const SessionImages& images,
               SessionObjects& objects);
  BootPrefetch(const BootPrefetch&) = delete;
  BootPrefetch& operator=(const BootPrefetch&) = delete;

  /// Fetches what a resume needs before it begins: the device state, waiting for the repository if
  /// it must, and the boot pack when that can be had. Error{kCancelled} on stop.
  void prepare(Prefetch prefetch, const ProgressFn& progress, const std::stop_token& stop);
  /// The images of a machine that is about to run are read through the pack of prepare(), where it is of their time,
  /// and what is read first is noted anew. `memory` is that machine's: begin_fill() fetches it while its owner keeps
  /// it.
  void attach(const std::shared_ptr<Image>& memory);
  /// Ends both: what is read from now on is no guest's.
  void detach();

  /// After attach(): fetches ahead of the guest, until end_fill().
  void begin_fill(Prefetch prefetch);
  void end_fill();
  /// Tells the fetching to end, and does not wait for it.
  void request_stop();
  /// Before the guest runs: gives the boot pack some seconds to come. Error{kCancelled} on stop.
  void wait_for_pack(const ProgressFn& progress, const std::stop_token& stop) const;

  /// Pages that the boot pack of this run had ready.
  std::uint64_t pages() const noexcept { return pages_; }
  /// True while the pages that the guest reads first are on their way.
  bool is_fetching_working_set() const;
  /// The order in which the guest of this session's last start or resume read first; empty before.
  BootOrder own_order() const { return touches_ ? touches_->order() : BootOrder{}; }
  void add_stats(SessionStats& out) const;

 private:
  std::shared_ptr<Image> image_of(const std::string& name) const;
  void fetch_device_state(const ProgressFn& progress, const std::stop_token& stop);
  void open_pack(const std::stop_token& stop);

  const HostState& host_;
  const ParcelEntry& parcel_;
  const StateFile& state_;
  const SessionImages& images_;
  SessionObjects& objects_;
  std::weak_ptr<Image> memory_;            ///< of a machine that runs; MemoryImage owns it
  std::shared_ptr<HotPages> pack_;         ///< of the resume that is going on
  std::shared_ptr<FirstTouches> touches_;  ///< since this session's last start or resume
  std::uint64_t pages_ = 0;
  mutable Sync<std::shared_ptr<ChunkFill>> fill_;  ///< last: it uses the rest
};

}  // namespace isr
