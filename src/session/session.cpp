// Where a session's parts come together: directory, journal, images. Its lock and
// its directory are in session_checkout.cpp, publishing is in session_publish.cpp.

#include "session/session.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include "account/version_reader.h"
#include "base/file.h"
#include "base/log.h"
#include "image/replayed_records.h"
#include "session/held_lock.h"
#include "session/session_part.h"

namespace isr {
namespace {

constexpr unsigned kSealThreads = 2;
constexpr std::uint64_t kSweepAfter = 256;  // chunks, of 128 KiB each before they are compressed
constexpr std::chrono::seconds kSweepAgain{2};
constexpr std::uint64_t kCollectAbove = 256U << 20U;  // of a journal
constexpr auto kTidyEvery = std::chrono::seconds(1);
constexpr std::uint64_t kRoomAtOnce = 64U << 20U;  // a segment of the journal

bool is_one_disk(const fs::path& one, const fs::path& other) {
  struct stat of_one {};
  struct stat of_other {};
  return ::stat(one.c_str(), &of_one) == 0 && ::stat(other.c_str(), &of_other) == 0 && of_one.st_dev == of_other.st_dev;
}

PackStoreOptions settled_options(const MakeRoom& make_room) {
  PackStoreOptions options;
  options.durable = true;
  options.make_room = make_room;
  return options;
}

/// 0: there is none.
ino_t inode_of(const fs::path& file) {
  struct stat status {};
  return ::stat(file.c_str(), &status) == 0 ? status.st_ino : 0;
}

MemoryCheck::Replacements replacements_in(JournalOverlay& overlay) {
  MemoryCheck::Replacements found;
  for (const std::uint64_t chunk : overlay.dirty_chunks()) found[chunk] = overlay.replaced(chunk);
  return found;
}

}  // namespace

Session::Session(Account& account, const ParcelEntry& parcel)
    : account_(account), parcel_(parcel), directory_(account.parcel_directory(parcel)) {
  const auto refuse = [&] {
    throw Error(ErrorKind::kNotFound, fmt::format("{} is not checked out here", parcel.name));
  };
  if (!fs::exists(directory_ / "session")) refuse();
  flock_ = take_parcel(account, parcel);
  auto state = read_session_state(directory_, account.device_key, parcel.id);
  if (!state) refuse();
  state_ = std::move(*state);
  const Config& config = account.config;
  cache_ = open_cache(account.paths, config);
  if (is_one_disk(cache_directory(account.paths), directory_)) {
    make_room_ = [this](std::uint64_t bytes) { return make_room(bytes); };
    cache_->make_room(0);  // what is opened next may write copies of what was not synced
  }
  settled_ = open_pack_store(directory_ / "settled", settled_options(make_room_));
  ReaderParts parts;
  parts.settled = settled_;
  parts.cache = cache_;
  // Offline, reads go on asking: they find the repository when it comes back.
  parts.repository = account.store;
  if (account.offline()) {
    StoreOptions once = account.store_options;
    once.open_patience = {};  // who reads waits and asks again
    parts.repository = make_lazy_store(account.entry.url,
                                       [entry = account.entry, info = account.info, once](const std::stop_token& stop) {
                                         return open_pinned_store(entry, info, once, stop);
                                       });
  }
  waits_ = config.get("read.unreachable") == "wait";
  parts.unreachable = waits_ ? Unreachable::kWait : Unreachable::kFail;
  reader_ = make_reader(parts, source_stats_, account.paths, config);
  resolve_pending();
  open_parts();
  if (session_transition(state_.phase, SessionEvent::kOpen).voids_memory) {
    log::warn("the last run ended without a suspend; disks are as of the last write, memory is gone");
    drop_memory();
  }
}

Session::~Session() { cancel(); }

void Session::open_parts() {
  std::uint64_t greatest_void = 0;
  std::map<std::uint16_t, std::uint64_t> void_below;
  for (const SessionImage& image : state_.images) {
    void_below[image.number] = image.void_below;
    greatest_void = std::max(greatest_void, image.void_below);
  }
  ReplayedRecords records(std::move(void_below));
  journal_ = std::make_shared<Journal>(directory_ / "journal", account_.device_key,
                                       [&](const ReplayedRecord& record) { records.add(record); });
  journal_->raise_sequence(greatest_void);
  for (SessionImage& image : state_.images) {
    auto part = std::make_unique<Part>();
    part->number = image.number;
    part->name = image.image.name;
    part->overlay = std::make_shared<JournalOverlay>(journal_, image.number);
    records.give(image.number, *part->overlay);
    part->image = make_image(part->name, image.image.tree, part->overlay);
    parts_.push_back(std::move(part));
  }
  journal_->collect();
}

Session::Part& Session::part(std::string_view name) const {
  for (const auto& part : parts_) {
    if (part->name == name) return *part;
  }
  throw Error(ErrorKind::kBug, fmt::format("a session without an image {}", name));
}

std::shared_ptr<Image> Session::image(std::string_view name) const { return part(name).image; }

std::vector<std::shared_ptr<Image>> Session::disks() const {
  std::vector<std::shared_ptr<Image>> disks;
  for (const SessionImage& image : state_.images) {
    if (is_disk(image.image.role)) disks.push_back(part(image.image.name).image);
  }
  return disks;
}

std::shared_ptr<Image> Session::make_image(const std::string& name, const TreeRoot& base,
                                           std::shared_ptr<Overlay> overlay) const {
  auto image = std::make_shared<Image>(name, base, reader_, std::move(overlay));
  image->set_make_room(make_room_);
  return image;
}

void Session::save_state() {
  write_session_state(directory_, account_.device_key, state_);
  is_state_uncertain_ = false;
}

/// What is on disk counts until the change is there: only then is it ours, and only then may what it no longer
/// names be forgotten. A failure may come after the file was replaced, so the old one is put back.
void Session::change_state(const std::function<void(SessionState&)>& change) {
  SessionState next = state_;
  change(next);
  const auto before = inode_of(directory_ / "session");
  try {
    write_session_state(directory_, account_.device_key, next);
  } catch (...) {
    if (inode_of(directory_ / "session") != before) {
      is_state_uncertain_ = true;
      try_to_save_state();
    }
    throw;
  }
  state_ = std::move(next);
  is_state_uncertain_ = false;
}

void Session::make_state_certain() {
  if (is_state_uncertain_) save_state();
}

/// Says that what the image's records say so far is void; begin_anew() then forgets it here.
void Session::void_image(SessionState& state, const Part& part, const TreeRoot& base) const {
  SessionImage& image = *state.find(part.name);
  image.void_below = journal_->next_sequence();
  journal_->raise_sequence(image.void_below);  // what is frozen next is of a moment that is not void
  image.image.tree = base;
  for (PendingPublish& pending : state.pending) pending.void_below.erase(image.number);
}

void Session::void_memory(SessionState& state) const {
  void_image(state, part("memory"), {state.vm.memory_bytes, {}});
  void_image(state, part("device"), {kNoDeviceState, {}});
  state.stamp.reset();
}

void Session::begin_anew(Part& part) {
  const SessionImage& image = *state_.find(part.name);
  part.overlay->forget_below(image.void_below);
  part.image = make_image(part.name, image.image.tree, part.overlay);
}

/// Changes the phase as the table says; a refusal is thrown.
void Session::take(SessionEvent event, SessionState& state) const {
  const SessionTransition& transition = require_transition(state.phase, event, parcel_.name);
  if (transition.voids_memory) void_memory(state);
  state.phase = transition.next.value();
}

/// Forgets at once: as long as the file says running, memory is void whatever else it says.
void Session::drop_memory() {
  take(SessionEvent::kPowerOff, state_);
  begin_anew(part("memory"));
  begin_anew(part("device"));
  memory_image_.reset();
  live_.reset();
  scratch_.reset();
  save_state();
}

std::shared_ptr<Image> Session::begin_memory(bool fresh) {
  // Fresh memory has nothing below: what is suspended must be there still if the VM does not start.
  const TreeRoot base = fresh ? TreeRoot{state_.vm.memory_bytes, {}} : state_.find("memory")->image.tree;
  scratch_ = make_scratch_overlay(directory_, base.size, fresh ? nullptr : part("memory").overlay);
  live_ = std::make_shared<LiveMemory>(scratch_, base.size);
  memory_image_ = make_image("memory", base, live_);
  attach_boot_pack();
  return memory_image_;
}

void Session::require_room(std::uint64_t bytes) const {
  const fs::space_info space = fs::space(directory_);
  if (space.available >= bytes) return;
  throw Error(ErrorKind::kIo,
              fmt::format("{} has {} MiB free, and the memory of {} may need {} MiB there", directory_.string(),
                          space.available >> 20U, parcel_.name, bytes >> 20U),
              {"where the host's swap is encrypted, or there is none:  isr config set vm.memory private"});
}

void Session::begin_run(bool fresh) {
  change_state([&](SessionState& next) { take(fresh ? SessionEvent::kStart : SessionEvent::kResume, next); });
  if (!fresh) return;
  begin_anew(part("memory"));
  begin_anew(part("device"));
  scratch_->lie_over(part("memory").overlay);
}

void Session::keep_network(NetworkMode mode) {
  if (state_.vm.network != mode) change_state([&](SessionState& next) { next.vm.network = mode; });
}

void Session::undo_run(bool fresh) noexcept {
  if (state_.phase != SessionPhase::kRunning) return;
  take(fresh ? SessionEvent::kStartFailed : SessionEvent::kResumeFailed, state_);
  try_to_save_state();
}

void Session::abandon_memory() {
  end_fill();
  detach_boot_pack();
  memory_image_.reset();
  live_.reset();
  scratch_.reset();
}

void Session::keep_memory(const MachineMoment& moment) {
  detach_boot_pack();  // what is read from here on is no guest's
  const MemoryCheck check(moment.memory, live_->touched());
  for (const std::uint64_t chunk : scratch_->dirty_chunks()) check.require_change(chunk);
  Part& memory = part("memory");
  const TreeRoot base = state_.find("memory")->image.tree;
  const auto before = replacements_in(*memory.overlay);
  Image here("memory", base, local_reader(), scratch_);
  settle_memory(seal_context(), here, *scratch_, *memory.overlay, *journal_);
  check.compare(before, replacements_in(*memory.overlay));
  Image kept("memory", base, local_reader(), memory.overlay);
  check.compare(kept);
  write_device_state(moment.device_state);
  journal_->sync();
  // After a failure the guest goes on: nothing may say later that its memory of this moment is kept.
  change_state([&](SessionState& next) {
    next.stamp = moment.stamp;
    take(SessionEvent::kSuspend, next);
  });
}

void Session::try_to_save_state() noexcept {
  try {
    save_state();
  } catch (const std::exception& error) {
    log::warn("{}", error.what());
  }
}

/// To be called for a running machine: the device state in the file is void then.
void Session::write_device_state(ByteView device_state) {
  Part& device = part("device");
  void_image(state_, device, {device_state.size(), {}});
  begin_anew(device);
  device.image->write(0, device_state);
}

Bytes Session::device_state() {
  const auto image = part("device").image;
  Bytes bytes(image->size());
  image->read(0, bytes);
  return bytes;
}

void Session::discard() {
  const bool to_suspended = state_.base_version.suspended();
  change_state([&](SessionState& next) {
    take(to_suspended ? SessionEvent::kDiscardToSuspended : SessionEvent::kDiscard, next);
    next.images = number_images(next.base_version);
    for (const SessionImage& image : number_images(next.base_version)) {
      void_image(next, part(image.image.name), image.image.tree);
    }
    next.vm = next.base_version.vm;
    next.stamp = next.base_version.stamp;
  });
  for (const auto& part : parts_) begin_anew(*part);
  journal_->collect();
}

SealContext Session::seal_context() { return {*reader_, *settled_, account_.keys.domain_secret, kSealThreads}; }

/// Data that can be fetched again goes first when the disk is full.
std::uint64_t Session::make_room(std::uint64_t bytes) {
  std::uint64_t freed = cache_->make_room(std::max(bytes, kRoomAtOnce));
  if (freed == 0) freed = reader_->give_up_spill();
  if (freed > 0) log::info("the disk is full; {} KiB of the cache went", freed >> 10U);
  return freed;
}

void Session::settle_if_due(const std::stop_token& stop) {
  // The guest's writes fill the disk, too, and a cache notices that only when something is put into it.
  const auto now = std::chrono::steady_clock::now();
  if (now - tidied_ > kTidyEvery) {
    tidied_ = now;
    cache_->make_room(0);
  }
  sweep_settled();
  // Costs no more than a sync, so it does not wait until the guest is calm, or the limit is near.
  if (journal_->size_bytes() > kCollectAbove) journal_->collect();
  std::uint64_t written = 0;
  for (const auto& part : parts_) written += part->image->counters().written_bytes;
  if (!settle_policy_.is_due(journal_->size_bytes(), written, std::chrono::steady_clock::now())) return;
  std::vector<SettleImage> images;
  for (const auto& part : parts_) images.push_back({*part->overlay, part->image});
  SealContext context = seal_context();
  context.threads = 1;  // the others are the guest's
  context.stop = stop;
  try {
    if (settle_some(context, *journal_, images) > 0) return;
  } catch (const Error&) {
    if (!stop.stop_requested()) settle_policy_.gained_nothing(std::chrono::steady_clock::now());
    throw;
  }
  settle_policy_.gained_nothing(std::chrono::steady_clock::now());
}

/// Not at each change: it asks for all that is settled.
void Session::sweep_settled() {
  std::uint64_t superseded = 0;
  for (const auto& part : parts_) superseded += part->overlay->superseded();
  const auto now = std::chrono::steady_clock::now();
  const bool has_more = sweep_.has_more() && now - swept_at_ > kSweepAgain;
  if (superseded - swept_ < kSweepAfter && !has_more) return;
  swept_ = superseded;
  swept_at_ = now;
  journal_->sync();  // what took their place is durable before they go
  std::set<Cid> needed;
  for (const auto& part : parts_) part->overlay->add_objects(needed);
  sweep_.sweep(*settled_, needed);
}

void Session::go_online(const std::stop_token& stop) {
  if (!account_.offline()) return;
  try {
    account_.store = open_pinned_store(account_.entry, account_.info, account_.store_options, stop);
  } catch (const Error& error) {
    if (error.kind() == ErrorKind::kHistory || error.kind() == ErrorKind::kCancelled) throw;
    throw Error(ErrorKind::kOffline, error.what());
  }
}

void Session::interrupt_reads() {
  end_fill();
  reader_->interrupt();
}

void Session::cancel() {
  if (const auto fill = *fill_.lock()) fill->request_stop();
  reader_->cancel();
}

bool Session::dirty() const {
  return std::any_of(parts_.begin(), parts_.end(), [](const auto& part) { return part->overlay->is_dirty(); });
}

std::uint64_t Session::journal_bytes() const { return journal_->size_bytes(); }

SessionStats Session::stats() const {
  SessionStats out;
  out.parcel = state_.parcel_name;
  out.version = state_.base;
  out.content = state_.content;
  out.phase = state_.phase;
  out.since = state_.since;
  for (const auto& part : parts_) {
    const auto& image = part->name == "memory" && memory_image_ ? memory_image_ : part->image;
    const std::size_t dirty =
        part->name == "memory" && scratch_ ? scratch_->dirty_chunks().size() : part->overlay->dirty_chunks().size();
    out.changed_bytes += dirty * kChunkSize;
    const ImageCounters& counters = image->counters();
    out.images.push_back({.name = part->name,
                          .size = image->size(),
                          .changed_chunks = dirty,
                          .read_bytes = counters.read_bytes.load(),
                          .written_bytes = counters.written_bytes.load(),
                          .reads = counters.reads.load(),
                          .writes = counters.writes.load(),
                          .flushes = counters.flushes.load(),
                          .hot_pages = counters.hot_pages.load(),
                          .read_errors = counters.read_errors.load()});
  }
  out.journal_bytes = journal_->size_bytes();
  out.sources = fetch_stats(source_stats_);
  out.uploaded_bytes = upload_counters_.bytes.load();
  add_boot_stats(out);
  return out;
}

}  // namespace isr
