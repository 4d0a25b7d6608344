// Where a session's parts come together: directory, journal, images. Its lock and
// its directory are in session_checkout.cpp, publishing is in session_publish.cpp.

#include "session/session.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "base/file.h"
#include "base/log.h"
#include "session/session_part.h"

namespace isr {
namespace {

constexpr unsigned kSealThreads = 2;
// A daemon that has just answered its last command, or was told to end, needs a moment to go.
constexpr std::chrono::seconds kGoing{3};
constexpr std::chrono::milliseconds kPoll{20};

std::optional<FileLock> acquire(const fs::path& lock) {
  const auto until = std::chrono::steady_clock::now() + kGoing;
  for (;; std::this_thread::sleep_for(kPoll)) {
    auto held = FileLock::try_acquire(lock);
    if (held || std::chrono::steady_clock::now() > until) return held;
  }
}

PackStoreOptions settled_options() {
  PackStoreOptions options;
  options.durable = true;
  return options;
}

MemoryCheck::Replacements replacements_in(JournalOverlay& overlay) {
  MemoryCheck::Replacements found;
  for (const std::uint64_t chunk : overlay.dirty_chunks()) found[chunk] = overlay.replaced(chunk);
  return found;
}

}  // namespace

Session::Session(Account& account, const ParcelEntry& parcel)
    : account_(account), parcel_(parcel), directory_(account.parcel_directory(parcel)) {
  flock_ = acquire(directory_ / "lock");
  if (!flock_) {
    throw Error(ErrorKind::kVm, fmt::format("{} is in use by another process here", parcel.name),
                {fmt::format("isr stat {}", parcel.name)});
  }
  auto state = read_session_state(directory_, account.device_key, parcel.id);
  if (!state) throw Error(ErrorKind::kNotFound, fmt::format("{} is not checked out here", parcel.name));
  state_ = std::move(*state);
  settled_ = open_pack_store(directory_ / "settled", settled_options());
  const Config config = Config::load(account.paths);
  cache_ = open_cache(account.paths, config);
  StackParts parts;
  parts.settled = settled_;
  parts.cache = cache_;
  // Offline, reads go on asking: they find the repository when it comes back.
  parts.repository = account.offline() ? make_lazy_store(account.entry.url, account.store_options) : account.store;
  waits_ = config.get("read.unreachable") == "wait";
  parts.unreachable = waits_ ? Unreachable::kWait : Unreachable::kFail;
  reader_ = make_reader(parts, source_stats_, account.paths, config);
  resolve_pending();
  open_parts();
  if (state_.phase == SessionPhase::kRunning) {
    log::warn("{}: the last run ended without a suspend; disks are as of the last write, memory is gone", parcel.name);
    drop_memory();
  }
}

Session::~Session() { cancel(); }

void Session::open_parts() {
  std::uint64_t greatest_void = 0;
  std::map<std::uint16_t, SessionImage*> by_number;
  for (SessionImage& image : state_.images) {
    by_number[image.number] = &image;
    greatest_void = std::max(greatest_void, image.void_below);
  }
  struct Record {
    RecordKind kind;
    std::uint64_t offset;
    Bytes payload;
    RecordPlace place;
  };
  // The overlays need the journal that is being opened, so a record waits for its overlay:
  // its place is enough, but for the few whose payload says something.
  std::map<std::uint16_t, std::vector<Record>> records;
  journal_ = std::make_shared<Journal>(directory_ / "journal", account_.device_key, [&](const ReplayedRecord& record) {
    const auto it = by_number.find(record.image);
    if (it == by_number.end()) throw Error(ErrorKind::kCorrupt, "the journal names an image that is not there");
    if (record.sequence < it->second->void_below) return;
    Bytes payload;
    if (record.kind != RecordKind::kData) payload = to_bytes(record.payload);
    records[record.image].push_back({record.kind, record.offset, std::move(payload), record.place});
  });
  journal_->raise_sequence(greatest_void);
  for (SessionImage& image : state_.images) {
    auto part = std::make_unique<Part>();
    part->number = image.number;
    part->name = image.image.name;
    part->overlay = std::make_shared<JournalOverlay>(journal_, image.number);
    for (const Record& record : records[image.number]) {
      ReplayedRecord again{record.kind, image.number, record.offset, 0, record.payload, record.place};
      part->overlay->replay(again);
    }
    part->image = std::make_shared<Image>(part->name, image.image.tree, reader_, part->overlay);
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

void Session::save_state() { write_session_state(directory_, account_.device_key, state_); }

void Session::void_records(Part& part, const TreeRoot& base) {
  SessionImage& image = *state_.find(part.name);
  image.void_below = part.overlay->clear();
  image.image.tree = base;
  if (state_.pending) state_.pending->void_below.erase(image.number);
  part.image = std::make_shared<Image>(part.name, base, reader_, part.overlay);
}

void Session::void_memory() {
  void_records(part("memory"), {state_.vm.memory_bytes, {}});
  void_records(part("device"), {kNoDeviceState, {}});
  state_.stamp.reset();
}

void Session::drop_memory() {
  void_memory();
  memory_image_.reset();
  live_.reset();
  scratch_.reset();
  state_.phase = SessionPhase::kCheckedOut;
  save_state();
}

std::shared_ptr<Image> Session::begin_memory(bool fresh) {
  // Fresh memory has nothing below: what is suspended must be there still if the VM does not start.
  const TreeRoot base = fresh ? TreeRoot{state_.vm.memory_bytes, {}} : state_.find("memory")->image.tree;
  scratch_ = make_scratch_overlay(directory_, base.size, fresh ? nullptr : part("memory").overlay);
  live_ = std::make_shared<LiveMemory>(scratch_, base.size);
  memory_image_ = std::make_shared<Image>("memory", base, reader_, live_);
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
  if (fresh) void_memory();
  state_.phase = SessionPhase::kRunning;
  save_state();
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
  state_.stamp = moment.stamp;
  state_.phase = SessionPhase::kSuspended;
  try {
    save_state();
  } catch (...) {
    // The guest goes on: nothing may say later that its memory of this moment is kept.
    state_.stamp.reset();
    state_.phase = SessionPhase::kRunning;
    try_to_save_state();  // the other may have been written
    throw;
  }
}

void Session::try_to_save_state() noexcept {
  try {
    save_state();
  } catch (const std::exception& error) {
    log::warn("{}: {}", parcel_.name, error.what());
  }
}

void Session::write_device_state(ByteView device_state) {
  Part& device = part("device");
  void_records(device, {device_state.size(), {}});
  device.image->write(0, device_state);
}

Bytes Session::device_state() {
  const auto image = part("device").image;
  Bytes bytes(image->size());
  image->read(0, bytes);
  return bytes;
}

void Session::discard() {
  state_.images = number_images(state_.base_version);
  for (SessionImage& image : state_.images) void_records(part(image.image.name), image.image.tree);
  state_.vm = state_.base_version.vm;
  state_.stamp = state_.base_version.stamp;
  state_.phase = state_.base_version.suspended() ? SessionPhase::kSuspended : SessionPhase::kCheckedOut;
  save_state();
  journal_->collect();
}

SealContext Session::seal_context() { return {*reader_, *settled_, account_.keys.domain_secret, kSealThreads}; }

void Session::settle_if_due() {
  std::uint64_t written = 0;
  for (const auto& part : parts_) written += part->image->counters().written_bytes;
  if (!settle_policy_.is_due(journal_->size_bytes(), written, std::chrono::steady_clock::now())) return;
  std::vector<SettleImage> images;
  for (const SessionImage& image : state_.images) {
    Part& owner = part(image.image.name);
    images.push_back({*owner.overlay, owner.image});
  }
  SealContext context = seal_context();
  context.threads = 1;  // the others are the guest's
  try {
    if (settle_oldest(context, *journal_, images) > 0) return;
  } catch (const Error&) {
    settle_policy_.gained_nothing(std::chrono::steady_clock::now());
    throw;
  }
  settle_policy_.gained_nothing(std::chrono::steady_clock::now());
}

void Session::go_online() {
  if (!account_.offline()) return;
  try {
    account_.store = open_store(account_.entry.url, account_.store_options);
  } catch (const Error& error) {
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

nlohmann::json Session::stats() const {
  using nlohmann::json;
  json images = json::array();
  std::uint64_t changed = 0;
  for (const auto& part : parts_) {
    const auto& image = part->name == "memory" && memory_image_ ? memory_image_ : part->image;
    const std::size_t dirty =
        part->name == "memory" && scratch_ ? scratch_->dirty_chunks().size() : part->overlay->dirty_chunks().size();
    changed += dirty;
    const ImageCounters& counters = image->counters();
    images.push_back({{"name", part->name},
                      {"size", image->size()},
                      {"changed_chunks", dirty},
                      {"read_bytes", counters.read_bytes.load()},
                      {"written_bytes", counters.written_bytes.load()},
                      {"reads", counters.reads.load()},
                      {"writes", counters.writes.load()},
                      {"flushes", counters.flushes.load()},
                      {"hot_pages", counters.hot_pages.load()},
                      {"read_errors", counters.read_errors.load()}});
  }
  json out{{"schema", 1},
           {"parcel", state_.parcel_name},
           {"version", state_.base},
           {"phase", to_name(state_.phase)},
           {"since", to_rfc3339(state_.since)},
           {"changed_bytes", changed * kChunkSize},
           {"journal_bytes", journal_->size_bytes()},
           {"images", images},
           {"sources",
            {{"cache_hits", source_stats_.cache_hits.load()},
             {"settled_hits", source_stats_.settled_hits.load()},
             {"repository_fetches", source_stats_.repository_fetches.load()},
             {"repository_bytes", source_stats_.repository_bytes.load()},
             {"guest_fetches", source_stats_.guest_fetches.load()},
             {"corrupt_refused", source_stats_.corrupt_refused.load()},
             {"waiting", source_stats_.waiting.load()},
             {"waiting_for", *source_stats_.waiting_for.lock()}}},
           {"uploaded_bytes", upload_counters_.bytes.load()}};
  add_boot_stats(out);
  return out;
}

}  // namespace isr
