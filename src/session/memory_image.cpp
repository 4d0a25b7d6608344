#include "session/memory_image.h"

#include <fmt/format.h>

#include "base/log.h"

namespace isr {
namespace {

std::string memory_name() { return std::string(to_name(ImageRole::kMemory)); }

MemoryCheck::Replacements replacements_in(JournalOverlay& overlay) {
  MemoryCheck::Replacements found;
  for (const std::uint64_t chunk : overlay.dirty_chunks()) found[chunk] = overlay.replaced(chunk);
  return found;
}

}  // namespace

MemoryImage::MemoryImage(const ParcelEntry& parcel, StateFile& state, SessionImages& images, SessionObjects& objects,
                         BootPrefetch& prefetch)
    : parcel_(parcel), state_(state), images_(images), objects_(objects), prefetch_(prefetch) {}

/// While the state file says running, memory is void after a crash, so it is dropped before the file is written. A file
/// that says suspended is changed first: otherwise, after a crash, it would bring this memory back over disks that have
/// changed since.
void MemoryImage::drop() {
  const bool ran = state_.now().phase == SessionPhase::kRunning;
  const auto power_off = [&](SessionState& next) { images_.take(SessionEvent::kPowerOff, next); };
  ran ? state_.change_in_memory(power_off) : state_.change(power_off);
  images_.begin_anew(images_.part(ImageRole::kMemory));
  images_.begin_anew(images_.part(ImageRole::kDevice));
  forget();
  if (ran) state_.save();
}

std::shared_ptr<Image> MemoryImage::begin(bool fresh) {
  // Fresh memory has no overlay below it, because the suspended memory must stay unchanged if the VM does not start.
  const SessionPart& suspended = images_.part(ImageRole::kMemory);
  const auto base = fresh ? std::make_shared<const BaseContent>(TreeRoot{state_.now().vm.memory_bytes, {}})
                          : suspended.image->base_content();
  const std::uint64_t size = base->tree().size();
  scratch_ = make_scratch_overlay(state_.directory(), size, fresh ? nullptr : suspended.overlay);
  live_ = std::make_shared<LiveMemory>(scratch_, size);
  image_ = objects_.make_image(memory_name(), base, live_);
  prefetch_.attach(image_);
  return image_;
}

ScratchOverlay& MemoryImage::scratch() const {
  if (!scratch_) throw Error(ErrorKind::kBug, fmt::format("{} has no memory of a running machine", parcel_.name));
  return *scratch_;
}

std::optional<std::size_t> MemoryImage::changed_chunks() const {
  if (!scratch_) return std::nullopt;
  auto chunks = scratch_->dirty_chunks();
  chunks.merge(images_.part(ImageRole::kMemory).overlay->dirty_chunks());
  return chunks.size();
}

void MemoryImage::require_room(std::uint64_t bytes) const {
  const fs::space_info space = fs::space(state_.directory());
  if (space.available >= bytes) return;
  throw Error(ErrorKind::kIo,
              fmt::format("{} has {} MiB free, and the memory of {} may need {} MiB there", state_.directory().string(),
                          space.available >> 20U, parcel_.name, bytes >> 20U),
              {"if the host's swap is encrypted, or it has none:  isr config set vm.memory private"});
}

void MemoryImage::begin_run(bool fresh) {
  state_.change([&](SessionState& next) { images_.take(fresh ? SessionEvent::kStart : SessionEvent::kResume, next); });
  if (!fresh) return;
  images_.begin_anew(images_.part(ImageRole::kMemory));
  images_.begin_anew(images_.part(ImageRole::kDevice));
  scratch_->lie_over(images_.part(ImageRole::kMemory).overlay);
}

void MemoryImage::undo_run(bool fresh) noexcept {
  if (state_.now().phase != SessionPhase::kRunning) return;
  state_.change_in_memory([&](SessionState& next) {
    images_.take(fresh ? SessionEvent::kStartFailed : SessionEvent::kResumeFailed, next);
  });
  state_.try_to_save();
}

void MemoryImage::abandon() {
  prefetch_.end_fill();
  prefetch_.detach();
  forget();
}

void MemoryImage::keep(const MachineMoment& moment) {
  prefetch_.detach();  // later reads do not come from the guest
  const MemoryCheck check(moment.memory, live_->touched());
  for (const std::uint64_t chunk : scratch_->dirty_chunks()) check.require_change(chunk);
  SessionPart& memory = images_.part(ImageRole::kMemory);
  const PatchedTree base = state_.now().find(ImageRole::kMemory)->image.content;
  const auto before = replacements_in(*memory.overlay);
  const auto shared = std::make_shared<const BaseContent>(base, *image_->base_content());
  Image here(memory_name(), shared, objects_.local_reader(), scratch_);
  settle_memory(objects_.seal_context(), here, *scratch_, *memory.overlay, images_.journal());
  check.compare(before, replacements_in(*memory.overlay));
  Image kept(memory_name(), shared, objects_.local_reader(), memory.overlay);
  check.compare(kept);
  write_device_state(moment.device_state);
  images_.journal().sync();
  // Stamp and phase change together. After a failure the guest goes on, and no later write of the file may say that
  // memory of this moment is kept.
  state_.change([&](SessionState& next) {
    next.stamp = moment.stamp;
    images_.take(SessionEvent::kSuspend, next);
  });
}

void MemoryImage::write_device_state(ByteView device_state) {
  SessionPart& device = images_.part(ImageRole::kDevice);
  state_.change_in_memory([&](SessionState& next) {
    images_.void_image(next, device, TreeRoot{device_state.size(), {}});
  });
  images_.begin_anew(device);
  device.image->write(0, device_state);
}

Bytes MemoryImage::device_state() {
  const auto image = images_.part(ImageRole::kDevice).image;
  Bytes bytes(image->size());
  image->read(0, bytes);
  return bytes;
}

void MemoryImage::check_frozen(const MemoryWitness& witness, const PatchedTree& before,
                               const SealedImage& after) const {
  scratch();
  const MemoryCheck check(witness, live_->touched());
  const JournalOverlay& below = *images_.part(ImageRole::kMemory).overlay;
  // An earlier run may have left changes in the overlay below, as a sealed chunk or as bytes.
  const auto require_change = [&](std::uint64_t chunk, const ChunkRef&, const ChunkRef& ref) {
    if (below.frozen_replaced(chunk) != ref && !below.frozen_has_bytes(chunk)) check.require_change(chunk);
  };
  for_each_difference(objects_.reader(), before.tree, after.unfolded, require_change);
  for (const std::uint64_t chunk : after.patched) {
    if (!below.frozen_replaced(chunk) && !below.frozen_has_bytes(chunk)) check.require_change(chunk);
  }
  const auto content = std::make_shared<const BaseContent>(after.content, *image_->base_content());
  Image sealed(memory_name(), content, objects_.local_reader(), nullptr);
  check.compare(sealed);
}

void MemoryImage::thaw() {
  if (!scratch_) return;
  try {
    scratch_->thaw();
  } catch (const Error& error) {
    log::warn("{}", error.what());  // the changes stay readable, and the next freeze includes them
  }
}

void MemoryImage::adopt(const PatchedTree& published, const std::function<void()>& adopt_below) {
  if (image_) {
    // The overlay below forgets first, while the scratch layer covers it: what lies there is older.
    image_->adopt(published, [&] {
      adopt_below();
      scratch_->drop_frozen();
    });
  } else {
    adopt_below();
  }
}

void MemoryImage::forget() {
  image_.reset();
  live_.reset();
  scratch_.reset();
}

}  // namespace isr
