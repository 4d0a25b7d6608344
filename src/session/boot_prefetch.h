#pragma once

#include "base/progress.h"
#include "image/chunk_fill.h"
#include "session/session_images.h"
#include "session/session_stats.h"

namespace isr {

/// How much data is fetched before a resumed guest asks for it.
enum class Prefetch {
  kNone,        ///< nothing
  kWorkingSet,  ///< the boot pack, then the chunks that the pack lists
  kAll,         ///< as kWorkingSet, then the rest of the memory
};
/// Returns "none", "ws" or "all".
std::string_view to_name(Prefetch prefetch) noexcept;
/// Parses a name that to_name() returns. Error{kUsage} for any other text.
Prefetch parse_prefetch(std::string_view text);

/// Fetches the data of a resumed guest before the guest asks for it. Before the guest runs, it fetches the device
/// state, the tables of memory's patches and, for 5 s at most, the boot pack (docs/formats/boot-pack.md); while the
/// guest runs, the rest of the pack, the chunks that the pack lists, then the rest of memory. Also records the order in
/// which each guest reads first, for the next boot pack.
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

  /// Fetches the device state and the tables of memory's patches, without which no resume begins. If
  /// SessionObjects::waits(), waits for a repository that cannot be reached. Unless `prefetch` is kNone, then opens the
  /// boot pack, that is, reads its list of pages; a failure of this is only logged. begin_fill() fetches the pages.
  /// Errors:  {kCancelled} on stop; as ChunkReader for the device state and the tables.
  void prepare(Prefetch prefetch, const ProgressFn& progress, const std::stop_token& stop);
  /// Connects the images of a machine that is about to run: they answer reads from the pack of prepare() where the pack
  /// was made of the same tree, and a new record of first reads begins. `memory` is the machine's memory image;
  /// begin_fill() can fetch it as long as its owner keeps it.
  void attach(const std::shared_ptr<Image>& memory);
  /// Undoes attach(). Later reads do not come from a guest, so the pack does not answer them and they are not recorded.
  void detach();

  /// Call after attach(). Starts to fetch ahead of the guest in the background, until end_fill().
  void begin_fill(Prefetch prefetch);
  void end_fill();
  /// Asks the fetching to end, without waiting for its end.
  void request_stop();
  /// Call before the guest runs. Waits at most 5 s for the boot pack. Error{kCancelled} on stop.
  void wait_for_pack(const ProgressFn& progress, const std::stop_token& stop) const;

  /// The number of pages in the boot pack that this run can use.
  std::uint64_t pages() const noexcept { return pages_; }
  /// True while the boot pack or the chunks that it lists are being fetched.
  bool is_fetching_working_set() const;
  /// The order of first reads of the guest that this session started or resumed last; empty before the first one.
  BootOrder own_order() const { return touches_ ? touches_->order() : BootOrder{}; }
  void add_stats(SessionStats& out) const;

 private:
  std::shared_ptr<Image> image_of(const std::string& name) const;
  void fetch_device_state(const ProgressFn& progress, const std::stop_token& stop);
  void fetch_memory_tables(const std::stop_token& stop);
  void open_pack(const std::stop_token& stop);

  const HostState& host_;
  const ParcelEntry& parcel_;
  const StateFile& state_;
  const SessionImages& images_;
  SessionObjects& objects_;
  std::weak_ptr<Image> memory_;            ///< of the running machine; MemoryImage owns it
  std::shared_ptr<HotPages> pack_;         ///< of the current resume
  std::shared_ptr<FirstTouches> touches_;  ///< first reads since this session's last start or resume
  std::uint64_t pages_ = 0;
  mutable Sync<std::shared_ptr<ChunkFill>> fill_;  ///< last, because it uses the members above
};

}  // namespace isr
